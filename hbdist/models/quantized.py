"""Encoders stored in 4 bits per weight, so that 200 MB of weights fit in a repository.

A packed folder has `weights.q4.safetensors` instead of `model.safetensors`. In it, a matrix NAME [R, C] is stored as
`NAME.q4`, uint8 [R, C/2], and `NAME.scale`, float16 [R, C/32]: each block of 32 weights shares one scale, and byte j of a
block has weight j in its low and weight j + 16 in its high four bits, each as (weight / scale) + 8. Tensors that are not
quantized are stored unchanged.

R rows · C columns
"""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hbdist.errors import DataError
from hbdist.utils.files import cache_folder
from hbdist.utils.leftovers import remove_leftovers, temporary_path

WEIGHTS = "weights.q4.safetensors"
BLOCK = 32
"""Number of weights that share a scale."""
FORMAT = b"float32, 1"
"""Format of the unpacked files, which is hashed into a cache entry's name: change it when `unpack` writes other files."""


def is_packed(folder: Path) -> bool:
    """Return whether the folder has the 4-bit weights of an encoder."""
    return (folder / WEIGHTS).is_file()


def unpack(folder: Path, cache: Path | None = None) -> Path:
    """Return a folder that `AutoModel`, `AutoTokenizer` and `SentenceTransformer` can load.

    If `folder` is not packed, that is `folder` itself; otherwise an entry of the cache (default: `cache_folder()`),
    written at the first use. The entry's name contains a hash of the packed files, so a changed folder gets a new one.
    Several processes may unpack at once: an entry is complete or absent.

    Raises:
        DataError: a file of the packed folder is missing or damaged, or the cache cannot be written.
    """
    if not is_packed(folder):
        return folder
    cache = cache or cache_folder()
    name = f"{folder.resolve().name}-{_fingerprint(folder)[:16]}"
    entry, partial = cache / name, temporary_path(cache / name)
    if entry.is_dir():
        return entry
    tensors = read_weights(folder / WEIGHTS)
    remove_leftovers(cache)
    try:
        _copy_other_files(folder, partial)
        # Not save_file: it creates files that only their owner can read, whatever the umask is.
        (partial / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        os.rename(partial, entry)
    except (OSError, SafetensorError) as error:
        if not entry.is_dir():  # otherwise another process was faster, and its entry is the same
            raise DataError(
                f"{folder} could not be unpacked into the cache {cache} ({error}). It needs about 200 MB in a folder that "
                "can be written. Free some space there, or set the environment variable HBDIST_CACHE to another folder."
            ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return entry


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a packed file by name, in float32.

    Raises:
        DataError: the file is damaged: not safetensors, truncated, or with scales that do not match the weights.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read as safetensors ({error})") from None
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        if not name.endswith(".q4"):
            tensors[name] = np.ascontiguousarray(tensor, np.float32)
            continue
        matrix = name.removesuffix(".q4")
        scale = stored.get(f"{matrix}.scale")
        if scale is None or tensor.ndim != 2 or scale.shape != (len(tensor), tensor.shape[1] * 2 // BLOCK):
            shape = "missing" if scale is None else f"of shape {list(scale.shape)}"
            raise _damaged(path, f"{matrix}: its scales are {shape}, its 4-bit weights of shape {list(tensor.shape)}")
        tensors[matrix] = dequantize(tensor, scale)
    return tensors


def dequantize(q4: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the matrix [R, C] of 4-bit weights [R, C/2] and the scales of their blocks [R, C/32].

    Nothing is rounded: 4 bits times the 11-bit significand of a float16 fit into a float32.
    """
    rows, blocks = scale.shape
    packed = q4.reshape(rows, blocks, BLOCK // 2)
    weights = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32)
    weights -= 8
    weights *= scale.astype(np.float32)[..., np.newaxis]
    return weights.reshape(rows, blocks * BLOCK)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_other_files(folder: Path, out: Path) -> None:
    # Not copytree: it also copies permissions, and nothing could be added to the copy of a read-only folder.
    out.mkdir(parents=True)
    for path in _files(folder):
        if path.name != WEIGHTS:
            copy = out / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in the folder."""
    total = hashlib.sha256(FORMAT)
    for path in _files(folder):
        with path.open("rb") as file:
            total.update(f"\n{path.relative_to(folder).as_posix()} ".encode())
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _damaged(path: Path, fault: str) -> DataError:
    return DataError(
        f"{path}: {fault}. Expected the complete 4-bit weights of an encoder. Copy the file again from its source; in a "
        f"clone of the repository, `git checkout -- {path}`."
    )
