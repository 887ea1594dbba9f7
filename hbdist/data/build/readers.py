"""Choice of the reader for a dataset of a recipe."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from hbdist.data.build.recipe import DatasetRecipe
from hbdist.data.sources.corpora import beir_files, read_beir, read_msmarco
from hbdist.data.sources.files import read_csv, read_json_or_jsonl, read_lines, read_squad
from hbdist.data.sources.libraries import read_datasets, read_ir_datasets
from hbdist.data.sources.rows import ParseRow, Record, rows_of


def read(dataset: DatasetRecipe, language: str, *, scratch: Path) -> Iterator[Record]:
    """Return the rows of one language in the source's order, with a reason for each record that has no row.

    Several files of a language are read one after another.

    Args:
        scratch: an empty folder for temporary files of the reader; the caller deletes it.

    Raises:
        ConfigError: a package is missing, or does not know the source.
        DataError: a file is damaged or not in the format that the recipe names.
    """
    if language in dataset.sources:
        return _read_library(dataset, dataset.sources[language], scratch=scratch)
    files = enumerate(dataset.files[language])
    return chain.from_iterable(_read_file(dataset, language, number, path, scratch) for number, path in files)


def _read_file(dataset: DatasetRecipe, language: str, number: int, path: Path, scratch: Path) -> Iterator[Record]:
    parse: ParseRow = partial(rows_of, fields=dataset.fields, where=dataset.where)
    match dataset.reader:
        case "jsonl":
            return read_json_or_jsonl(path, parse)
        case "squad":
            # Positions of paragraphs in the second file are not those in the first.
            return read_squad(path, document=dataset.document, prefix=f"{number}:" if number else "")
        case "lines":
            return read_lines(path)
        case "beir":
            return read_beir(path, split=dataset.split, scratch=scratch)
        case "msmarco":
            return read_msmarco(
                path,
                queries=dataset.queries[language],
                triples=dataset.triples,
                qrels=dataset.qrels,
                negatives=dataset.negatives_per_pair,
                scratch=scratch,
            )
        case "datasets":
            # `datasets` would guess the types of cells and values in text files.
            match path.name.removesuffix(".gz").rpartition(".")[2]:
                case "csv":
                    return read_csv(path, parse)
                case "json" | "jsonl":
                    return read_json_or_jsonl(path, parse)
            return read_datasets(path, parse, split=dataset.split, revision=dataset.revision, scratch=scratch)
        case "ir_datasets":
            raise AssertionError("a recipe gives ir_datasets sources, not files")


def _read_library(dataset: DatasetRecipe, source: str, *, scratch: Path) -> Iterator[Record]:
    if dataset.reader == "ir_datasets":
        return read_ir_datasets(source, negatives=dataset.negatives_per_pair, scratch=scratch)
    parse: ParseRow = partial(rows_of, fields=dataset.fields, where=dataset.where)
    return read_datasets(source, parse, split=dataset.split, revision=dataset.revision, scratch=scratch)


def files_of(dataset: DatasetRecipe) -> list[Path]:
    """Return all files that the readers of this dataset open, in the recipe's order, each once."""
    if dataset.reader == "beir":
        return [file for (folder,) in dataset.files.values() for file in beir_files(folder, dataset.split)]
    shared = [file for file in (dataset.triples, dataset.qrels) if file]
    return list(dict.fromkeys([*chain.from_iterable(dataset.files.values()), *dataset.queries.values(), *shared]))
