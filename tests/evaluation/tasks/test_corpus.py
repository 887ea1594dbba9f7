"""Candidates on disk: the same as read in one go, whatever stretch is asked for in whatever order."""

import gzip
import json
import os
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hbdist.evaluation.tasks.corpus
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import STRIDE, Candidate, Corpus

COUNTS = {"de": (STRIDE + 3, 5), "en": (7, 0, 2 * STRIDE)}
"""Passages of each file of a language."""


def parse(line: str) -> tuple[str, str]:
    values = json.loads(line)
    if "id" not in values:
        raise ValueError("found no id")
    return values["id"], values["text"]


def write(path: Path, lines: list[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="module")
def expected() -> list[Candidate]:
    return [
        Candidate(language, number, 0, f"text {number} ü" * (number % 5), f"{language}#{number}")
        for language, counts in COUNTS.items()
        for number in range(sum(counts))
    ]


@pytest.fixture(scope="module", params=[".jsonl", ".jsonl.gz"])
def collection(request, expected, tmp_path_factory) -> Corpus:
    folder, files = tmp_path_factory.mktemp("corpus"), {}
    rest = iter(expected)
    for language, counts in COUNTS.items():
        files[language] = []
        for file, count in enumerate(counts):
            rows = [json.dumps({"id": one.id, "text": one.text}) for one in islice(rest, count)]
            lines = [line for number, row in enumerate(rows) for line in ((row,) if number % 9 else ("", row))]
            files[language].append(write(folder / f"{language}-{file}{request.param}", lines))
    wanted = {"de": {"de#0", "de#1029", "de#9999"}, "en": {"en#7"}}
    return Corpus.read(files, parse=parse, wanted=wanted, expected="an object with id and text")


def test_all_candidates_come_in_the_order_of_languages_and_files(collection, expected):
    assert list(collection) == expected
    assert len(collection) == len(expected)
    assert collection.slices == {"de": slice(0, STRIDE + 8), "en": slice(STRIDE + 8, len(expected))}


@given(stretches=st.lists(st.tuples(st.integers(0, 3200), st.integers(0, 40)), min_size=1, max_size=6))
def test_any_stretches_in_any_order_are_those_of_a_plain_list(collection, expected, stretches):
    for start, length in stretches:
        assert list(collection[start : start + length]) == expected[start : start + length]
        # Reads on from where the last one ended.
        assert list(collection[start + length : start + 2 * length]) == expected[start + length : start + 2 * length]


@given(place=st.integers(-3087, 3086))
def test_single_candidates_and_their_ids_are_those_of_a_plain_list(collection, expected, place):
    assert len(expected) == 3087
    assert collection[place] == expected[place]
    assert collection.ids[place % 3087] == f"{expected[place].language}-{expected[place].id}"


def test_places_of_wanted_ids_are_places_in_the_pool(collection, expected):
    assert collection.places("de") == {"de#0": 0, "de#1029": 1029}
    assert expected[collection.places("en")["en#7"]].id == "en#7"


def test_one_language_alone_keeps_its_candidates_and_moves_its_places(collection, expected):
    english = collection.only(["en"])
    assert list(english) == [candidate for candidate in expected if candidate.language == "en"]
    assert english.places("en") == {"en#7": 7}
    assert english.ids[7] == "en-en#7"
    assert english.digest != collection.digest


def test_a_fork_does_not_disturb_reading(collection, expected):
    assert list(collection[:5]) == expected[:5]
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        os._exit(0 if list(collection[5:900]) == expected[5:900] else 1)
    assert list(collection[5:900]) == expected[5:900]


def test_reading_in_order_opens_each_file_once(collection, monkeypatch):
    paths: list[Path] = []
    opened = hbdist.evaluation.tasks.corpus._opened
    monkeypatch.setattr(hbdist.evaluation.tasks.corpus, "_opened", lambda path: paths.append(path) or opened(path))
    fresh = collection.only(["de", "en"])
    for start in range(0, len(fresh), 50):
        fresh[start : start + 50]
    assert len(paths) == len(set(paths)) == 4  # of five files one is empty


def test_texts_stay_on_disk(tmp_path):
    lines = [json.dumps({"id": f"p{number}", "text": "x" * 2000}) for number in range(5000)]
    path = write(tmp_path / "en.jsonl", lines)
    tracemalloc.start()
    try:
        collection = Corpus.read({"en": [path]}, parse=parse, wanted={"en": set()}, expected="")
        assert sum(len(candidate.text) for candidate in collection) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def read(path: Path) -> Corpus:
    return Corpus.read({"en": [path]}, parse=parse, wanted={"en": set()}, expected="an object with id and text")


def test_a_line_that_is_not_as_expected_is_named(tmp_path):
    path = write(tmp_path / "en.jsonl", ['{"id": "1", "text": "a"}', '{"text": "b"}'])
    with pytest.raises(DataError, match=r"en\.jsonl, line 2: found no id; expected an object with id and text"):
        read(path)


def test_a_passage_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "en.jsonl", ['{"id": "1", "text": "a"}', '{"id": "1", "text": "b"}'])
    with pytest.raises(DataError, match="1 passages of en have the id of another"):
        read(path)


def test_a_damaged_file_is_named(tmp_path):
    path = write(
        tmp_path / "en.jsonl.gz", [json.dumps({"id": str(n), "text": os.urandom(50).hex()}) for n in range(99)]
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"en\.jsonl\.gz is damaged after line \d+"):
        read(path)


def test_a_file_that_becomes_shorter_is_noticed(tmp_path):
    path = write(tmp_path / "en.jsonl", [json.dumps({"id": str(n), "text": "a"}) for n in range(9)])
    collection = read(path)
    write(path, ['{"id": "0", "text": "a"}'])
    with pytest.raises(DataError, match="became shorter"):
        list(collection)
