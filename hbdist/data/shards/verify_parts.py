"""One group or language of a shard folder against its manifest: every byte, every entry of every index against its tar, every
row that a view names against the texts.
"""

import hashlib
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import Cache, open_file
from hbdist.data.shards.manifest import Group, Manifest, Shard, ShardSet, Texts, View
from hbdist.data.shards.open_files import ROW, map_array, map_index
from hbdist.data.shards.remote import Remote, StoreError
from hbdist.data.shards.sample import decode, decode_one
from hbdist.errors import DataError


@dataclass(frozen=True)
class Part:
    """A group, or the texts of a language, to be checked."""

    root: Path | Remote
    shard_set: ShardSet
    views: tuple[Group, ...]
    """Of the shard_set, if it is a language's texts: it must have their rows."""
    cache: Cache

    def __str__(self) -> str:
        return self.shard_set.name

    def open(self, path: str, digest: str, size: int | None = None) -> BufferedReader:
        return open(open_file(self.root, path, digest, size=size, cache=self.cache), "rb")


def parts_of(manifest: Manifest, cache: Cache) -> Iterator[Part]:
    """All that a manifest lists."""
    views: dict[int, list[Group]] = defaultdict(list)
    for group in manifest.groups:
        if group.view:
            for place in set(manifest.sides(group)):
                views[place].append(group)
    for place, shard_set in enumerate(manifest.shard_sets):
        yield Part(manifest.root, shard_set, tuple(views[place]), cache)


def problems_of(part: Part) -> list[str]:
    """What is not as the manifest says, a sentence each.

    Raises:
        StoreError: a remote store does not answer.
    """
    shard_set, problems = part.shard_set, []
    if isinstance(shard_set, Group) and shard_set.view:
        return [f"{shard_set.view.path}: {problem}" for problem in _check_view(part, shard_set.view)]
    for number, shard in enumerate(shard_set.shards):
        problems += [f"{shard.path}: {problem}" for problem in _check_shard(part, number, shard)]
    if isinstance(shard_set, Texts) and not problems:
        problems += _check_rows(part, shard_set)
    return problems


def _check_shard(part: Part, number: int, shard: Shard) -> Iterator[str]:
    with ExitStack() as opened:
        files = []
        for what, path, digest, size in (
            ("", shard.path, shard.sha256, shard.bytes),
            (f"its index {shard.index} ", shard.index, shard.index_sha256, None),
        ):
            file = yield from _check_file(part, what, path, digest, size)
            files += [opened.enter_context(file)] if file else []
        if len(files) == 2:
            yield from _check_samples(part.shard_set, number, *files)


def _check_view(part: Part, view: View) -> Iterator[str]:
    if file := (yield from _check_file(part, "", view.path, view.sha256)):
        with file:
            try:
                map_array(file, ROW, view.rows)
            except ValueError as error:
                yield str(error)


def _check_rows(part: Part, texts: Texts) -> Iterator[str]:
    """Whether a language has the rows that its views name. A view that cannot be read is a problem of its own part."""
    has_R = np.zeros(texts.rows, bool)
    for number, shard in enumerate(texts.shards):
        with part.open(shard.index, shard.index_sha256) as file:
            entries = map_index(file, shard.index, texts.index_rows(number))
        start = texts.windows[number] * texts.shard_rows
        has_R[start : start + len(entries)] = entries["size"] > 0
    for group in part.views:
        assert group.view, group.name
        with suppress(OSError, ValueError, DataError), part.open(group.view.path, group.view.sha256) as file:
            row_P = map_array(file, ROW, group.view.rows)
            found_P = row_P < len(has_R)
            found_P[found_P] = has_R[row_P[found_P]]
            if lost := np.flatnonzero(~found_P).tolist():
                yield f"{group.view.path}: pair {lost[0]} is row {row_P[lost[0]]}, which {texts.name} does not have"


