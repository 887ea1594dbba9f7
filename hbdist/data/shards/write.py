"""One shard as files: a plain WebDataset tar of JSON members, and its index."""

import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from hbdist.data.shards.manifest import Shard, Shards, Texts
from hbdist.data.shards.sample import INDEX, LanguageSample, Pair, encode, encode_one
from hbdist.utils.files import sha256

Sample = tuple[int, bytes, int, int]
"""Its row in the shard, its JSON, the characters of its query and of its document."""


def write_shards(pairs: Iterable[Pair], *, root: Path, folder: str, shard_rows: int) -> tuple[Shard, ...]:
    """Write `pairs` as `root/folder/000000.tar` … of `shard_rows` rows each; no pairs, no shards."""
    first = 0
    shards: list[Shard] = []
    for chunk in _chunks(pairs, shard_rows):
        samples = ((row, encode(pair), len(pair.query), len(pair.document)) for row, pair in enumerate(chunk))
        stem = f"{folder}/{len(shards):06d}"
        shards.append(_write_shard(samples, root=root, stem=stem, first=first, rows=len(chunk)))
        first += len(chunk)
    return tuple(shards)


def write_texts(
    samples: Iterable[tuple[int, LanguageSample]],
    *,
    root: Path,
    dataset: str,
    language: str,
    rows: int,
    shard_rows: int,
) -> Texts:
    """Write one language of a parallel dataset as `root/dataset/language/000000.tar` …, in each the samples of one window
    of rows. The JSON of row r is r.json in every language.

    Args:
        samples: (row, sample), by ascending rows.
        rows: of the dataset.
        shard_rows: of a window.
    """
    windows, shards = [], []
    for window, chunk in groupby(samples, key=lambda one: one[0] // shard_rows):
        first = window * shard_rows
        stored = ((row - first, encode_one(one), len(one.query), len(one.document)) for row, one in chunk)
        stem = f"{dataset}/{language}/{window:06d}"
        shards.append(_write_shard(stored, root=root, stem=stem, first=first, rows=min(shard_rows, rows - first)))
        windows.append(window)
    return Texts(dataset, language, rows, shard_rows, tuple(windows), Shards.of(shards))


# A fresh TarInfo has owner 0, time 0 and mode 0644: nothing of this machine or moment gets into the bytes.
_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 156)
_SUM = sum(_HEADER) - sum(_HEADER[_SIZE]) - sum(_HEADER[_CHECKSUM]) + 8 * ord(" ")


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a file of `size` bytes: what `tarfile.TarInfo` makes, several times as fast.

    Only the name, the size and the checksum, which counts itself as spaces, differ between members.
    """
    name_bytes, digits = name.encode("ascii"), b"%011o" % size
    assert len(name_bytes) <= 100, f"{name} is too long for a tar"
    assert len(digits) == 11, f"{size} bytes are too many for a tar"
    header = bytearray(_HEADER)
    header[_NAME] = name_bytes.ljust(100, b"\0")
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o\0 " % (_SUM + sum(name_bytes) + sum(digits))
    return bytes(header)


def _write_shard(samples: Iterable[Sample], *, root: Path, stem: str, first: int, rows: int) -> Shard:
    """Write a tar and its index of `rows` entries; those of rows without a sample are zeros."""
    tar, index = f"{stem}.tar", f"{stem}.index.npy"
    (root / tar).parent.mkdir(parents=True, exist_ok=True)
    entries = np.zeros(rows, INDEX)
    position = held = 0
    with (root / tar).open("wb") as archive:
        for row, payload, *characters in samples:
            position += archive.write(tar_header(f"{first + row:09d}.json", len(payload)))
            entries[row] = (position, len(payload), *characters)
            position += archive.write(payload + bytes(-len(payload) % tarfile.BLOCKSIZE))
            held += 1
        # Two empty blocks end a tar, and it is a whole number of records.
        archive.write(bytes(2 * tarfile.BLOCKSIZE + -(position + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
    np.save(root / index, entries, allow_pickle=False)
    return Shard(
        path=tar,
        rows=held,
        bytes=(root / tar).stat().st_size,
        sha256=sha256(root / tar),
        index=index,
        index_sha256=sha256(root / index),
    )


def _chunks(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while chunk := list(islice(iterator, size)):
        yield chunk
