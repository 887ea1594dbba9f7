"""Contents of built shard folders, and minimal recipes."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_sources import write_jsonl

from hbdist.data.build.build import build
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader


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


class StoppedError(Exception):
    """Exception with which a test stops a builder at a known moment."""


def stopped(path: Path, out: Path, *, at: str) -> Path:
    """Build until the progress message starts with `at`, and return the builder's unfinished folder."""

    def progress(done: int, total: int, what: str) -> None:
        if what.startswith(at):
            raise StoppedError

    with pytest.raises(StoppedError):
        build(path, out, workers=1, progress=progress)
    return next(out.parent.glob(f".{out.name}.*.partial"))


def msmarco(folder: Path, lines: str, more: str = "", *, key: str = "triples") -> Path:
    folder.mkdir(exist_ok=True)
    for language in ("en", "de"):
        packed = ".gz" if language == "de" else ""
        for name, prefix, count in (("collection", "document", 9), ("queries", "query", 4)):
            text = "".join(f"{n}\t{prefix} {n} {language}\n" for n in range(count)).encode()
            (folder / f"{name}.{language}.tsv{packed}").write_bytes(gzip.compress(text) if packed else text)
    (folder / "relevant.tsv").write_text(lines)
    return recipe(
        folder,
        '[[dataset]]\nname = "m"\nreader = "msmarco"\nparallel = true\n'
        'files = { en = "collection.en.tsv", de = "collection.de.tsv.gz" }\n'
        'queries = { en = "queries.en.tsv", de = "queries.de.tsv.gz" }\n'
        f'{key} = "relevant.tsv"\n{more}',
    )
