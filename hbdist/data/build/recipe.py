"""Recipe of a shard folder: TOML that names its sources and groups, checked before anything is built."""

import os
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from hbdist.config.explain import explain
from hbdist.config.sections import Section
from hbdist.data.shards.groups import Language, Name
from hbdist.data.shards.manifest import VALIDATION
from hbdist.data.sources.files import Document
from hbdist.data.sources.rows import FieldName, Names
from hbdist.errors import ConfigError
from hbdist.utils.files import check_path
from hbdist.utils.json_toml import read_toml


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _locate(path: Path, info: ValidationInfo) -> Path:
    assert info.context, "a recipe is read with Recipe.load, which passes its folder"
    return check_path(Path(os.path.normpath(info.context["folder"] / os.path.expanduser(path))))


Located = Annotated[Path, AfterValidator(_locate)]
"""Path that a recipe gives relative to itself."""
Files = Annotated[tuple[Located, ...], Field(min_length=1), BeforeValidator(lambda value: _several(value))]
"""One path, or a list of them."""
SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
"""Suffixes of the local files that reader "datasets" takes; ".gz" may follow, except after ".parquet"."""
SEVERAL_FILES = ("jsonl", "squad", "datasets")
"""Readers that take several files of a language."""
Bounds = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
READERS_OF: dict[str, tuple[str, ...]] = {
    "files": ("jsonl", "squad", "lines", "beir", "msmarco", "datasets"),
    "sources": ("datasets", "ir_datasets"),
    "queries": ("msmarco",),
    "triples": ("msmarco",),
    "qrels": ("msmarco",),
    "split": ("beir", "datasets"),
    "revision": ("datasets",),
    "fields": ("jsonl", "datasets"),
    "where": ("jsonl", "datasets"),
    "document": ("squad",),
    "negatives_per_pair": ("msmarco", "ir_datasets"),
}
"""Key of a dataset → the readers that use it."""


class DatasetRecipe(Section):
    """A `[[dataset]]` of a recipe."""

    name: Name
    """Name of the dataset in the manifest, in configs and in reports: a-z, 0-9, _ and ."""
    reader: Literal["jsonl", "squad", "lines", "beir", "msmarco", "datasets", "ir_datasets"]
    """Format of the source."""
    files: dict[Language, Files] = Field(default_factory=dict)
    """Language code → file, plain or .gz, or list of files (a folder for "beir", the corpus for "msmarco"), relative to the
    recipe."""
    sources: dict[Language, str] = Field(default_factory=dict)
    """Language code → id, for reader "ir_datasets", or "name" or "name:config" on the hub, for reader "datasets"."""
    queries: dict[Language, Located] = Field(default_factory=dict)
    """Language code → file of queries, for reader "msmarco"."""
    triples: Located | None = None
    """File with ids of query, relevant and irrelevant document, for reader "msmarco"."""
    qrels: Located | None = None
    """File of qrels in TREC's format, for reader "msmarco" instead of triples."""
    split: str = "train"
    """Part of the data: the name of the qrels for reader "beir", of the split for reader "datasets"."""
    revision: str | None = None
    """Commit of the dataset on the hub, for reader "datasets"; unset: the newest, so builds may differ."""
    parallel: bool = False
    """True if pairs with the same id in several languages are translations, which gives cross-lingual groups."""
    cross: Literal["all"] | tuple[tuple[Language, Language], ...] = "all"
    """Cross-lingual groups of a parallel dataset: "all", or a list of ["query language", "document language"]."""
    layout: Literal["pairs", "parallel"] = "pairs"
    """Storage of a parallel dataset: both texts in every pair, or each language's texts once and lists of rows."""
    fields: dict[FieldName, Names] = Field(default_factory=dict)
    """Our name of a field → its name in the source, where the two differ; a.b is field b inside a; a list: texts to join."""
    where: dict[str, str | int | bool] = Field(default_factory=dict)
    """Field of the source → the value that it must have: { label = 1 }."""
    document: Document = "paragraph"
    """Text that a question is paired with, for reader "squad"."""
    negatives_per_pair: int = Field(8, ge=0)
    """Most hard negatives per pair, the first ones, for data with triples."""
    licence: str = "not stated"
    """Licence of the source, recorded in the manifest."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Language codes, in the recipe's order."""
        return tuple(self.files or self.sources)

    def source_of(self, language: str) -> str:
        """Return the files of a language, or its id in the library, for messages."""
        return ", ".join(map(str, self.files[language])) if self.files else self.sources[language]

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """(query language, document language) of each group. A line of parallel text is not a document for itself."""
        own = () if self.reader == "lines" else tuple((language, language) for language in self.languages)
        if not self.parallel:
            return own
        pairs = [(q, d) for q in self.languages for d in self.languages if q != d]
        return tuple(dict.fromkeys([*own, *(pairs if self.cross == "all" else self.cross)]))

    @model_validator(mode="after")
    def _check_keys_of_reader(self) -> Self:
        for key, readers in READERS_OF.items():
            if key in self.model_fields_set and self.reader not in readers:
                names = " or ".join(f'"{reader}"' for reader in readers)
                raise ValueError(f'{key} is for reader {names}, but this reader is "{self.reader}". Leave it out')
        return self

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        for language, files in self.files.items():
            if len(files) > 1 and self.reader not in SEVERAL_FILES:
                readers = " or ".join(f'"{reader}"' for reader in SEVERAL_FILES)
                raise ValueError(
                    f"files.{language} is a list of {len(files)}; several files are for reader {readers}, but this reader is "
                    f'"{self.reader}". Join them into one'
                )
        for key in ("files", "queries", "sources"):
            owners: dict[str, str] = {}
            for language, value in getattr(self, key).items():
                for one in value if isinstance(value, tuple) else (value,):
                    # Links are followed: one file is not two languages, whatever it is called.
                    where = one if isinstance(one, str) else os.path.realpath(one)
                    if other := owners.get(where):
                        both = (
                            f"{key}.{other} and {key}.{language}" if other != language else f"{key}.{language}, twice,"
                        )
                        raise ValueError(f"{both} are both {one}; expected another for each. Correct one of them")
                    owners[where] = language
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if not self.languages:
            key = "sources" if self.reader == "ir_datasets" else "files"
            raise ValueError(f"{key} is missing. Add it: {type(self).model_fields[key].description}")
        if self.files and self.sources:
            raise ValueError("files and sources are both given; expected one. Leave out the other")
        if self.reader == "msmarco" and (
            set(self.queries) != set(self.files) or bool(self.triples) == bool(self.qrels)
        ):
            raise ValueError('reader "msmarco" needs files and queries of each language, and either triples or qrels')
        if self.reader == "datasets" and (odd := [one for one in chain(*self.files.values()) if not _is_known(one)]):
            raise ValueError(f"{odd[0].name} is not one of {', '.join(SUFFIXES)}. Rename it, or choose another reader")
        if self.reader == "lines" and not (self.parallel and len(self.files) > 1):
            raise ValueError('reader "lines" needs parallel = true and the aligned files of at least two languages')
        if "cross" in self.model_fields_set and not self.parallel:
            raise ValueError(
                "cross needs parallel = true: without it, equal ids mean nothing. Set it, or leave out cross"
            )
        if self.reader == "datasets" and self.files and (unused := {"split", "revision"} & self.model_fields_set):
            raise ValueError(f"{min(unused)} is for sources on the hub, but the dataset has files. Leave it out")
        if self.layout == "parallel" and not self.parallel:
            raise ValueError('layout = "parallel" needs parallel = true: rows are aligned by their ids. Set it')
        for pair in () if self.cross == "all" else self.cross:
            if not set(pair) <= set(self.languages) or pair[0] == pair[1]:
                known = ", ".join(self.languages)
                raise ValueError(f"cross has {list(pair)}; expected two different languages of {known}. Correct it")
        return self


