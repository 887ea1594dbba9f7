"""Corpus on disk: any slices, read in any order, equal those of a list in memory."""

import json
import os
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import write_text

import hbdist.evaluation.tasks.corpus
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import STRIDE, Candidate, Corpus

COUNTS = {"de": (STRIDE + 3, 5), "en": (7, 0, 2 * STRIDE)}
"""Language → number of passages in each of its files."""


def parse(line: str) -> tuple[str, str]:
    values = json.loads(line)
    if "id" not in values:
        raise ValueError("found no id")
    return values["id"], values["text"]


def write(path: Path, lines: list[str]) -> Path:
    return write_text(path, "".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def expected() -> list[Candidate]:
    return [
        Candidate(language, number, 0, f"text {number} ü" * (number % 5), f"{language}#{number}")
        for language, counts in COUNTS.items()
        for number in range(sum(counts))
    ]


@pytest.fixture(scope="module", params=[".jsonl", ".jsonl.gz"])
def corpus(request, expected, tmp_path_factory) -> Corpus:
    folder, files = tmp_path_factory.mktemp("corpus"), {}
    rest = iter(expected)
    for language, counts in COUNTS.items():
        files[language] = []
        for file, count in enumerate(counts):
            rows = [json.dumps({"id": one.id, "text": one.text}) for one in islice(rest, count)]
            lines = [line for number, row in enumerate(rows) for line in ((row,) if number % 9 else ("", row))]
            files[language].append(write(folder / f"{language}-{file}{request.param}", lines))
    lookup = {"de": {"de#0", "de#1029", "de#9999"}, "en": {"en#7"}}
    return Corpus.read(files, parse=parse, lookup=lookup, expected="an object with id and text")


def test_candidates_are_ordered_by_language_then_by_file(corpus, expected):
    assert list(corpus) == expected
    assert len(corpus) == len(expected)
    assert corpus.slices == {"de": slice(0, STRIDE + 8), "en": slice(STRIDE + 8, len(expected))}


@given(slices=st.lists(st.tuples(st.integers(0, 3200), st.integers(0, 40)), min_size=1, max_size=6))
def test_slices_in_any_order_equal_those_of_a_list(corpus, expected, slices):
    for start, length in slices:
        assert list(corpus[start : start + length]) == expected[start : start + length]
        # Resumes where the last read ended.
        assert list(corpus[start + length : start + 2 * length]) == expected[start + length : start + 2 * length]


@given(index=st.integers(-3087, 3086))
def test_single_candidates_and_their_ids_equal_those_of_a_list(corpus, expected, index):
    assert len(expected) == 3087
    assert corpus[index] == expected[index]
    assert corpus.ids[index % 3087] == f"{expected[index].language}-{expected[index].id}"


def test_looked_up_ids_have_the_indices_of_their_candidates(corpus, expected):
    assert corpus.indices("de") == {"de#0": 0, "de#1029": 1029}
    assert expected[corpus.indices("en")["en#7"]].id == "en#7"


def test_a_selected_language_keeps_its_candidates_and_renumbers_them(corpus, expected):
    english = corpus.select(["en"])
    assert list(english) == [candidate for candidate in expected if candidate.language == "en"]
    assert english.indices("en") == {"en#7": 7}
    assert english.ids[7] == "en-en#7"
    assert english.digest != corpus.digest


def test_a_fork_does_not_disturb_reading(corpus, expected):
    assert list(corpus[:5]) == expected[:5]
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        os._exit(0 if list(corpus[5:900]) == expected[5:900] else 1)
    assert list(corpus[5:900]) == expected[5:900]


def test_reading_in_order_opens_each_file_once(corpus, monkeypatch):
    paths: list[Path] = []
    open_binary = hbdist.evaluation.tasks.corpus._open_binary
    monkeypatch.setattr(
        hbdist.evaluation.tasks.corpus, "_open_binary", lambda path: paths.append(path) or open_binary(path)
    )
    fresh = corpus.select(["de", "en"])
    for start in range(0, len(fresh), 50):
        fresh[start : start + 50]
    assert len(paths) == len(set(paths)) == 4  # one of the five files is empty


def test_texts_stay_on_disk(tmp_path):
    lines = [json.dumps({"id": f"p{number}", "text": "x" * 2000}) for number in range(5000)]
    path = write(tmp_path / "en.jsonl", lines)
    tracemalloc.start()
    try:
        corpus = Corpus.read({"en": [path]}, parse=parse, lookup={"en": set()}, expected="")
        assert sum(len(candidate.text) for candidate in corpus) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def read(path: Path) -> Corpus:
    return Corpus.read({"en": [path]}, parse=parse, lookup={"en": set()}, expected="an object with id and text")


def test_the_error_of_an_unexpected_line_names_the_line(tmp_path):
    path = write(tmp_path / "en.jsonl", ['{"id": "1", "text": "a"}', '{"text": "b"}'])
    with pytest.raises(DataError, match=r"en\.jsonl, line 2: found no id; expected an object with id and text"):
        read(path)


def test_two_passages_with_one_id_are_refused(tmp_path):
    path = write(tmp_path / "en.jsonl", ['{"id": "1", "text": "a"}', '{"id": "1", "text": "b"}'])
    with pytest.raises(DataError, match="1 passages of en have the id of another"):
        read(path)


def test_the_error_of_a_damaged_file_names_the_file(tmp_path):
    path = write(
        tmp_path / "en.jsonl.gz", [json.dumps({"id": str(n), "text": os.urandom(50).hex()}) for n in range(99)]
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"en\.jsonl\.gz is damaged after line \d+"):
        read(path)


def test_a_file_that_becomes_shorter_is_refused(tmp_path):
    path = write(tmp_path / "en.jsonl", [json.dumps({"id": str(n), "text": "a"}) for n in range(9)])
    corpus = read(path)
    write(path, ['{"id": "0", "text": "a"}'])
    with pytest.raises(DataError, match="became shorter"):
        list(corpus)
