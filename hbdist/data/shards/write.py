"""Writer of shards: plain WebDataset tars of JSON members, each with an index beside it."""

import tarfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from hbdist.data.shards.groups import Shard, Shards, Texts
from hbdist.data.shards.sample import INDEX, LanguageSample, Pair, checksum, encode
from hbdist.utils.files import sha256


def write_shards(pairs: Iterable[Pair], *, root: Path, folder: str, shard_rows: int) -> Shards:
    """Write `pairs` as `root/folder/000000.tar` … of `shard_rows` rows each; without pairs, no shard is written."""
    chunks = groupby(enumerate(pairs), key=lambda item: item[0] // shard_rows)
    return Shards.of(
        _write_shard(chunk, root=root, stem=f"{folder}/{number:06d}", first=number * shard_rows)
        for number, chunk in chunks
    )


def write_texts(
    samples: Iterable[tuple[int, LanguageSample]],
    *,
    root: Path,
    dataset: str,
    language: str,
    rows: int,
    shard_rows: int,
) -> Texts:
    """Write one language of a parallel dataset as `root/dataset/language/000000.tar` …, one shard per window of rows.

    Samples are (row, sample), by ascending row, of a dataset of `rows` rows. The JSON of row r has the same name in every
    language.
    """
    windows, shards = [], []
    for window, chunk in groupby(samples, key=lambda item: item[0] // shard_rows):
        first = window * shard_rows
        stem = f"{dataset}/{language}/{window:06d}"
        shards.append(_write_shard(chunk, root=root, stem=stem, first=first, rows=min(shard_rows, rows - first)))
        windows.append(window)
    return Texts(dataset, language, rows, shard_rows, tuple(windows), Shards.of(shards))


# A fresh TarInfo has owner 0, time 0 and mode 0644: the bytes do not depend on the machine or the time.
_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 156)
_SUM = sum(_HEADER) - sum(_HEADER[_SIZE]) - sum(_HEADER[_CHECKSUM]) + 8 * ord(" ")


def tar_header(name: str, size: int) -> bytes:
    """Return the USTAR header of a file of `size` bytes: that of `tarfile.TarInfo`, made several times as fast.

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


def _write_shard(
    samples: Iterable[tuple[int, Pair | LanguageSample]], *, root: Path, stem: str, first: int, rows: int | None = None
) -> Shard:
    """Write a tar of samples, given as (row, sample), and its index: entries of `rows` rows from row `first` on, zeros
    where a row has no sample; without `rows`, one entry per sample."""
    tar, index = f"{stem}.tar", f"{stem}.index.npy"
    (root / tar).parent.mkdir(parents=True, exist_ok=True)
    entries: dict[int, tuple[int, int, int, int, int]] = {}
    position = negatives = 0
    with (root / tar).open("wb") as archive:
        for row, sample in samples:
            payload = encode(sample)
            position += archive.write(tar_header(f"{row:09d}.json", len(payload)))
            lengths = len(payload), len(sample.query), len(sample.document)
            entries[row - first] = (position, *lengths, checksum(payload))
            negatives += bool(sample.negatives)
            position += archive.write(payload + bytes(-len(payload) % tarfile.BLOCKSIZE))
        # Two empty blocks end a tar, and its size is a multiple of the record size.
        archive.write(bytes(2 * tarfile.BLOCKSIZE + -(position + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
    table = np.zeros(len(entries) if rows is None else rows, INDEX)
    table[list(entries)] = list(entries.values())
    np.save(root / index, table, allow_pickle=False)
    size = (root / tar).stat().st_size
    return Shard(tar, len(entries), size, sha256(root / tar), index, sha256(root / index), negatives)
