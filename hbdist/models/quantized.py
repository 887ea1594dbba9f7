"""Encoders at rest in 4 bits: weights of 200 MB in a folder small enough for a repository.

A packed folder holds `weights.q4.safetensors` in place of `model.safetensors`. Of a matrix NAME [R, C] it has
`NAME.q4` uint8 [R, C/2] and `NAME.scale` float16 [R, C/32]: blocks of 32 weights share one scale, and byte j of a block
holds weight j in its low and weight j + 16 in its high four bits, each as (weight / scale) + 8. Tensors that are not
matrices of this kind stand there as they are.

R rows · C columns
"""

import hashlib
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hbdist.errors import DataError
from hbdist.utils.files import cache_folder

WEIGHTS = "weights.q4.safetensors"
BLOCK = 32
RULES = b"float32, 1"
"""Part of an entry's name in the cache; change it when `unpack` writes other files than before."""


def is_packed(folder: Path) -> bool:
    """Whether this is the folder of an encoder in 4 bits."""
    return (folder / WEIGHTS).is_file()


def unpack(folder: Path, cache: Path | None = None) -> Path:
    """A folder that `AutoModel`, `AutoTokenizer` and `SentenceTransformer` can load: `folder` itself if it is not packed.

    A packed one is written to the cache (`cache_folder()` if none is given) on first use, and found there afterwards;
    the entry's name says which files it was made from, so that a changed folder never meets an old entry. Any number
    of processes may do so at once: an entry is complete or absent.

    Raises:
        DataError: a file of the packed folder is missing or damaged, or the cache cannot be written.
    """
    if not is_packed(folder):
        return folder
    cache = cache or cache_folder()
    name = f"{folder.resolve().name}-{_fingerprint(folder)[:16]}"
    target, partial = cache / name, cache / f".{name}-{uuid.uuid4().hex}"
    if target.is_dir():
        return target
    tensors = read_weights(folder / WEIGHTS)
    try:
        _copy_all_but_weights(folder, partial)
        # Not save_file: it makes files that nobody but their owner can read, whatever the umask says.
        (partial / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        os.rename(partial, target)
    except (OSError, SafetensorError) as error:
        if not target.is_dir():  # else another process was first, and its entry is as good
            raise DataError(
                f"{cache}: {folder} could not be unpacked into it ({error}). It needs about 200 MB in a folder that can "
                "be written. Make room there, or name another folder in the environment variable HBDIST_CACHE."
            ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """All tensors of a packed file by name, in float32.

    Raises:
        DataError: the file is damaged: not safetensors, cut short, or with tensors that do not fit together.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read as safetensors ({error})") from None
    tensors = {}
    for name in stored.keys() - {key for key in stored if key.endswith(".scale")}:
        if not name.endswith(".q4"):
            tensors[name] = np.ascontiguousarray(stored[name], np.float32)
            continue
        matrix = name.removesuffix(".q4")
        scale = stored.get(f"{matrix}.scale")
        if scale is None or stored[name].ndim != 2 or (len(scale), scale.shape[1:]) != _scale_shape(stored[name]):
            found = "none" if scale is None else list(scale.shape)
            raise _damaged(path, f"{matrix}: its scales are {found}, its 4-bit weights {list(stored[name].shape)}")
        tensors[matrix] = dequantise(stored[name], scale)
    return tensors


def dequantise(q4: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """4-bit weights [R, C/2] and the scales of their blocks [R, C/32] → the matrix [R, C].

    Nothing is rounded: four bits times the eleven of a float16 fit into a float32.
    """
    rows, blocks = scale.shape
    packed = q4.reshape(rows, blocks, BLOCK // 2)
    weights = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32)
    weights -= 8
    weights *= scale.astype(np.float32)[..., np.newaxis]
    return weights.reshape(rows, blocks * BLOCK)


def _scale_shape(q4: NDArray[np.uint8]) -> tuple[int, tuple[int, ...]]:
    rows, pairs = q4.shape
    return rows, (pairs * 2 // BLOCK,)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_all_but_weights(folder: Path, out: Path) -> None:
    # Not copytree: it would copy permissions too, and nothing can be added to a copy of a read-only folder.
    out.mkdir(parents=True)
    for path in _files(folder):
        if path.name != WEIGHTS:
            copy = out / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _fingerprint(folder: Path) -> str:
    """The sha256 of the names and contents of all files in the folder."""
    total = hashlib.sha256(RULES)
    for path in _files(folder):
        with path.open("rb") as file:
            total.update(f"\n{path.relative_to(folder).as_posix()} ".encode())
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: {found}. Expected the 4-bit weights of an encoder, whole. Copy the file again from where it came; in "
        f"a clone of the repository, `git checkout -- {path}`."
    )
