"""TyDi QA, read from SQuAD JSON that is generated with the published counts."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hbdist.errors import DataError
from hbdist.evaluation.tasks import tydiqa
from hbdist.evaluation.tasks.tydiqa import load_tydiqa


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
