"""Checking a shard folder as a whole, and the report of one that is sound.

A remote folder is fetched shard by shard. What else lies there is not looked for: not every store can be listed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hbdist.data.shards.cache import CACHE_GB, Cache
from hbdist.data.shards.manifest import FILE, VALIDATION, Manifest
from hbdist.data.shards.remote import Remote
from hbdist.data.shards.verify_parts import parts_of, problems_of
from hbdist.errors import DataError
from hbdist.utils.workers import Progress, in_parallel, silent

SHOWN = 10
"""Problems that an error lists; it says how many more there are."""


@dataclass(frozen=True)
class CheckReport:
    """What a shard folder without problems holds."""

    root: Path | Remote
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


def check(
    root: str | Path, *, workers: int | None = None, progress: Progress = silent, cache_gb: float = CACHE_GB
) -> CheckReport:
    """Compare a shard folder with its manifest: files, sizes, checksums, rows, indexes and samples.

    Args:
        root: a folder or, as `s3://`, `gs://` or `https://`, its address.
        workers: processes; unset: one a core.
        progress: called as progress(done, total, what) after each group, and each language of a
            parallel layout.
        cache_gb: gigabytes that remote shards may take on this machine.

    Raises:
        DataError: there is no sound manifest, or something is not as it says; the message lists the first ten of all
            problems.
    """
    manifest = Manifest.load(root)
    parts = list(parts_of(manifest, Cache.of_machine(cache_gb)))
    found = in_parallel(problems_of, parts, workers=workers, progress=progress)
    problems = [problem for problems in found for problem in problems] + list(_strangers(manifest))
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN] + more)
        raise DataError(
            f"{manifest.root} is not what its manifest says; expected every file as it was built:{listed}\n"
            "Build it again with `hbdist build RECIPE`."
        )
    return _report(manifest)


def _strangers(manifest: Manifest) -> Iterator[str]:
    """Tars that the manifest does not know, but a pipeline that reads `**/*.tar` would read."""
    if isinstance(manifest.root, Remote):
        return
    known = {shard.path for shard_set in manifest.shard_sets for shard in shard_set.shards}
    held_out = manifest.root / VALIDATION
    if (held_out / FILE).is_file():  # a shard folder of its own
        known |= {
            f"{VALIDATION}/{shard.path}"
            for shard_set in Manifest.load(held_out).shard_sets
            for shard in shard_set.shards
        }
    for path in sorted(manifest.root.rglob("*.tar")):
        if (name := path.relative_to(manifest.root).as_posix()) not in known:
            yield f"{name}: is not in the manifest"


def _report(manifest: Manifest) -> CheckReport:
    pairs: Counter[tuple[str, str]] = Counter()
    for group in manifest.groups:
        pairs[group.query_lang, group.document_lang] += group.rows
    shards = [shard for shard_set in manifest.shard_sets for shard in shard_set.shards]
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
