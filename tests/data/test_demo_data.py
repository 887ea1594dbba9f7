"""Shipped data and encoder: complete, small, disjoint from the evaluation set, tokenised as by the original encoder."""

import gzip
import importlib.util
import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
DATA, MODEL = ROOT / "shards" / "demo", ROOT / "models" / "me5-small-demo"
LANGUAGES = {
    "ntrex": {"am", "ar", "de", "en", "es", "hi", "ru", "sw", "th", "tr", "zh"},
    "tico19": {"am", "ar", "en", "es", "hi", "ru", "sw", "zh"},
    "squad_sentences": {"en"},
    "arcd": {"ar"},
    "cmrc2018": {"zh"},
    "iapp_wiki_qa": {"th"},
}
NOTE = json.loads((MODEL / "tokenization.json").read_text(encoding="utf-8"))


@cache
def training() -> dict[tuple[str, str], list[dict[str, str]]]:
    return {
        (path.parent.name, path.name.removesuffix(".jsonl.gz")): [
            json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")
        ]
        for path in sorted((DATA / "train").glob("*/*.jsonl.gz"))
    }


@cache
def paragraphs() -> list[dict[str, Any]]:
    """Return the paragraphs of XQuAD-R in all its languages."""
    files = [json.loads(gzip.decompress(path.read_bytes())) for path in sorted((DATA / "xquad-r").glob("*.json.gz"))]
    return [paragraph for file in files for article in file["data"] for paragraph in article["paragraphs"]]


def shared_runs(texts: list[str], others: list[str], length: int) -> set[str]:
    """Return those of `texts` that share a run of `length` characters with one of `others`.

    Such a run contains a complete chunk of half its length, wherever the chunks of the text begin. So only chunks are
    looked up first, and the few texts with a match are compared in full.
    """
    half = length // 2
    chunks: dict[str, set[str]] = {}
    for text in texts:
        for start in range(0, len(text) - half + 1, half):
            chunks.setdefault(text[start : start + half], set()).add(text)
    suspects = {text for run in runs(others, half) if run in chunks for text in chunks[run]}
    forbidden = set(runs(others, length)) if suspects else set()
    return {text for text in suspects if any(run in forbidden for run in runs([text], length))}


def runs(texts: list[str], length: int) -> Iterator[str]:
    return (text[start : start + length] for text in texts for start in range(len(text) - length + 1))


def letters(text: str) -> str:
    """Return letters and digits alone, without case: some sources are lower-cased and put spaces around commas."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def test_shared_runs_are_found_at_every_offset():
    other = "abcdefghijklmnopqrstuvwxyz"
    texts = [f"{'.' * lead}{other[3:13]}!" for lead in range(12)]
    assert shared_runs(texts, [other], 10) == set(texts)
    assert shared_runs(texts, [other], 11) == set()


def test_every_language_has_its_files():
    found: dict[str, set[str]] = {}
    for dataset, language in training():
        found.setdefault(dataset, set()).add(language)
    assert found == LANGUAGES
    assert len(list((DATA / "xquad-r").glob("*.json.gz"))) == 11


def test_numbers_of_rows_match_the_readme():
    documented = {
        (dataset, language): int(rows)
        for dataset, cells in re.findall(
            r"^\| `(\w+)` \|.*\| (\w+ \d+(?: · \w+ \d+)*) \|$", (DATA / "README.md").read_text(encoding="utf-8"), re.M
        )
        for language, rows in re.findall(r"(\w+) (\d+)", cells)
    }
    assert documented == {key: len(rows) for key, rows in training().items()}


def test_every_row_is_a_complete_pair():
    for (dataset, language), rows in training().items():
        assert all(set(row) == {"id", "query", "document", "document_id"} for row in rows), (dataset, language)
        assert all(text.strip() for row in rows for text in row.values()), (dataset, language)
        assert len({row["id"] for row in rows}) == len(rows), (dataset, language)


def test_parallel_datasets_share_their_ids():
    for dataset in ("ntrex", "tico19"):
        ids = {language: {row["id"] for row in training()[dataset, language]} for language in LANGUAGES[dataset]}
        assert all(own <= ids["en"] and len(own) > 0.99 * len(ids["en"]) for own in ids.values())


def test_no_question_of_xquad_is_in_training():
    questions = {letters(question["question"]) for paragraph in paragraphs() for question in paragraph["qas"]}
    assert len(questions) > 10_000
    assert not [row["id"] for rows in training().values() for row in rows if letters(row["query"]) in questions]


# 45 letters and digits are about 50 characters; at 40, stock phrases begin to match ("espectadores en horario de …").
@pytest.mark.parametrize(("form", "length"), [(str, 50), (letters, 45)], ids=["as written", "letters alone"])
def test_no_passage_of_xquad_is_in_training(form, length):
    articles = [form(paragraph["context"]) for paragraph in paragraphs()]
    documents = {form(row[key]) for rows in training().values() for row in rows for key in ("query", "document")}
    assert not shared_runs(sorted(documents), articles, length)


def test_gzip_is_reproducible():
    # No time and no file name in the header: the same rows give the same bytes.
    for path in (DATA / "train").glob("*/*.gz"):
        assert path.read_bytes()[3:8] == bytes(5), path


@pytest.mark.parametrize(("folder", "limit"), [(DATA, 6_000_000), (MODEL, 32_000_000)], ids=["data", "encoder"])
def test_sizes_are_within_their_limits(folder, limit):
    assert sum(path.stat().st_size for path in [folder, *folder.rglob("*")]) <= limit


def test_the_vocabulary_has_no_gaps():
    stored = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = [piece for piece, _ in stored["model"]["vocab"]]
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert pieces[-1] == "<mask>"
    assert len(set(pieces)) == len(pieces) == NOTE["kept"]
    assert json.loads((MODEL / "config.json").read_text())["vocab_size"] == len(pieces)
    assert all(pieces[token["id"]] == token["content"] for token in stored["added_tokens"])


def test_every_data_file_has_a_digest_of_its_pieces():
    assert {ROOT / name for name in NOTE["files"]} == set(DATA.rglob("*.gz"))


@pytest.mark.parametrize("name", NOTE["files"])
def test_tokenisation_matches_that_of_the_complete_vocabulary(name):
    """Compute with the cut vocabulary the digests that were made with the complete one."""
    texts = list(cut_vocabulary().texts_of(ROOT / name))
    assert len(texts) == NOTE["files"][name]["texts"]
    assert cut_vocabulary().digest(tokenizer(), texts)[0] == NOTE["files"][name]["sha256"]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@cache
def cut_vocabulary() -> Any:
    spec = importlib.util.spec_from_file_location("cut_vocabulary", ROOT / "models" / "cut_vocabulary.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
