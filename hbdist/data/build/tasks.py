"""The two kinds of tasks of a build: read one language of a dataset, write one group of pairs."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hbdist.data.build.decontamination import CONTAMINATED_TRANSLATION
from hbdist.data.build.pairing import HELD_OUT, Pairs, capped, distinct, not_among, translated, without_copies
from hbdist.data.build.recipe import DatasetRecipe, Recipe
from hbdist.data.build.staging import CONTAMINATED, Staged, StagedRows, stage
from hbdist.data.build.statistics import GroupSize
from hbdist.data.build.workspace import Workplace
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import VALIDATION
from hbdist.data.shards.write import write_shards
from hbdist.errors import DataError
from hbdist.utils.workers import BEAT_S, Progress

EXCLUDED = "excluded.npy"


@dataclass(frozen=True)
class LanguageTask:
    """One language of a dataset, to be read."""

    plan: Recipe
    work: Workplace
    inputs: str
    dataset: DatasetRecipe
    language: str

    def __str__(self) -> str:
        return f"{self.dataset.name}/{self.language}"


@dataclass(frozen=True)
class GroupTask:
    """The pairs of a dataset in one query language and one document language, to be written."""

    plan: Recipe
    work: Workplace
    dataset: DatasetRecipe
    languages: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.dataset.name}/{'-'.join(self.languages)}"


@dataclass(frozen=True)
class Built:
    """What came of a group, in the shard folder and in the one for validation within it."""

    size: GroupSize
    dropped: dict[str, int]
    validation_dropped: dict[str, int]
    group: Group | None = None
    """None: it has no pairs, or is still to be aligned."""
    validation: Group | None = None


def read_language(task: LanguageTask) -> Staged:
    """Stage the rows of one language, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> Staged:
        folder = out / task.work.staged_name(task.dataset.name, task.language)
        folder.mkdir(parents=True)
        return stage(task.plan, task.dataset, task.language, inputs=task.inputs, folder=folder, scratch=scratch)

    return task.work.once(str(task), Staged, make)


def exclude(dataset: DatasetRecipe, work: Workplace, staged: Mapping[str, Staged]) -> Counter[str]:
    """What was left out of a dataset while it was read.

    Notes the keys that are contaminated in any language of a parallel dataset: their translations say the same.

    Args:
        staged: language → what came of it.

    Raises:
        DataError: the files of a parallel text have not the same number of lines.
    """
    dropped: Counter[str] = Counter()
    for one in staged.values():
        dropped.update(one.dropped)
    if dataset.reader == "lines" and len({one.records for one in staged.values()}) > 1:
        lines = ", ".join(f"{language} {one.records:,}" for language, one in staged.items())
        raise DataError(
            f"{dataset.name}: the files have different numbers of lines ({lines}); expected translations line by line. "
            "Align them again."
        )
    folders = [work.staged(dataset.name, language) for language in staged]
    excluded = np.unique(np.concatenate([np.load(folder / CONTAMINATED) for folder in folders]))
    if not dataset.parallel:
        excluded = excluded[:0]
    np.save(work.staged(dataset.name, EXCLUDED), excluded)
    if len(excluded):
        keys = (StagedRows(folder).row_N["key"] for folder in folders)
        dropped[CONTAMINATED_TRANSLATION] += sum(int(np.isin(key_N, excluded).sum()) for key_N in keys)
    return dropped


def write_group(task: GroupTask) -> Built:
    """Write the shards of one group, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> Built:
        chosen = choose(task)
        dataset, rows = task.dataset.name, task.plan.shard_rows

        def written(pairs: Pairs, root: Path) -> Group | None:
            shards = write_shards(pairs, root=root, folder=str(task), shard_rows=rows)
            return Group(dataset, *task.languages, shards) if shards else None

        return replace(
            chosen.built,
            group=written(chosen.training, out),
            validation=written(chosen.validation, out / VALIDATION),
        )

    return task.work.once(str(task), Built, make)


@dataclass(frozen=True)
class Chosen:
    """The pairs of a group that are kept: to train on, and for validation."""

    training: Pairs
    validation: Pairs
    built: Built


def choose(task: GroupTask) -> Chosen:
    """Which pairs of a group are kept, whatever the layout."""
    dropped: Counter[str] = Counter()
    held_out_dropped: Counter[str] = Counter()
    pairs = _distinct(task, dropped)
    held_out_P = pairs.held_out
    dropped[HELD_OUT] += int(held_out_P.sum())
    cap = 0 if pairs.monolingual else task.plan.pairs_per_group
    training = capped(pairs.where(~held_out_P), cap, dropped)
    validation = capped(pairs.where(held_out_P), cap, held_out_dropped)
    return Chosen(training, validation, Built(training.size, dict(+dropped), dict(+held_out_dropped)))


def _distinct(task: GroupTask, dropped: Counter[str]) -> Pairs:
    pairs = distinct(_candidates(task, task.dataset, dropped), dropped)
    if task.plan.deduplicate.across_datasets:
        for earlier in task.plan.dataset[: task.plan.dataset.index(task.dataset)]:
            if task.languages in earlier.groups:
                pairs = not_among(pairs, _candidates(task, earlier, Counter()), dropped)
    return pairs


def _candidates(task: GroupTask, dataset: DatasetRecipe, dropped: Counter[str]) -> Pairs:
    """All that could be pairs of the task's languages, of its dataset or an earlier one."""
    query_lang, document_lang = task.languages
    folders = task.work.staged(dataset.name, query_lang), task.work.staged(dataset.name, document_lang)
    excluded = np.load(task.work.staged(dataset.name, EXCLUDED))
    pairs = translated(dataset.name, task.languages, folders, excluded=excluded, dropped=dropped)
    return without_copies(pairs, dropped) if dataset.reader == "lines" else pairs


class Pace:
    """Turns what tasks tell into calls of a progress, every few seconds, with the rate and the time that is left.

    Args:
        verb, unit: what is done, to what: "writing", "pairs".
        tasks: how many there are.
        expected: of the unit, in all; 0 if nobody knows yet.
    """

    def __init__(self, verb: str, unit: str, progress: Progress, *, tasks: int, expected: int = 0) -> None:
        self.verb, self.unit, self.progress, self.tasks, self.expected = verb, unit, progress, tasks, expected
        self.done, self.counted, self.start, self.shown = 0, 0, time.monotonic(), 0.0

    def beat(self, counted: int) -> None:
        """So many units are done."""
        self.counted = counted
        self._show()

    def finished(self, done: int, total: int, what: str) -> None:
        """So many tasks are done."""
        self.done = done
        self._show(last=done == total)

    def _show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now < self.shown + BEAT_S and not last:
            return
        self.shown = now
        rate = self.counted / max(now - self.start, 1e-9)
        text = f"{self.verb} {self.unit}, {rate:,.0f} a second" if rate else f"{self.verb} {self.unit}"
        if rate and self.expected and not last:
            seconds = max(0, self.expected - self.counted) / rate
            text += f", {seconds / 60:,.0f} min left" if seconds >= 90 else f", {seconds:,.0f} s left"
        self.progress(self.done, self.tasks, text)
