"""The check of a model's files before any weights are read: whatever contradicts itself is refused by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.models.hub import cannot_load
from hbdist.models.pretrained import (
    VectorSettings,
    damaged,
    find_file,
    join,
    read_model_json,
    read_modules,
    read_transformer,
    transformer_path,
)
from hbdist.models.saved_files import TRANSFORMER_FILES

POINTER = b"version https://git-lfs"
"""Beginning of the small file that git leaves in place of a large one which git-lfs has not fetched."""
POINTER_BYTES = 1024
"""Greatest size of such a file."""
JSON_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("config_sentence_transformers.json", "hbdist.json", *TRANSFORMER_FILES),
)
"""Files that must contain a JSON object if they exist, wherever in a model they are."""
OWN_CODE = {"config.json": ("AutoConfig", "AutoModel"), "tokenizer_config.json": ("AutoTokenizer",)}
"""File → the classes for which it may name code that comes with the model."""


def check_files(name: str, *, trust_remote_code: bool = False) -> None:
    """Check the files of a model by its folder or its name on the hub, without reading weights.

    Args:
        trust_remote_code: code that comes with the model may be run.

    Raises:
        ConfigError: the model needs something that is not supported, or code of its own that is not trusted.
        DataError: the model does not exist, or one of its files is missing, damaged or only a pointer.
    """
    folders = dict.fromkeys(["", transformer_path(name), *(path for _, path in read_modules(name))])
    if Path(name).is_dir():
        _refuse_pointers(name, folders)
        for file in (join(folder, file) for folder in folders for file in JSON_FILES):
            content = read_model_json(name, file)
            if not isinstance(content, dict) and content is not None:
                raise damaged(name, file, f"it contains a {type(content).__name__}, not an object")
    path = transformer_path(name)
    if find_file(name, join(path, "config.json")) is None:
        _refuse_without_config(name, path)
    if not trust_remote_code:
        _refuse_own_code(name, path)
    _refuse_unsupported(name)


def _refuse_pointers(name: str, folders: dict[str, None]) -> None:
    for path in (path for folder in folders for path in _files(Path(name, folder))):
        if path.stat().st_size <= POINTER_BYTES and path.read_bytes().startswith(POINTER):
            raise cannot_load(
                name,
                f"{path} is a pointer of git-lfs, not the file that belongs there. Fetch it (`git lfs pull` where the model"
                " was cloned), or download the model again.",
            )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file()) if folder.is_dir() else iter(())


def _refuse_without_config(name: str, path: str) -> None:
    if find_file(name, join(path, "adapter_config.json")):
        raise cannot_load(
            name,
            "it holds an adapter (LoRA) for another model, not a model. Merge the adapter into its model first"
            " (`merge_and_unload` of peft).",
        )
    exported = Path(name) / "model"
    if (exported / "config.json").is_file():
        raise cannot_load(name, f"it is the folder of a run: use its model, {exported}.")
    raise cannot_load(name, f"it has no {join(path, 'config.json')}.")


def _refuse_own_code(name: str, path: str) -> None:
    for file, classes in OWN_CODE.items():
        content: Any = read_model_json(name, join(path, file))
        named = content.get("auto_map") if isinstance(content, dict) else None
        # Older tokenizers have a list here.
        if named and (not isinstance(named, dict) or not named.keys().isdisjoint(classes)):
            raise ConfigError(
                f"model.name = {name!r} needs code of its own (auto_map in {file}), which hbdist does not run. Use another"
                " model; or read that code, and allow it with model.trust_remote_code=true (`hbdist evaluate`:"
                " --trust-remote-code)."
            )


def _refuse_unsupported(name: str) -> None:
    transformer = read_transformer(name)
    for key, value, supported in (
        ("transformer_task", transformer.transformer_task, "feature-extraction"),
        ("query_expansion", transformer.query_expansion, None),
        ("processing_kwargs", transformer.processing_kwargs, {}),
    ):
        if value != supported:
            raise ConfigError(
                f"{name} has {key} = {value!r} in the settings of sentence-transformers, which is not supported. Expected"
                f" {supported or 'none'}: use another model."
            )


def check_use(settings: ModelSection, vectors: VectorSettings) -> None:
    """Check that the model's vectors can be made with these settings.

    Raises:
        ConfigError: the model leaves the tokens of a prefix out of the pooling, and there is a prefix.
    """
    if not vectors.include_prompt and (settings.query_prefix or settings.document_prefix):
        raise ConfigError(
            f"{settings.name} leaves the prefix of a text out of the pooling (include_prompt = false), which is not supported,"
            f" and the prefixes are {settings.query_prefix!r} and {settings.document_prefix!r}. Set model.query_prefix and"
            ' model.document_prefix to "" (`hbdist evaluate`: --query-prefix and --document-prefix), or use another model.'
        )


def check_similarity(name: str, vectors: VectorSettings) -> None:
    """Check that cosines rank as the model's own similarity function does.

    Raises:
        ConfigError: they do not.
    """
    if vectors.similarity != "cosine":
        raise ConfigError(
            f"{name} compares vectors that are not normalised by {vectors.similarity} (similarity_fn_name), which is not"
            " supported: hbdist ranks by cosine, and its scores would be another model's. Use another model; or train from"
            " this one, which gives a model for cosines."
        )
