"""Building a shard folder from a recipe: in parallel, all or nothing, and the same bytes every time."""

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from hbdist.errors import ConfigError, DataError
from hbdist.shards.manifest import FILE, VERSION, Group, Manifest
from hbdist.shards.pairing import capped, counted, cross_lingual, distinct, monolingual, usable_rows
from hbdist.shards.parallel import Progress, in_parallel, silent
from hbdist.shards.readers import Row
from hbdist.shards.recipe import DatasetRecipe, Recipe
from hbdist.shards.write import sha256, write_shards


def build(
    recipe: str | Path, out: str | Path | None = None, *, workers: int | None = None, progress: Progress = silent
) -> Manifest:
    """Build the shard folder that a recipe describes, and return its manifest.

    The folder appears when it is complete; one that stands there is replaced if `build` made it. If it was made from
    the same recipe and the same files, and still is as it was made, it is returned at once.

    Args:
        recipe: a TOML file; shards/README.md says what is in it.
        out: the folder to build; unset: the recipe's `out`.
        workers: processes; unset: one a core. The bytes do not depend on it.
        progress: called as progress(done, total, what) after each part; once with "reused …" if nothing is built.

    Raises:
        ConfigError: the recipe is wrong, or at `out` stands something that `build` did not make.
        DataError: a source file is damaged or not in the format the recipe says, or a group that was asked for has no
            pairs.
    """
    recipe = Path(recipe)
    plan = Recipe.load(recipe)
    root = _root(recipe, plan, out)
    inputs = _inputs(recipe, plan)
    standing = _standing(root)
    if standing and standing.inputs == inputs and _is_intact(standing):
        progress(1, 1, f"reused {root}")
        return standing
    partial = root.with_name(f".{root.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        groups, dropped = _build_groups(plan, partial, workers=workers, progress=progress)
        licences = {dataset.name: dataset.licence for dataset in plan.dataset}
        Manifest(partial, groups, dropped, licences, inputs).save(partial)
        _replace(root, partial, replaced=standing)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Manifest.load(root)


@dataclass(frozen=True)
class _Part:
    """What one process builds at a time: all groups with documents of one language, which are then read once."""

    plan: Recipe
    dataset: DatasetRecipe
    document_lang: str
    root: Path

    def __str__(self) -> str:
        return f"{self.dataset.name}/*-{self.document_lang}"


def _build_groups(
    plan: Recipe, root: Path, *, workers: int | None, progress: Progress
) -> tuple[tuple[Group, ...], dict[str, dict[str, int]]]:
    parts = [_Part(plan, dataset, language, root) for dataset in plan.dataset for language in dataset.languages]
    dropped: dict[str, Counter[str]] = {dataset.name: Counter() for dataset in plan.dataset}
    groups: list[Group] = []
    for part, (built, left_out) in zip(
        parts, in_parallel(_build_part, parts, workers=workers, progress=progress), strict=True
    ):
        groups += built
        dropped[part.dataset.name] += left_out
    counts = {dataset: dict(sorted(reasons.items())) for dataset, reasons in dropped.items()}
    return tuple(sorted(groups, key=lambda group: group.key)), counts


def _build_part(part: _Part) -> tuple[list[Group], Counter[str]]:
    dataset, language = part.dataset, part.document_lang
    queries = dataset.query_languages(language)
    rows = (row for row in usable_rows(dataset, language) if isinstance(row, Row)) if len(queries) > 1 else ()
    documents = {str(row.id): row for row in rows}
    dropped: Counter[str] = Counter()
    built = [_build_group(part, query_lang=query_lang, documents=documents, dropped=dropped) for query_lang in queries]
    return [group for group in built if group], dropped


def _build_group(part: _Part, *, query_lang: str, documents: dict[str, Row], dropped: Counter[str]) -> Group | None:
    dataset, languages = part.dataset, (query_lang, part.document_lang)
    rows = usable_rows(dataset, query_lang)
    if query_lang == part.document_lang:
        pairs = distinct(monolingual(rows, dataset=dataset.name, language=query_lang))
    else:
        crossed = cross_lingual(rows, documents, dataset=dataset.name, languages=languages)
        pairs = capped(distinct(crossed), part.plan.pairs_per_group)
    folder = f"{dataset.name}/{query_lang}-{part.document_lang}"
    shards = write_shards(counted(pairs, dropped), root=part.root, folder=folder, shard_rows=part.plan.shard_rows)
    if shards:
        return Group(dataset.name, *languages, shards)
    if query_lang != part.document_lang and dataset.cross == "all":
        return None  # not every two languages of a large parallel set share an id; "no translation" counts them
    raise DataError(
        f"{folder}: no pairs in {dataset.files[query_lang]} (left out: {dict(dropped) or 'nothing'}); expected at least "
        "one. Correct the file, or take the language out of the recipe."
    )


def _root(recipe: Path, plan: Recipe, out: str | Path | None) -> Path:
    root = Path(out) if out is not None else plan.out
    if root is None:
        raise ConfigError(f'{recipe} has no key out, and none was given. Add out = "FOLDER" to it.')
    return root


def _inputs(recipe: Path, plan: Recipe) -> str:
    """A digest of all that the bytes of a build follow from."""
    files = [file for dataset in plan.dataset for file in dataset.files.values()]
    parts = [str(VERSION), sha256(recipe), *map(sha256, files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _standing(root: Path) -> Manifest | None:
    """The build that stands at `root`; None if nothing does.

    Raises:
        ConfigError: something else stands there, which must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        manifest = Manifest.load(root)
    except DataError as error:
        raise ConfigError(
            f"{root} is there already and is not a complete build ({error}) Remove it by hand, or build elsewhere."
        ) from None
    strangers = {path.name for path in root.iterdir()} - {FILE} - {group.dataset for group in manifest.groups}
    if strangers:
        raise ConfigError(
            f"{root} holds {', '.join(sorted(strangers)[:3])}, which no build made and a new one would delete; expected "
            "shards alone. Move it away, or build elsewhere."
        )
    return manifest


def _is_intact(manifest: Manifest) -> bool:
    """Whether every file is, to the byte, as it was built: a damaged folder must not survive being built again."""
    shards = [shard for group in manifest.groups for shard in group.shards]
    files = [(shard.path, shard.sha256) for shard in shards] + [(shard.index, shard.index_sha256) for shard in shards]
    return all((manifest.root / path).is_file() and sha256(manifest.root / path) == digest for path, digest in files)


def _replace(root: Path, new: Path, *, replaced: Manifest | None) -> None:
    aside = root.with_name(f".{root.name}.{uuid4().hex[:8]}.old")
    if replaced:
        root.rename(aside)
    new.rename(root)
    shutil.rmtree(aside, ignore_errors=True)
