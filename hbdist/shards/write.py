"""One shard as files: a plain WebDataset tar of JSON members, and its index."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from hbdist.shards.manifest import Shard
from hbdist.shards.sample import INDEX, Pair, encode


def write_shards(pairs: Iterable[Pair], *, root: Path, folder: str, shard_rows: int) -> tuple[Shard, ...]:
    """Write `pairs` as `root/folder/000000.tar` … of `shard_rows` rows each; no pairs, no shards."""
    first = 0
    shards: list[Shard] = []
    for chunk in _chunks(pairs, shard_rows):
        (root / folder).mkdir(parents=True, exist_ok=True)
        shards.append(_write_shard(chunk, root=root, stem=f"{folder}/{len(shards):06d}", first=first))
        first += len(chunk)
    return tuple(shards)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_shard(pairs: Sequence[Pair], *, root: Path, stem: str, first: int) -> Shard:
    tar, index = f"{stem}.tar", f"{stem}.index.npy"
    entries = np.empty(len(pairs), INDEX)
    with tarfile.open(root / tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for row, pair in enumerate(pairs):
            payload = encode(pair)
            # A fresh TarInfo has owner 0, time 0 and mode 0644: nothing of this machine or moment gets into the bytes.
            member = tarfile.TarInfo(f"{first + row:09d}.json")
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
            padded = -(-len(payload) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            entries[row] = (archive.offset - padded, len(payload), len(pair.query), len(pair.document))
    np.save(root / index, entries, allow_pickle=False)
    return Shard(
        path=tar,
        rows=len(pairs),
        bytes=(root / tar).stat().st_size,
        sha256=sha256(root / tar),
        index=index,
        index_sha256=sha256(root / index),
    )


def _chunks(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while chunk := list(islice(iterator, size)):
        yield chunk
