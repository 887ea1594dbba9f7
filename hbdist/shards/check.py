"""Checking a shard folder: every byte against the manifest, every entry of every index against its tar."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hbdist.errors import DataError
from hbdist.shards.manifest import Group, Manifest, Shard
from hbdist.shards.parallel import Progress, in_parallel, silent
from hbdist.shards.read import open_index
from hbdist.shards.sample import Pair, decode
from hbdist.shards.write import sha256

SHOWN = 10
"""Problems that an error lists; it says how many more there are."""


@dataclass(frozen=True)
class CheckReport:
    """What a shard folder without problems holds."""

    root: Path
    fingerprint: str
    groups: int
    shards: int
    rows: int
    bytes: int
    """Of the tars."""
    pairs: Mapping[tuple[str, str], int]
    """(query language, document language) → pairs, over all datasets."""
    dropped: Mapping[str, Mapping[str, int]]
    """Dataset → reason → how many the build left out."""

    def text(self) -> str:
        """A few lines and a table: query languages down, document languages across."""
        lines = [
            f"{self.root}: {self.rows:,} pairs in {self.groups} groups, {self.shards} shards, {self.bytes / 1e6:,.1f} MB",
            f"fingerprint {self.fingerprint}",
            "",
            *_table(self.pairs),
            "",
        ]
        for dataset, reasons in self.dropped.items():
            counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            lines.append(f"left out of {dataset}: {counts or 'nothing'}")
        return "\n".join(lines)


def check(root: str | Path, *, workers: int | None = None, progress: Progress = silent) -> CheckReport:
    """Compare a shard folder with its manifest: files, sizes, checksums, rows, indexes and samples.

    Raises:
        DataError: there is no sound manifest, or something is not as it says; the message lists the first ten of all
            problems.
    """
    manifest = Manifest.load(root)
    parts = [_Part(manifest.root, group) for group in manifest.groups]
    found = in_parallel(_check_group, parts, workers=workers, progress=progress)
    problems = [problem for problems in found for problem in problems] + list(_strangers(manifest))
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN] + more)
        raise DataError(
            f"{manifest.root} is not what its manifest says; expected every file as it was built:{listed}\n"
            "Build it again with `hbdist build RECIPE`."
        )
    return _report(manifest)


@dataclass(frozen=True)
class _Part:
    root: Path
    group: Group

    def __str__(self) -> str:
        return self.group.name


def _check_group(part: _Part) -> list[str]:
    first, problems = 0, []
    for shard in part.group.shards:
        problems += [f"{shard.path}: {problem}" for problem in _check_shard(part, shard, first=first)]
        first += shard.rows
    return problems


def _check_shard(part: _Part, shard: Shard, *, first: int) -> Iterator[str]:
    tar, index = part.root / shard.path, part.root / shard.index
    if not tar.is_file():
        yield "is missing"
    elif (size := tar.stat().st_size) != shard.bytes:
        yield f"has {size} bytes, the manifest says {shard.bytes}"
    elif sha256(tar) != shard.sha256:
        yield "has changed (its SHA-256 is not the manifest's)"
    if not index.is_file():
        yield f"its index {shard.index} is missing"
    elif sha256(index) != shard.index_sha256:
        yield f"its index {shard.index} has changed (its SHA-256 is not the manifest's)"
    if tar.is_file() and index.is_file():
        yield from _check_samples(part, shard, first=first)


def _check_samples(part: _Part, shard: Shard, *, first: int) -> Iterator[str]:
    """Walk the tar and its index side by side. The first row that is wrong is named: what comes after it may only
    follow from it."""
    row = 0
    try:
        index = open_index(part.root, shard)
        for member, payload in _members(part.root / shard.path):
            if row == shard.rows:
                raise ValueError(f"the tar goes on, the manifest has only {shard.rows} rows")
            found = _entry(member, decode(payload, dataset=part.group.dataset), part.group)
            if index[row].item() != found:
                raise ValueError(f"the index has {index[row].item()} as offset, size and lengths, the tar {found}")
            row += 1
        if row < shard.rows:
            raise ValueError(f"the tar ends, the manifest has {shard.rows} rows")
    except (OSError, ValueError, tarfile.TarError) as error:
        yield f"row {first + row}: {error}"


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a tar with their contents.

    Raises:
        ValueError: a member is something else than a file, or its name is more than a name.
        tarfile.TarError: the tar is damaged.
    """
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or not re.fullmatch(r"[A-Za-z0-9_]+\.json", member.name):
                raise ValueError(f"the member {member.name!r} is not a file with a plain name")
            yield member, file.read()


def _entry(member: tarfile.TarInfo, pair: Pair, group: Group) -> tuple[int, int, int, int]:
    """What the index should say of a sample."""
    if (pair.query_lang, pair.document_lang) != (group.query_lang, group.document_lang):
        raise ValueError(f"a pair of {pair.query_lang}-{pair.document_lang}")
    return member.offset_data, member.size, len(pair.query), len(pair.document)


def _strangers(manifest: Manifest) -> Iterator[str]:
    """Tars that the manifest does not know, but a pipeline that reads `**/*.tar` would read."""
    known = {shard.path for group in manifest.groups for shard in group.shards}
    for path in sorted(manifest.root.rglob("*.tar")):
        if (name := path.relative_to(manifest.root).as_posix()) not in known:
            yield f"{name}: is not in the manifest"


def _report(manifest: Manifest) -> CheckReport:
    pairs: Counter[tuple[str, str]] = Counter()
    for group in manifest.groups:
        pairs[group.query_lang, group.document_lang] += group.rows
    shards = [shard for group in manifest.groups for shard in group.shards]
    return CheckReport(
        root=manifest.root,
        fingerprint=manifest.fingerprint,
        groups=len(manifest.groups),
        shards=len(shards),
        rows=manifest.rows,
        bytes=sum(shard.bytes for shard in shards),
        pairs=pairs,
        dropped=manifest.dropped,
    )


def _table(pairs: Mapping[tuple[str, str], int]) -> Iterator[str]:
    queries, documents = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    width = max(len(text) for text in (*documents, *(f"{count:,}" for count in pairs.values()))) + 2
    margin = max(len(text) for text in (*queries, "query"))
    yield "query".ljust(margin) + "".join(document.rjust(width) for document in documents)
    for query in queries:
        counts = [pairs.get((query, document), 0) for document in documents]
        yield query.ljust(margin) + "".join((f"{count:,}" if count else "-").rjust(width) for count in counts)
