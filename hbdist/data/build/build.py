"""Build of a shard folder from a recipe: on all cores, all or nothing, resumable, and always the same bytes."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hbdist.data.build.parallel_layout import PARTS, TextsTask, align, select_group, write_language
from hbdist.data.build.readers import files_of
from hbdist.data.build.recipe import Recipe
from hbdist.data.build.staging import StagedCounts
from hbdist.data.build.statistics import STATISTICS, GroupSize, Statistics
from hbdist.data.build.tasks import (
    DatasetTask,
    GroupResult,
    GroupTask,
    LanguageTask,
    exclude_contaminated,
    read_language,
    write_group,
)
from hbdist.data.build.worker_pool import Pool
from hbdist.data.build.workspace import Workspace, build_lock, open_workspace
from hbdist.data.shards.groups import Group, Texts
from hbdist.data.shards.manifest import FILE, VALIDATION, VERSION, Manifest
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import check_path, naming_disk_errors, sha256
from hbdist.utils.json_toml import read_json_object
from hbdist.utils.workers import Progress, map_in_pool, silent


def build(
    recipe: str | Path, out: str | Path | None = None, *, workers: int | None = None, progress: Progress = silent
) -> Manifest:
    """Build the shard folder that a recipe describes, and return its manifest.

    The folder appears when it is complete; it replaces an existing one that `build` made. If that was made from the
    same recipe and the same files, and is still intact, it is returned at once. A build that was killed leaves its
    finished work beside the folder, and the next one from the same recipe and files resumes it. If several processes
    build one folder, one works and the others wait for it.

    Args:
        recipe: a TOML file, as described in shards/README.md.
        out: the folder to build; unset: the recipe's `out`.
        workers: number of processes; unset: one per core. The bytes do not depend on it.
        progress: called as progress(done, total, what) every few seconds; once with "reused …" if nothing is built.

    Raises:
        ConfigError: the recipe is wrong, names files that do not exist, or needs a package that is not installed; or
            `out` exists and was not made by `build`.
        DataError: a source file is damaged or not in the format that the recipe names, or a group that the recipe asks
            for has no pairs.
        RunError: the disk is full, read-only or fails, or a worker was killed.
    """
    path = Path(recipe)
    loaded = Recipe.load(path)
    root = Path(out) if out is not None else loaded.out
    if root is None:
        raise ConfigError(f'{path} has no key out, and none was given. Add out = "FOLDER" to it.')
    try:
        check_path(root)
    except ValueError as error:
        raise ConfigError(f"The folder to build cannot be: {error}. Give another --out.") from None
    inputs = _digest_inputs(path, loaded, workers=workers)
    if finished := _find_finished(root, loaded, inputs):
        progress(1, 1, f"reused {root}")
        return finished
    _check_writable(root)
    waiting = partial(progress, 0, 1, f"waiting for another builder of {root}")
    with naming_disk_errors(root), build_lock(root, waiting=waiting):
        if finished := _find_finished(root, loaded, inputs):  # the other builder's work
            progress(1, 1, f"reused {root}")
            return finished
        with open_workspace(root, inputs) as workspace:
            contents = _build(loaded, workspace, Pool(workers, progress))
            _write_manifests(loaded, workspace.partial, inputs, *contents)
            _load_existing(root)  # something that must not be replaced may have appeared meanwhile
            workspace.finish(root)
        return Manifest.load(root)


@dataclass
class Contents:
    """Contents of a manifest."""

    dropped: dict[str, Counter[str]]
    """Dataset → reason → number of rows left out."""
    groups: list[Group] = field(default_factory=list)
    texts: list[Texts] = field(default_factory=list)
    sizes: list[GroupSize] = field(default_factory=list)

    def add(self, dataset: str, group: Group | None, dropped: Mapping[str, int]) -> None:
        """Add a group, if it has pairs, and the numbers of rows that were left out of it."""
        self.groups += [group] if group else []
        self.dropped[dataset].update(dropped)


def _build(recipe: Recipe, workspace: Workspace, pool: Pool) -> tuple[Contents, Contents]:
    """Write all shards; return the contents for training and for validation."""
    datasets = recipe.dataset
    reading = [LanguageTask(recipe, workspace, dataset, lang) for dataset in datasets for lang in dataset.languages]
    staged: dict[str, dict[str, StagedCounts]] = {}
    for read, counts in zip(reading, pool.run(read_language, reading, "reading", "rows"), strict=True):
        staged.setdefault(read.dataset.name, {})[read.language] = counts
    training = Contents({one.name: exclude_contaminated(one, workspace, staged[one.name]) for one in datasets})
    validation = Contents({dataset.name: Counter() for dataset in datasets})
    tasks = [GroupTask(recipe, workspace, dataset, pair) for dataset in datasets for pair in dataset.groups]
    for layout, verb, function in (("pairs", "writing", write_group), ("parallel", "pairing", select_group)):
        of_layout = [task for task in tasks if task.dataset.layout == layout]
        expected = _expect_pairs(of_layout, staged) if function is write_group else 0
        results = pool.run(function, of_layout, verb, "pairs", expected=expected)
        for task, result in zip(of_layout, results, strict=True):
            _require_pairs(task, result, staged[task.dataset.name][task.languages[0]])
            training.add(task.dataset.name, result.group, result.dropped)
            validation.add(task.dataset.name, result.validation, result.validation_dropped)
            training.sizes += [result.size] if result.size.pairs else []
    _build_parallel(recipe, workspace, (training, validation), pool)
    return training, validation


def _build_parallel(recipe: Recipe, workspace: Workspace, contents: tuple[Contents, Contents], pool: Pool) -> None:
    """Write the views and the texts of the datasets with the parallel layout."""
    aligning = [DatasetTask(recipe, workspace, dataset) for dataset in recipe.dataset if dataset.layout == "parallel"]
    alignments = map_in_pool(align, aligning, workers=pool.workers)
    writing = [
        TextsTask(recipe, workspace, task.dataset, language, alignment)
        for task, alignment in zip(aligning, alignments, strict=True)
        for language in task.dataset.languages
    ]
    written = pool.run(write_language, writing, "writing", "texts")
    for part, content in zip(PARTS, contents, strict=True):
        content.groups += [group for alignment in alignments for group in alignment.views[part]]
        content.texts += [texts[part] for texts in written if part in texts]


def _expect_pairs(tasks: Sequence[GroupTask], staged: Mapping[str, Mapping[str, StagedCounts]]) -> int:
    """Estimate the number of pairs of all groups."""
    total = 0
    for task in tasks:
        pairs = min(staged[task.dataset.name][language].rows for language in task.languages)
        monolingual = len(set(task.languages)) == 1
        total += pairs if monolingual else min(pairs, task.recipe.pairs_per_group or pairs)
    return total


def _check_writable(root: Path) -> None:
    """Check that a folder can be made there, before hours are spent on its content."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{root} cannot be written: {error.strerror}. Give another --out.") from None


