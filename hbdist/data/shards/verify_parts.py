"""Check of one group or language of a shard folder against its manifest: every byte of its files, every entry of an index
against the tar, and every row that a view refers to against the texts."""

import hashlib
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np

from hbdist.data.shards.alike import TextDigests, limit_of
from hbdist.data.shards.cache import Cache, open_file
from hbdist.data.shards.groups import Group, Shard, ShardSet, Texts, View
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.open_files import ROW, check_rows_differ, map_array, map_index
from hbdist.data.shards.remote import Remote, StoreError
from hbdist.data.shards.sample import LanguageSample, Pair, checksum, decode_language_sample, decode_pair, has_checksums
from hbdist.errors import DataError


@dataclass(frozen=True)
class Part:
    """A group, or the texts of a language, to be checked."""

    root: Path | Remote
    shard_set: ShardSet
    views: tuple[Group, ...]
    """Groups that are views of the shard set, if it is a language's texts: it must have their rows."""
    cache: Cache
    digest_limit: int = 0
    """Limit of the digests of texts that are kept; see `TextDigests`."""

    def __str__(self) -> str:
        return self.shard_set.name

    def open(self, path: str, digest: str, size: int | None = None) -> BufferedReader:
        return open(open_file(self.root, path, digest, size=size, cache=self.cache), "rb")


def split_into_parts(manifest: Manifest, cache: Cache) -> Iterator[Part]:
    """Yield every group, and the texts of every language, of a manifest."""
    views: dict[int, list[Group]] = defaultdict(list)
    for group in manifest.groups:
        if group.view:
            for set_number in set(manifest.text_sets(group)):
                views[set_number].append(group)
    stored, samples = Counter[str](), Counter[str]()
    for shard_set in manifest.shard_sets:
        stored[shard_set.dataset] += bool(shard_set.shards)
        samples[shard_set.dataset] += sum(shard_set.shards.rows)
    for set_number, shard_set in enumerate(manifest.shard_sets):
        limit = limit_of(samples[shard_set.dataset], stored[shard_set.dataset])
        yield Part(manifest.root, shard_set, tuple(views[set_number]), cache, limit)


@dataclass
class PartReport:
    """Result of checking a part."""

    texts: TextDigests
    problems: list[str] = field(default_factory=list)
    """One sentence for each difference from the manifest."""
    with_negatives: int = 0
    """Number of its samples that have hard negatives."""
    shards_without_checksums: int = 0
    """Number of its shards that were built before samples had checksums."""


def check_part(part: Part) -> PartReport:
    """Compare a part with the manifest.

    Raises:
        StoreError: a remote store does not answer.
    """
    shard_set, report = part.shard_set, PartReport(TextDigests(part.digest_limit))
    if isinstance(shard_set, Group) and shard_set.view:
        report.problems += [f"{shard_set.view.path}: {problem}" for problem in _check_view(part, shard_set.view)]
        return report
    for number, shard in enumerate(shard_set.shards):
        report.problems += [f"{shard.path}: {problem}" for problem in _check_shard(part, number, shard, report)]
    if isinstance(shard_set, Texts) and not report.problems:
        report.problems += _check_rows(part, shard_set)
    return report


def _check_shard(part: Part, number: int, shard: Shard, report: PartReport) -> Iterator[str]:
    with (
        (yield from _check_file(part, "", shard.path, shard.sha256, shard.bytes)) as tar,
        (yield from _check_file(part, f"its index {shard.index} ", shard.index, shard.index_sha256)) as index,
    ):
        if tar and index:
            yield from _check_samples(part.shard_set, number, tar, index, report)


def _check_view(part: Part, view: View) -> Iterator[str]:
    with (yield from _check_file(part, "", view.path, view.sha256)) as file:
        if file:
            try:
                check_rows_differ(map_array(file, [ROW], view.rows))
            except ValueError as error:
                yield str(error)


def _check_rows(part: Part, texts: Texts) -> Iterator[str]:
    """Check that a language has the rows that its views refer to. An unreadable view is a problem of its own part."""
    has_R = np.zeros(texts.rows, bool)
    for number, shard in enumerate(texts.shards):
        with part.open(shard.index, shard.index_sha256) as file:
            entries = map_index(file, shard.index, texts.index_rows(number))
        start = texts.first_row(number)
        has_R[start : start + len(entries)] = entries["size"] > 0
    for group in part.views:
        assert group.view, group.name
        with suppress(OSError, ValueError, DataError), part.open(group.view.path, group.view.sha256) as file:
            row_P = map_array(file, [ROW], group.view.rows)
            exists_P = row_P < len(has_R)
            exists_P[exists_P] = has_R[row_P[exists_P]]
            if missing := np.flatnonzero(~exists_P).tolist():
                yield f"{group.view.path}: pair {missing[0]} is row {row_P[missing[0]]}, which {texts.name} does not have"


