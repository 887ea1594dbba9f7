"""Building the parallel layout: each language's texts once, in one order of rows for all of them, and groups as views.

    note     of each group: its pairs, as staged rows of its two languages
    align    of each dataset: the row of each key that some pair has, and the views
    write    of each language: the samples that some pair has, by rows

Only what is in a pair is stored: what was left out or held out is not in the training texts of any language.

Shape suffixes: N staged rows of a language · P pairs of a group · K keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.build.pairing import places_of
from hbdist.data.build.recipe import DatasetRecipe, Recipe
from hbdist.data.build.staging import BLOCK, StagedRows
from hbdist.data.build.tasks import Built, GroupTask, choose
from hbdist.data.build.text_keys import KEY
from hbdist.data.build.workspace import WORK, Workplace
from hbdist.data.shards.groups import Group, Texts, View
from hbdist.data.shards.manifest import VALIDATION
from hbdist.data.shards.open_files import ROW
from hbdist.data.shards.sample import LanguageSample
from hbdist.data.shards.write import write_texts
from hbdist.utils.files import sha256
from hbdist.utils.workers import count

TRAINING = "training"
PARTS = {TRAINING: "", VALIDATION: VALIDATION}
"""Part of the pairs → its folder in the shard folder."""
ABSENT = -1
"""In place of the row of a staged row that is in no pair."""


@dataclass(frozen=True)
class AlignTask:
    """A parallel dataset, whose groups are noted and are to become views."""

    plan: Recipe
    work: Workplace
    dataset: DatasetRecipe

    def __str__(self) -> str:
        return self.dataset.name


@dataclass(frozen=True)
class Aligned:
    """A dataset's views by part, those without pairs left out, and how many rows its languages' texts have."""

    views: dict[str, tuple[Group, ...]]
    rows: dict[str, int]


@dataclass(frozen=True)
class TextsTask:
    """One language of an aligned dataset, to be written."""

    plan: Recipe
    work: Workplace
    dataset: DatasetRecipe
    language: str
    aligned: Aligned

    def __str__(self) -> str:
        return f"{self.dataset.name}/{self.language}"


@dataclass(frozen=True)
class Written:
    """A language's texts by part, where it has any."""

    texts: dict[str, Texts]


def note_group(task: GroupTask) -> Built:
    """Note which pairs a group has, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> Built:
        chosen = choose(task)
        for part, pairs in ((TRAINING, chosen.training), (VALIDATION, chosen.validation)):
            _save(out / _noted(task.dataset, task.languages, part), np.stack((pairs.query_P, pairs.document_P)))
        return chosen.built

    return task.work.once(f"{task}.noted", Built, make)


def align(task: AlignTask) -> Aligned:
    """Give each key of a dataset that is in some pair its row, and write the views; unless an earlier builder has.

    Rows are in the order of the first language's source; after them come those that only later languages have.
    """

    def make(out: Path, scratch: Path) -> Aligned:
        rows = {part: _number_rows(task, part, out) for part in PARTS}
        return Aligned({part: tuple(_views(task, part, out)) for part in PARTS}, rows)

    return task.work.once(f"{task}.aligned", Aligned, make)


def write_language(task: TextsTask) -> Written:
    """Write the texts of one language that are in some pair, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> Written:
        staged = StagedRows(task.work.staged(task.dataset.name, task.language))
        texts = {}
        for part, folder in PARTS.items():
            row_N = np.load(task.work.partial / _rows(task.dataset, task.language, part), mmap_mode="r")
            written = write_texts(
                _samples(staged, row_N, task.language),
                root=out / folder,
                dataset=task.dataset.name,
                language=task.language,
                rows=task.aligned.rows[part],
                shard_rows=task.plan.shard_rows,
            )
            if written.shards:
                texts[part] = written
        return Written(texts)

    return task.work.once(f"{task}.texts", Written, make)


def _number_rows(task: AlignTask, part: str, out: Path) -> int:
    """Write, for each language, the row of each staged row; returns how many rows there are in all."""
    key_K: NDArray[np.void] = np.empty(0, KEY)
    for language in task.dataset.languages:
        key_N = StagedRows(task.work.staged(task.dataset.name, language)).row_N["key"]
        used = np.flatnonzero(_used(task, language, part, len(key_N)))
        row_N = np.full(len(key_N), ABSENT, np.int64)
        row_N[used] = places_of(key_N[used], key_K)
        new = used[row_N[used] == ABSENT]
        row_N[new] = len(key_K) + np.arange(len(new))
        key_K = np.concatenate((key_K, key_N[new]))
        _save(out / _rows(task.dataset, language, part), row_N)
    assert len(key_K) <= np.iinfo(ROW).max, f"{task} has {len(key_K)} rows"
    return len(key_K)


def _used(task: AlignTask, language: str, part: str, rows: int) -> NDArray[np.bool_]:
    """Which staged rows of a language are a query or a document of some pair: [N]."""
    used_N = np.zeros(rows, bool)
    for pair in task.dataset.groups:
        for side in (0, 1):
            if pair[side] == language:
                used_N[np.load(task.work.partial / _noted(task.dataset, pair, part), mmap_mode="r")[side]] = True
    return used_N


def _views(task: AlignTask, part: str, out: Path) -> Iterator[Group]:
    for pair in task.dataset.groups:
        query_P = np.load(task.work.partial / _noted(task.dataset, pair, part), mmap_mode="r")[0]
        if len(query_P):
            row_N = np.load(out / _rows(task.dataset, pair[0], part), mmap_mode="r")
            path = f"{task.dataset.name}/{'-'.join(pair)}.npy"
            file = out / PARTS[part] / path
            _save(file, row_N[query_P].astype(ROW))
            view = View(path, sha256(file), len(query_P), task.plan.shard_rows)
            yield Group(task.dataset.name, *pair, view=view)


def _samples(staged: StagedRows, row_N: NDArray[np.int64], language: str) -> Iterator[tuple[int, LanguageSample]]:
    place_U = np.flatnonzero(row_N != ABSENT)
    place_U = place_U[np.argsort(row_N[place_U])]
    for number, (place, row) in enumerate(zip(place_U.tolist(), row_N[place_U].tolist(), strict=True), 1):
        text = staged[place]
        yield row, LanguageSample(str(text.id), text.query, text.document, language, text.negatives, text.document_id)
        if number % BLOCK == 0:
            count(BLOCK)
    count(len(place_U) % BLOCK)


def _noted(dataset: DatasetRecipe, pair: tuple[str, str], part: str) -> str:
    return f"{WORK}/noted/{dataset.name}/{'-'.join(pair)}.{part}.npy"


def _rows(dataset: DatasetRecipe, language: str, part: str) -> str:
    return f"{WORK}/numbered/{dataset.name}/{language}.{part}.npy"


def _save(path: Path, array: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)