def _require_pairs(task: GroupTask, result: GroupResult, queries: StagedCounts) -> None:
    cross_lingual = task.languages[0] != task.languages[1]
    if result.size.pairs or (cross_lingual and task.dataset.cross == "all"):
        return  # not every two languages of a large parallel dataset share an id; "no translation" counts them
    dropped = dict(Counter(queries.dropped) + Counter(result.dropped))
    source = task.dataset.source_of(task.languages[0])
    raise DataError(
        f"{task}: no pairs in {source} (left out: {dropped or 'nothing'}); expected at least one. Correct the file, or "
        "take the language out of the recipe."
    )


def _write_manifests(recipe: Recipe, root: Path, inputs: str, training: Contents, validation: Contents) -> None:
    """Write both manifests and the statistics; last the manifest that makes the folder complete."""
    if recipe.validation and not validation.groups:
        raise DataError(
            f"validation = {recipe.validation} holds out no pair at all; expected some. Raise it, or leave it out."
        )
    licences = {dataset.name: dataset.licence for dataset in recipe.dataset}
    if validation.groups:
        _manifest(root / VALIDATION, validation, licences, inputs).save(root / VALIDATION)
    Statistics.of(training.sizes).save(root)
    _manifest(root, training, licences, inputs).save(root)


def _manifest(root: Path, contents: Contents, licences: Mapping[str, str], inputs: str) -> Manifest:
    dropped = {dataset: dict(sorted((+reasons).items())) for dataset, reasons in contents.dropped.items()}
    groups = tuple(sorted(contents.groups, key=lambda group: group.key))
    texts = tuple(sorted(contents.texts, key=lambda one: one.name))
    return Manifest(root, groups, dropped, licences, inputs, texts)


