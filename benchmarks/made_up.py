"""Synthetic pairs and shards for the benchmarks of the data path: excerpts of real text, so that tokenizing is realistic."""

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from measure import HERE

from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import Pair
from hbdist.data.shards.write import write_shards

TEXT = HERE.parent / "shards" / "demo" / "train" / "squad_sentences" / "en.jsonl.gz"
MODEL = HERE.parent / "models" / "me5-small-demo"
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""Language codes, as names only: all texts are English, which changes nothing except their number of tokens."""
QUERY_CHARACTERS, DOCUMENT_CHARACTERS = 60, 800


@lru_cache(1)
def _real_text() -> str:
    with gzip.open(TEXT, "rt", encoding="utf-8") as lines:
        return " ".join(json.loads(line)["document"] for line in lines)


def pairs_of(languages: tuple[str, str], rows: int, *, repeated: float = 0.0) -> list[Pair]:
    """Return `rows` pairs in these languages, the same ones every time.

    Args:
        repeated: share of the pairs that share a text with another one of them: one half have its document, under another
            query, the other half its query, with another document.
    """
    name, text = "-".join(languages), _real_text()
    random = np.random.default_rng(zlib.crc32(name.encode()))
    starts = random.integers(0, len(text) - DOCUMENT_CHARACTERS, (2, rows)).tolist()
    of_query, of_document = np.arange(rows), np.arange(rows)
    repeating = random.permutation(rows)[: round(repeated * rows)]
    half = len(repeating) // 2
    of_document[repeating[:half]] = random.integers(0, rows, half)
    of_query[repeating[half:]] = random.integers(0, rows, len(repeating) - half)

    def cutting(side: int, row: int, characters: int) -> str:
        start = starts[side][row]
        return f"{name} {row} {text[start : start + characters]}"

    return [
        Pair(
            dataset="made",
            id=f"{name}:{row}",
            query=cutting(0, of_query[row], QUERY_CHARACTERS),
            document=cutting(1, of_document[row], DOCUMENT_CHARACTERS),
            query_lang=languages[0],
            document_lang=languages[1],
        )
        for row in range(rows)
    ]


def make_shards(
    root: Path, groups: Iterable[tuple[str, str]], *, rows: int, shard_rows: int, repeated: float = 0.0
) -> Manifest:
    """Make a shard folder with `rows` pairs in each of these language pairs."""
    made = []
    for query, document in sorted(groups):
        pairs = pairs_of((query, document), rows, repeated=repeated)
        shards = write_shards(pairs, root=root, folder=f"made/{query}-{document}", shard_rows=shard_rows)
        made.append(Group("made", query, document, shards))
    Manifest(root, tuple(made)).save(root)
    return Manifest.load(root)


def tars(manifest: Manifest) -> list[str]:
    """Return the paths of all shards."""
    return [str(manifest.folder / path) for group in manifest.groups for path in group.shards.paths]


def monolingual(languages: Sequence[str]) -> list[tuple[str, str]]:
    return [(language, language) for language in languages]


def make_config(root: Path, *, steps: int, **sections: dict[str, Any]) -> Any:
    """Return a config for these shards, with the demo's encoder."""
    from hbdist.config.config import Config

    values = {"steps": steps, **sections, "data": {"shards": str(root), **sections.get("data", {})}}
    return Config.check({**values, "model": {"name": str(MODEL), "max_document_tokens": 256}}, source="benchmark")


@lru_cache(1)
def demo_tokenize() -> Any:
    """Return the tokenization of the demo's encoder."""
    from transformers import AutoTokenizer

    from hbdist.models.encoder import settings_of
    from hbdist.models.tokenizer import Tokenize

    settings = settings_of(str(MODEL), max_query_tokens=64, max_document_tokens=256)
    return Tokenize(AutoTokenizer.from_pretrained(MODEL), settings)
