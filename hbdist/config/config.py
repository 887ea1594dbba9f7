"""The config of one run: a TOML file, then `key=value` overrides, checked and frozen.

Every fact about a run stands in it once. What is derived from the fields is computed by `plan`, never a second field.
"""

import difflib
import json
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, ValidationError

from hbdist.config.sections import (
    BatchSection,
    CheckpointSection,
    DataSection,
    EngineSection,
    EvaluationSection,
    LossSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    Section,
    ValidationSection,
)
from hbdist.errors import ConfigError, ResumeError

DEFAULT_CONFIG = Path("launch/train/demo.toml")


class Config(Section):
    """All of one run. Build it with `Config.load`."""

    seed: int = Field(1, ge=0)
    """Everything random follows from it: batches, dropout."""
    steps: int = Field(ge=1)
    """Optimizer steps of the run."""
    run: RunSection = RunSection()
    data: DataSection
    model: ModelSection
    batch: BatchSection
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    validation: ValidationSection = ValidationSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    engine: EngineSection = EngineSection()

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML file (by default the demo's), apply `key=value` overrides, and check the whole.

        The run's folder, if none is given, is named after the file and what the overrides change of it, so that
        the same command finds the same run again.

        Raises:
            ConfigError: the file cannot be read, or a key or a value in it is wrong.
        """
        path = Path(path or DEFAULT_CONFIG)
        base = read_toml(path)
        given = dict(parse_override(text) for text in overrides)
        values = merge(base, given)
        config = cls.check(values, source=f"{path}{' and the command line' if given else ''}")
        if config.run.folder:
            return config
        delta = _delta(base, given, config, source=str(path))
        folder = Path("runs") / "-".join([path.stem, *(f"{key}={plain(value)}" for key, value in delta.items())])
        return config.model_copy(update={"run": config.run.model_copy(update={"folder": str(folder)})})

    @classmethod
    def check(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """The config of these nested values; `source` is named in what goes wrong.

        Raises:
            ConfigError: a key is unknown or missing, or a value does not fit.
        """
        for key in _leaf_keys(values):
            if key not in FIELDS and not any(known.startswith(f"{key}.") for known in FIELDS):
                raise ConfigError(f"{source}: unknown key {key}.{nearest(key, FIELDS)}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            # pydantic names the branch of a union behind the key itself; a config has two levels at most.
            key = ".".join(str(part) for part in first["loc"][: 2 if str(first["loc"][0]) in cls.model_fields else 1])
            key = key if key in FIELDS or first["type"] == "missing" else str(first["loc"][0])
            if first["type"] == "missing":
                raise ConfigError(f"{source}: {key} is missing. Add it: {describe_field(key)}") from None
            raise ConfigError(
                f"{source}: {key} = {first['input']!r}: {first['msg'].lower()}. {describe_field(key)}"
            ) from None

    def to_toml(self) -> str:
        """The resolved config as TOML: alone enough to run again."""
        values = self.model_dump(mode="json", exclude_none=True)
        lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for name, section in values.items():
            if isinstance(section, dict):
                lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
        return "\n".join(lines) + "\n"


FREE_ON_RESUME = (
    "run.",
    "checkpoint.",
    "validation.every",
    "validation.patience",
    "validation.keep",
    "evaluation.",
    "engine.deepspeed",
    "loss.chunk_tokens",
    "loss.gradient_cache",
    "data.shards",
    "data.workers",
    "data.cache_gb",
    "data.on_error",
)
"""Keys (or sections) that may change when a run goes on: none of them changes what is computed, beyond rounding (and which
units drop out, under dropout). That the data are the same is checked by the manifest's fingerprint, not by where they lie."""


def difference(old: Config, new: Config) -> dict[str, Any]:
    """{key: new value} of all that makes `new` another run than `old`; keys that are free on resume do not count."""
    before, after = dict(leaves(old.model_dump())), dict(leaves(new.model_dump()))
    return {key: after[key] for key in after if before[key] != after[key] and not key.startswith(FREE_ON_RESUME)}


def _delta(base: Mapping[str, Any], given: Mapping[str, Any], config: Config, *, source: str) -> dict[str, Any]:
    """What the command line makes another run of; a file that is no whole config differs by all that is given."""
    try:
        return difference(Config.check(base, source=source), config)
    except ConfigError:
        return {key: value for key, value in given.items() if not key.startswith(FREE_ON_RESUME)}


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """A command line's config file, if it begins with one, and its overrides. (A file's path may hold a `=`.)"""
    first = arguments[0] if arguments else ""
    if first and ("=" not in first or Path(first).is_file()):
        return first, list(arguments[1:])
    return None, list(arguments)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: the file does not exist or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Give the path of a config, such as {DEFAULT_CONFIG}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder. Give the path of a config, such as {DEFAULT_CONFIG}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Strings need quotes; true and false do not.") from None


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` → (key, value); the value is read as TOML, and as plain text if it is none.

    Raises:
        ConfigError: there is no `=`.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text!r} is not an override. Write key=value, as in batch.size=256.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The question ` Did you mean …?` for a misspelt word, or the empty string if nothing is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not matches:  # the right name in the wrong section
        matches = [name for name in known if name.split(".")[-1] == word.split(".")[-1]]
    return f" Did you mean {matches[0]}?" if matches else ""


def describe_field(key: str) -> str:
    """One line on a key: its type, its default and what it is for; for a section, the keys it has."""
    if key not in FIELDS:
        return ", ".join(known for known in FIELDS if known.startswith(f"{key}."))
    field = FIELDS[key]
    default = "required" if field.is_required() else f"default {_toml_value(field.default)}"
    return f"{key} ({_type_name(field.annotation)}, {default}): {field.description}"


def describe() -> str:
    """All keys, section by section: the body of `--help`."""
    sections: dict[str, list[str]] = {}
    for key in FIELDS:
        sections.setdefault(key.partition(".")[0] if "." in key else "", []).append(f"  {describe_field(key)}")
    return "\n".join(f"{f'[{name}]' if name else ''}\n" + "\n".join(lines) for name, lines in sections.items())


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS: dict[str, Any] = dict(_fields(Config))
"""Every key of a config, in the order of `--help`."""


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _leaf_keys(values: Mapping[str, Any]) -> Iterator[str]:
    return (key for key, _ in leaves(values))


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
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


def plain(value: Any) -> str:
    """A value as part of a folder's name."""
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


def refuse_another_run(stored: Config, config: Config) -> None:
    """Nothing, where a folder's stored config is that of the run that is to be started in it.

    Raises:
        ResumeError: it is another run's.
    """
    changed = difference(stored, config)
    if changed:
        before = difference(config, stored)
        what = ", ".join(f"{key} = {before[key]!r} there, {value!r} here" for key, value in changed.items())
        raise ResumeError(
            f"{config.run.folder} holds another run: {what}. Give this one a folder of its own (run.folder=…), or delete"
            " that folder."
        )
