"""How many pairs of which kind: from the manifest's groups and `[batch]` to kinds, pools and their weights.

A *kind* is monolingual or cross-lingual. A *pool* is one ordered language pair and all groups that have it. A *block* is
a run of pairs that share one pool. Everything here is arithmetic on counts: nothing is drawn, nothing is read. What
cannot work is refused here, before anything is loaded, with the nearest that can.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hbdist.config.config import nearest
from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.shards.manifest import Group
from hbdist.errors import ConfigError


@dataclass(frozen=True)
class Pool:
    """All groups of one ordered language pair."""

    pair: str
    """As "en-de": queries English, documents German."""
    groups: tuple[int, ...]
    """Places of its groups in the manifest, one a dataset."""
    rows: tuple[int, ...]
    """Pairs in each of them."""
    weight: float
    """Its share among the pools of its kind, before normalising."""
    dataset_weights: tuple[float, ...]
    """The shares of its groups, before normalising."""

    @property
    def size(self) -> int:
        return sum(self.rows)

    def fitting(self, *, one_dataset: bool) -> int:
        """The largest block that repeats no row, on average over the draws of its data sets."""
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
    """α or 1 − α."""
    part: int
    """Its pairs in a global batch that holds any of it."""
    block: int
    """Pairs that share one pool; divides `part`."""
    pools: tuple[Pool, ...]

    @property
    def blocks(self) -> int:
        """Blocks in a global batch that holds any of this kind."""
        return self.part // self.block


@dataclass(frozen=True)
class Mixture:
    """What a global batch is made of."""

    mix: str
    """ "step": one kind a step; "blocks": both in each."""
    kinds: tuple[Kind, ...]
    """Those with a share above zero: mono before cross."""
    small: tuple[str, ...]
    """Pairs whose pool is smaller than its block, so that batches repeat rows (masked as negatives)."""


def plan_mixture(groups: Sequence[Group], batch: BatchSection, data: DataSection) -> Mixture:
    """The mixture that `[batch]` asks for, over the groups that `[data]` admits.

    Raises:
        ConfigError: α makes no whole number of pairs, a block does not divide its part, a language or data set is not
            in the manifest, a kind has no pool, or a pool is smaller than its block.
    """
    admitted = _admitted(groups, data)
    parts = _parts(batch)
    kinds = tuple(
        Kind(name, share, parts[name], block, _pools(groups, admitted, batch, monolingual=name == "mono"))
        for name, share, block in _kinds(batch, parts)
    )
    for kind in kinds:
        if not kind.pools:
            raise ConfigError(_no_pool(kind, batch, [groups[place] for place in admitted]))
    small = tuple(
        f"{pool.pair} ({pool.fitting(one_dataset=batch.one_dataset)} pairs)"
        for kind in kinds
        for pool in kind.pools
        if pool.fitting(one_dataset=batch.one_dataset) < kind.block
    )
    if small and batch.small_pool == "refuse":
        raise ConfigError(_too_small(kinds, small, batch))
    return Mixture(batch.mix, kinds, small)


def _admitted(groups: Sequence[Group], data: DataSection) -> list[int]:
    known_languages = {language for group in groups for language in (group.query_lang, group.document_lang)}
    _require(data.languages, known_languages, "data.languages", "language")
    known_datasets = {group.dataset for group in groups}
    _require(data.datasets, known_datasets, "data.datasets", "data set")
    languages = set(data.languages) or known_languages
    datasets = set(data.datasets) or known_datasets
    return [
        place
        for place, group in enumerate(groups)
        if group.dataset in datasets and {group.query_lang, group.document_lang} <= languages and group.rows
    ]


def _require(asked: Iterable[str], known: set[str], key: str, what: str) -> None:
    for name in asked:
        if name not in known:
            have = ", ".join(sorted(known))
            raise ConfigError(
                f"{key} names {name!r}, a {what} that the shards do not have.{nearest(name, sorted(known))}"
                f" They have: {have}. Take it out of {key}, or build shards that have it."
            )


def _parts(batch: BatchSection) -> dict[str, int]:
    """Pairs of each kind in a global batch that holds the kind."""
    if batch.mix == "step":
        return {"mono": batch.size, "cross": batch.size}
    share = Fraction(str(batch.mono_share))
    mono = share * batch.size
    if mono.denominator != 1:
        below, above = mono.__floor__(), mono.__ceil__()
        sizes = nearest_multiples(batch.size, share.denominator)
        raise ConfigError(
            f"batch.mono_share = {batch.mono_share} of batch.size = {batch.size} is {float(mono):g} pairs, and batch.mix ="
            f' "blocks" needs a whole number. Nearest that work: batch.mono_share = {below}/{batch.size} ='
            f" {below / batch.size:g} or {above}/{batch.size} = {above / batch.size:g};"
            f" or batch.size = {' or '.join(map(str, sizes))}."
        )
    return {"mono": int(mono), "cross": batch.size - int(mono)}


def _kinds(batch: BatchSection, parts: dict[str, int]) -> list[tuple[str, float, int]]:
    """(name, share, block) of the kinds in use."""
    wanted = [
        ("mono", batch.mono_share, batch.mono_block, "batch.mono_block"),
        ("cross", 1 - batch.mono_share, batch.cross_block, "batch.cross_block"),
    ]
    return [
        (name, share, _block(parts[name], asked, key))
        for name, share, asked, key in wanted
        if share > 0 and parts[name] > 0
    ]


def _block(part: int, asked: int | str, key: str) -> int:
    if asked == "batch":
        return part
    block = int(asked)
    if block < 1 or part % block:
        near = nearest_divisors(part, block)
        raise ConfigError(
            f"{key} = {asked} does not divide the {part} pairs of its kind in a batch. Nearest that do:"
            f' {" and ".join(map(str, near))}; or "batch" for all {part} in one.'
        )
    return block


def nearest_divisors(number: int, wanted: int) -> list[int]:
    """The largest divisor of `number` below `wanted` and the smallest above it, those that exist."""
    divisors = [candidate for candidate in range(1, number + 1) if number % candidate == 0]
    below = [divisor for divisor in divisors if divisor < wanted][-1:]
    return below + [divisor for divisor in divisors if divisor > wanted][:1]


def nearest_multiples(number: int, base: int) -> list[int]:
    """The multiples of `base` just below and just above `number`; 0 is none."""
    below = number // base * base
    return [multiple for multiple in (below, below + base) if multiple > 0]


def _pools(groups: Sequence[Group], admitted: list[int], batch: BatchSection, *, monolingual: bool) -> tuple[Pool, ...]:
    by_pair: dict[str, list[int]] = {}
    for place in admitted:
        if groups[place].monolingual == monolingual:
            by_pair.setdefault(groups[place].pair, []).append(place)
    pools = []
    for pair, places in sorted(by_pair.items()):
        rows = tuple(groups[place].rows for place in places)
        pools.append(
            Pool(
                pair,
                tuple(places),
                rows,
                weight=sum(rows) ** batch.language_exponent,
                dataset_weights=tuple(count**batch.dataset_exponent for count in rows),
            )
        )
    return tuple(pools)


def _no_pool(kind: Kind, batch: BatchSection, groups: list[Group]) -> str:
    what = "monolingual" if kind.name == "mono" else "cross-lingual"
    remedy = "batch.mono_share=0" if kind.name == "mono" else "batch.mono_share=1"
    found = ", ".join(sorted({group.pair for group in groups})) or "nothing"
    return (
        f"batch.mono_share = {batch.mono_share} asks for {what} pairs, and the mixture has none (it has: {found})."
        f" Set {remedy}, widen data.languages or data.datasets, or build shards with {what} groups."
    )


def _too_small(kinds: tuple[Kind, ...], small: tuple[str, ...], batch: BatchSection) -> str:
    def least(kind: Kind) -> int:
        return min(pool.fitting(one_dataset=batch.one_dataset) for pool in kind.pools)

    kind = max(kinds, key=lambda one: one.block - least(one))
    key = f"batch.{kind.name}_block"
    fitting = max(divisor for divisor in range(1, max(1, least(kind)) + 1) if kind.part % divisor == 0)
    whole_step = batch.mix == "step" and all(one.block in (1, one.part) for one in kinds)
    smaller = f"batch.size={least(kind)}, " if whole_step and least(kind) > 0 else ""
    language = "language" if kind.name == "mono" else "language pair"
    data_set = " and data set" * batch.one_dataset
    return (
        f"{key} asks for {kind.block} pairs of one {language}{data_set}, and these have fewer:"
        f" {', '.join(small[:8])}{' …' if len(small) > 8 else ''}. Ways out: {smaller}{key}={fitting},"
        ' batch.small_pool="repeat" (repeats are masked as negatives), more data, or leave them out of data.languages.'
    )
