"""The files of a model by its name, in a folder or on the hub, and what those of sentence-transformers say of its use."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from hbdist.config.criterion import Criterion
from hbdist.errors import ConfigError

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
"""The modules of sentence-transformers that are known here, in the order they must have."""
OWN = "hbdist.json"
"""In an exported folder: the settings for which sentence-transformers has no place."""


@dataclass(frozen=True)
class SavedSettings:
    """What a model folder says of its own use; None where it says nothing."""

    pooling: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    language_token: str | None = None
    fixed_language: str | None = None

    @classmethod
    def of(cls, name: str) -> "SavedSettings":
        """What the model of this name or folder says.

        Raises:
            ConfigError: it has a part that is not known here.
        """
        path = next((path for kind, path in saved_modules(name) if kind == "Pooling"), "1_Pooling")
        pooling = read_json(name, f"{path}/config.json") or {}
        modes = [  # older versions have a flag for each, as pooling_mode_cls_token or pooling_mode_mean_tokens
            key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
            for key, on in pooling.items()
            if key.startswith("pooling_mode_") and on
        ]
        mode = pooling.get("pooling_mode") or "+".join(modes) or None
        own = read_json(name, OWN) or {}
        use = read_json(name, "config_sentence_transformers.json")
        if use is None:
            return cls(mode, **own)
        prompts = use.get("prompts", {})  # a model of sentence-transformers that names no prompts has none
        return cls(mode, prompts.get("query", ""), prompts.get("document", prompts.get("passage", "")), **own)


def saved_modules(name: str) -> list[tuple[str, str]]:
    """Kind and path of each module of sentence-transformers, in their order; none where the model is not one of theirs.

    Raises:
        ConfigError: a kind is not known here, or they stand in another order than MODULES.
    """
    modules = [(module["type"].split(".")[-1], module["path"]) for module in read_json(name, "modules.json") or []]
    kinds = [kind for kind, _ in modules]
    unknown = sorted(set(kinds) - set(MODULES))
    expected = f"Expected {', '.join(MODULES[:-1])} and {MODULES[-1]} alone, in this order."
    if unknown:
        raise ConfigError(f"{name} has a {' and a '.join(unknown)} module of sentence-transformers. {expected}")
    if kinds != sorted(kinds, key=MODULES.index) or ("Dense" in kinds and "Pooling" not in kinds):
        raise ConfigError(f"{name} has the modules {', '.join(kinds)} of sentence-transformers. {expected}")
    return modules


def read_json(name: str, file: str) -> Any:
    """A JSON file of the model; None where it has none."""
    path = find(name, file)
    return json.loads(path.read_text(encoding="utf-8")) if path else None


def find(name: str, file: str) -> Path | None:
    """Where a file of the model of this name or folder lies, fetched from the hub if need be; None if it has none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    with quiet():
        try:
            found = cached_file(
                name,
                file,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:  # there is no such model: loading it says so
            return None
    return Path(found) if found else None


@contextmanager
def quiet() -> Iterator[None]:
    """transformers reports missing weights that are not used here; what is missing otherwise is an error of ours."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


CHOSEN = "chosen.json"
"""In the folder of a model that was chosen on an evaluation task: {"chosen_on", "metric", "step"}."""


def chosen_file(criterion: Criterion, step: int) -> Mapping[str, Any]:
    """What chosen.json holds."""
    return {"chosen_on": criterion.task, "metric": criterion.metric, "step": step}


def chosen_on(model: str) -> str | None:
    """The task on whose scores the model in this folder was chosen in its training; None where it was not on any."""
    path = Path(model) / CHOSEN
    return str(json.loads(path.read_text(encoding="utf-8"))["chosen_on"]) if path.is_file() else None
