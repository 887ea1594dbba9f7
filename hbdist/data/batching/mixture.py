"""Mixture of a global batch: kinds, pools and their weights, from the manifest's groups and `[batch]`.

A *kind* is monolingual or cross-lingual. A *pool* is one ordered language pair and all groups that have it. A *block* is
a sequence of pairs that share one pool. This module computes with counts only: it draws nothing and reads nothing.
Impossible settings are refused here, before anything is loaded, together with the nearest possible ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, assert_never

from hbdist.config.explain import nearest
from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.shards.groups import Group
from hbdist.errors import ConfigError

MOST_SIZE = 1e15
"""Largest number that may stand for the pairs of a data set."""

ROUNDING = 1e-9
"""Rounding error of α as a number with all its digits, such as 3/7."""


@dataclass(frozen=True)
class Pool:
    """All groups of one ordered language pair."""

    pair: str
    """Language pair, such as "en-de" for English queries and German documents."""
    groups: tuple[int, ...]
    """Indexes of the pool's groups in the manifest, one per data set."""
    rows: tuple[int, ...]
    """Number of pairs in each group."""
    weight: float
    """Share of the pool among those of its kind, before normalising."""
    dataset_weights: tuple[float, ...]
    """Share of each group in the pool, before normalising."""

    @property
    def size(self) -> int:
        """Number of pairs in the pool."""
        return sum(self.rows)

    def largest_block(self, *, one_dataset: bool) -> int:
        """Return the size of the largest block that repeats no row, on average over the draws of its data sets."""
        if one_dataset:
            return min(self.rows)
        total = sum(self.dataset_weights)
        return int(min(rows * total / weight for rows, weight in zip(self.rows, self.dataset_weights, strict=True)))


@dataclass(frozen=True)
class Kind:
    """The monolingual or the cross-lingual side of the mixture."""

    name: str
    """ "mono" or "cross"."""
    share: float
    """Share of the kind: α or 1 − α."""
    part: int
    """Number of its pairs in a global batch that has any."""
    block: int
    """Number of pairs that share one pool; divides `part`."""
    pools: tuple[Pool, ...]

    @property
    def blocks(self) -> int:
        """Number of blocks in a global batch that has any of this kind."""
        return self.part // self.block


@dataclass(frozen=True)
class Mixture:
    """Composition of the global batches."""

    mix: Literal["step", "blocks"]
    """ "step": one kind per step; "blocks": both kinds in each step."""
    kinds: tuple[Kind, ...]
    """Kinds with a share above zero: mono before cross."""
    small: tuple[str, ...]
    """Language pairs whose pool is smaller than its block, so that batches repeat rows (masked as negatives)."""


def plan_mixture(groups: Sequence[Group], batch: BatchSection, data: DataSection) -> Mixture:
    """Return the mixture that `[batch]` specifies, over the groups that `[data]` selects.

    Raises:
        ConfigError: α makes no whole number of pairs, a block does not divide its part, a language or data set is not
            in the manifest, a kind has no pool, or a pool is smaller than its block.
    """
    selected = _select(groups, data)
    parts = _parts(batch)
    kinds = tuple(
        Kind(name, share, part, _block(batch, name, part), _pools(groups, selected, batch, monolingual=name == "mono"))
        for name, share in (("mono", batch.mono_share), ("cross", 1 - batch.mono_share))
        if share > 0 and (part := parts[name]) > 0
    )
    for kind in kinds:
        if not kind.pools:
            raise ConfigError(_no_pool(kind, batch, [groups[index] for index in selected]))
    small = tuple(
        f"{pool.pair} ({largest} pairs)"
        for kind in kinds
        for pool in kind.pools
        if (largest := pool.largest_block(one_dataset=batch.one_dataset)) < kind.block
    )
    if small and not batch.may_repeat:
        raise ConfigError(_too_small(kinds, small, batch))
    return Mixture(batch.mix, kinds, small)


def _select(groups: Sequence[Group], data: DataSection) -> list[int]:
    """Return the indexes of the groups that `[data]` selects and that have rows."""
    known_languages = {language for group in groups for language in (group.query_lang, group.document_lang)}
    languages = _check_known(data.languages, known_languages, "data.languages", "language")
    datasets = _check_known(data.datasets, {group.dataset for group in groups}, "data.datasets", "data set")
    return [
        index
        for index, group in enumerate(groups)
        if group.dataset in datasets and {group.query_lang, group.document_lang} <= languages and group.rows
    ]


def _check_known(names: Iterable[str], known: set[str], key: str, what: str) -> set[str]:
    """Return these names, or all known ones if there are none."""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{key} names {name!r}, a {what} that the shards do not have.{nearest(name, sorted(known))}"
                f" They have: {', '.join(sorted(known))}. Take it out of {key}, or build shards that have it."
            )
    return set(names) or known


def _parts(batch: BatchSection) -> dict[str, int]:
    """Return the number of pairs of each kind in a global batch that has the kind."""
    match batch.mix:
        case "step":
            return {"mono": batch.size, "cross": batch.size}
        case "blocks":
            return _split(batch)
        case _:
            assert_never(batch.mix)


