"""Existence and size of a folder's files, looked at before a run begins: a shard that is gone is an error at the start, not
after days."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

from hbdist.data.shards.groups import ShardSet
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.open_files import ROW, array_bytes
from hbdist.data.shards.remote import MISSING, Remote
from hbdist.data.shards.sample import INDEX_WITHOUT_CHECKSUMS
from hbdist.errors import DataError

THREADS = 8
"""Number of files that a process looks at at the same time: file systems over a network answer slowly."""
BLOCK = 256
"""Number of files that a thread looks at at a time."""
REMOTE_FILES = 1_024
"""Most files of a remote folder whose size a process asks for; the others are compared when they are downloaded."""
SHARED_ABOVE = 4_096
"""Number of files up to which each process looks at all of them."""
SHOWN = 10
"""Number of problems that an error lists; it also tells how many more there are."""


class StoredFile(NamedTuple):
    """A file that a manifest names."""

    path: str
    size: int
    """Its size in bytes, or the least that it can have."""
    exact: bool
    without_checksums: int | None = None
    """For an index: its size if it was built before samples had checksums."""


@dataclass(frozen=True)
class Presence:
    """Files that were looked at, and found to be there with the right size."""

    looked_at: int
    files: int
    """Number of files that this process should have looked at."""
    unanswered: int
    """Number of remote files whose size the store did not tell."""
    without_checksums: int
    """Number of indexes that were built before samples had checksums."""

    def sentences(self, root: object) -> list[str]:
        """Return what a user should know."""
        lines = []
        if self.looked_at < self.files or self.unanswered:
            unanswered = f", and the store did not tell the size of {self.unanswered:,}" if self.unanswered else ""
            lines.append(
                f"{root}: {self.looked_at:,} of {self.files:,} files were looked at{unanswered}; the others are compared with"
                " the manifest when they are downloaded"
            )
        if self.without_checksums:
            lines.append(
                f"{root} has shards that were built before samples had checksums ({self.without_checksums:,} of the indexes"
                " seen): bytes that change on the disk are noticed by `hbdist check` alone. Built again from the same recipe"
                " and sources, they have checksums, and the run resumes on them"
            )
        return lines


def check_presence(manifest: Manifest, shard_sets: Iterable[ShardSet], *, share: int = 0, shares: int = 1) -> Presence:
    """Check that the files of some shard sets of a manifest exist and have the right sizes: tars exactly, indexes and views
    at least. Their content is not read.

    A local folder's files are all looked at; of a remote one, REMOTE_FILES per process, evenly spread.

    Args:
        share, shares: of many files, look at every `shares`-th, beginning with this one: processes share the work. Of few,
            each looks at all: then all of them see what is wrong.

    Raises:
        DataError: a file is missing or has another size; the message names the first ten.
    """
    files = list(_files(shard_sets))
    if len(files) > SHARED_ABOVE:
        files = files[share::shares]
    seen = files
    sizes: list[int | None]
    if isinstance(manifest.root, Remote):
        seen = files[:: -(-len(files) // REMOTE_FILES)] if files else []
        sizes = manifest.root.sizes([file.path for file in seen])
    else:
        sizes = _local_sizes(manifest.root, [file.path for file in seen])
    problems = [problem for file, size in zip(seen, sizes, strict=True) if (problem := _problem(file, size))]
    if problems:
        more = [f"… and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN] + more)
        raise DataError(
            f"{manifest.root} lacks files that its manifest lists:{listed}\n"
            f"Copy the whole folder there again, or build it again with `hbdist build RECIPE`; `hbdist check {manifest.root}`"
            " compares every byte."
        )
    without_checksums = sum(
        file.without_checksums is not None and size == file.without_checksums
        for file, size in zip(seen, sizes, strict=True)
    )
    return Presence(len(seen), len(files), sum(size is None for size in sizes), without_checksums)


def _files(shard_sets: Iterable[ShardSet]) -> Iterable[StoredFile]:
    for shard_set in shard_sets:
        if view := getattr(shard_set, "view", None):
            yield StoredFile(view.path, view.rows * ROW.itemsize, exact=False)
        for number, shard in enumerate(shard_set.shards):
            rows = shard_set.index_rows(number)
            yield StoredFile(shard.path, shard.bytes, exact=True)
            least = rows * INDEX_WITHOUT_CHECKSUMS.itemsize
            yield StoredFile(
                shard.index, least, exact=False, without_checksums=array_bytes(INDEX_WITHOUT_CHECKSUMS, rows)
            )


def _problem(file: StoredFile, size: int | None) -> str | None:
    if size is None or size == file.size or (size > file.size and not file.exact):
        return None
    if size == MISSING:
        return f"{file.path} is missing"
    return f"{file.path} has {size:,} bytes, expected {file.size:,}{' or more' * (not file.exact)}"


def _local_sizes(root: os.PathLike[str], paths: Sequence[str]) -> list[int | None]:
    blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(chain.from_iterable(pool.map(partial(_sizes_of_block, root), blocks)))


def _sizes_of_block(root: os.PathLike[str], paths: Sequence[str]) -> list[int]:
    return [_size(os.path.join(root, path)) for path in paths]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        raise DataError(f"{path} cannot be looked at: {error}. Correct its rights, or mount its file system.") from None
