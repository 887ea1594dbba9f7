"""Held-out sets of a run and the mixture of their batches, decided from the config and the manifests alone.

A validation batch has its own size, and a held-out set may lack languages. So the training's mixture is followed as far as it
goes: α is rounded to whole pairs, a block shrinks to the largest that divides its part, and pools repeat pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from hbdist.config.config import Config
from hbdist.config.sections import BatchSection
from hbdist.data.batching.mixture import Mixture, plan_mixture
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.manifest import FILE, VALIDATION, Manifest
from hbdist.errors import ConfigError


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out set with the config whose schedule gives its batches."""

    name: str
    manifest: Manifest
    config: Config

    @property
    def mixture(self) -> Mixture:
        """Mixture of its batches."""
        return plan_mixture(self.manifest.groups, self.config.batch, self.config.data)

    @classmethod
    def load(cls, config: Config, location: str) -> "HeldOutSet":
        """Load the set at a location, and check that its batches can be made.

        Raises:
            ConfigError: they cannot.
            DataError: its manifest cannot be read.
        """
        manifest = Manifest.load(location)
        own = validation_config(config, manifest, filtered=not config.validation.shards)
        try:
            Schedule.of(own, manifest)
        except ConfigError as error:
            raise ConfigError(
                f"validation.every = {config.validation.every}, but the batches of {location} cannot be made. {error}"
            ) from None
        return cls(set_name(location), manifest, own)


def load_held_out(config: Config, *, ranks: int) -> Iterator[HeldOutSet]:
    """Yield the held-out sets of a run, the deciding one first; none unless `validation.every` is set.

    Raises:
        ConfigError: there are none, their batches cannot be made, or these are smaller than the number of ranks.
        DataError: a manifest cannot be read.
    """
    settings = config.validation
    if not settings.every:
        return
    if ranks > settings.batch_size:
        raise ConfigError(
            f"validation.batch_size = {settings.batch_size} is less than the {ranks} processes: some would have"
            f" no pair. Set it to {ranks} or more."
        )
    for location in held_out_shards(config):
        yield HeldOutSet.load(config, location)


def held_out_shards(config: Config) -> tuple[str, ...]:
    """Return the locations of the held-out shards.

    Raises:
        ConfigError: none are named, and the training shards have none.
    """
    if config.validation.shards:
        return config.validation.shards
    beside = f"{config.data.shards.rstrip('/')}/{VALIDATION}"
    if "://" not in beside and not Path(beside, FILE).is_file():
        raise ConfigError(
            f"validation.every = {config.validation.every}, but {config.data.shards} holds nothing out. Build it with"
            " `validation = 0.01` in its recipe, which holds out that share of the ids, or name other shards in"
            " validation.shards."
        )
    return (beside,)


def validation_config(config: Config, manifest: Manifest, *, filtered: bool) -> Config:
    """Return the config whose schedule gives a set's batches: the training's mixture, as far as the set supports it.

    If `filtered`, the set is restricted to those of the training's languages and data sets that it has.

    Raises:
        ConfigError: it has none of them.
    """
    data: dict[str, Any] = {"shards": str(manifest.root), "workers": 0, "languages": (), "datasets": ()}
    if filtered:
        known = {language for group in manifest.groups for language in (group.query_lang, group.document_lang)}
        data["languages"] = tuple(language for language in config.data.languages if language in known)
        datasets = {group.dataset for group in manifest.groups}
        data["datasets"] = tuple(name for name in config.data.datasets if name in datasets)
    languages, names = (set(data[key]) for key in ("languages", "datasets"))
    kinds = {
        group.monolingual
        for group in manifest.groups
        if group.rows
        and (not languages or {group.query_lang, group.document_lang} <= languages)
        and (not names or group.dataset in names)
    }
    absent = any(filtered and getattr(config.data, key) and not data[key] for key in ("languages", "datasets"))
    if absent or not kinds:
        raise ConfigError(
            f"validation.every = {config.validation.every}, but {manifest.root} holds out nothing of data.languages and"
            " data.datasets. Name other shards in validation.shards, or set validation.every=0."
        )
    run = config.run.model_copy(update={"log_batches": False})
    batch, data_section = _batch_section(config, kinds), config.data.model_copy(update=data)
    return config.model_copy(update={"run": run, "batch": batch, "data": data_section})


def _batch_section(config: Config, kinds: set[bool]) -> BatchSection:
    """Return `[batch]` for a set that has monolingual groups (True), cross-lingual ones (False), or both."""
    batch, size = config.batch, config.validation.batch_size
    share = batch.mono_share if len(kinds) == 2 else float(next(iter(kinds)))
    mono = cross = size
    match batch.mix:
        case "step":
            pass
        case "blocks":
            # Not none of a kind that the training has.
            mono = round(share * size) if share in (0, 1) else min(max(round(share * size), 1), size - 1)
            cross, share = size - mono, mono / size
        case _:
            assert_never(batch.mix)
    return batch.model_copy(
        update={
            "size": size,
            "mono_share": share,
            "small_pool": "repeat",
            "mono_block": _largest_block(batch.mono_block, mono),
            "cross_block": _largest_block(batch.cross_block, cross),
        }
    )


def _largest_block(block: Literal["batch"] | int, part: int) -> Literal["batch"] | int:
    """Return the largest size up to `block` that divides the pairs of its kind."""
    if block == "batch" or not part:
        return block
    return max(size for size in range(1, min(max(block, 1), part) + 1) if part % size == 0)


def set_name(location: str) -> str:
    """Return the name of a held-out set: that of its folder, or of the shards it was held out of."""
    *_, parent, name = ["", *location.rstrip("/").split("/")]
    return parent if name == VALIDATION else name
