"""What is in a built shard folder, and the smallest recipes."""

from pathlib import Path
from typing import Any

import numpy as np
from shard_sources import write_jsonl

from hbdist.shards.manifest import Group, Manifest
from hbdist.shards.read import Pair, ShardReader


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def groups(manifest: Manifest) -> dict[str, list[Pair]]:
    def read(number: int, group: Group) -> list[Pair]:
        return ShardReader(manifest).read(np.full(group.rows, number), np.arange(group.rows))

    return {group.pair: read(number, group) for number, group in enumerate(manifest.groups)}


def ids(manifest: Manifest) -> dict[str, list[str]]:
    return {name: [pair.id for pair in pairs] for name, pairs in groups(manifest).items()}


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def one_file(folder: Path, rows: list[dict[str, Any]], more: str = "") -> Path:
    write_jsonl(folder / "en.jsonl", rows)
    return recipe(folder, f'[[dataset]]\nname = "d"\nreader = "jsonl"\nfiles.en = "en.jsonl"\n{more}')
