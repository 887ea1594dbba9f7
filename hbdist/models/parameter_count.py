"""How many parameters the encoder of a model has, from the headers of its files: known before anything is loaded."""

import math
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

UNUSED = {"decoder", "lm_head", "cls", "pooler"}
"""Names of parts that no text vector needs, which are not loaded."""
EMBEDDING = "encoder.embed_tokens.weight"
"""What some files hold a second time as shared.weight."""


def count_parameters(name: str) -> int | None:
    """The numbers in the safetensors files of a folder, or of a Hugging Face model that was fetched before; else None.

    Decoders, language-model heads and poolers do not count; an embedding that encoder and decoder share counts once.
    """
    if Path(name).is_dir():
        files = sorted((*Path(name).glob("*.safetensors"), *Path(name).glob("*_Dense/*.safetensors")))
    else:
        try:
            cached = (try_to_load_from_cache(name, file) for file in ("model.safetensors", "2_Dense/model.safetensors"))
            files = [Path(found) for found in cached if isinstance(found, str)]
        except ValueError:  # no name that the hub could have
            return None
    try:
        return sum(_numbers(sizes) for sizes in map(_sizes, files)) or None
    except (OSError, SafetensorError):
        return None  # whoever loads it will say what is wrong with it


def _sizes(path: Path) -> dict[str, int]:
    with safe_open(path, framework="np") as file:
        return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _numbers(sizes: dict[str, int]) -> int:
    # Two weights of a packed model share a byte; their scales are none.
    return sum(
        2 * count if key.endswith(".q4") else count
        for key, count in sizes.items()
        if not (key.endswith(".scale") and f"{key.removesuffix('.scale')}.q4" in sizes)
        and not UNUSED & set(key.split("."))
        and not (key.endswith(EMBEDDING) and key.replace(EMBEDDING, "shared.weight") in sizes)
    )
