"""MLQA-R, TyDi QA and XQuAD-R with paragraphs, read from SQuAD JSON that is generated with the published counts."""

import gzip
import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbdist.errors import DataError
from hbdist.evaluation.tasks import mlqa_r, tydiqa
from hbdist.evaluation.tasks.mlqa_r import load_mlqa_r
from hbdist.evaluation.tasks.sentences import sentence_breaks
from hbdist.evaluation.tasks.tydiqa import load_tydiqa
from hbdist.evaluation.tasks.xquad_r import load_xquad_r

XQUAD = Path(__file__).parents[3] / "shards" / "demo" / "xquad-r"


def mlqa_document(questions: list[str], sentences: int, *, published: bool = False) -> dict[str, Any]:
    """Return paragraphs of ten sentences; sentence n, modulo their number, answers question n."""
    paragraphs = []
    numbered = list(enumerate(questions))
    for first in range(0, sentences, 10):
        texts = [f"Sentence {n} is said here." for n in range(first, min(first + 10, sentences))]
        starts = [sum(len(text) + 1 for text in texts[:i]) for i in range(len(texts))]
        qas = [
            {"id": one, "question": f"Who says {n}?", "answers": [{"text": "is", "answer_start": starts[i] + 9}]}
            for i in range(len(texts))
            for n, one in numbered[first + i :: sentences]
        ]
        paragraph = {"context": " ".join(texts), "qas": qas}
        if published:
            paragraph["sentence_breaks"] = [
                [start, start + len(text)] for start, text in zip(starts, texts, strict=True)
            ]
        paragraphs.append(paragraph)
    return {"version": "1.1", "data": [{"title": "one", "paragraphs": paragraphs}]}


def write_mlqa(folder: Path, *, published: bool = False) -> Path:
    """Write all 1,148 questions in English, and in each other language the next ones in turn."""
    counts = mlqa_r.LAREQA_CANDIDATES if published else mlqa_r.CANDIDATES
    used = 0
    for language, count in mlqa_r.QUESTIONS.items():
        first, used = (0, used) if language == "en" else (used, used + count)
        ids = [f"q{number % 1148}" for number in range(first, first + count)]
        document = mlqa_document(ids, counts[language], published=published)
        (folder / f"dev-context-{language}-question-{language}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_mlqa(tmp_path_factory.mktemp("mlqa"))


@pytest.fixture
def mlqa(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "mlqa-r"))


def edit(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document["data"][0]["paragraphs"])
    path.write_text(json.dumps(document))


def test_mlqa_r_has_one_relevant_sentence_per_language_of_a_question_two_to_four_in_all(mlqa):
    task = load_mlqa_r(mlqa)
    assert Counter(query.language for query in task.queries) == mlqa_r.QUESTIONS
    assert Counter(candidate.language for candidate in task.candidates) == mlqa_r.CANDIDATES
    spoken: dict[str, list[str]] = {}
    for query in task.queries:
        spoken.setdefault(query.id, []).append(query.language)
    assert {len(languages) for languages in spoken.values()} <= {2, 3, 4}
    for question, languages in spoken.items():
        assert [task.candidates[index].language for index in task.relevance[question]] == languages


def test_mlqa_r_answers_are_in_their_sentences(mlqa):
    task = load_mlqa_r(mlqa)
    for query in task.queries:
        number = query.text.removeprefix("Who says ").removesuffix("?")
        own = [task.candidates[index] for index in task.relevance[query.id]]
        assert f"Sentence {number} is said here." in [one.text for one in own if one.language == query.language]


def test_mlqa_r_uses_the_published_sentences_if_all_files_have_them_and_else_says_so(tmp_path, written):
    published, own = load_mlqa_r(write_mlqa(tmp_path, published=True)), load_mlqa_r(written)
    assert (published.name, published.note) == ("mlqa-r", "")
    assert Counter(candidate.language for candidate in published.candidates) == mlqa_r.LAREQA_CANDIDATES
    assert own.name == "mlqa-r (own sentences)"
    assert "not comparable" in own.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda paragraphs: paragraphs[0]["qas"].pop(), "511 questions, 511 different ones"),
        (lambda paragraphs: paragraphs[0].update(context=paragraphs[0]["context"] + " And this."), "2352 sentences"),
        (lambda paragraphs: paragraphs[0].pop("context"), "not SQuAD JSON"),
        (lambda paragraphs: paragraphs[0]["qas"][0].update(id="other"), "1149 different questions"),
    ],
)
def test_mlqa_r_refuses_a_file_with_other_contents(mlqa, change, message):
    edit(mlqa / "dev-context-de-question-de.json", change)
    with pytest.raises(DataError, match=message):
        load_mlqa_r(mlqa)


