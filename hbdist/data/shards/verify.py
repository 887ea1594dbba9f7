"""Check of a whole shard folder, and the report on one that is intact.

A remote folder is downloaded shard by shard. It is not searched for files that the manifest does not list: not every
store can list its files.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hbdist.data.shards.alike import TextDigests, alike_share, describe_alike
from hbdist.data.shards.cache import CACHE_GB, Cache
from hbdist.data.shards.manifest import FILE, VALIDATION, Manifest
from hbdist.data.shards.remote import Remote
from hbdist.data.shards.verify_parts import check_part, split_into_parts
from hbdist.errors import DataError
from hbdist.utils.workers import Progress, map_in_pool, silent

SHOWN = 10
"""Number of problems that an error lists; it also tells how many more there are."""


@dataclass(frozen=True)
class CheckReport:
    """Contents of a shard folder without problems."""

    manifest: Manifest
    with_negatives: Mapping[str, int]
    """Samples with hard negatives of each group that has shards, or of each language of a parallel layout."""
    shards_without_checksums: int
    """Number of shards that were built before samples had checksums."""
    alike: Mapping[str, float]
    """Data set → share of its samples whose two texts are also those of a sample in other languages."""

    @property
    def shards(self) -> int:
        """Number of tars."""
        return sum(len(shard_set.shards) for shard_set in self.manifest.shard_sets)

    @property
    def bytes(self) -> int:
        """Total size of the tars."""
        return sum(sum(shard_set.shards.bytes) for shard_set in self.manifest.shard_sets)

    @property
    def pairs(self) -> Counter[tuple[str, str]]:
        """Number of pairs by (query language, document language), over all datasets."""
        pairs: Counter[tuple[str, str]] = Counter()
        for group in self.manifest.groups:
            pairs[group.query_lang, group.document_lang] += group.rows
        return pairs

    def text(self) -> str:
        """Return a few lines and a table with a row per query language and a column per document language."""
        manifest = self.manifest
        lines = [
            f"{manifest.root}: {manifest.rows:,} pairs in {len(manifest.groups)} groups, {self.shards} shards,"
            f" {self.bytes / 1e6:,.1f} MB",
            f"fingerprint {manifest.fingerprint}",
            "",
            *_table(self.pairs),
            "",
        ]
        for dataset, reasons in manifest.dropped.items():
            counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            lines.append(f"left out of {dataset}: {counts or 'nothing'}")
        lines.append(f"hard negatives: {self._negatives()}")
        lines += describe_alike(self.alike)
        if self.shards_without_checksums:
            lines.append(
                f"{self.shards_without_checksums:,} shards were built before samples had checksums: bytes that change on the"
                " disk are then noticed by this check alone, not in training. Build them again from the same recipe and"
                " sources: the fingerprint stays, and runs resume."
            )
        return "\n".join(lines)

    def _negatives(self) -> str:
        """Return how many samples have hard negatives, by data set."""
        having, all_rows = Counter[str](), Counter[str]()
        for shard_set in self.manifest.shard_sets:
            if shard_set.shards:
                having[shard_set.dataset] += self.with_negatives.get(shard_set.name, 0)
                all_rows[shard_set.dataset] += sum(shard_set.shards.rows)
        return ", ".join(
            f"{having[dataset]:,} of {rows:,} rows of {dataset} have some" for dataset, rows in all_rows.items()
        )


def check(
    root: str | Path, *, workers: int | None = None, progress: Progress = silent, cache_gb: float = CACHE_GB
) -> CheckReport:
    """Compare a shard folder with its manifest: files, sizes, checksums, rows, indexes and samples.

    Args:
        root: a folder, or its address (`s3://`, `gs://`, `https://`).
        workers: number of processes; unset: one per core.
        progress: called as progress(done, total, name) after each group, and after each language of a parallel layout.
        cache_gb: gigabytes that remote shards may take on this machine.

    Raises:
        DataError: there is no intact manifest, or something differs from it; the message lists the first ten problems.
    """
    manifest = Manifest.load(root)
    parts = list(split_into_parts(manifest, Cache.of_machine(cache_gb)))
    results = map_in_pool(check_part, parts, workers=workers, progress=progress)
    problems = [problem for result in results for problem in result.problems] + list(_find_unlisted_tars(manifest))
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN] + more)
        raise DataError(
            f"{manifest.root} is not what its manifest says; expected every file as it was built:{listed}\n"
            "Build it again with `hbdist build RECIPE`."
        )
    with_negatives = {str(part): result.with_negatives for part, result in zip(parts, results, strict=True)}
    texts: dict[str, list[TextDigests]] = defaultdict(list)
    for part, result in zip(parts, results, strict=True):
        texts[part.shard_set.dataset].append(result.texts)
    alike = {dataset: alike_share(digests) for dataset, digests in texts.items()}
    return CheckReport(manifest, with_negatives, sum(result.shards_without_checksums for result in results), alike)


def _find_unlisted_tars(manifest: Manifest) -> Iterator[str]:
    """Yield a problem for each tar that is not in the manifest, but that a pipeline over `**/*.tar` would read."""
    if isinstance(manifest.root, Remote):
        return
    listed = {path for shard_set in manifest.shard_sets for path in shard_set.shards.paths}
    held_out = manifest.root / VALIDATION
    if (held_out / FILE).is_file():  # a shard folder of its own
        for shard_set in Manifest.load(held_out).shard_sets:
            listed |= {f"{VALIDATION}/{path}" for path in shard_set.shards.paths}
    for tar in sorted(manifest.root.rglob("*.tar")):
        if (path := tar.relative_to(manifest.root).as_posix()) not in listed:
            yield f"{path}: is not in the manifest"


def _table(pairs: Mapping[tuple[str, str], int]) -> Iterator[str]:
    queries, documents = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    width = max(len(text) for text in (*documents, *(f"{count:,}" for count in pairs.values()))) + 2
    margin = max(len(text) for text in (*queries, "query"))
    yield "query".ljust(margin) + "".join(document.rjust(width) for document in documents)
    for query in queries:
        counts = [pairs.get((query, document), 0) for document in documents]
        yield query.ljust(margin) + "".join((f"{count:,}" if count else "-").rjust(width) for count in counts)
