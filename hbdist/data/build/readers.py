"""Choice of the reader for a dataset of a recipe."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hbdist.data.build.recipe import DatasetRecipe
from hbdist.data.sources.corpora import beir_files, read_beir, read_msmarco
from hbdist.data.sources.files import read_jsonl, read_lines, read_squad
from hbdist.data.sources.libraries import read_datasets, read_ir_datasets
from hbdist.data.sources.rows import Row, row_of


def read(dataset: DatasetRecipe, language: str, *, scratch: Path) -> Iterator[Row | str]:
    """Return the rows of one language in the source's order, with a reason for each record that has no row.

    Args:
        scratch: an empty folder for temporary files of the reader; the caller deletes it.

    Raises:
        ConfigError: a package is missing, or does not know the source.
        DataError: a file is damaged or not in the format that the recipe names.
    """
    path = dataset.files.get(language, Path())
    parse = partial(row_of, fields=dataset.fields, where=dataset.where)
    match dataset.reader:
        case "jsonl":
            return read_jsonl(path, parse)
        case "squad":
            return read_squad(path, document=dataset.document)
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
            source = dataset.sources.get(language, path)
            return read_datasets(source, parse, split=dataset.split, revision=dataset.revision, scratch=scratch)
        case "ir_datasets":
            return read_ir_datasets(dataset.sources[language], negatives=dataset.negatives_per_pair, scratch=scratch)


def files_of(dataset: DatasetRecipe) -> list[Path]:
    """Return all files that the readers of this dataset open, in the recipe's order, each once."""
    if dataset.reader == "beir":
        return [file for folder in dataset.files.values() for file in beir_files(folder, dataset.split)]
    shared = [file for file in (dataset.triples, dataset.qrels) if file]
    return list(dict.fromkeys([*dataset.files.values(), *dataset.queries.values(), *shared]))
