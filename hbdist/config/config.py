"""The config of one run: a TOML file and `key=value` overrides, validated and frozen.

It states every fact about a run once; whatever follows from its fields is computed (see `Plan`), never stored in another field.
"""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, ValidationError

from hbdist.config import sections
from hbdist.config.explain import explain, nearest
from hbdist.config.sections import Section
from hbdist.errors import ConfigError, ResumeError, without_secrets
from hbdist.utils.json_toml import read_toml, shown
from hbdist.utils.parse import LARGEST, toml_value
from hbdist.utils.paths import check_path, check_words

DEFAULT_CONFIG = Path("launch/train/demo.toml")


class Config(Section):
    """All settings of one run. Create it with `Config.load`."""

    seed: int = Field(1, ge=0, le=LARGEST)
    """Seed of everything random: batches, dropout."""
    steps: int = Field(ge=1, le=sections.LAST_STEP)
    """Optimizer steps of the run."""
    run: sections.RunSection = sections.RunSection()
    data: sections.DataSection
    model: sections.ModelSection
    batch: sections.BatchSection
    loss: sections.LossSection = sections.LossSection()
    optimizer: sections.OptimizerSection = sections.OptimizerSection()
    validation: sections.ValidationSection = sections.ValidationSection()
    evaluation: sections.EvaluationSection = sections.EvaluationSection()
    checkpoint: sections.CheckpointSection = sections.CheckpointSection()
    engine: sections.EngineSection = sections.EngineSection()

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML file (by default the demo's), apply `key=value` overrides, and validate the result.

        If no run folder is given, it is named after the file and the values that the overrides change, so that the same
        command finds the same run again.

        Raises:
            ConfigError: the file cannot be read, or a key or a value is wrong.
        """
        path = Path(path or DEFAULT_CONFIG)
        base = read_config(path)
        changes = dict(parse_override(text) for text in overrides)
        config = cls.check(merge(base, changes), source=f"{path}{' and the command line' if changes else ''}")
        if config.run.folder:
            return config
        try:
            delta = difference(cls.check(base, source=str(path)), config)
        except ConfigError:  # the file alone is not a complete config
            delta = {key: value for key, value in changes.items() if not key.startswith(FREE_ON_RESUME)}
        folder = "-".join([path.stem, *(f"{key}={as_folder_name(value)}" for key, value in delta.items())])
        try:
            check_path(folder)
        except ValueError as error:
            raise ConfigError(
                f"The run's folder would be named {shown(folder)}, which {error}. Set run.folder=… ."
            ) from None
        return config.model_copy(update={"run": config.run.model_copy(update={"folder": str(Path("runs", folder))})})

    @classmethod
    def check(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Validate nested values and return their config; error messages name `source`.

        Raises:
            ConfigError: a key is unknown or missing, or a value does not fit.
        """
        for key, _ in flatten(values):
            if key not in FIELDS and not any(known.startswith(f"{key}.") for known in FIELDS):
                raise ConfigError(f"{source}: unknown key {key}.{nearest(key, FIELDS)}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain(error, cls, describe=describe_field)}") from None

    def to_toml(self) -> str:
        """Return the resolved config as TOML; it alone is enough to repeat the run, but for secrets in addresses."""
        values = self.model_dump(mode="json", exclude_none=True)
        lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for name, section in values.items():
            if isinstance(section, dict):
                lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
        return without_secrets("\n".join(lines) + "\n")


FREE_ON_RESUME = (
    *("run.", "checkpoint.", "evaluation.", "engine.deepspeed", "engine.device", "engine.timeout_s"),
    *("validation.every", "validation.patience", "validation.keep"),
    *("loss.chunk_tokens", "loss.gradient_cache", "optimizer.on_nonfinite"),
    *("data.shards", "data.workers", "data.cache_gb", "data.on_error", "data.timeout_s"),
)
"""Keys and sections that may change when a run resumes: none of them changes its results beyond rounding (and, with dropout,
which units drop out). The manifest's fingerprint, not the folder's name, proves that the data are the same."""


def difference(old: Config, new: Config) -> dict[str, Any]:
    """Return {key: new value} of all that makes `new` another run than `old`; keys in FREE_ON_RESUME do not count."""
    before, after = dict(flatten(old.model_dump())), dict(flatten(new.model_dump()))
    return {key: after[key] for key in after if _differ(before[key], after[key]) and not key.startswith(FREE_ON_RESUME)}


def _differ(old: Any, new: Any) -> bool:
    """Compare values as they are stored: without secrets in addresses."""
    return old != new and without_secrets(str(old)) != without_secrets(str(new))


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into its config file, if it begins with one, and its overrides. A path may contain `=`.

    Raises:
        ConfigError: a word is not UTF-8.
    """
    check_words(arguments)
    first = arguments[0] if arguments else ""
    if first and ("=" not in first or Path(first).is_file()):
        return first, list(arguments[1:])
    return None, list(arguments)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config's file, without checking its keys.

    Raises:
        ConfigError: the file does not exist or is not TOML.
    """
    return read_toml(path, missing=f"Give the path of a config, such as {DEFAULT_CONFIG}.")


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `key=value`; the value is read as TOML, or as plain text if it is not TOML.

    Raises:
        ConfigError: there is no `=`, it is not UTF-8, or the value is TOML that no config can have.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"{shown(text)!a} is not an override. Write key=value, as in batch.size=256.")
    check_words([text])
    try:
        return key.strip(), toml_value(value)
    except ValueError as error:
        raise ConfigError(f"{shown(key)}: {error}. Give another value.") from None


