"""How many parameters a model has, from the headers of its files: known before anything is loaded."""

import math
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open


def count_parameters(name: str) -> int | None:
    """The numbers in the safetensors files of a folder, or of a Hugging Face model that was fetched before; else None."""
    if Path(name).is_dir():
        files = sorted(Path(name).glob("*.safetensors"))
    else:
        try:
            found = try_to_load_from_cache(name, "model.safetensors")
        except ValueError:  # no name that the hub could have
            return None
        files = [Path(found)] if isinstance(found, str) else []
    try:
        return sum(map(_numbers, files)) or None
    except (OSError, SafetensorError):
        return None  # whoever loads it will say what is wrong with it


def _numbers(path: Path) -> int:
    with safe_open(path, framework="np") as file:
        tensors = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    # Two weights of a packed model share a byte; their scales are none.
    return sum(
        2 * count if key.endswith(".q4") else count
        for key, count in tensors.items()
        if not (key.endswith(".scale") and f"{key.removesuffix('.scale')}.q4" in tensors)
    )
