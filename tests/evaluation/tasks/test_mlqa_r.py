"""MLQA-R, read from SQuAD JSON that is generated with the published counts."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hbdist.errors import DataError
from hbdist.evaluation.tasks import mlqa_r
from hbdist.evaluation.tasks.mlqa_r import load_mlqa_r


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