def _is_known(path: Path) -> bool:
    return path.name.endswith((*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES[1:])))


class Limits(Section):
    """`[limits]`: lengths of the texts that are kept."""

    query_characters: Bounds = (1, 10**9)
    """Fewest and most characters of a query; other rows are left out and counted."""
    document_characters: Bounds = (1, 10**9)
    """Fewest and most characters of a document; other rows are left out and counted."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for key in ("query_characters", "document_characters"):
            least, most = getattr(self, key)
            if least > most:
                raise ValueError(f"{key} = [{least}, {most}] leaves nothing; expected [fewest, most]. Swap the two")
        return self


class Deduplicate(Section):
    """`[deduplicate]`: conditions for two pairs of a group to count as the same."""

    text: Literal["exact", "normalised"] = "exact"
    """"exact": query and document are the same; "normalised": after NFKC, without case, white space as one space."""
    across_datasets: bool = False
    """True to leave out pairs that an earlier dataset of the recipe has in the same two languages too."""


class Decontaminate(Section):
    """`[decontaminate]`: evaluation sets whose texts must not be trained on."""

    files: tuple[Located, ...] = Field(min_length=1)
    """Evaluation sets, in all languages: SQuAD's JSON, or JSON lines; plain or .gz."""
    words: int = Field(13, ge=4)
    """Number of consecutive words that a text may not share with a passage of an evaluation set."""
    characters: int = Field(40, ge=10)
    """Number of consecutive characters likewise, for scripts without spaces."""


class Recipe(Section):
    """Recipe of one shard folder. `Recipe.load` reads it and makes its paths independent of its folder."""

    out: Located | None = None
    """Folder of the built shards, relative to the recipe."""
    shard_rows: int = Field(2000, ge=1, le=10**9)
    """Number of pairs per tar; the last tar of a group has the rest."""
    pairs_per_group: int = Field(0, ge=0)
    """Most pairs of a cross-lingual group, chosen by a hash of (dataset, language pair, id); 0: all."""
    validation: float = Field(0.0, ge=0, le=0.5)
    """Share of the ids held out, in all languages, by a hash of (dataset, id); their pairs go into OUT/validation."""
    limits: Limits = Limits()
    """[limits]: lengths of the texts that are kept."""
    deduplicate: Deduplicate = Deduplicate()
    """[deduplicate]: conditions for two pairs to count as the same."""
    decontaminate: Decontaminate | None = None
    """[decontaminate]: evaluation sets whose texts are left out."""
    dataset: tuple[DatasetRecipe, ...] = Field(min_length=1)
    """[[dataset]]: one table per dataset."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a recipe; its sources need not exist yet.

        Raises:
            ConfigError: the recipe does not exist, or a key or value in it is wrong.
        """
        values = read_toml(path, missing="Give the path of a recipe, such as shards/recipes/demo.toml.")
        try:
            return cls.model_validate(values, context={"folder": path.parent})
        except ValidationError as error:
            raise ConfigError(f"{path}: {explain(error, cls)}") from None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [dataset.name for dataset in self.dataset]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"dataset {min(twice)} occurs twice; expected each once. Rename one")
        if VALIDATION in names:
            raise ValueError(f"a dataset is called {VALIDATION}, like the folder of held-out pairs. Rename it")
        return self