def describe_field(key: str) -> str:
    """Return a line on a key: its type, its default and what it is for; for a section, the keys it has."""
    if key not in FIELDS:
        return ", ".join(known for known in FIELDS if known.startswith(f"{key}."))
    field = FIELDS[key]
    default = "required" if field.is_required() else f"default {_toml_value(field.default)}"
    return f"{key} ({_type_name(field.annotation)}, {default}): {field.description}"


def describe() -> str:
    """Return a line on every key, section by section: the body of `--help`."""
    lines: list[str] = []
    for section, keys in groupby(FIELDS, key=lambda key: key.rpartition(".")[0]):
        lines += [f"[{section}]" if section else "", *(f"  {describe_field(key)}" for key in keys)]
    return "\n".join(lines)


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS: dict[str, Any] = dict(_fields(Config))
"""Field of every key of a config, in the order of `--help`."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with these dotted keys replaced.

    Raises:
        ConfigError: a key treats a value as a section.
    """
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        target = merged.setdefault(section, {}) if section else merged
        if not isinstance(target, dict):
            raise ConfigError(f"{key}={value}: {section} is not a section.{nearest(key, FIELDS)}")
        target[name] = value
    return merged


def _toml_value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but TOML wants DEL escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return repr(value)


def as_folder_name(value: Any) -> str:
    """Return a value as it is written in a folder's name."""
    text = "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in text)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(_toml_value(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(_type_name(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is tuple:
        return "list"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}[annotation.__name__]


def describe_difference(stored: Config, config: Config, *, now: str) -> str:
    """Return what makes `config` another run than the stored one, in words; empty if nothing does."""
    changed, before = difference(stored, config), difference(config, stored)
    return ", ".join(f"{key} = {before[key]!r} there, {value!r} {now}" for key, value in changed.items())


def refuse_another_run(config: Config) -> int:
    """Check that the folder of a config has no config.toml, or that of the same run, or of one that this config extends.

    Returns:
        the steps of the run in the folder; 0 if there is none.

    Raises:
        ResumeError: it is another run's.
    """
    path = Path(config.run.folder) / "config.toml"
    if not path.is_file():
        return 0
    stored = Config.check(read_config(path), source=str(path))
    what = describe_difference(stored, config, now="here")
    constant = stored.optimizer.schedule == config.optimizer.schedule == "constant"
    if constant and stored.steps < config.steps:
        what = describe_difference(stored.model_copy(update={"steps": config.steps}), config, now="here")
    if what:
        how = f" {how_to_extend(config)}" if stored.steps < config.steps and not constant else ""
        raise ResumeError(
            f"{config.run.folder} holds another run: {what}. Give this one a folder of its own (run.folder=…), or delete"
            f" that folder.{how}"
        )
    return stored.steps


def how_to_extend(config: Config) -> str:
    """Return how a run is trained for more steps than it has."""
    folder, schedule = config.run.folder, config.optimizer.schedule
    if schedule == "constant":
        return f"To train it further, start it again with more steps, such as steps={2 * config.steps}."
    return (
        f'A run can be given more steps only with optimizer.schedule="constant": with {schedule!r}, the learning rate of every'
        f" step follows from their number. To train further, start a new run from its model: model.name={folder}/model"
        " run.folder=…"
    )


def refuse_secrets(config: Config) -> None:
    """Check that a job can read its config from a file, into which no secrets are written.

    Raises:
        ConfigError: an address in it has a user or a password.
    """
    for key, value in flatten(config.model_dump()):
        if without_secrets(str(value)) != str(value):
            raise ConfigError(
                f"{key} = {value}: the user or password in this address would have to be in the job's files. Leave it out, and"
                " let the store's own settings (environment variables, configuration files) have it."
            )
