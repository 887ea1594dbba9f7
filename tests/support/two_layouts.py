"""Recipes and shard folders in both layouts."""

from pathlib import Path
from typing import Any

from shard_sources import parallel, row

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest

LANGUAGES = ("en", "de", "ar")


def as_parallel(recipe: Path) -> Path:
    """Write the same recipe with the parallel layout for its last dataset."""
    other = recipe.with_name(f"parallel-{recipe.name}")
    other.write_text(f'{recipe.read_text(encoding="utf-8")}\nlayout = "parallel"\n', encoding="utf-8")
    return other


def both(recipe: Path, folder: Path) -> tuple[Manifest, Manifest]:
    """Build a recipe in layout "pairs" and in layout "parallel"."""
    return build(recipe, folder / "pairs", workers=1), build(as_parallel(recipe), folder / "parallel", workers=1)


def build_parallel(folder: Path, rows: dict[str, list[dict[str, Any]]], **keys: Any) -> Manifest:
    return build(as_parallel(parallel(folder / "source", rows, **keys)), folder / "out", workers=1)


def with_holes(count: int = 40) -> dict[str, list[dict[str, Any]]]:
    """Return rows of three languages; each lacks some, and German has another order."""
    rows = {language: [row(n, language) for n in range(count) if n % 7 != k] for k, language in enumerate(LANGUAGES)}
    rows["de"].reverse()
    return rows
