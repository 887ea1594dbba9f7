"""Readers that use other packages: Hugging Face `datasets` and `ir_datasets`, both optional."""

import json
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from hbdist.data.formats.texts import BEIR_LINE, TextTable, beir_entry
from hbdist.data.sources.corpora import NOT_RELEVANT, rows_of_pairs, rows_of_triples
from hbdist.data.sources.rows import ParseRow, Record, Row, SourceUnavailableError
from hbdist.errors import ConfigError, DataError


def read_datasets(
    source: str | Path, parse: ParseRow, *, split: str, revision: str | None, scratch: Path
) -> Iterator[Record]:
    """Yield the rows of a Hugging Face dataset, streamed from its Arrow files on disk.

    If the dataset is CSV files on the hub, their cells are texts as they stand: `001` and `1` are two ids, and `NA` is a word.

    Args:
        source: "name" or "name:config" on the hub, or a local parquet file.

    Raises:
        ConfigError: the package `datasets` is not installed.
        SourceUnavailableError: `datasets` cannot load the source.
        DataError: a record lacks the fields of a row.
    """
    package = _package("datasets")
    if isinstance(source, Path):
        arguments: dict[str, Any] = {"path": "parquet", "data_files": str(source), "split": "train"}
        arguments["cache_dir"] = str(scratch)
    else:
        name, _, config = source.partition(":")
        arguments = {"path": name, "name": config or None, "split": split, "revision": revision}
    for number, values in enumerate(_load("datasets", source, _load_dataset, package, **arguments), 1):
        try:
            yield parse(values)
        except ValueError as error:
            raise DataError(
                f"{source}, row {number}: {error}; expected query and document. Name the columns in the recipe: "
                'fields = { document = "…" }.'
            ) from None


def read_ir_datasets(source: str, *, negatives: int, scratch: Path) -> Iterator[Row | str]:
    """Yield the relevant pairs of an `ir_datasets` id, such as mmarco/v2/de/train.

    They come from its docpairs, with at most `negatives` hard negatives each, or without docpairs from its qrels above 0.

    Raises:
        ConfigError: the package `ir_datasets` is not installed, or the source is not a training set.
        SourceUnavailableError: `ir_datasets` cannot load the source.
    """
    dataset = _load("ir_datasets", source, _package("ir_datasets").load, source)
    if not (dataset.has_docs() and dataset.has_queries() and (dataset.has_docpairs() or dataset.has_qrels())):
        raise ConfigError(
            f"{source} of ir_datasets lacks documents, queries or qrels; expected an id that has all, such as "
            "mmarco/v2/de/train. Choose one of its parts."
        )
    queries = _table(((query.query_id, query.default_text()) for query in dataset.queries_iter()), scratch / "queries")
    documents = _table(((doc.doc_id, doc.default_text()) for doc in dataset.docs_iter()), scratch / "documents")
    if dataset.has_docpairs():
        triples = ((pair.query_id, pair.doc_id_a, pair.doc_id_b) for pair in dataset.docpairs_iter())
        yield from rows_of_triples(queries, documents, triples, negatives=negatives)
    else:
        relevant = (
            (qrel.query_id, qrel.doc_id) if qrel.relevance > 0 else NOT_RELEVANT for qrel in dataset.qrels_iter()
        )
        yield from rows_of_pairs(queries, documents, relevant)


def _load_dataset(package: Any, *, split: str, **arguments: Any) -> Any:
    builder = package.load_dataset_builder(**arguments)
    if hasattr(builder.config, "na_filter"):  # CSV, which pandas would guess the types of
        names = package.load_dataset(**arguments, split=split, na_filter=False).column_names
        arguments["features"] = package.Features({name: package.Value("string") for name in names})
        return package.load_dataset(**arguments, split=split, na_filter=False)
    return package.load_dataset(**arguments, split=split)


def _table(texts: Iterable[tuple[str, str]], path: Path) -> TextTable:
    with path.open("w", encoding="utf-8") as file:
        for identifier, text in texts:
            file.write(json.dumps({"_id": identifier, "text": text}) + "\n")
    return TextTable(path, parse=beir_entry, expected=BEIR_LINE, scratch=path.parent)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f'reader "{name}" needs the package {name}, which cannot be imported ({error}). Install it: '
            "pip install 'hbdist[sources]'."
        ) from None


def _load(package: str, source: str | Path, load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return load(*args, **kwargs)
    except Exception as error:  # anything that the package, or the network it uses, raises
        raise SourceUnavailableError(
            f"{package} cannot load {source}: {type(error).__name__}: {error} Correct the name in the recipe, or fetch "
            "it where there is a network and build again."
        ) from error
