"""Files of a pretrained model, in a folder or on the hub, and the settings that it was saved with."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from hbdist.config.criterion import Criterion
from hbdist.errors import ConfigError, DataError
from hbdist.models.hub import cannot_load, look_up
from hbdist.models.saved_files import (
    TRANSFORMER_FILES,
    ModuleEntry,
    OwnFile,
    PoolingFile,
    SavedFile,
    TokenizerFile,
    TransformerFile,
    UsageFile,
)
from hbdist.utils.json_toml import read_json
from hbdist.utils.stored import read_stored_if_any

File = TypeVar("File", bound=SavedFile)
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
"""Supported modules of sentence-transformers, in the order that a model must have them."""
SETTINGS_FILE = "hbdist.json"
"""File in an exported folder with the settings that the files of sentence-transformers cannot express."""
CHOSEN_FILE = "chosen.json"
"""File in the folder of a model that model selection chose: {"chosen_on", "metric", "step"}."""


@dataclass(frozen=True)
class SavedSettings:
    """Keys of `[model]` that a model was saved with; None where its files do not name one."""

    pooling: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    language_token: str | None = None
    fixed_language: str | None = None
    max_query_tokens: int | None = None
    max_document_tokens: int | None = None

    @classmethod
    def read(cls, name: str | Path) -> "SavedSettings":
        """Read the settings of a model by its name on the hub or its folder.

        Raises:
            ConfigError: the model has a module that is not supported.
            DataError: one of the files is damaged, or the model does not exist.
        """
        name = str(name)
        modules = read_modules(name)
        usage = read_file(name, "config_sentence_transformers.json", UsageFile)
        own = read_file(name, SETTINGS_FILE, OwnFile) or OwnFile()
        query, document = usage.prefixes if usage else (None, None)
        query_tokens, document_tokens = _saved_lengths(name) if modules else (None, None)
        return cls(
            _read_pooling(name).mode,
            query,
            document,
            own.language_token,
            own.fixed_language,
            query_tokens,
            document_tokens,
        )


@dataclass(frozen=True)
class VectorSettings:
    """Settings of a sentence-transformers model that change its vectors, besides the keys of `[model]`."""

    lower_case: bool = False
    """Texts are lower-cased before they are tokenised."""
    include_prompt: bool = True
    """The tokens of a prefix are pooled like all others."""
    truncate_dim: int | None = None
    """Number of dimensions of which a vector keeps the first; None: all."""
    similarity: str = "cosine"
    """Function by which the model's vectors are compared."""

    @classmethod
    def read(cls, name: str | Path) -> "VectorSettings":
        """Read the settings of a model by its name on the hub or its folder.

        Raises:
            ConfigError, DataError: as `SavedSettings.read`.
        """
        name = str(name)
        usage = read_file(name, "config_sentence_transformers.json", UsageFile) or UsageFile()
        # Of unit vectors, all four functions give the same ranking.
        unit = any(kind == "Normalize" for kind, _ in read_modules(name))
        return cls(
            lower_case=read_transformer(name).do_lower_case,
            include_prompt=_read_pooling(name).include_prompt,
            truncate_dim=usage.truncate_dim,
            similarity="cosine" if unit else usage.similarity_fn_name or "cosine",
        )


def _saved_lengths(name: str) -> tuple[int | None, int | None]:
    """Return the tokens after which a sentence-transformers model cuts queries and documents."""
    transformer = read_transformer(name)
    # Newer versions write the length into the tokenizer's file alone.
    tokenizer = read_file(name, join(transformer_path(name), "tokenizer_config.json"), TokenizerFile)
    most = transformer.max_seq_length or (tokenizer.length if tokenizer else None)
    return transformer.query_length or most, transformer.document_length or most


def _read_pooling(name: str) -> PoolingFile:
    path = next((path for kind, path in read_modules(name) if kind == "Pooling"), "1_Pooling")
    return read_file(name, join(path, "config.json"), PoolingFile) or PoolingFile()


def read_transformer(name: str) -> TransformerFile:
    """Return the settings of a model's Transformer module: sentence_bert_config.json, or the same by an older name."""
    path = transformer_path(name)
    found = (read_file(name, join(path, file), TransformerFile) for file in TRANSFORMER_FILES)
    return next((one for one in found if one), TransformerFile())


def transformer_path(name: str) -> str:
    """Return the folder inside a model with its config, weights and tokenizer: "", or "0_Transformer" in older models."""
    return next((path for kind, path in read_modules(name) if kind == "Transformer"), "")


def read_modules(name: str) -> list[tuple[str, str]]:
    """Return the (kind, path) of a model's sentence-transformers modules, in order; empty if it has no modules.json.

    Raises:
        ConfigError: a kind is not supported, or the order is not that of MODULES.
        DataError: modules.json is damaged, or the model does not exist.
    """
    content = read_model_json(name, "modules.json")
    if content is None:
        return []
    if not isinstance(content, list) or not content:
        raise damaged(name, "modules.json", "it is not a list of modules")
    entries = [ModuleEntry.parse(one, lambda fault: damaged(name, "modules.json", fault)) for one in content]
    kinds = [entry.kind for entry in entries]
    expected = f"Expected only {', '.join(MODULES[:-1])} and {MODULES[-1]}, in this order: use another model."
    unknown = sorted({entry.label for entry in entries if not entry.is_known(MODULES)})
    if unknown:
        raise ConfigError(f"{name} has a {' and a '.join(unknown)} module of sentence-transformers. {expected}")
    once = [kind for kind in kinds if kind != "Dense"]
    if (
        kinds != sorted(kinds, key=MODULES.index)
        or kinds[0] != "Transformer"
        or len(once) > len(set(once))
        or ("Dense" in kinds and "Pooling" not in kinds)
    ):
        raise ConfigError(f"{name} has the modules {', '.join(kinds)} of sentence-transformers. {expected}")
    return [(entry.kind, entry.path) for entry in entries]


def read_file(name: str, file: str, kind: type[File]) -> File | None:
    """Return the content of one of a model's JSON files; None if the model does not have it.

    Raises:
        DataError: the file is damaged; the message names it.
    """
    content = read_model_json(name, file)
    return None if content is None else kind.parse(content, lambda fault: damaged(name, file, fault))


def read_model_json(name: str, file: str) -> Any:
    """Read a JSON file of the model; return None if the model does not have the file.

    Raises:
        DataError: the file is not JSON.
    """
    path = find_file(name, file)
    if path is None:
        return None
    try:
        return read_json(path, strict=False, remedy="Copy or download the model again.")
    except DataError as error:
        raise cannot_load(name, str(error)) from None


def damaged(name: str, file: str, fault: str) -> DataError:
    """Return the error for a file of a model that is not as it should be."""
    return cannot_load(name, f"{file} is damaged: {fault}. Copy or download the model again.")


def find_file(name: str, file: str) -> Path | None:
    """Return the path of a model's file, downloading it from the hub if necessary; None if the model does not have it.

    Raises:
        DataError: the model is neither a folder nor on the hub, or the hub cannot be reached.
    """
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    with quiet():
        try:
            path = cached_file(
                name,
                file,
                local_files_only=look_up(name),
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:  # loading the model reports it
            return None
    return Path(path) if path else None


def source_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` needs to find a model's config, weights and tokenizer: their place, and arguments."""
    path = transformer_path(name)
    if Path(name).is_dir():
        return str(Path(name) / path), {}
    return name, ({"subfolder": path} if path else {}) | ({"local_files_only": True} if look_up(name) else {})


def join(folder: str, file: str) -> str:
    """Return the path of a file inside a model."""
    return str(PurePosixPath(folder) / file)


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