def _digest_inputs(path: Path, recipe: Recipe, *, workers: int | None) -> str:
    """Return a digest of everything that determines the bytes of a build. A source on the hub counts by its name."""
    files = [file for dataset in recipe.dataset for file in files_of(dataset)]
    files += recipe.decontaminate.files if recipe.decontaminate else ()
    if missing := [str(file) for file in files if not file.is_file()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"{path} names {', '.join(missing[:3])}{more}; expected files that exist. "
            "Fetch them, or correct their paths (they are relative to the recipe)."
        )
    try:
        parts = [str(VERSION), sha256(path), *map_in_pool(sha256, files, workers=workers)]
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}. Make it readable.") from None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _find_finished(root: Path, recipe: Recipe, inputs: str) -> Manifest | None:
    """Return the manifest at `root` if it is of a build of these inputs and all files are intact."""
    existing = _load_existing(root)
    if not existing or existing.inputs != inputs or not (root / STATISTICS).is_file() or not _is_intact(existing):
        return None
    try:
        return existing if not recipe.validation or _is_intact(Manifest.load(root / VALIDATION)) else None
    except DataError:
        return None


def _load_existing(root: Path) -> Manifest | None:
    """Return the manifest of the build at `root`; None if there is nothing, or a build of an earlier version.

    Raises:
        ConfigError: something else is there, which must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    manifest = None
    if not (datasets := _datasets_of_earlier_version(root)):
        try:
            manifest = Manifest.load(root)
        except DataError as error:
            raise ConfigError(
                f"{root} exists already and is not a complete build ({error}) Remove it by hand, or build elsewhere."
            ) from None
        datasets = {group.dataset for group in manifest.groups}
    if unknown := {path.name for path in root.iterdir()} - {FILE, STATISTICS, VALIDATION} - datasets:
        raise ConfigError(
            f"{root} holds {', '.join(sorted(unknown)[:3])}, which no build made and a new one would delete; expected "
            "shards alone. Move it away, or build elsewhere."
        )
    return manifest


def _datasets_of_earlier_version(root: Path) -> set[str]:
    """Return the datasets of a folder whose manifest an earlier version wrote; empty if there is no such manifest."""
    try:
        values = read_json_object(root / FILE)
        return set(values["licences"]) if values["version"] < VERSION else set()
    except (DataError, KeyError, TypeError):
        return set()


def _is_intact(manifest: Manifest) -> bool:
    """Check that every file has the bytes that were built: rebuilding must repair a damaged folder."""
    digests: dict[str, str] = {}
    for shard_set in manifest.shard_sets:
        for shard in shard_set.shards:
            digests |= {shard.path: shard.sha256, shard.index: shard.index_sha256}
        if isinstance(shard_set, Group) and shard_set.view:
            digests[shard_set.view.path] = shard_set.view.sha256
    files = ((manifest.folder / path, digest) for path, digest in digests.items())
    return all(file.is_file() and sha256(file) == digest for file, digest in files)