def test_the_error_of_a_missing_mlqa_r_file_says_how_to_get_it(mlqa):
    (mlqa / "dev-context-vi-question-vi.json").unlink()
    with pytest.raises(DataError, match=r"has no dev-context-vi-question-vi\.json.*hbdist data fetch mlqa-r"):
        load_mlqa_r(mlqa)


def test_xquad_r_with_paragraphs_differs_in_the_texts_alone():
    alone, both = load_xquad_r(XQUAD), load_xquad_r(XQUAD, with_paragraph=True)
    assert (both.name, alone.name) == ("xquad-r:paragraph", "xquad-r")
    assert both.relevance == alone.relevance
    assert both.queries == alone.queries
    for sentence, candidate in zip(alone.candidates, both.candidates, strict=True):
        assert candidate[:3] == sentence[:3]
        first, _, paragraph = candidate.text.partition("\n")
        assert first == sentence.text.partition("\n")[0]
        assert sentence.text in paragraph


def write_tydi(folder: Path, change: Any = None) -> Path:
    codes = {code: name for name, code in tydiqa._CODES.items()}
    paragraphs = [
        # Every tenth question asks about the passage of the one before it.
        {
            "context": f"passage {n - (n % 10 == 9)} in {language}",
            "qas": [{"id": f"{codes[language]}--{n}-0", "question": f"question {n}", "answers": []}],
        }
        for language, count in reversed(tydiqa.QUESTIONS.items())
        for n in range(count)
    ]
    if change:
        change(paragraphs)
    data = json.dumps({"data": [{"paragraphs": paragraphs}]}).encode()
    (folder / f"{tydiqa.FILE}.gz").write_bytes(gzip.compress(data, 1))
    return folder


def test_tydiqa_makes_one_candidate_of_equal_passages_and_relates_each_question_to_its_own(tmp_path):
    task = load_tydiqa(write_tydi(tmp_path))
    assert Counter(query.language for query in task.queries) == tydiqa.QUESTIONS
    assert Counter(candidate.language for candidate in task.candidates) == {
        language: count - count // 10 for language, count in tydiqa.QUESTIONS.items()
    }
    for query in task.queries:
        (index,) = task.relevance[query.id]
        number = int(query.text.removeprefix("question "))
        assert task.candidates[index].text == f"passage {number - (number % 10 == 9)} in {query.language}"
    assert task.settings == ("monolingual",)
    assert "derived" in task.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda paragraphs: paragraphs.pop(), r"'ar': 920"),
        (lambda paragraphs: paragraphs[0]["qas"][0].update(id="klingon-1"), "klingon"),
        (lambda paragraphs: paragraphs[0]["qas"][0].update(paragraphs[1]["qas"][0]), "5,076 different ones"),
    ],
)
def test_tydiqa_refuses_a_file_with_other_contents(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_tydiqa(write_tydi(tmp_path, change))


def test_the_error_of_a_missing_tydiqa_file_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"has no tydiqa-goldp-v1\.1-dev\.json"):
        load_tydiqa(tmp_path)


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Dr. No met J. R. Smith in the U.S. at 5 p.m. sharp.", "He left!", '"Why?" she asked.']),
        ("de", ["Am 16. Juli 1904 kam er, d. h. spät.", "Er ging.", "Sie blieb z. B. dort."]),
        ("es", ["El Sr. Díaz nació en 1904.", "¿Quién era?", "Nadie lo sabe…", "Fin."]),
        ("zh", ["他来了。", "“走吧！”", "他说3.5米？", "是。"]),
        ("hi", ["वह आया।", "वह गया।"]),
        ("ar", ["من هو؟", "جاء اليوم.", "ثم ذهب."]),
        ("vi", ["Ông đến TP. Hồ Chí Minh năm 1975.", "Ông đi."]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(language, sentences):
    text = ("" if language == "zh" else " ").join(sentences)
    assert [text[start:end] for start, end in sentence_breaks(text, language)] == sentences


@given(st.text(alphabet="aB1. \n!?。।…\"”ü'(", max_size=60), st.sampled_from(sorted(mlqa_r.QUESTIONS)))
def test_sentences_cover_all_of_a_text_but_white_space_in_order(text, language):
    spans = sentence_breaks(text, language)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = {index for start, end in spans for index in range(start, end)}
    assert all(character.isspace() for index, character in enumerate(text) if index not in covered)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
