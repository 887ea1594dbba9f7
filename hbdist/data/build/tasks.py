"""Tasks of a build: read one language of a dataset, select the pairs of one group and write them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hbdist.data.build import pairing
from hbdist.data.build.decontamination import CONTAMINATED_TRANSLATION
from hbdist.data.build.pairing import Pairs
from hbdist.data.build.recipe import DatasetRecipe, Recipe
from hbdist.data.build.staging import CONTAMINATED, StagedCounts, StagedRows, stage
from hbdist.data.build.statistics import GroupSize
from hbdist.data.build.workspace import Workspace
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import VALIDATION
from hbdist.data.shards.write import write_shards
from hbdist.errors import DataError

EXCLUDED = "excluded.npy"
"""Keys that are contaminated in some language of a dataset."""


@dataclass(frozen=True)
class DatasetTask:
    """Work on one dataset of a recipe."""

    recipe: Recipe
    workspace: Workspace
    dataset: DatasetRecipe

    def __str__(self) -> str:
        return self.dataset.name


@dataclass(frozen=True)
class LanguageTask(DatasetTask):
    """Work on one language of a dataset."""

    language: str

    def __str__(self) -> str:
        return f"{self.dataset.name}/{self.language}"


@dataclass(frozen=True)
class GroupTask(DatasetTask):
    """Work on the pairs of a dataset in one query language and one document language."""

    languages: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.dataset.name}/{'-'.join(self.languages)}"


@dataclass(frozen=True)
class GroupResult:
    """One group of a shard folder, and of the folder for validation within it."""

    size: GroupSize
    dropped: dict[str, int]
    validation_dropped: dict[str, int]
    group: Group | None = None
    """The training group; None if it has no pairs, or if its rows are not aligned yet."""
    validation: Group | None = None
    """The validation group; None likewise."""


def read_language(task: LanguageTask) -> StagedCounts:
    """Stage the rows of one language, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> StagedCounts:
        folder = replace(task.workspace, partial=out).staged(task.dataset.name, task.language)
        folder.mkdir(parents=True)
        inputs = task.workspace.inputs
        return stage(task.recipe, task.dataset, task.language, inputs=inputs, folder=folder, scratch=scratch)

    return task.workspace.once(str(task), StagedCounts, make)


def exclude_contaminated(
    dataset: DatasetRecipe, workspace: Workspace, staged: Mapping[str, StagedCounts]
) -> Counter[str]:
    """Return how many rows of a dataset were left out while it was read, by reason; `staged` is by language.

    Saves the keys that are contaminated in any language of a parallel dataset: their translations say the same.

    Raises:
        DataError: the files of parallel text have different numbers of lines.
    """
    dropped: Counter[str] = Counter()
    for counts in staged.values():
        dropped.update(counts.dropped)
    if dataset.reader == "lines" and len({counts.records for counts in staged.values()}) > 1:
        lines = ", ".join(f"{language} {counts.records:,}" for language, counts in staged.items())
        raise DataError(
            f"{dataset.name}: the files have different numbers of lines ({lines}); expected translations line by line. "
            "Align them again."
        )
    folders = [workspace.staged(dataset.name, language) for language in staged]
    excluded = np.unique(np.concatenate([np.load(folder / CONTAMINATED) for folder in folders]))
    if not dataset.parallel:
        excluded = excluded[:0]
    np.save(workspace.staged(dataset.name, EXCLUDED), excluded)
    if len(excluded):
        keys = (StagedRows(folder).row_N["key"] for folder in folders)
        dropped[CONTAMINATED_TRANSLATION] += sum(int(np.isin(key_N, excluded).sum()) for key_N in keys)
    return dropped


def write_group(task: GroupTask) -> GroupResult:
    """Write the shards of one group, unless an earlier builder has."""

    def make(out: Path, scratch: Path) -> GroupResult:
        def write(pairs: Pairs, root: Path) -> Group | None:
            shards = write_shards(pairs, root=root, folder=str(task), shard_rows=task.recipe.shard_rows)
            return Group(task.dataset.name, *task.languages, shards) if shards else None

        training, validation, result = select_pairs(task)
        return replace(result, group=write(training, out), validation=write(validation, out / VALIDATION))

    return task.workspace.once(str(task), GroupResult, make)


def select_pairs(task: GroupTask) -> tuple[Pairs, Pairs, GroupResult]:
    """Return the pairs of a group for training and for validation, and their numbers, for either layout."""
    dropped: Counter[str] = Counter()
    validation_dropped: Counter[str] = Counter()
    pairs = pairing.drop_duplicates(_join(task, task.dataset, dropped), dropped)
    if task.recipe.deduplicate.across_datasets:
        for earlier in task.recipe.dataset[: task.recipe.dataset.index(task.dataset)]:
            if task.languages in earlier.groups:
                pairs = pairing.drop_known(pairs, _join(task, earlier, Counter()), dropped)
    limit = 0 if pairs.monolingual else task.recipe.pairs_per_group
    validation = pairing.cap(pairs.select(pairs.held_out), limit, validation_dropped)
    training = pairing.cap(pairs.keep(~pairs.held_out, pairing.HELD_OUT, dropped), limit, dropped)
    return training, validation, GroupResult(training.size, dict(+dropped), dict(+validation_dropped))


def _join(task: GroupTask, dataset: DatasetRecipe, dropped: Counter[str]) -> Pairs:
    """Join the two languages of a task in its own dataset or in an earlier one."""
    query_lang, document_lang = task.languages
    folders = task.workspace.staged(dataset.name, query_lang), task.workspace.staged(dataset.name, document_lang)
    excluded = np.load(task.workspace.staged(dataset.name, EXCLUDED))
    pairs = pairing.join_languages(dataset.name, task.languages, folders, excluded=excluded, dropped=dropped)
    return pairing.drop_untranslated(pairs, dropped) if dataset.reader == "lines" else pairs
