"""Parallel layout: the texts of each language once, in one order of rows for all languages, and groups as views of them.

Built in three steps: `select_group` for each group, `align` for each dataset, `write_language` for each language. Only texts
that are in a pair are stored: what was left out or held out is not in the training texts of any language.

Shape suffixes: N staged rows of a language · P pairs of a group · K keys · U staged rows in use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.build.pairing import positions_of
from hbdist.data.build.recipe import DatasetRecipe
from hbdist.data.build.staging import StagedRows
from hbdist.data.build.tasks import DatasetTask, GroupResult, GroupTask, LanguageTask, select_pairs
from hbdist.data.build.text_keys import KEY
from hbdist.data.build.workspace import WORK
from hbdist.data.shards.groups import Group, Texts, View
from hbdist.data.shards.manifest import VALIDATION
from hbdist.data.shards.open_files import ROW
from hbdist.data.shards.sample import LanguageSample
from hbdist.data.shards.write import write_texts
from hbdist.utils.files import sha256
from hbdist.utils.workers import counted

TRAINING = "training"
PARTS = {TRAINING: "", VALIDATION: VALIDATION}
"""Part of the pairs → its folder in the shard folder."""
ABSENT = -1
"""Row number of a staged row that is in no pair."""


@dataclass(frozen=True)
class Alignment:
    """Views of a dataset, without those that have no pairs, and the number of rows of its texts, by part."""

    views: dict[str, tuple[Group, ...]]
    rows: dict[str, int]


@dataclass(frozen=True)
class TextsTask(LanguageTask):
    """Writing of the texts of one language of an aligned dataset."""

    alignment: Alignment


def select_group(task: GroupTask) -> GroupResult:
    """Save the pairs of a group as indexes of staged rows, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> GroupResult:
        training, validation, result = select_pairs(task)
        for part, pairs in ((TRAINING, training), (VALIDATION, validation)):
            _save(out / _pairs_file(task.dataset, task.languages, part), np.stack((pairs.query_P, pairs.document_P)))
        return result

    return task.workspace.once(f"{task}.noted", GroupResult, make)


def align(task: DatasetTask) -> Alignment:
    """Assign rows to the keys of a dataset that are in a pair, and write the views, unless an earlier builder has.

    Rows are in the order of the first language's source; keys that only later languages have come after them.
    """

    def make(out: Path, scratch: Path) -> Alignment:
        rows = {part: _number_rows(task, part, out) for part in PARTS}
        return Alignment({part: tuple(_views(task, part, out)) for part in PARTS}, rows)

    return task.workspace.once(f"{task}.aligned", Alignment, make)


def write_language(task: TextsTask) -> dict[str, Texts]:
    """Write the texts of one language that are in a pair, unless an earlier builder has; returns those of each part."""

    def make(out: Path, scratch: Path) -> dict[str, Texts]:
        staged = StagedRows(task.workspace.staged(task.dataset.name, task.language))
        texts = {}
        for part, folder in PARTS.items():
            row_N = np.load(task.workspace.partial / _rows_file(task.dataset, task.language, part), mmap_mode="r")
            samples, rows = _samples(staged, row_N, task.language), task.alignment.rows[part]
            names = {"dataset": task.dataset.name, "language": task.language}
            texts[part] = write_texts(samples, root=out / folder, **names, rows=rows, shard_rows=task.recipe.shard_rows)
        return {part: written for part, written in texts.items() if written.shards}

    return task.workspace.once(f"{task}.texts", dict[str, Texts], make)


def _number_rows(task: DatasetTask, part: str, out: Path) -> int:
    """Save, for each language, the row of each staged row; returns the number of rows."""
    key_K: NDArray[np.void] = np.empty(0, KEY)
    for language in task.dataset.languages:
        key_N = StagedRows(task.workspace.staged(task.dataset.name, language)).row_N["key"]
        used = np.flatnonzero(_used(task, language, part, len(key_N)))
        row_N = np.full(len(key_N), ABSENT, np.int64)
        row_N[used] = positions_of(key_N[used], key_K)
        new = used[row_N[used] == ABSENT]
        row_N[new] = len(key_K) + np.arange(len(new))
        key_K = np.concatenate((key_K, key_N[new]))
        _save(out / _rows_file(task.dataset, language, part), row_N)
    assert len(key_K) <= np.iinfo(ROW).max, f"{task} has {len(key_K)} rows"
    return len(key_K)


def _used(task: DatasetTask, language: str, part: str, rows: int) -> NDArray[np.bool_]:
    """Return the mask of a language's staged rows that are the query or the document of a pair: [N]."""
    used_N = np.zeros(rows, bool)
    for languages in task.dataset.groups:
        for side in (0, 1):
            if languages[side] == language:
                used_N[_load_pairs(task, languages, part)[side]] = True
    return used_N


def _views(task: DatasetTask, part: str, out: Path) -> Iterator[Group]:
    for languages in task.dataset.groups:
        query_P = _load_pairs(task, languages, part)[0]
        if len(query_P):
            row_N = np.load(out / _rows_file(task.dataset, languages[0], part), mmap_mode="r")
            path = f"{task.dataset.name}/{'-'.join(languages)}.npy"
            file = out / PARTS[part] / path
            _save(file, row_N[query_P].astype(ROW))
            view = View(path, sha256(file), len(query_P), task.recipe.shard_rows)
            yield Group(task.dataset.name, *languages, view=view)


def _samples(staged: StagedRows, row_N: NDArray[np.int64], language: str) -> Iterator[tuple[int, LanguageSample]]:
    index_U = np.flatnonzero(row_N != ABSENT)
    index_U = index_U[np.argsort(row_N[index_U])]
    for index, row in counted(zip(index_U.tolist(), row_N[index_U].tolist(), strict=True)):
        text = staged[index]
        yield row, LanguageSample(str(text.id), text.query, text.document, language, text.negatives, text.document_id)


def _load_pairs(task: DatasetTask, languages: tuple[str, str], part: str) -> NDArray[np.int64]:
    """Return the staged rows of queries and documents of a group: [2, P]."""
    return np.load(task.workspace.partial / _pairs_file(task.dataset, languages, part), mmap_mode="r")


def _pairs_file(dataset: DatasetRecipe, languages: tuple[str, str], part: str) -> str:
    return f"{WORK}/noted/{dataset.name}/{'-'.join(languages)}.{part}.npy"


def _rows_file(dataset: DatasetRecipe, language: str, part: str) -> str:
    return f"{WORK}/numbered/{dataset.name}/{language}.{part}.npy"


def _save(path: Path, array: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)
