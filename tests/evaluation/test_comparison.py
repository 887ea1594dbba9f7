"""Comparison of evaluations of several seeds: real folders, the numbers of a plain reference, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from hbdist.cli import main
from hbdist.config.sections import ModelSection
from hbdist.evaluation.comparison import compare_folders
from hbdist.evaluation.evaluate import evaluate_to
from hbdist.evaluation.metrics.bootstrap import difference, interval
from hbdist.evaluation.metrics.per_query import read_per_query, values_of
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import load_xquad_r


class NoisyOracle:
    """Encoder with one dimension per question, and noise: the less noise, the better."""

    def __init__(self, task: RetrievalTask, noise: float, seed: int) -> None:
        generator, questions = np.random.default_rng(seed), list(task.relevance)
        question_of = {index: number for number, answers in enumerate(task.relevance.values()) for index in answers}
        self.vectors = {}
        for kind, texts in (("query", task.queries), ("document", task.candidates)):
            vector_ND = generator.normal(0, noise, (len(texts), len(questions))).astype(np.float32)
            for row, text in enumerate(texts):
                question = questions.index(text.id) if kind == "query" else question_of.get(row)
                if question is not None:
                    vector_ND[row, question] += 1
                self.vectors[kind, text.text] = vector_ND[row]

    def encode(self, texts, kind, **_):
        return np.array([self.vectors[kind, text] for text in texts]).reshape(len(texts), -1)


def evaluate_noisy(task: RetrievalTask, out: Path, noise: float, seed: int) -> Path:
    name = f"noise-{noise}-{seed}"
    evaluate_to(out / name, task, ModelSection(name=name), load=lambda _: NoisyOracle(task, noise, seed))
    return out / name


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    return load_xquad_r().cut(languages=["en", "th"], questions=24)


@pytest.fixture(scope="module")
def folders(task, tmp_path_factory) -> dict[str, list[Path]]:
    """Return the folders of three seeds of a noisy model and two of a better one."""
    out = tmp_path_factory.mktemp("seeds")
    return {
        "noisy": [evaluate_noisy(task, out, 0.6, seed) for seed in range(3)],
        "better": [evaluate_noisy(task, out, 0.2, seed) for seed in range(2)],
    }


def test_a_difference_is_between_means_over_seeds_and_draws_both_questions_and_seeds(task, folders):
    found = compare_folders(folders["noisy"], folders["better"])
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        sides = [
            [values_of(read_per_query(folder, task.fingerprint), setting) for folder in folders[side]]
            for side in ("noisy", "better")
        ]
        expected, change = difference(*sides), found["changes"][setting]["map"]
        assert change == pytest.approx(vars(expected))
        means = [
            [json.loads((folder / "scores.json").read_text())[setting]["map"] for folder in folders[side]]
            for side in ("noisy", "better")
        ]
        assert (change["before"], change["after"]) == pytest.approx([np.mean(side) for side in means])
        assert change["mean"] == pytest.approx(change["after"] - change["before"])
        assert change["before"] == pytest.approx(interval(sides[0]).mean)
    assert found["changes"]["multilingual"]["map"]["real"]
    assert [one["model"] for one in found["after"]] == ["noise-0.2-0", "noise-0.2-1"]
    assert found["cut"] == {"languages": ["en", "th"], "questions": 24}


def test_the_command_shows_the_differences_and_writes_them(folders, tmp_path, capsys):
    out = tmp_path / "new" / "difference.json"
    assert run("compare", *folders["noisy"], "--with", *folders["better"], "--out", out) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "multilingual mAP" in shown
    assert "multilingual rank" in shown
    assert "of 3 seeds before and of 2 seeds after" in shown
    assert "One seed" not in shown
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written == compare_folders(folders["noisy"], folders["better"])


def test_the_command_says_that_seeds_of_one_model_do_not_differ(folders, capsys):
    one, *others = folders["noisy"]
    assert run("compare", one, "--with", *others) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "no difference" in shown
    assert "the interval contains zero" in shown
    assert "One seed before: what another seed would give is not in the interval" in shown


def test_another_task_or_cut_is_refused(task, folders, tmp_path, capsys):
    other = evaluate_noisy(task.cut(questions=3), tmp_path, 0.2, 0)
    message = refused(capsys, *folders["noisy"], "--with", other)
    assert "(48 queries)" in message
    assert "(6 queries); expected the same" in message


def test_another_search_is_refused(folders, tmp_path, capsys):
    scores = json.loads((folders["better"][0] / "scores.json").read_text(encoding="utf-8"))
    text = json.dumps({**scores, "search": {"exact": True, "vectors": "float16"}})
    (tmp_path / "scores.json").write_text(text, encoding="utf-8")
    assert "a difference of the models could be one of the searches" in refused(
        capsys, *folders["noisy"], "--with", tmp_path
    )


def test_a_folder_without_an_evaluation_is_refused(folders, tmp_path, capsys):
    assert "has no scores.json" in refused(capsys, tmp_path, "--with", *folders["better"])
    (tmp_path / "scores.json").write_text('{"ndcg_at_10": 0.5}', encoding="utf-8")
    assert "lacks task, model, model_fingerprint" in refused(capsys, tmp_path, "--with", *folders["better"])
    assert "has no scores.json" in refused(capsys, tmp_path / "scores.json", "--with", *folders["better"])
    (tmp_path / "scores.json").write_bytes((folders["noisy"][0] / "scores.json").read_bytes())
    assert "has no ranks.npz" in refused(capsys, tmp_path, "--with", *folders["better"])


def test_a_folder_or_a_model_that_is_named_twice_is_refused(task, folders, tmp_path, capsys):
    first = folders["noisy"][0]
    assert "is given twice" in refused(capsys, first, "--with", first.parent / "." / first.name)
    copy = evaluate_noisy(task, tmp_path, 0.6, 0)
    assert "evaluations of the same model (noise-0.6-0)" in refused(capsys, first, copy, "--with", *folders["better"])


@pytest.mark.parametrize(
    "arguments", [["a", "b"], ["a", "--with"], ["--with", "b"], ["a", "--with", "b", "--with", "c"]]
)
def test_two_sides_are_required(arguments, capsys):
    assert "expected the folders of one model, --with once" in refused(capsys, *arguments)


def test_an_unknown_option_is_not_mistaken_for_a_folder(capsys):
    assert "--ot is not an option of compare" in refused(capsys, "a", "--with", "b", "--ot", "c")


def refused(capsys, *arguments: object) -> str:
    assert run("compare", *arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])
