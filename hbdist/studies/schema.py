"""The file of a study: its keys, their types, and what must fit together. TOML, checked before anything is made of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hbdist.config.config import FIELDS, leaves, nearest, plain, read_toml
from hbdist.config.sections import Section
from hbdist.errors import ConfigError

SEED = "seed"
"""What the seeds are called where axes are named."""
FALLING = ("rank_distance", "map_range", "map_deviation", "centroid_gap", "language_probe", "alignment", "uniformity")
"""Numbers of scores.json that are the better the lower they are, by the beginning of their names."""
NEITHER = (
    "same_language",
    "peer_",
    "parallel_cosine",
    "random_cosine",
    "rank_distance_perfect",
    "rank_distance_random",
)
"""Numbers whose best is neither their highest nor their lowest."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What may be part of a folder's name."""


class Measure(Section):
    """One `[[measure]]`: a task, and the numbers of its scores.json that the study is about."""

    task: str
    """As `hbdist evaluate --task` takes it."""
    name: str = ""
    """Folder of its scores, beside others of the same task; empty: the task's name."""
    data: str = ""
    """Folder of the task's files; empty: where the task looks by itself."""
    languages: tuple[str, ...] = ()
    """Languages kept in queries and candidates; empty: all."""
    questions: int | None = Field(None, ge=1)
    """Questions kept a language; unset: all."""
    baseline: bool = True
    """Also measure the untuned model."""
    columns: dict[str, str] = Field(min_length=1)
    """Title of a column → where its number stands in scores.json: { "mAP mono" = "monolingual.map" }."""
    primary: str = ""
    """The column that decides; empty: the first."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """What each of its evaluations is given, where that is not as in [resources]: { nodes = 1 }."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("task"), str) or not values.get("columns"):
            return values
        # A task may be a path, as in parallel:FOLDER, and its name is to be that of a folder.
        return values | {
            "name": values.get("name") or plain(values["task"].replace(":", "-").replace("/", "-")),
            "primary": values.get("primary") or next(iter(values["columns"])),
        }

    @model_validator(mode="after")
    def _decides_by_a_column(self) -> Self:
        if self.primary not in self.columns:
            raise ValueError(f"primary = {self.primary!r} is no column. Give one of {', '.join(self.columns)}")
        return self

    def number(self, scores: Mapping[str, Any], column: str) -> float | None:
        """The column's number in what scores.json holds; None where the task has no such number."""
        found: Any = scores
        for key in self.columns[column].split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) else None

    def direction(self, column: str) -> Literal[-1, 0, 1]:
        """1: the higher the better, -1: the lower the better, 0: neither."""
        last = self.columns[column].split(".")[-1]
        return 0 if last.startswith(NEITHER) else -1 if last.startswith(FALLING) else 1


