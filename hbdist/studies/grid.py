"""Expansion of a study's file into its runs: every point of the grid with its config."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from hbdist.config.config import FREE_ON_RESUME, Config, as_folder_name, flatten, merge, read_config
from hbdist.errors import ConfigError
from hbdist.studies.schema import SEED, StudyFile, alternatives, frozen
from hbdist.utils.json_toml import shown
from hbdist.utils.paths import check_path


@dataclass(frozen=True)
class Point:
    """One run of the grid, before it has a folder."""

    name: str
    """Values by which it differs from the other runs: batch.size=64-strategy=hybrid-seed=0."""
    values: dict[str, Any]
    """Axis → value, without the seed."""
    seed: int
    config: Config


def expand(file: StudyFile, base: Path, *, source: Path) -> list[Point]:
    """Return the runs of a study, in the order of its axes, seeds last.

    Args:
        base: config that they begin with.
        source: the study's file, named in error messages.

    Raises:
        ConfigError: the base cannot be read, a run's config is wrong, or two runs are the same.
    """
    base_values, points = read_config(base), []
    for values, seed in _combinations(file):
        name = "-".join(f"{axis}={as_folder_name(value)}" for axis, value in [*values.items(), (SEED, seed)])
        where = f"{source}, run {shown(name)}"
        try:
            check_path(name)
        except ValueError as error:
            raise ConfigError(
                f"{where}: its folder's name {error}. Give its values shorter names with [[zip]]."
            ) from None
        keys = {key: value for axis, value in values.items() for key, value in file.axes[axis][value].items()}
        changes = {**file.set, **keys, SEED: seed}
        config = Config.check(merge(base_values, changes), source=where)
        changes |= _keys_of_batch_size(file, config, where)
        points.append(Point(name, values, seed, Config.check(merge(base_values, changes), source=where)))
    if not points:
        raise ConfigError(f"{source}: [[only]] and [[exclude]] leave no run. Remove some of them.")
    names: set[str] = set()
    name_of: dict[str, str] = {}
    for point in points:
        if point.name in names:
            raise ConfigError(
                f"{source}: two runs would be called {point.name}. Write one of their values differently."
            )
        names.add(point.name)
        other = name_of.setdefault(identity(point.config), point.name)
        if other != point.name:
            raise ConfigError(
                f"{source}: {other} and {point.name} are the same run. Remove a value that changes nothing."
            )
    return points


def identity(config: Config) -> str:
    """Return a text that is equal for configs of the same run: all keys except those that may change on resume."""
    values = flatten(config.model_dump(mode="json"))
    return json.dumps({key: value for key, value in values if not key.startswith(FREE_ON_RESUME)}, sort_keys=True)


def _combinations(file: StudyFile) -> Iterator[tuple[dict[str, Any], int]]:
    axes = file.axes
    for *chosen, seed in itertools.product(*axes.values(), file.seeds):
        values = dict(zip(axes, chosen, strict=True))
        point = {**values, SEED: seed}
        wanted = not file.only or any(_fits(point, condition) for condition in file.only)
        if wanted and not any(_fits(point, condition) for condition in file.exclude):
            yield values, seed


def _keys_of_batch_size(file: StudyFile, config: Config, where: str) -> dict[str, Any]:
    """Return the keys that follow from batch.size: steps, warm-up and learning rate."""
    size, steps, keys = config.batch.size, config.steps, dict[str, Any]()
    if file.pairs_seen is not None:
        if file.pairs_seen % size:
            near = max(1, round(file.pairs_seen / size)) * size
            raise ConfigError(
                f"{where}: pairs_seen = {file.pairs_seen:,} is not a whole number of batches of {size:,}; the nearest number"
                f" that is: {near:,}. Choose a number that all values of batch.size divide."
            )
        keys["steps"] = steps = file.pairs_seen // size
    if file.warmup_share is not None:
        keys["optimizer.warmup_steps"] = round(file.warmup_share * steps)
    growth = size / (file.lr_reference_batch or size)
    match file.lr_rule:
        case "sqrt":
            factor = math.sqrt(growth)
        case "linear":
            factor = growth
        case "none" | None:
            return keys
        case _:
            assert_never(file.lr_rule)
    # Six digits: a rate that people can read, and type.
    keys["optimizer.lr"] = float(f"{config.optimizer.lr * factor:.6g}")
    return keys


def _fits(values: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    return all(values[key] in map(frozen, alternatives(value)) for key, value in condition.items())
