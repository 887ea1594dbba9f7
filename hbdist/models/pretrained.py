"""Files of a pretrained model, in a folder or on the hub, and the settings that it was saved with."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from hbdist.config.criterion import Criterion
from hbdist.errors import ConfigError, DataError
from hbdist.utils.json_toml import read_json
from hbdist.utils.stored import read_stored_if_any

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
"""Supported modules of sentence-transformers, in the order that a model must have them."""
SETTINGS_FILE = "hbdist.json"
"""File in an exported folder with the settings that the files of sentence-transformers cannot express."""
CHOSEN_FILE = "chosen.json"
"""File in the folder of a model that model selection chose: {"chosen_on", "metric", "step"}."""


@dataclass(frozen=True)
class SavedSettings:
    """Settings that a model was saved with; None where its files do not name one."""

    pooling: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    language_token: str | None = None
    fixed_language: str | None = None

    @classmethod
    def read(cls, name: str) -> "SavedSettings":
        """Read the settings of a model by its name on the hub or its folder.

        Raises:
            ConfigError: the model has a module that is not supported.
        """
        path = next((path for kind, path in read_modules(name) if kind == "Pooling"), "1_Pooling")
        pooling = read_model_json(name, f"{path}/config.json") or {}
        modes = [  # older versions write one flag per mode: pooling_mode_cls_token, pooling_mode_mean_tokens
            key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
            for key, on in pooling.items()
            if key.startswith("pooling_mode_") and on
        ]
        mode = pooling.get("pooling_mode") or "+".join(modes) or None
        own = read_model_json(name, SETTINGS_FILE) or {}
        usage = read_model_json(name, "config_sentence_transformers.json")
        if usage is None:
            return cls(mode, **own)
        prompts = usage.get("prompts", {})  # a sentence-transformers model without prompts was trained without prefixes
        return cls(mode, prompts.get("query", ""), prompts.get("document", prompts.get("passage", "")), **own)


def read_modules(name: str) -> list[tuple[str, str]]:
    """Return the (kind, path) of a model's sentence-transformers modules, in order; empty if it has no modules.json.

    Raises:
        ConfigError: a kind is not supported, or the order is not that of MODULES.
    """
    modules = [
        (module["type"].split(".")[-1], module["path"]) for module in read_model_json(name, "modules.json") or []
    ]
    kinds = [kind for kind, _ in modules]
    unknown = sorted(set(kinds) - set(MODULES))
    expected = f"Expected only {', '.join(MODULES[:-1])} and {MODULES[-1]}, in this order: use another model."
    if unknown:
        raise ConfigError(f"{name} has a {' and a '.join(unknown)} module of sentence-transformers. {expected}")
    if kinds != sorted(kinds, key=MODULES.index) or ("Dense" in kinds and "Pooling" not in kinds):
        raise ConfigError(f"{name} has the modules {', '.join(kinds)} of sentence-transformers. {expected}")
    return modules


def read_model_json(name: str, file: str) -> Any:
    """Read a JSON file of the model; return None if the model does not have the file."""
    path = find_file(name, file)
    return read_json(path, strict=False) if path else None


def find_file(name: str, file: str) -> Path | None:
    """Return the path of a model's file, downloading it from the hub if necessary; None if the model does not have it."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    with quiet():
        try:
            path = cached_file(
                name,
                file,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:  # the model does not exist: loading it reports that
            return None
    return Path(path) if path else None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log and the progress bars of transformers; missing weights that matter are reported by our own errors."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def incomplete(model: str, weights: Collection[str]) -> DataError:
    """Return the error for a model whose files lack the `weights` or have them in other shapes."""
    return DataError(
        f"{model} lacks {len(weights)} weights of its architecture (or has them in another shape), among them"
        f" {min(weights)}: they would be random. Use a complete model."
    )


@dataclass(frozen=True)
class Chosen:
    """Content of CHOSEN_FILE that is read again."""

    chosen_on: str
    """Evaluation task on which the step was chosen."""


def selection_record(criterion: Criterion, step: int) -> Mapping[str, Any]:
    """Return the content of CHOSEN_FILE."""
    return {"chosen_on": criterion.task, "metric": criterion.metric, "step": step}


def chosen_on(model: str) -> str | None:
    """Return the evaluation task that the model in this folder was chosen on; None if it was not chosen on any."""
    remedy = "Delete it if the model was not chosen by an evaluation task, or export the model again."
    chosen = read_stored_if_any(Chosen, Path(model) / CHOSEN_FILE, remedy=remedy)
    return chosen.chosen_on if chosen else None