def _check_file(
    part: Part, prefix: str, path: str, digest: str, size: int | None = None
) -> Generator[str, None, BufferedReader | nullcontext[None]]:
    """Yield the problems of a file, each after `prefix`; return the file, open, if it can be opened at all."""
    try:
        file = part.open(path, digest, size)
    except StoreError:
        raise
    except FileNotFoundError:
        yield f"{prefix}is missing"
    except (OSError, DataError) as error:
        yield f"{prefix}cannot be read: {error}"
    else:
        stored = os.fstat(file.fileno()).st_size
        if size is not None and stored != size:
            yield f"{prefix}has {stored} bytes, the manifest says {size}"
        elif hashlib.file_digest(file, "sha256").hexdigest() != digest:
            yield f"{prefix}has changed (its SHA-256 is not the manifest's)"
        return file
    return nullcontext()


def _check_samples(
    shard_set: ShardSet, number: int, tar: BufferedReader, index: BufferedReader, report: PartReport
) -> Iterator[str]:
    """Compare the tar with its index, sample by sample, and count hard negatives. Only the first wrong row is reported:
    further ones may merely follow from it."""
    shard, with_negatives = shard_set.shards[number], 0
    row = first = shard_set.first_row(number)
    try:
        entries = map_index(index, shard.index, shard_set.index_rows(number))
        report.shards_without_checksums += not has_checksums(entries)
        # Texts have entries of zeros for rows that the language lacks.
        rows = first + (np.arange(len(entries)) if isinstance(shard_set, Group) else np.flatnonzero(entries["size"]))
        if len(rows) != shard.rows:
            raise ValueError(f"the index has {len(rows)} samples, the manifest {shard.rows}")
        members = _members(tar)
        for row in rows.tolist():
            if (found := next(members, None)) is None:
                raise ValueError(f"the tar ends, the manifest has {shard.rows} rows")
            entry, sample = _entry(*found, shard_set, row)
            if (stored := entries[row - first].item()) != entry[: len(stored)]:
                raise ValueError(f"the index has {stored} as offset, size, lengths and checksum, the tar {entry}")
            with_negatives += bool(sample.negatives)
            report.texts.add(sample.query, sample.document)
        row += 1
        if next(members, None):
            raise ValueError(f"the tar has more rows, the manifest only {shard.rows} rows")
        if shard.negatives not in (None, with_negatives):
            raise ValueError(f"{with_negatives} rows have hard negatives, the manifest says {shard.negatives}")
    except (OSError, ValueError, RecursionError, tarfile.TarError) as error:
        yield f"row {row}: {error}"
    report.with_negatives += with_negatives


def _members(tar: BufferedReader) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the files of a tar with their contents. Nothing is extracted, and no member's name is opened.

    Raises:
        ValueError: a member is not a file, or its name is not a plain file name.
        tarfile.TarError: the tar is damaged.
    """
    tar.seek(0)
    with tarfile.open(fileobj=tar, mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or not re.fullmatch(r"[A-Za-z0-9_]+\.json", member.name):
                raise ValueError(f"the member {member.name!r} is not a file with a plain name")
            yield member, file.read()


def _entry(
    member: tarfile.TarInfo, payload: bytes, shard_set: ShardSet, row: int
) -> tuple[tuple[int, int, int, int, int], Pair | LanguageSample]:
    """Return the entry that the index should have for a sample, and the sample.

    Raises:
        ValueError: the sample is not one of this shard set and row.
    """
    if isinstance(shard_set, Texts):
        if member.name != f"{row:09d}.json":
            raise ValueError(f"the member {member.name!r}; expected {row:09d}.json, as in the other languages")
        sample: Pair | LanguageSample = decode_language_sample(payload, language=shard_set.language)
    else:
        sample = pair = decode_pair(payload, dataset=shard_set.dataset)
        if (pair.query_lang, pair.document_lang) != (shard_set.query_lang, shard_set.document_lang):
            raise ValueError(f"a pair of {pair.query_lang}-{pair.document_lang}")
    lengths = member.size, len(sample.query), len(sample.document)
    return (member.offset_data, *lengths, checksum(payload)), sample
