"""Readers of what other packages bring: Hugging Face `datasets` and `ir_datasets`, both optional."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hbdist.data.formats.text_table import TextTable, beir_entry
from hbdist.data.sources.qrels import BEIR_LINE, NOT_RELEVANT, rows_of_pairs, rows_of_triples
from hbdist.data.sources.rows import Field, Row, SourceUnavailableError, row_of
from hbdist.errors import ConfigError, DataError

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
"""Suffix of a local file → what `datasets` calls its format."""


def read_datasets(
    source: str | Path,
    *,
    split: str,
    revision: str | None,
    fields: Mapping[Field, str],
    where: Mapping[str, Any],
    scratch: Path,
) -> Iterator[Row | str]:
    """The rows of a Hugging Face dataset, streamed from its Arrow files on disk.

    Args:
        source: "name" or "name:config" on the hub, or a local parquet, CSV or JSON file.

    Raises:
        ConfigError: the package `datasets` is not installed.
        SourceUnavailableError: it cannot load the source.
        DataError: a row has not the fields of a row.
    """
    package = _package("datasets")
    if isinstance(source, Path):
        format = FORMATS[source.suffix]
        arguments: dict[str, Any] = {"path": format, "data_files": str(source), "split": "train"}
        arguments["cache_dir"] = str(scratch)
    else:
        name, _, config = source.partition(":")
        arguments = {"path": name, "name": config or None, "split": split, "revision": revision}
    loaded = _called("datasets", source, package.load_dataset, **arguments)
    for number, values in enumerate(loaded, 1):
        try:
            yield row_of(values, fields, where)
        except ValueError as error:
            raise DataError(
                f"{source}, row {number}: {error}; expected query and document. Name the columns in the recipe: "
                'fields = { document = "…" }.'
            ) from None


def read_ir_datasets(source: str, *, negatives: int, scratch: Path) -> Iterator[Row | str]:
    """The relevant pairs of an `ir_datasets` id, such as mmarco/v2/de/train.

    Where it has docpairs, they are the pairs, with at most `negatives` hard negatives each; else its qrels above 0 are.

    Raises:
        ConfigError: the package `ir_datasets` is not installed, or the source is no training set.
        SourceUnavailableError: it cannot load the source.
    """
    dataset = _called("ir_datasets", source, _package("ir_datasets").load, source)
    if not (dataset.has_docs() and dataset.has_queries() and (dataset.has_docpairs() or dataset.has_qrels())):
        raise ConfigError(
            f"{source} of ir_datasets lacks documents, queries or qrels; expected an id that has all, such as "
            "mmarco/v2/de/train. Choose one of its parts."
        )
    queries, documents = (
        _table(texts, scratch / f"{name}.jsonl")
        for name, texts in (
            ("queries", ((query.query_id, query.default_text()) for query in dataset.queries_iter())),
            ("documents", ((document.doc_id, document.default_text()) for document in dataset.docs_iter())),
        )
    )
    if dataset.has_docpairs():
        triples = ((pair.query_id, pair.doc_id_a, pair.doc_id_b) for pair in dataset.docpairs_iter())
        yield from rows_of_triples(queries, documents, triples, negatives=negatives)
    else:
        relevant = (
            (qrel.query_id, qrel.doc_id) if qrel.relevance > 0 else NOT_RELEVANT for qrel in dataset.qrels_iter()
        )
        yield from rows_of_pairs(queries, documents, relevant)


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


def _called(package: str, source: str | Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:  # whatever the package, or the network under it, raises
        raise SourceUnavailableError(
            f"{package} cannot load {source}: {type(error).__name__}: {error} Correct the name in the recipe, or fetch "
            "it where there is a network and build again."
        ) from error
