"""The number of parameters of a model's encoder, from the headers of its files, without loading any weights."""

import math
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

UNUSED = {"decoder", "lm_head", "cls", "pooler"}
"""Names of modules that are not loaded, because encoding a text does not use them."""
EMBEDDING = "encoder.embed_tokens.weight"
"""Name under which some files store `shared.weight` a second time."""


def count_parameters(name: str) -> int | None:
    """Return the number of parameters in the safetensors files of a folder or of a model in the Hugging Face cache.

    Decoders, language-model heads and poolers do not count; an embedding that encoder and decoder share counts once.
    None if there are no such files, or they cannot be read.
    """
    if Path(name).is_dir():
        files = sorted((*Path(name).glob("*.safetensors"), *Path(name).glob("*_Dense/*.safetensors")))
    else:
        try:
            cached = (try_to_load_from_cache(name, file) for file in ("model.safetensors", "2_Dense/model.safetensors"))
            files = [Path(path) for path in cached if isinstance(path, str)]
        except ValueError:  # not a valid name on the hub
            return None
    try:
        return sum(map(_count, files)) or None
    except (OSError, SafetensorError):
        return None  # loading the model reports the error


def _count(path: Path) -> int:
    with safe_open(path, framework="np") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    # In a packed model, two weights share a byte, and the scales are not parameters.
    return sum(
        2 * size if name.endswith(".q4") else size
        for name, size in sizes.items()
        if not (name.endswith(".scale") and f"{name.removesuffix('.scale')}.q4" in sizes)
        and not UNUSED & set(name.split("."))
        and not (name.endswith(EMBEDDING) and name.replace(EMBEDDING, "shared.weight") in sizes)
    )