def _split(batch: BatchSection) -> dict[str, int]:
    """Return the number of pairs of each kind in a global batch that has both."""
    mono = batch.mono_share * batch.size
    if abs(mono - round(mono)) > ROUNDING * batch.size:
        below, above = math.floor(mono), math.ceil(mono)
        denominator = Fraction(batch.mono_share).limit_denominator(10_000).denominator
        size_below = batch.size // denominator * denominator
        sizes = [size for size in (size_below, size_below + denominator) if size > 0]
        raise ConfigError(
            f"batch.mono_share = {batch.mono_share} of batch.size = {batch.size} is {mono:g} pairs, and batch.mix ="
            f' "blocks" needs a whole number. Nearest that work: batch.mono_share = {below}/{batch.size} ='
            f" {below / batch.size!r} or {above}/{batch.size} = {above / batch.size!r};"
            f" or batch.size = {' or '.join(map(str, sizes))}."
        )
    return {"mono": round(mono), "cross": batch.size - round(mono)}


def _block(batch: BatchSection, kind: str, part: int) -> int:
    value = _setting(batch, kind)
    if value == "batch":
        return part
    block = int(value)
    if block < 1 or part % block:
        raise ConfigError(
            f"batch.{kind}_block = {value} does not divide the {part} pairs of its kind in a batch. Nearest that do:"
            f' {" and ".join(map(str, nearest_divisors(part, block)))}; or "batch" for all {part} in one.'
        )
    return block


def _setting(batch: BatchSection, kind: str) -> str | int:
    return batch.mono_block if kind == "mono" else batch.cross_block


def nearest_divisors(number: int, wanted: int) -> list[int]:
    """Return the largest divisor of `number` below `wanted` and the smallest above it, if they exist."""
    small = [candidate for candidate in range(1, math.isqrt(number) + 1) if number % candidate == 0]
    divisors = [*small, *(number // divisor for divisor in reversed(small) if divisor * divisor != number)]
    below = [divisor for divisor in divisors if divisor < wanted][-1:]
    return below + [divisor for divisor in divisors if divisor > wanted][:1]


def _pools(groups: Sequence[Group], selected: list[int], batch: BatchSection, *, monolingual: bool) -> tuple[Pool, ...]:
    sizes = _dataset_sizes(batch, {group.dataset for group in groups})
    by_pair: dict[str, list[int]] = {}
    for index in selected:
        if groups[index].monolingual == monolingual:
            by_pair.setdefault(groups[index].pair, []).append(index)
    pools = []
    for pair, indexes in sorted(by_pair.items()):
        rows = tuple(groups[index].rows for index in indexes)
        weight = sum(rows) ** batch.language_exponent
        counts = [sizes.get(groups[index].dataset, groups[index].rows) for index in indexes]
        pools.append(Pool(pair, tuple(indexes), rows, weight, tuple(count**batch.dataset_exponent for count in counts)))
    return tuple(pools)


def _dataset_sizes(batch: BatchSection, known: set[str]) -> dict[str, float]:
    """Return the data sets whose weight does not follow from their own number of pairs, with the number that does."""
    sizes = {}
    for entry in batch.dataset_sizes:
        name, _, number = entry.rpartition("=")
        if name not in known or not 1 <= float(number) <= MOST_SIZE or name in sizes:
            raise ConfigError(
                f"batch.dataset_sizes has {entry!r}; expected a data set of the shards ({', '.join(sorted(known))}), once,"
                f" and a number from 1 to {MOST_SIZE:g}, as in mmarco=39780811."
            )
        sizes[name] = float(number)
    return sizes


def _no_pool(kind: Kind, batch: BatchSection, groups: list[Group]) -> str:
    what, remedy = ("monolingual", 0) if kind.name == "mono" else ("cross-lingual", 1)
    available = ", ".join(sorted({group.pair for group in groups})) or "nothing"
    return (
        f"batch.mono_share = {batch.mono_share} asks for {what} pairs, and the mixture has none (it has: {available})."
        f" Set batch.mono_share={remedy}, widen data.languages or data.datasets, or build shards with {what} groups."
    )


def _too_small(kinds: tuple[Kind, ...], small: tuple[str, ...], batch: BatchSection) -> str:
    largest = {kind: min(pool.largest_block(one_dataset=batch.one_dataset) for pool in kind.pools) for kind in kinds}
    kind = max(kinds, key=lambda one: one.block - largest[one])
    key = f"batch.{kind.name}_block"
    block = max(divisor for divisor in range(1, max(1, largest[kind]) + 1) if kind.part % divisor == 0)
    # A smaller batch helps only where no block has a number of its own, which might not divide it.
    whole_step = batch.mix == "step" and all(_setting(batch, one.name) in ("batch", 1) for one in kinds)
    size = f"batch.size={largest[kind]}, " if whole_step and largest[kind] > 0 else ""
    language = "language" if kind.name == "mono" else "language pair"
    data_set = " and data set" * batch.one_dataset
    return (
        f"{key} asks for {kind.block} pairs of one {language}{data_set}, and these have fewer:"
        f" {', '.join(small[:8])}{' …' if len(small) > 8 else ''}. Options: {size}{key}={block},"
        ' batch.small_pool="repeat" (repeats are masked as negatives), more data, or leave them out of data.languages.'
    )
