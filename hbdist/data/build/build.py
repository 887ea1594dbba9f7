"""Building a shard folder from a recipe: in parallel, all or nothing, the same bytes every time, and on from where a
builder was killed."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbdist.data.build.parallel_layout import PARTS, AlignTask, TextsTask, align, note_group, write_language
from hbdist.data.build.readers import files_of
from hbdist.data.build.recipe import Recipe
from hbdist.data.build.staging import Staged
from hbdist.data.build.statistics import STATISTICS, GroupSize, Statistics
from hbdist.data.build.tasks import Built, GroupTask, LanguageTask, Pace, exclude, read_language, write_group
from hbdist.data.build.workspace import Workplace, locked, workplace
from hbdist.data.shards.groups import Group, Texts
from hbdist.data.shards.manifest import FILE, VALIDATION, VERSION, Manifest
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import sha256
from hbdist.utils.workers import Progress, in_parallel, silent

Dropped = dict[str, Counter[str]]
"""Dataset → reason → how many."""


def build(
    recipe: str | Path, out: str | Path | None = None, *, workers: int | None = None, progress: Progress = silent
) -> Manifest:
    """Build the shard folder that a recipe describes, and return its manifest.

    The folder appears when it is complete; one that stands there is replaced if `build` made it. If it was made from
    the same recipe and the same files, and still is as it was made, it is returned at once. A build that was killed
    leaves what it had finished beside the folder, and the next one from the same recipe and files goes on with it. Of
    several builders of one folder one builds; the others wait for it.

    Args:
        recipe: a TOML file; shards/README.md says what is in it.
        out: the folder to build; unset: the recipe's `out`.
        workers: processes; unset: one a core. The bytes do not depend on it.
        progress: called as progress(done, total, what) every few seconds; once with "reused …" if nothing is built.

    Raises:
        ConfigError: the recipe is wrong, names files that do not exist, or needs a package that is not installed; or at
            `out` stands something that `build` did not make.
        DataError: a source file is damaged or not in the format the recipe says, or a group that was asked for has no
            pairs.
    """
    recipe = Path(recipe)
    plan = Recipe.load(recipe)
    root = _root(recipe, plan, out)
    inputs = _inputs(recipe, plan, workers=workers)
    if finished := _finished(root, plan, inputs):
        progress(1, 1, f"reused {root}")
        return finished
    with locked(root, waiting=lambda: progress(0, 1, f"waiting for another builder of {root}")):
        if finished := _finished(root, plan, inputs):  # the other builder's work
            progress(1, 1, f"reused {root}")
            return finished
        with workplace(root, inputs) as work:
            staged = _read(plan, work, inputs, workers=workers, progress=progress)
            dropped = {dataset.name: exclude(dataset, work, staged[dataset.name]) for dataset in plan.dataset}
            contents = _write(plan, work, staged, dropped, workers=workers, progress=progress)
            _describe(plan, work.partial, inputs, *contents)
            _standing(root)  # what appeared there meanwhile is no more to be replaced than what was there before
            work.finish(root)
        return Manifest.load(root)


def _read(
    plan: Recipe, work: Workplace, inputs: str, *, workers: int | None, progress: Progress
) -> dict[str, dict[str, Staged]]:
    """Dataset → language → what came of it."""
    tasks = [LanguageTask(plan, work, inputs, dataset, lang) for dataset in plan.dataset for lang in dataset.languages]
    pace = Pace("reading", "rows", progress, tasks=len(tasks))
    done = in_parallel(read_language, tasks, workers=workers, progress=pace.finished, beat=pace.beat)
    staged: dict[str, dict[str, Staged]] = {}
    for task, one in zip(tasks, done, strict=True):
        staged.setdefault(task.dataset.name, {})[task.language] = one
    return staged


@dataclass
class Contents:
    """What a manifest is to list."""

    dropped: Dropped
    groups: list[Group] = field(default_factory=list)
    texts: list[Texts] = field(default_factory=list)
    sizes: list[GroupSize] = field(default_factory=list)


def _write(
    plan: Recipe,
    work: Workplace,
    staged: Mapping[str, Mapping[str, Staged]],
    dropped: Dropped,
    *,
    workers: int | None,
    progress: Progress,
) -> tuple[Contents, Contents]:
    """Write all that is kept: to train on, and for validation."""
    contents = Contents(dropped), Contents({dataset.name: Counter() for dataset in plan.dataset})
    tasks = [GroupTask(plan, work, dataset, pair) for dataset in plan.dataset for pair in dataset.groups]
    for layout, verb, function in (("pairs", "writing", write_group), ("parallel", "pairing", note_group)):
        of_layout = [task for task in tasks if task.dataset.layout == layout]
        expected = _expected(plan, of_layout, staged) if function is write_group else 0
        pace = Pace(verb, "pairs", progress, tasks=len(of_layout), expected=expected)
        done = in_parallel(function, of_layout, workers=workers, progress=pace.finished, beat=pace.beat)
        for task, one in zip(of_layout, done, strict=True):
            _demand_pairs(task, one, staged[task.dataset.name][task.languages[0]])
            _take(contents, task, one)
    _write_parallel(plan, work, contents, workers=workers, progress=progress)
    return contents


def _take(contents: tuple[Contents, Contents], task: GroupTask, built: Built) -> None:
    training, validation = contents
    for part, group, dropped in (
        (training, built.group, built.dropped),
        (validation, built.validation, built.validation_dropped),
    ):
        part.dropped[task.dataset.name].update(dropped)
        part.groups += [group] if group else []
    training.sizes += [built.size] if built.size.pairs else []


def _write_parallel(
    plan: Recipe,
    work: Workplace,
    contents: tuple[Contents, Contents],
    *,
    workers: int | None,
    progress: Progress,
) -> None:
    """Of the datasets with the parallel layout, write the views and the texts."""
    to_align = [AlignTask(plan, work, dataset) for dataset in plan.dataset if dataset.layout == "parallel"]
    aligned = in_parallel(align, to_align, workers=workers)
    tasks = [
        TextsTask(plan, work, task.dataset, language, one)
        for task, one in zip(to_align, aligned, strict=True)
        for language in task.dataset.languages
    ]
    pace = Pace("writing", "texts", progress, tasks=len(tasks))
    written = in_parallel(write_language, tasks, workers=workers, progress=pace.finished, beat=pace.beat)
    for part, content in zip(PARTS, contents, strict=True):
        content.groups += [group for one in aligned for group in one.views[part]]
        content.texts += [one.texts[part] for one in written if part in one.texts]


def _expected(plan: Recipe, tasks: Sequence[GroupTask], staged: Mapping[str, Mapping[str, Staged]]) -> int:
    """About how many pairs groups will have."""
    total = 0
    for task in tasks:
        pairs = min(staged[task.dataset.name][language].rows for language in task.languages)
        monolingual = len(set(task.languages)) == 1
        total += pairs if monolingual else min(pairs, plan.pairs_per_group or pairs)
    return total


def _demand_pairs(task: GroupTask, built: Built, queries: Staged) -> None:
    cross_lingual = task.languages[0] != task.languages[1]
    if built.size.pairs or (cross_lingual and task.dataset.cross == "all"):
        return  # not every two languages of a large parallel set share an id; "no translation" counts them
    left_out = dict(Counter(queries.dropped) + Counter(built.dropped))
    source = task.dataset.files.get(task.languages[0]) or task.dataset.sources[task.languages[0]]
    raise DataError(
        f"{task}: no pairs in {source} (left out: {left_out or 'nothing'}); expected at least one. Correct the file, or "
        "take the language out of the recipe."
    )


def _describe(plan: Recipe, root: Path, inputs: str, training: Contents, validation: Contents) -> None:
    """Write the manifests, the one that makes the folder complete last, and the statistics."""
    if plan.validation and not validation.groups:
        raise DataError(
            f"validation = {plan.validation} holds out no pair at all; expected some. Raise it, or leave it out."
        )
    licences = {dataset.name: dataset.licence for dataset in plan.dataset}
    if validation.groups:
        _manifest(root / VALIDATION, validation, licences, inputs).save(root / VALIDATION)
    Statistics.of(training.sizes).save(root)
    _manifest(root, training, licences, inputs).save(root)


def _manifest(root: Path, contents: Contents, licences: Mapping[str, str], inputs: str) -> Manifest:
    dropped = {dataset: dict(sorted((+reasons).items())) for dataset, reasons in contents.dropped.items()}
    groups = tuple(sorted(contents.groups, key=lambda group: group.key))
    texts = tuple(sorted(contents.texts, key=lambda one: one.name))
    return Manifest(root, groups, dropped, licences, inputs, texts)


def _root(recipe: Path, plan: Recipe, out: str | Path | None) -> Path:
    root = Path(out) if out is not None else plan.out
    if root is None:
        raise ConfigError(f'{recipe} has no key out, and none was given. Add out = "FOLDER" to it.')
    return root


def _inputs(recipe: Path, plan: Recipe, *, workers: int | None) -> str:
    """A digest of all that the bytes of a build follow from. A source on the hub stands for itself by its name.

    Raises:
        ConfigError: a file does not exist.
    """
    files = [file for dataset in plan.dataset for file in files_of(dataset)]
    files += plan.decontaminate.files if plan.decontaminate else ()
    if missing := [str(file) for file in files if not file.is_file()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"{recipe} names {', '.join(missing[:3])}{more}; expected files that exist. "
            "Fetch them, or correct their paths (they are relative to the recipe)."
        )
    parts = [str(VERSION), sha256(recipe), *in_parallel(sha256, files, workers=workers)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _finished(root: Path, plan: Recipe, inputs: str) -> Manifest | None:
    """The build of these inputs, if it stands at `root` and is intact.

    Raises:
        ConfigError: something stands there that must not be replaced.
    """
    standing = _standing(root)
    if standing and standing.inputs == inputs and _is_intact(standing) and _has_all(standing, plan):
        return standing
    return None


def _standing(root: Path) -> Manifest | None:
    """The build that stands at `root`; None if nothing does, or one of an earlier version.

    Raises:
        ConfigError: something else stands there, which must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    manifest = None
    if not (datasets := _datasets_of_an_earlier_version(root)):
        try:
            manifest = Manifest.load(root)
        except DataError as error:
            raise ConfigError(
                f"{root} is there already and is not a complete build ({error}) Remove it by hand, or build elsewhere."
            ) from None
        datasets = {group.dataset for group in manifest.groups}
    strangers = {path.name for path in root.iterdir()} - {FILE, STATISTICS, VALIDATION} - datasets
    if strangers:
        raise ConfigError(
            f"{root} holds {', '.join(sorted(strangers)[:3])}, which no build made and a new one would delete; expected "
            "shards alone. Move it away, or build elsewhere."
        )
    return manifest


def _datasets_of_an_earlier_version(root: Path) -> set[str]:
    """The datasets of a folder whose manifest an earlier version wrote; none if there is no such manifest."""
    try:
        values: Any = json.loads((root / FILE).read_text(encoding="utf-8"))
        return set(values["licences"]) if values["version"] < VERSION else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _is_intact(manifest: Manifest) -> bool:
    """Whether every file is, to the byte, as it was built: a damaged folder must not survive being built again."""
    return all(
        (manifest.folder / path).is_file() and sha256(manifest.folder / path) == digest
        for path, digest in _files(manifest)
    )


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for shard_set in manifest.shard_sets:
        for shard in shard_set.shards:
            yield shard.path, shard.sha256
            yield shard.index, shard.index_sha256
        if isinstance(shard_set, Group) and shard_set.view:
            yield shard_set.view.path, shard_set.view.sha256


def _has_all(manifest: Manifest, plan: Recipe) -> bool:
    """Whether what a build puts beside the shards is there and intact too."""
    if not (manifest.folder / STATISTICS).is_file():
        return False
    try:
        return not plan.validation or _is_intact(Manifest.load(manifest.folder / VALIDATION))
    except DataError:
        return False
