"""Open files of a shard folder: tars to read from by offset, and plain arrays mapped into memory, never unpickled."""

import os
from functools import lru_cache, partial
from io import BytesIO
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import Cache, open_file
from hbdist.data.shards.groups import Shard
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import INDEX

ROW = np.dtype("<u4")
"""Entry of a view: a row of the texts."""


class Tar:
    """An open shard. It is closed when nobody refers to it: a thread may still read one that another thread evicts."""

    def __init__(self, file: int, shard: Shard) -> None:
        self.file = file
        finalize(self, os.close, file)
        size = os.fstat(file).st_size
        if size != shard.bytes:
            raise ValueError(f"it has {size} bytes, the manifest says {shard.bytes}")


class OpenFiles:
    """Files of a shard folder, opened on first use; at most `limit` indexes, tars and views each stay open. Shard sets
    are given by their index in `Manifest.shard_sets`.

    Attributes:
        tar: (shard set, number of its shard) → the shard. Raises OSError, ValueError.
        index: (shard set, number of its shard) → the shard's index, entries of INDEX. Raises OSError, ValueError.
        view: group that is a view → the rows of its pairs, entries of ROW. Raises OSError, ValueError.
    """

    def __init__(self, manifest: Manifest, cache: Cache, limit: int) -> None:
        open_for_reading = partial(open_file, manifest.root, cache=cache)

        # Not methods: their caches would refer back to `self`, and files be closed only by the garbage collector.
        def tar(set_number: int, number: int) -> Tar:
            shard = manifest.shard_sets[set_number].shards[number]
            return Tar(open_for_reading(shard.path, shard.sha256, size=shard.bytes), shard)

        def index(set_number: int, number: int) -> NDArray[np.void]:
            shard_set = manifest.shard_sets[set_number]
            shard = shard_set.shards[number]
            with open(open_for_reading(shard.index, shard.index_sha256), "rb") as file:
                return map_index(file, shard.index, shard_set.index_rows(number))

        def view(group: int) -> NDArray[np.uint32]:
            view = manifest.groups[group].view
            assert view, manifest.groups[group].name
            with open(open_for_reading(view.path, view.sha256), "rb") as file:
                return map_array(file, ROW, view.rows)

        self.tar, self.index, self.view = lru_cache(limit)(tar), lru_cache(limit)(index), lru_cache(limit)(view)


def map_index(file: BinaryIO, name: str, rows: int) -> NDArray[np.void]:
    """Map the index of a shard into memory.

    Raises:
        ValueError: it is damaged, or belongs to another shard.
    """
    try:
        return map_array(file, INDEX, rows)
    except ValueError as error:
        raise ValueError(f"its index {name} {error}") from None


def map_array(file: BinaryIO, dtype: np.dtype, rows: int) -> NDArray:
    """Map an array of one dimension (.npy) into memory; it stays mapped when the file is closed.

    Raises:
        ValueError: it is damaged, or has another type or length.
    """
    file.seek(0)
    header = _header(dtype, rows)
    try:
        # Parsing a header takes longer than the rest of opening a shard, and nearly all headers are alike.
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
    except Exception as error:  # for a damaged header, NumPy lets through whatever Python's own tokenizer raises
        raise ValueError(str(error)) from None
    if dtype != expected or shape != (rows,):
        raise ValueError(f"it has {shape} entries of {dtype}, expected {rows} entries")


@lru_cache
def _header(dtype: np.dtype, rows: int) -> bytes:
    """Return the header of an array of this type and length, as this version of NumPy writes it."""
    file = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()