class Zip(Section):
    """One `[[zip]]`: an axis each of whose values sets several keys."""

    name: str = Field(pattern=NAME)
    """Of the axis, as in strategy: of letters, digits, ".", "_" and "-"."""
    values: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name of a value → {key of the config: its value}."""


class Assumptions(Section):
    """`[plan]`: what a plan for machines that are not at hand has to assume."""

    gpus: tuple[Annotated[int, Field(ge=1)], ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    """Numbers of GPUs to plan for."""
    tokens_per_second: float | None = Field(None, gt=0)
    """Tokens that one GPU trains on in a second; unset: no times are given."""
    gigabytes_per_second: float | None = Field(None, gt=0)
    """Gigabytes that one GPU receives in a second; unset: moving them takes no time."""
    tokens_per_pair: float | None = Field(None, gt=0)
    """Tokens of query and document together; unset: as many as they may have at most."""
    activation_bytes: float | None = Field(None, gt=0)
    """Bytes of activations a token, as `hbdist plan --fit` measures them; unset: activations are left out."""
    parameters: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Model → its parameters, where its files are not at hand."""
    dimensions: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Model → numbers of a vector, where its files are not at hand."""


class StudyFile(Section):
    """All of a study's TOML file."""

    name: str = Field(pattern=NAME)
    """Of the study and its folder: of letters, digits, ".", "_" and "-"."""
    question: str
    """What the study is to answer; the report begins with it."""
    title: str = ""
    """Of the report; empty: the name."""
    note: str = ""
    """What a reader must know, such as what stands in for what."""
    folder: str = ""
    """Where its runs go; empty: runs/studies/NAME."""
    base: str
    """The config that all runs begin with, relative to this file."""
    lr_rule: Literal["none", "sqrt", "linear"] | None = None
    """optimizer.lr as batch.size grows: as it is, or times the square root or the whole of batch.size / lr_reference_batch."""
    lr_reference_batch: int | None = Field(None, ge=1)
    """The batch.size that optimizer.lr is for."""
    equal: Literal["steps", "pairs"] | None = None
    """What runs of different batch.size have alike: steps, or the pairs that they have seen at the end."""
    pairs_seen: int | None = Field(None, ge=1)
    """Pairs of every run, with equal = "pairs": steps are pairs_seen / batch.size."""
    warmup_share: float | None = Field(None, ge=0, le=1)
    """optimizer.warmup_steps as a share of the steps; unset: as the config has it."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((1,), min_length=1)
    """Every point of the grid is run with each of them."""
    x: str = ""
    """Axis along which plots run; empty: the first."""
    lines: str = ""
    """Axis that makes lines in plots; empty: the second, if there is one."""
    set: dict[str, Any] = Field(default_factory=dict)
    """[set]: key of the config → value, for all runs."""
    grid: dict[str, Any] = Field(default_factory=dict)
    """[grid]: key of the config → list of values; lists are multiplied."""
    zip: tuple[Zip, ...] = ()
    """[[zip]]: axes whose values have names and set several keys."""
    only: tuple[dict[str, Any], ...] = ()
    """[[only]]: axis → value (or list of them); runs that fit none of these are left out."""
    exclude: tuple[dict[str, Any], ...] = ()
    """[[exclude]]: axis → value (or list of them); runs that fit one of these are left out."""
    measure: tuple[Measure, ...] = Field(min_length=1)
    """[[measure]]: what is evaluated after each run."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """[resources]: what each run is given; and at_once, how many may run at the same time."""
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
        values = read_toml(path)
        if "data" in values and "base" not in values:
            raise ConfigError(f"{path} is the config of a run: try hbdist plan {path}. A study names it as its base.")
        for table in ("set", "grid"):
            if isinstance(values.get(table), dict):
                values[table] = dict(leaves(values[table]))
        for axis in values.get("zip", []) if isinstance(values.get("zip"), list) else []:
            for name, keys in axis.get("values", {}).items() if isinstance(axis, dict) else []:
                axis["values"][name] = dict(leaves(keys)) if isinstance(keys, dict) else keys
        try:
            file = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{path}: {_explain(error)}") from None
        try:
            file._check()
        except ValueError as error:
            raise ConfigError(f"{path}: {error}.") from None
        return file

    @property
    def axes(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """Axis → its values, each with the keys of the config that it sets; lists stand as tuples."""
        axes = {key: {frozen(value): {key: value} for value in values} for key, values in self.grid.items()}
        return axes | {axis.name: dict(axis.values) for axis in self.zip}

    def _check(self) -> None:
        """What the types do not say. Raises ValueError with a sentence."""
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"[grid] {key} = {values!r}; expected a list of values. Write a single one into [set]")
            if len({frozen(value) for value in values}) < len(values):
                raise ValueError(f"[grid] {key} = {values} has a value twice. Take one out")
        setters = [
            ("[set]", self.set),
            ("[grid]", self.grid),
            *((f"[[zip]] {axis.name}", _keys(axis)) for axis in self.zip),
        ]
        known: dict[str, str] = {}
        for where, keys in setters:
            for key in keys:
                if key not in FIELDS or key in (SEED, "run.folder"):
                    hint = (
                        " The study sets it itself; take it out" if key in FIELDS else nearest(key, FIELDS).rstrip("?.")
                    )
                    raise ValueError(f"{where} has the key {key}, which is not one that a study can set.{hint}")
                if key in known:
                    raise ValueError(
                        f"{key} stands in {known[key]} and in {where}; only one can decide it. Take one out"
                    )
                known[key] = where
        axes = [*self.grid, *(axis.name for axis in self.zip)]
        if len(set(axes)) < len(axes) or SEED in axes:
            raise ValueError(f"[[zip]] has the name of another axis: {', '.join(axes)}. Rename it")
        if not axes:
            raise ValueError("nothing varies. Add [grid] or [[zip]]")
        for name, key in (("x", self.x), ("lines", self.lines)):
            if key and key not in axes:
                raise ValueError(f"{name} = {key!r} is no axis. Give one of {', '.join(axes)}")
        for where, conditions in (("[[only]]", self.only), ("[[exclude]]", self.exclude)):
            for key, value in ((key, value) for condition in conditions for key, value in condition.items()):
                self._check_condition(where, key, value)
        self._check_batch_rules(known)
        for what, names in (
            ("name", [measure.name for measure in self.measure]),
            ("column", [column for measure in self.measure for column in measure.columns]),
        ):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two [[measure]] have the {what} {twice[0]!r}. Rename one")

    def _check_condition(self, where: str, key: str, value: Any) -> None:
        axes = self.axes
        there: list[Any] = [*self.seeds] if key == SEED else [*axes.get(key, ())]
        if not there:
            raise ValueError(f"{where} names {key}, which is no axis. Give one of {', '.join([*axes, SEED])}")
        if strange := [one for one in alternatives(value) if frozen(one) not in there]:
            raise ValueError(f"{where} {key} = {strange[0]!r} is none of its values: {', '.join(map(str, there))}")

    def _check_batch_rules(self, known: Mapping[str, str]) -> None:
        """What a batch-size study would measure without being told must be chosen, in one place. `known`: key → table."""
        if known.get("batch.size", "[set]") != "[set]" and (self.lr_rule is None or self.equal is None):
            missing = "lr_rule" if self.lr_rule is None else "equal"
            choices = '"none", "sqrt" or "linear"' if self.lr_rule is None else '"steps" or "pairs"'
            about = type(self).model_fields[missing].description
            raise ValueError(f"batch.size varies, so {missing} has to be chosen: {choices}. {missing}: {about}")
        if self.lr_rule in ("sqrt", "linear") and self.lr_reference_batch is None:
            raise ValueError(
                f'lr_rule = "{self.lr_rule}" needs lr_reference_batch, the batch.size that optimizer.lr is for'
            )
        if (self.equal == "pairs") != (self.pairs_seen is not None):
            raise ValueError('equal = "pairs" and pairs_seen belong together. Give both, or neither')
        follow = {
            "steps": ("pairs_seen", self.pairs_seen),
            "optimizer.warmup_steps": ("warmup_share", self.warmup_share),
        }
        for key, (rule, given) in follow.items():
            if key in known and given is not None:
                raise ValueError(f"{known[key]} has {key}, which follows from {rule}. Take one of the two out")


def alternatives(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def _keys(axis: Zip) -> list[str]:
    return list(dict.fromkeys(key for keys in axis.values.values() for key in keys))


def _explain(error: ValidationError) -> str:
    """What is wrong first, where, and what the key is for."""
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    models: dict[str, type[Section]] = {"measure": Measure, "zip": Zip, "plan": Assumptions}
    model: type[Section] = StudyFile
    location, where = list(first["loc"]), ""
    if len(location) > 1 and str(location[0]) in models:
        name = str(location.pop(0))
        where = f"[{name}] " if name == "plan" else f"[[{name}]] {int(location.pop(0)) + 1}: "
        model = models[name]
    key, message = str(location[0]) if location else "", first["msg"].removeprefix("Value error, ").removesuffix(".")
    if first["type"] == "extra_forbidden":
        known = nearest(key, model.model_fields) or f" Expected some of {', '.join(model.model_fields)}; take it out."
        return f"{where}unknown key {key}.{known}"
    if key not in model.model_fields:
        return f"{where}{message}."
    about = f"{key}: {model.model_fields[key].description}"
    if first["type"] == "missing":
        return f"{where}{key} is missing. Add it. {about}"
    if first["type"] == "string_pattern_mismatch":
        return f"{where}{key} = {first['input']!r} cannot be part of a folder's name. {about}"
    return f"{where}{key} = {first['input']!r}: {message.lower()}. {about}"
