"""File of a study (TOML): its keys and types, and the rules that they must fulfil together.

The docstrings of the keys are part of error messages.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from hbdist.config.config import FIELDS, as_folder_name, flatten, read_config
from hbdist.config.explain import explain, nearest
from hbdist.config.sections import Location, Section
from hbdist.errors import ConfigError
from hbdist.utils.parse import LARGEST
from hbdist.utils.paths import LONGEST_NAME

SEED = "seed"
"""Name of the seeds among the axes."""
FALLING = ("rank_distance", "map_range", "map_deviation", "centroid_gap", "language_probe", "alignment", "uniformity")
"""Beginnings of the names of numbers in scores.json that are better the lower they are."""
NEITHER = (
    *("same_language", "peer_", "parallel_cosine", "random_cosine"),
    *("rank_distance_perfect", "rank_distance_random"),
)
"""Beginnings of the names of numbers that are best neither at their highest nor at their lowest."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of a name that can be part of a folder's name."""

Keys = Annotated[
    dict[str, Any], BeforeValidator(lambda values: dict(flatten(values)) if isinstance(values, dict) else values)
]
"""Key of the config → value; TOML may write "batch.size" = 8 or batch.size = 8."""


class Measure(Section):
    """One `[[measure]]`: a task, and the numbers of its scores.json that the study is about."""

    task: Location
    """Task, as in `hbdist evaluate --task`."""
    name: Location = ""
    """Folder of its scores, to tell measures of the same task apart; empty: the task's name."""
    data: Location = ""
    """Folder of the task's files; empty: the task's default folder."""
    languages: tuple[str, ...] = ()
    """Languages kept in queries and candidates; empty: all."""
    questions: int | None = Field(None, ge=1)
    """Questions kept per language; unset: all."""
    baseline: bool = True
    """Also measure the untuned model."""
    columns: dict[str, str] = Field(min_length=1)
    """Title of a column → path of its number in scores.json: { "mAP mono" = "monolingual.map" }."""
    primary: str = ""
    """Column that decides which run is best; empty: the first."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """Resources of each of its evaluations that differ from [resources]: { nodes = 1 }."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("task"), str):
            return values
        if not isinstance(values.get("columns"), dict) or not values["columns"]:
            return values
        # A task may be a path, as in parallel:FOLDER, but its name is that of a folder.
        return values | {
            "name": values.get("name") or as_folder_name(values["task"].replace(":", "-").replace("/", "-")),
            "primary": values.get("primary") or next(iter(values["columns"])),
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.primary not in self.columns:
            raise ValueError(f"primary = {self.primary!r} is not a column. Give one of {', '.join(self.columns)}")
        return self

    def number(self, scores: Mapping[str, Any], column: str) -> float | None:
        """Return the number of a column in what scores.json contains; None if the task has no such number."""
        value: Any = scores
        for key in self.columns[column].split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    def direction(self, column: str) -> Literal[-1, 0, 1]:
        """Return 1 if a higher number is better, -1 if a lower one is, 0 if neither is."""
        last = self.columns[column].split(".")[-1]
        return 0 if last.startswith(NEITHER) else -1 if last.startswith(FALLING) else 1


class Zip(Section):
    """One `[[zip]]`: an axis whose values set several keys each."""

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    """Name of the axis, such as strategy, of letters, digits, ".", "_" and "-"."""
    values: dict[str, Keys] = Field(min_length=1)
    """Name of a value → {key of the config: its value}."""


class Assumptions(Section):
    """`[plan]`: what the plan for machines that are not at hand has to assume."""

    gpus: tuple[Annotated[int, Field(ge=1)], ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    """Numbers of GPUs to plan for."""
    tokens_per_second: float | None = Field(None, gt=0)
    """Tokens that one GPU trains on per second; unset: no times are printed."""
    gigabytes_per_second: float | None = Field(None, gt=0)
    """Gigabytes that one GPU receives per second; unset: transfers take no time."""
    tokens_per_pair: float | None = Field(None, gt=0)
    """Tokens of query and documents together; unset: the most that the config allows."""
    activation_bytes: float | None = Field(None, gt=0)
    """Bytes of activations per token, as measured by `hbdist plan --fit`; unset: activations are left out."""
    parameters: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Model → number of its parameters, if its files are not at hand."""
    dimensions: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Model → dimensions of its embeddings, if its files are not at hand."""


class StudyFile(Section):
    """A study's whole TOML file."""

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    """Name of the study and its folder, of letters, digits, ".", "_" and "-"."""
    question: str
    """Question that the study is to answer; the report begins with it."""
    title: str = ""
    """Title of the report; empty: the name."""
    note: str = ""
    """Note to the reader, such as which model or data stand in for which."""
    folder: Location = ""
    """Folder of its runs; empty: runs/studies/NAME."""
    base: Location
    """Config that all runs begin with, relative to this file."""
    lr_rule: Literal["none", "sqrt", "linear"] | None = None
    """Scaling of optimizer.lr with batch.size: none, or by (the square root of) batch.size / lr_reference_batch."""
    lr_reference_batch: int | None = Field(None, ge=1)
    """The batch.size that optimizer.lr was chosen for."""
    equal: Literal["steps", "pairs"] | None = None
    """Length that runs of different batch.size share: their steps, or the pairs that they have seen at the end."""
    pairs_seen: int | None = Field(None, ge=1)
    """Pairs of every run, with equal = "pairs": steps are pairs_seen / batch.size."""
    warmup_share: float | None = Field(None, ge=0, le=1)
    """Share of the steps that is optimizer.warmup_steps; unset: as in the config."""
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST)], ...] = Field((1,), min_length=1)
    """Seeds that every point of the grid is trained with."""
    x: str = ""
    """Axis along which plots run; empty: the first."""
    lines: str = ""
    """Axis that makes lines in plots; empty: the second, if there is one."""
    set: Keys = Field(default_factory=dict)
    """[set]: key of the config → value, for all runs."""
    grid: Keys = Field(default_factory=dict)
    """[grid]: key of the config → list of values; the grid is the product of the lists."""
    zip: tuple[Zip, ...] = ()
    """[[zip]]: axes whose values have names and set several keys each."""
    only: tuple[dict[str, Any], ...] = ()
    """[[only]]: axis → value (or list of values); runs that match none of these conditions are left out."""
    exclude: tuple[dict[str, Any], ...] = ()
    """[[exclude]]: axis → value (or list of values); runs that match one of these conditions are left out."""
    measure: tuple[Measure, ...] = Field(min_length=1)
    """[[measure]]: what is evaluated after each run."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """[resources]: resources of each run, and at_once, the number of runs at the same time."""
    plan: Assumptions = Assumptions()
    """[plan]: what `hbdist study plan` assumes."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a study's file, without its base.

        Raises:
            ConfigError: there is no such file, or a key or value in it is wrong.
        """
        if not path.exists():
            raise ConfigError(f"{path} does not exist. Give a study, such as launch/studies/batch-size-small.toml.")
        values = read_config(path)
        if "data" in values and "base" not in values:
            raise ConfigError(f"{path} is the config of a run: try hbdist plan {path}. A study names it as its base.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{path}: {explain(error, cls)}") from None

    @property
    def axes(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """Axis → its values, each with the keys of the config that it sets; lists become tuples."""
        axes = {key: {frozen(value): {key: value} for value in values} for key, values in self.grid.items()}
        return axes | {axis.name: dict(axis.values) for axis in self.zip}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"[grid] {key} = {values!r}; expected a list of values. Write a single one into [set]")
            if len({frozen(value) for value in values}) < len(values):
                raise ValueError(f"[grid] {key} = {values} has a value twice. Remove one")
        tables = self._check_keys()
        axes = [*self.grid, *(axis.name for axis in self.zip)]
        if len(set(axes)) < len(axes) or SEED in axes:
            raise ValueError(f"[[zip]] has the name of another axis: {', '.join(axes)}. Rename it")
        if not axes:
            raise ValueError("nothing varies. Add [grid] or [[zip]]")
        for name, key in (("x", self.x), ("lines", self.lines)):
            if key and key not in axes:
                raise ValueError(f"{name} = {key!r} is not an axis. Give one of {', '.join(axes)}")
        self._check_conditions()
        self._check_batch_rules(tables)
        columns = [column for measure in self.measure for column in measure.columns]
        for what, names in (("name", [measure.name for measure in self.measure]), ("column", columns)):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two [[measure]] have the {what} {twice[0]!r}. Rename one")
        return self

    def _check_keys(self) -> dict[str, str]:
        """Check that each key can be set and is set in one table, and return key → table."""
        setters = [("[set]", key) for key in self.set] + [("[grid]", key) for key in self.grid]
        for axis in self.zip:
            setters += [(f"[[zip]] {axis.name}", key) for key in dict.fromkeys(chain(*axis.values.values()))]
        tables: dict[str, str] = {}
        for table, key in setters:
            if key not in FIELDS or key in (SEED, "run.folder"):
                hint = " The study sets it itself; remove it" if key in FIELDS else nearest(key, FIELDS).rstrip("?.")
                raise ValueError(f"{table} has the key {key}, which a study cannot set.{hint}")
            if key in tables:
                raise ValueError(f"{key} is set in {tables[key]} and in {table}. Remove one of the two")
            tables[key] = table
        return tables

    def _check_conditions(self) -> None:
        values_of: dict[str, list[Any]] = {axis: [*values] for axis, values in self.axes.items()}
        values_of[SEED] = [*self.seeds]
        conditions = [("[[only]]", one) for one in self.only] + [("[[exclude]]", one) for one in self.exclude]
        for table, key, value in ((table, key, value) for table, one in conditions for key, value in one.items()):
            if key not in values_of:
                raise ValueError(f"{table} names {key}, which is not an axis. Give one of {', '.join(values_of)}")
            if unknown := [one for one in alternatives(value) if frozen(one) not in values_of[key]]:
                known = ", ".join(map(str, values_of[key]))
                raise ValueError(f"{table} {key} = {unknown[0]!r} is not one of its values: {known}")

    def _check_batch_rules(self, tables: Mapping[str, str]) -> None:
        """Check that a study that varies batch.size says what varies with it, in one place only; `tables`: key → table."""
        if tables.get("batch.size", "[set]") != "[set]" and (self.lr_rule is None or self.equal is None):
            missing = "lr_rule" if self.lr_rule is None else "equal"
            choices = '"none", "sqrt" or "linear"' if self.lr_rule is None else '"steps" or "pairs"'
            about = type(self).model_fields[missing].description
            raise ValueError(f"batch.size varies, so {missing} must be chosen: {choices}. {missing}: {about}")
        if self.lr_rule in ("sqrt", "linear") and self.lr_reference_batch is None:
            raise ValueError(
                f'lr_rule = "{self.lr_rule}" needs lr_reference_batch, the batch.size that optimizer.lr was chosen for'
            )
        if (self.equal == "pairs") != (self.pairs_seen is not None):
            raise ValueError('equal = "pairs" and pairs_seen belong together. Give both, or neither')
        for key, rule in (("steps", "pairs_seen"), ("optimizer.warmup_steps", "warmup_share")):
            if key in tables and getattr(self, rule) is not None:
                raise ValueError(f"{tables[key]} has {key}, which follows from {rule}. Remove one of the two")


def alternatives(value: Any) -> Sequence[Any]:
    """Return the values that a condition allows: those of a list, or the one value."""
    return value if isinstance(value, list) else [value]


def frozen(value: Any) -> Any:
    """Return a value that can be the key of a dictionary: lists and tables become tuples."""
    if isinstance(value, Mapping):
        return tuple((key, frozen(inner)) for key, inner in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value
