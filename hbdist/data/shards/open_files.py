"""Open files of a shard folder: tars to read from by offset, and plain arrays mapped into memory, never unpickled.

Arrays (indexes and views) are compared with the manifest's SHA-256 when a process first opens them. A tar is not, because it
would have to be read as a whole: each of its samples has a checksum in the index.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from io import BufferedReader, BytesIO
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import Cache, open_file
from hbdist.data.shards.groups import Shard
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import INDEX, INDEX_WITHOUT_CHECKSUMS, checksum, has_checksums

ROW = np.dtype("<u4")
"""Entry of a view: a row of the texts."""
READ_AT_ONCE = 128
"""Number of samples that are read, then compared, then decoded: in three short loops, comparing costs a quarter of what it
does in one long loop, where each part finds the processor's caches full of the others."""


class Tar:
    """An open shard. It is closed when nobody refers to it: a thread may still read one that another thread evicts."""

    def __init__(self, file: int, shard: Shard) -> None:
        self.file = file
        finalize(self, os.close, file)
        size = os.fstat(file).st_size
        if size != shard.bytes:
            raise ValueError(f"it has {size} bytes, the manifest says {shard.bytes}")

    def read(self, entries: NDArray[np.void]) -> list[bytes | Exception]:
        """Read the samples of these entries of the index. In the place of one that cannot be read, or that has changed, is
        the error."""
        places = list(zip(entries["offset"].tolist(), entries["size"].tolist(), strict=True))
        try:
            payloads = [os.pread(self.file, size, offset) for offset, size in places]
        except (OSError, ValueError) as error:
            one_by_one = (entries[number : number + 1] for number in range(len(entries)))
            return [error] if len(entries) == 1 else [self.read(one)[0] for one in one_by_one]
        if has_checksums(entries):
            expected = entries["checksum"].tolist()
            wrong = [number for number, payload in enumerate(payloads) if checksum(payload) != expected[number]]
        else:
            wrong = [number for number, payload in enumerate(payloads) if len(payload) != places[number][1]]
        results: list[bytes | Exception] = [*payloads]
        for number in wrong:
            length, (offset, size) = len(payloads[number]), places[number]
            short = f"it has {length} bytes at {offset}, its index says {size}"
            changed = f"its {size} bytes at {offset} have changed (their checksum is not the index's)"
            results[number] = ValueError(short if length != size else changed)
        return results


class OpenFiles:
    """Files of a shard folder, opened on first use; at most `limit` indexes, tars and views each stay open. Shard sets
    are given by their index in `Manifest.shard_sets`.

    Attributes:
        tar: (shard set, number of its shard) → the shard. Raises OSError, ValueError.
        index: (shard set, number of its shard) → the shard's index, entries of INDEX, or of INDEX_WITHOUT_CHECKSUMS if it was
            built before samples had checksums. Raises OSError, ValueError.
        view: group that is a view → the rows of its pairs, entries of ROW. Raises OSError, ValueError.
    """

    def __init__(self, manifest: Manifest, cache: Cache, limit: int) -> None:
        open_for_reading = partial(open_file, manifest.root, cache=cache)
        verified = Verified()

        # Not methods: their caches would refer back to `self`, and files be closed only by the garbage collector.
        def tar(set_number: int, number: int) -> Tar:
            shard = manifest.shard_sets[set_number].shards[number]
            return Tar(open_for_reading(shard.path, shard.sha256, size=shard.bytes), shard)

        def index(set_number: int, number: int) -> NDArray[np.void]:
            shard_set = manifest.shard_sets[set_number]
            shard = shard_set.shards[number]
            with open(open_for_reading(shard.index, shard.index_sha256), "rb") as file:
                entries = map_index(file, shard.index, shard_set.index_rows(number))
                if verified.is_new(file):
                    verified.compare(file, shard.index_sha256, f"its index {shard.index}")
                return entries

        def view(group: int) -> NDArray[np.uint32]:
            view = manifest.groups[group].view
            assert view, manifest.groups[group].name
            with open(open_for_reading(view.path, view.sha256), "rb") as file:
                rows = map_array(file, [ROW], view.rows)
                if verified.is_new(file):
                    check_rows_differ(rows)
                    verified.compare(file, view.sha256, "it")
                return rows

        self.tar, self.index, self.view = lru_cache(limit)(tar), lru_cache(limit)(index), lru_cache(limit)(view)


class Verified:
    """Files whose content this process has compared with their digests. One that has changed since is compared again."""

    def __init__(self) -> None:
        self._states: set[int] = set()

    def is_new(self, file: BufferedReader) -> bool:
        """Return False if this file has been compared, and has not been written since."""
        return self._state(file) not in self._states

    def compare(self, file: BufferedReader, digest: str, what: str) -> None:
        """Compare an open file with its digest.

        Raises:
            ValueError: its SHA-256 is another; the message begins with `what`.
        """
        state = self._state(file)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"{what} has changed (its SHA-256 is not the manifest's)")
        self._states.add(state)

    def _state(self, file: BufferedReader) -> int:
        found = os.fstat(file.fileno())
        return hash((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def check_rows_differ(row_P: NDArray[np.uint32]) -> None:
    """Check that no two pairs of a view are the same row.

    Raises:
        ValueError: two pairs are; the message names the row.
    """
    sorted_P = np.sort(row_P)
    if len(twice := sorted_P[1:][sorted_P[1:] == sorted_P[:-1]]):
        raise ValueError(f"two of its pairs are row {twice[0]}, expected each row once")


def map_index(file: BinaryIO, name: str, rows: int) -> NDArray[np.void]:
    """Map the index of a shard into memory: entries of INDEX, or of INDEX_WITHOUT_CHECKSUMS.

    Raises:
        ValueError: it is damaged, or belongs to another shard.
    """
    try:
        return map_array(file, [INDEX, INDEX_WITHOUT_CHECKSUMS], rows)
    except ValueError as error:
        raise ValueError(f"its index {name} {error}") from None


def map_array(file: BinaryIO, dtypes: Sequence[np.dtype], rows: int) -> NDArray:
    """Map an array of one dimension (.npy) and of one of these types into memory; it stays mapped when the file is closed.

    Raises:
        ValueError: it is damaged, or has another type or length.
    """
    try:
        dtype = _read_header(file, dtypes, rows)
        # As a plain array: np.memmap's own indexing is slow.
        return np.asarray(np.memmap(file, dtype, mode="r", offset=file.tell(), shape=(rows,)))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from None


def array_bytes(dtype: np.dtype, rows: int) -> int:
    """Return the size of an array's file as this version of NumPy writes it."""
    return len(_header(dtype, rows)) + rows * dtype.itemsize


def _read_header(file: BinaryIO, dtypes: Sequence[np.dtype], rows: int) -> np.dtype:
    """Return the type that the header names; the entries follow at the file's position."""
    for dtype in dtypes:
        # Parsing a header takes longer than the rest of opening a shard, and nearly all headers are alike.
        file.seek(0)
        header = _header(dtype, rows)
        if file.read(len(header)) == header:
            return dtype
    file.seek(0)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is not of version 1.0")
        shape, _, found = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # for a damaged header, NumPy lets through whatever Python's own tokenizer raises
        raise ValueError(str(error)) from None
    if found not in dtypes or shape != (rows,):
        raise ValueError(f"it has {shape} entries of {found}, expected {rows} entries")
    return found


@lru_cache
def _header(dtype: np.dtype, rows: int) -> bytes:
    """Return the header of an array of this type and length, as this version of NumPy writes it."""
    file = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()