def _check_file(
    part: Part, what: str, path: str, digest: str, size: int | None = None
) -> Generator[str, None, BufferedReader | None]:
    """The file, open, if it can be opened at all."""
    try:
        file = part.open(path, digest, size)
    except StoreError:
        raise
    except FileNotFoundError:
        yield f"{what}is missing"
    except (OSError, DataError) as error:
        yield f"{what}cannot be read: {error}"
    else:
        yield from (f"{what}{problem}" for problem in _check_bytes(file, digest, size))
        return file
    return None


def _check_bytes(file: BufferedReader, digest: str, size: int | None) -> Iterator[str]:
    found = os.fstat(file.fileno()).st_size
    if size is not None and found != size:
        yield f"has {found} bytes, the manifest says {size}"
    elif hashlib.file_digest(file, "sha256").hexdigest() != digest:
        yield "has changed (its SHA-256 is not the manifest's)"


def _check_samples(shard_set: ShardSet, number: int, tar: BufferedReader, index: BufferedReader) -> Iterator[str]:
    """Walk the tar and its index side by side. The first row that is wrong is named: what comes after it may only
    follow from it."""
    shard = shard_set.shards[number]
    row = first = _first_row(shard_set, number)
    try:
        entries = map_index(index, shard.index, shard_set.index_rows(number))
        rows = [first + place for place in _places(shard_set, entries)]
        if len(rows) != shard.rows:
            raise ValueError(f"the index has {len(rows)} samples, the manifest {shard.rows}")
        members = _members(tar)
        for row in rows:
            if (found := next(members, None)) is None:
                raise ValueError(f"the tar ends, the manifest has {shard.rows} rows")
            entry = _entry(*found, shard_set, row)
            if entries[row - first].item() != entry:
                raise ValueError(
                    f"the index has {entries[row - first].item()} as offset, size and lengths, the tar {entry}"
                )
        row += 1
        if next(members, None):
            raise ValueError(f"the tar goes on, the manifest has only {shard.rows} rows")
    except (OSError, ValueError, RecursionError, tarfile.TarError) as error:
        yield f"row {row}: {error}"


def _first_row(shard_set: ShardSet, number: int) -> int:
    return (
        int(shard_set.starts[number])
        if isinstance(shard_set, Group)
        else shard_set.windows[number] * shard_set.shard_rows
    )


def _places(shard_set: ShardSet, entries: NDArray[np.void]) -> list[int]:
    """Of the samples in an index."""
    return list(range(len(entries))) if isinstance(shard_set, Group) else np.flatnonzero(entries["size"]).tolist()


def _members(tar: BufferedReader) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a tar with their contents. Nothing is extracted, and no name is ever opened.

    Raises:
        ValueError: a member is something else than a file, or its name is more than a name.
        tarfile.TarError: the tar is damaged.
    """
    tar.seek(0)
    with tarfile.open(fileobj=tar, mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or not re.fullmatch(r"[A-Za-z0-9_]+\.json", member.name):
                raise ValueError(f"the member {member.name!r} is not a file with a plain name")
            yield member, file.read()


def _entry(member: tarfile.TarInfo, payload: bytes, shard_set: ShardSet, row: int) -> tuple[int, int, int, int]:
    """What the index should say of a sample."""
    if isinstance(shard_set, Texts):
        if member.name != f"{row:09d}.json":
            raise ValueError(f"the member {member.name!r}; expected {row:09d}.json, as in the other languages")
        text = decode_one(payload, language=shard_set.language)
        return member.offset_data, member.size, len(text.query), len(text.document)
    pair = decode(payload, dataset=shard_set.dataset)
    if (pair.query_lang, pair.document_lang) != (shard_set.query_lang, shard_set.document_lang):
        raise ValueError(f"a pair of {pair.query_lang}-{pair.document_lang}")
    return member.offset_data, member.size, len(pair.query), len(pair.document)
