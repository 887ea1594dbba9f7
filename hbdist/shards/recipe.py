"""A recipe: which files become which groups of which shard folder. TOML, checked before anything is built."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from hbdist.config import nearest
from hbdist.errors import ConfigError
from hbdist.sections import Section
from hbdist.shards.manifest import Language, Name


def _locate(path: Path, info: ValidationInfo) -> Path:
    assert info.context, "a recipe is read with Recipe.load, which knows where it lies"
    return Path(os.path.normpath(info.context["folder"] / path))


Located = Annotated[Path, AfterValidator(_locate)]
"""A path that a recipe gives relative to itself."""


class DatasetRecipe(Section):
    """One `[[dataset]]` of a recipe."""

    name: Name
    """What the dataset is called in the manifest, in configs and in reports: a-z, 0-9, _ and ."""
    reader: Literal["jsonl", "squad"]
    """Format of the files: "jsonl" (one JSON object a line) or "squad" (SQuAD's JSON)."""
    files: dict[Language, Located] = Field(min_length=1)
    """Language code → file, plain or .gz; paths are relative to the recipe."""
    parallel: bool = False
    """Pairs of the same id in several files are translations of each other; cross-lingual groups come from them."""
    cross: Literal["all"] | tuple[tuple[Language, Language], ...] = "all"
    """Cross-lingual groups of a parallel dataset: "all", or a list of ["query language", "document language"]."""
    fields: dict[Literal["id", "query", "document", "document_id", "negatives"], str] = Field(default_factory=dict)
    """Our field → its name in the source, for reader "jsonl", where the two differ."""
    document: Literal["paragraph", "sentence"] = "paragraph"
    """What a question is paired with, for reader "squad": its paragraph, or the sentence that answers it."""
    licence: str = "not stated"
    """Under which the source is published; it goes into the manifest."""

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.files)

    def query_languages(self, document_lang: str) -> tuple[str, ...]:
        """Languages whose queries are paired with documents of this one, itself first."""
        if not self.parallel:
            return (document_lang,)
        pairs = [(q, d) for q in self.files for d in self.files] if self.cross == "all" else self.cross
        return tuple(dict.fromkeys([document_lang, *(q for q, d in pairs if d == document_lang)]))

    @property
    def reader_options(self) -> dict[str, Any]:
        """What the reader takes besides the file."""
        return {"fields": self.fields} if self.reader == "jsonl" else {"document": self.document}

    @model_validator(mode="after")
    def _fits_the_reader(self) -> Self:
        for key, reader in (("fields", "jsonl"), ("document", "squad")):
            if key in self.model_fields_set and self.reader != reader:
                raise ValueError(f'{key} is for reader "{reader}", and this one is "{self.reader}". Leave it out')
        return self

    @model_validator(mode="after")
    def _crosses_what_it_has(self) -> Self:
        if "cross" in self.model_fields_set and not self.parallel:
            raise ValueError(
                "cross needs parallel = true: without it, equal ids mean nothing. Set it, or leave out cross"
            )
        for pair in () if self.cross == "all" else self.cross:
            if not set(pair) <= set(self.files) or pair[0] == pair[1]:
                raise ValueError(
                    f"cross has {list(pair)}; expected two different languages of {', '.join(self.files)}. Correct it"
                )
        return self


class Recipe(Section):
    """All of one shard folder. Read it with `Recipe.load`; its paths then are no longer relative to it."""

    out: Located | None = None
    """Folder of the built shards, relative to the recipe."""
    shard_rows: int = Field(2000, ge=1)
    """Pairs in a tar; the last tar of a group has the rest."""
    pairs_per_group: int = Field(0, ge=0)
    """Most pairs of a cross-lingual group, chosen by a hash of (dataset, language pair, id); 0: all."""
    dataset: tuple[DatasetRecipe, ...] = Field(min_length=1)
    """One [[dataset]] each."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a recipe.

        Raises:
            ConfigError: the recipe, or a file that it names, does not exist, or a key or value in it is wrong.
        """
        try:
            recipe = cls.model_validate(_read(path), context={"folder": path.parent})
        except ValidationError as error:
            raise ConfigError(f"{path}: {_explain(error)}") from None
        missing = [str(file) for dataset in recipe.dataset for file in dataset.files.values() if not file.is_file()]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"{path} names {', '.join(missing[:3])}{more}; expected files that exist. "
                "Fetch them, or correct their paths (they are relative to the recipe)."
            )
        return recipe

    @model_validator(mode="after")
    def _has_each_dataset_once(self) -> Self:
        names = [dataset.name for dataset in self.dataset]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"dataset {min(twice)} stands there twice; expected each once. Rename one")
        return self


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(
            f"{path} is not a file; expected a recipe. Give the path of one, such as shards/recipes/demo.toml."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Strings need quotes; true and false do not.") from None


def _explain(error: ValidationError) -> str:
    """What is wrong first, where, and what the key is for."""
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    inside = first["loc"][0] == "dataset" and len(first["loc"]) > 1 if first["loc"] else False
    model: type[Section] = DatasetRecipe if inside else Recipe
    location = first["loc"][2:] if inside else first["loc"]
    where = f"[[dataset]] {int(first['loc'][1]) + 1}: " if inside else ""
    key = str(location[0]) if location else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        hint = nearest(key, model.model_fields) or f" Expected some of {', '.join(model.model_fields)}; take it out."
        return f"{where}unknown key {key}.{hint}"
    if key not in model.model_fields:
        return f"{where}{message}."
    about = f"{key}: {model.model_fields[key].description}"
    if first["type"] == "missing":
        return f"{where}{key} is missing. Add it. {about}"
    if first["type"] == "value_error":
        return f"{where}{key}: {message}."
    return f"{where}{key} = {first['input']!r}: {message.lower()}. {about}"
