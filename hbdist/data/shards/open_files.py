"""The files of a shard folder, open: tars to read from by offset, arrays mapped into memory, none of them for ever.

Nothing is ever unpickled: arrays are plain ones.
"""

import os
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import Cache, open_file
from hbdist.data.shards.manifest import Group, Manifest, Shard
from hbdist.data.shards.sample import INDEX

ROW = np.dtype("<u4")
"""An entry of a view: a row of the texts."""


class Tar:
    """An open shard; closed when nobody holds it, so that a thread may still read what another one evicts."""

    def __init__(self, file: int, shard: Shard) -> None:
        self.file = file
        finalize(self, os.close, file)
        size = os.fstat(file).st_size
        if size != shard.bytes:
            raise ValueError(f"it has {size} bytes, the manifest says {shard.bytes}")


class Opened:
    """Files of a shard folder by who holds them (their place in the manifest, as `Manifest.shard_sets` has it).

    Args:
        limit: indexes, tars, and views that stay open at a time: so many of each.

    Attributes:
        tar: (shard_set, number of its shard) → the shard. Raises OSError, ValueError.
        index: (shard_set, number of its shard) → the shard's index, of INDEX. Raises OSError, ValueError.
        view: group that is a view → the rows of its pairs, of ROW. Raises OSError, ValueError.
    """

    def __init__(self, manifest: Manifest, cache: Cache, limit: int) -> None:
        files = _Files(manifest, cache)
        self.tar = lru_cache(limit)(files.tar)
        self.index = lru_cache(limit)(files.index)
        self.view = lru_cache(limit)(files.view)


class _Files:
    """How each kind is opened. Apart from `Opened`, which else would refer to itself and so be closed late."""

    def __init__(self, manifest: Manifest, cache: Cache) -> None:
        self.root, self.shard_sets, self.cache = manifest.root, manifest.shard_sets, cache

    def tar(self, shard_set: int, number: int) -> Tar:
        shard = self.shard_sets[shard_set].shards[number]
        return Tar(self._open(shard.path, shard.sha256, shard.bytes), shard)

    def index(self, shard_set: int, number: int) -> NDArray[np.void]:
        shard = self.shard_sets[shard_set].shards[number]
        with open(self._open(shard.index, shard.index_sha256), "rb") as file:
            return map_index(file, shard.index, self.shard_sets[shard_set].index_rows(number))

    def view(self, group: int) -> NDArray[np.uint32]:
        shard_set = self.shard_sets[group]
        assert isinstance(shard_set, Group), shard_set.name
        assert shard_set.view, shard_set.name
        with open(self._open(shard_set.view.path, shard_set.view.sha256), "rb") as file:
            return map_array(file, ROW, shard_set.view.rows)

    def _open(self, path: str, digest: str, size: int | None = None) -> int:
        return open_file(self.root, path, digest, size=size, cache=self.cache)


def map_index(file: BinaryIO, name: str, rows: int) -> NDArray[np.void]:
    """The index of a shard, mapped into memory.

    Raises:
        ValueError: it is damaged, or not of this shard.
    """
    try:
        return map_array(file, INDEX, rows)
    except ValueError as error:
        raise ValueError(f"its index {name} {error}") from None


def map_array(file: BinaryIO, dtype: np.dtype, rows: int) -> NDArray:
    """An array of one dimension (.npy), mapped into memory; it stays so when the file is closed.

    Raises:
        ValueError: it is damaged, or not of this type and length.
    """
    file.seek(0)
    header = _header(dtype, rows)
    try:
        # Parsing one takes longer than all the rest of opening a shard, and nearly all are alike.
        if file.read(len(header)) != header:
            file.seek(0)
            _check_header(file, dtype, rows)
        # As a plain array: np.memmap's own indexing is slow.
        return np.asarray(np.memmap(file, dtype, mode="r", offset=file.tell(), shape=(rows,)))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from None


def _check_header(file: BinaryIO, expected: np.dtype, rows: int) -> None:
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is not of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # of a damaged header, NumPy lets through whatever Python's own tokenizer raises
        raise ValueError(str(error)) from None
    if dtype != expected or shape != (rows,):
        raise ValueError(f"it holds {shape} of {dtype}, expected {rows} entries")


@lru_cache
def _header(dtype: np.dtype, rows: int) -> bytes:
    """With which an array of so many rows begins, as this version of NumPy writes it."""
    file = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()
