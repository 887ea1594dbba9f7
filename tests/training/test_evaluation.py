"""Evaluation during training: scores equal those of the exported model, nothing is measured twice, the best model is kept."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import ROOT, TIMEOUT, command, environment, lines, outcome, train
from whole_runs import main_here, train_here

from hbdist.config.sections import EvaluationSection
from hbdist.errors import ConfigError, DataError
from hbdist.models.pretrained import chosen_on

SENTENCES = 14
PASSAGES = ["evaluation.tasks=['xquad-r']", "evaluation.languages=['en','th']", "evaluation.questions=6"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a small task: en, de and th lines that are translations of one another."""
    folder = tmp_path_factory.mktemp("task") / "news"
    folder.mkdir()
    for language in ("de", "en", "th"):
        rows = lines_of(ROOT / f"shards/demo/train/ntrex/{language}.jsonl.gz")[:SENTENCES]
        (folder / f"{language}.txt").write_text("\n".join(row["query"] for row in rows) + "\n", encoding="utf-8")
    return f"parallel:{folder}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    settings = ["batch.size=16", "optimizer.lr=3e-3", "optimizer.warmup_steps=0", "loss.chunk_tokens=200"]
    return ["launch/train/demo.toml", "model.dropout=0.1", *sources, *settings]


def trained(processes: int, arguments: Sequence[str], folder: Path, launch: str = "two") -> Path:
    if processes == 1:
        return train_here(folder, arguments)
    done = train(processes, *arguments, f"run.folder={folder}", launch=launch)
    assert done.returncode == 0, done.stderr
    return folder


def scores(folder: Path, step: int, task: str) -> dict[str, Any]:
    return json.loads((folder / f"evaluation/step-{step:06d}/{task}/scores.json").read_text(encoding="utf-8"))


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Return all numbers of scores.json except times."""
    if isinstance(value, dict):
        return {
            name: number
            for key, part in value.items()
            if key != "seconds"
            for name, number in numbers(part, f"{path}/{key}").items()
        }
    return {path: value} if isinstance(value, int | float) else {}


def evaluated_again(
    model: Path, name: str, out: Path, languages: Sequence[str] = (), questions: int | None = None
) -> Any:
    """Return the scores that `hbdist evaluate` gives a model's folder."""
    from hbdist.evaluation.evaluate import evaluate_to
    from hbdist.evaluation.tasks.registry import load_task
    from hbdist.models.encoder import Encoder, settings_of

    task = load_task(name).cut(languages=languages, questions=questions)
    return evaluate_to(out, task, settings_of(str(model)), load=Encoder.load_for_use)


@pytest.mark.parametrize(("processes", "launch"), [(2, "two"), pytest.param(2, "zero3", marks=pytest.mark.slow)])
def test_scores_in_training_equal_those_of_the_exported_model(
    processes: int, launch: str, tiny: list[str], tmp_path: Path
) -> None:
    # 2,286 sentences: the ranks have different numbers of parts, and of chunks in a part.
    few = [*tiny, *PASSAGES, "steps=2", "evaluation.every=1"]
    run = trained(processes, few, tmp_path / "run", launch=launch)
    found = evaluated_again(run / "model", "xquad-r", tmp_path / "again", ["en", "th"], 6)
    kept = scores(run, 2, "xquad-r")
    assert kept["counts"] == found["counts"]
    assert kept["task_fingerprint"] == found["task_fingerprint"]
    assert kept["chosen_on"] is None
    for section in ("monolingual", "cross_lingual", "multilingual", "bias", "by_pair"):
        assert numbers(kept[section]) == pytest.approx(numbers(found[section]), rel=1e-4), section
    written = lines(run / "evaluation.jsonl")
    assert [(line["step"], line["task"]) for line in written] == [(1, "xquad-r"), (2, "xquad-r")]
    assert written[1]["multilingual"] == kept["multilingual"]
    assert written[0]["multilingual"] != written[1]["multilingual"]


def test_training_its_export_and_sentence_transformers_cut_texts_alike(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from hbdist.config.config import Config
    from hbdist.distributed.engine import Engine
    from hbdist.models.encoder import Encoder, settings_of
    from hbdist.training.evaluation import TrainingEncoder
    from hbdist.training.export import export
    from hbdist.training.module import TrainingModule

    lengths = {"max_query_tokens": 8, "max_document_tokens": 24}
    values = {
        "model": {"name": str(tiny_model), **lengths},
        "data": {"shards": "none"},
        "batch": {"size": 2},
        "steps": 1,
    }
    config = Config.check(values, source="test")
    encoder = Encoder.load(config.model).eval()
    folder = str(export(encoder, tmp_path / "model", config, fingerprint="0", steps=1))
    settings = settings_of(folder)
    assert (settings.max_query_tokens, settings.max_document_tokens) == (24, 24)
    texts = ["short", "of some more words " * 5, "a long text " * 300]
    theirs = SentenceTransformer(folder, device="cpu")
    module, engine = TrainingModule(encoder, config), Engine.start(config, environment={})
    trained = TrainingEncoder(engine.prepare(module, torch.optim.SGD(module.parameters())).eval(), encoder, engine)
    for kind, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        exported_ND = Encoder.load_for_use(settings).encode(texts, kind)
        np.testing.assert_allclose(trained.encode(texts, kind), exported_ND, atol=1e-5)
        np.testing.assert_allclose(encode(texts, batch_size=1), exported_ND, atol=1e-5)
    longer_ND = Encoder.load_for_use(settings_of(folder, max_tokens=100)).encode(texts, "document")
    assert not np.allclose(longer_ND[2], exported_ND[2], atol=1e-3)
    engine.stop()


def test_scores_record_where_texts_were_cut_and_those_of_another_length_are_not_reused(
    tiny_model: Path, sentences: str, tmp_path: Path
) -> None:
    from hbdist.evaluation.evaluate import evaluate_to
    from hbdist.evaluation.search.settings import SearchSettings
    from hbdist.evaluation.tasks.registry import load_task
    from hbdist.models.encoder import Encoder, settings_of

    task, search = load_task(sentences), SearchSettings(folder=tmp_path / "vectors")
    maps = {}
    for tokens in (None, 6):
        settings = settings_of(str(tiny_model), max_tokens=tokens)
        found = evaluate_to(tmp_path / "out", task, settings, load=Encoder.load_for_use, search=search)
        assert found["max_tokens"] == dict.fromkeys(("query", "document"), tokens or 512)
        maps[tokens] = numbers(found["cross_lingual"])
    assert maps[None] != maps[6]


ONE_RANK_WITHOUT_ROOM = """
import os, sys
from hbdist.evaluation import evaluate
from hbdist.evaluation.search import embeddings
from hbdist.launch.entry import main

evaluate.IN_MEMORY_BYTES = 0
embeddings.LEAST_ROWS = embeddings.MOST_ROWS = 8
os.environ["HBDIST_CACHE"] = os.path.join(sys.argv[1], os.environ["RANK"])
with open(os.environ["HBDIST_CACHE"] + ".pid", "w") as file:
    file.write(str(os.getpid()))
sys.exit(main(sys.argv[2:]))
"""


def test_an_error_of_one_rank_while_all_encode_soon_ends_all_ranks(
    tiny: list[str], sentences: str, tmp_path: Path
) -> None:
    """Vectors are kept on disk, and rank 1 has a file where its folder should be. Rank 0 has three parts to encode."""
    (tmp_path / "1").write_text("")
    script = tmp_path / "one_rank.py"
    script.write_text(ONE_RANK_WITHOUT_ROOM)
    asked = [*tiny, f"evaluation.tasks=['{sentences}']", "steps=2", "evaluation.every=1"]
    launched = command(2, str(tmp_path), *asked, f"run.folder={tmp_path / 'run'}")
    launched[launched.index(str(ROOT / "hbdist/train.py"))] = str(script)
    with subprocess.Popen(
        launched, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            # If they waited for one another, it would be until the collective times out, half an hour.
            _, said = process.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            for path in tmp_path.glob("*.pid"):  # ending the launcher would not end them
                os.kill(int(path.read_text()), signal.SIGKILL)
            raise
    assert outcome(tmp_path / "run")["state"] == "invalid"
    assert "vectors cannot be written there" in outcome(tmp_path / "run")["message"]
    # One rank says it; the launcher shows it again in its own report of the failure.
    assert sum(line.startswith("hbdist: ") for line in said.decode().splitlines()) == 1
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 1


def settings(sentences: str) -> list[str]:
    tasks = [f"evaluation.tasks=['{sentences}','xquad-r']", "evaluation.data=['','shards/demo/xquad-r']"]
    return [*tasks, "evaluation.languages=['en','th']", "evaluation.questions=5", "steps=4", "evaluation.every=2"]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], sentences: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run of one process with two tasks."""
    return trained(1, [*tiny, *settings(sentences)], tmp_path_factory.mktemp("undisturbed") / "run")


def timeless(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines(path)]


def test_a_run_killed_while_it_evaluates_repeats_no_step_and_no_evaluation(
    tiny: list[str], sentences: str, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny, *settings(sentences), "checkpoint.every=99", f"run.folder={folder}"]
    # In a group of its own, so that processes between this one and the training are killed too.
    started = subprocess.Popen(
        command(1, *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_line(folder / "evaluation.jsonl", started)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait(timeout=TIMEOUT)
    seen = (folder / "evaluation.jsonl").read_text()
    steps = (folder / "metrics.jsonl").read_text()
    assert [line["step"] for line in lines(folder / "metrics.jsonl")][:2] == [1, 2]

    trained(1, arguments[:-1], folder)
    assert (folder / "evaluation.jsonl").read_text().startswith(seen)
    assert (folder / "metrics.jsonl").read_text().splitlines()[:2] == steps.splitlines()[:2]
    for name, part in zip(
        timeless(folder / "evaluation.jsonl"), timeless(undisturbed / "evaluation.jsonl"), strict=True
    ):
        assert numbers(name) == pytest.approx(numbers(part), rel=1e-6)
    assert not (folder / "model/chosen.json").exists()
    assert "chosen" not in (folder / "model/README.md").read_text(encoding="utf-8")
    names = [(line["step"], line["task"].partition(":")[0]) for line in lines(folder / "evaluation.jsonl")]
    assert names == [(2, "parallel"), (2, "xquad-r"), (4, "parallel"), (4, "xquad-r")]


def wait_for_line(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.is_file() or "\n" not in path.read_text():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_a_task_that_is_cut_differently_is_measured_again_when_the_run_resumes(
    tiny: list[str], sentences: str, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "model")
    (folder / "outcome.json").unlink()
    metrics = (folder / "metrics.jsonl").read_text()
    metric = f"evaluation.metric='{sentences}:cross_lingual.mrr'"
    done = main_here(*tiny, *settings(sentences), "evaluation.questions=4", metric, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics.jsonl").read_text() == metrics
    known = lines(undisturbed / "evaluation.jsonl")
    assert [line["step"] for line in lines(folder / "evaluation.jsonl")] == [line["step"] for line in known] + [4, 4]
    # The value of step 2 is of another cut, and cannot be compared.
    assert "the model of step 4, chosen on parallel:" in outcome(folder)["message"]


@pytest.fixture(scope="module")
def worsening(tiny: list[str], sentences: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run whose learning rate soon makes it worse, measured by cross-lingual MRR."""
    judged = ["evaluation.metric=cross_lingual.mrr", "evaluation.patience=2", "evaluation.every=1", "checkpoint.keep=1"]
    arguments = [*tiny, f"evaluation.tasks=['{sentences}']", "steps=20", "optimizer.lr=0.03", *judged]
    return trained(1, arguments, tmp_path_factory.mktemp("worsening") / "run")


def test_patience_ends_the_run_and_the_best_by_the_metric_is_exported_and_labelled(
    worsening: Path, sentences: str, tmp_path: Path
) -> None:
    values = [line["cross_lingual"]["mrr"] for line in lines(worsening / "evaluation.jsonl")]
    best = 1 + values.index(max(values))
    assert len(values) == best + 2 < 20
    chosen = f"the model of step {best}, chosen on {sentences} for the highest cross_lingual.mrr, is in"
    assert chosen in outcome(worsening)["message"]
    assert (worsening / "checkpoints/best").read_text() == f"{best:09d}"
    assert f"chosen on {sentences} for the highest" in (worsening / "model/README.md").read_text(encoding="utf-8")
    assert chosen_on(str(worsening / "model")) == sentences
    assert scores(worsening, best, "parallel-news")["chosen_on"] == sentences
    found = evaluated_again(worsening / "model", sentences, tmp_path / "again")
    assert found["cross_lingual"]["mrr"] == pytest.approx(max(values), rel=1e-6)


def section(**values: Any) -> EvaluationSection:
    return EvaluationSection(every=1, **values)


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        ({"tasks": ["xquad"]}, ConfigError, r"evaluation\.tasks names xquad\. .*is not known.*xquad-r"),
        (
            {"tasks": ["parallel:nowhere"]},
            DataError,
            r"evaluation\.tasks names parallel:nowhere\. nowhere has sentences in no",
        ),
        ({"tasks": ["xquad-r"], "data": ["nowhere"]}, DataError, r"evaluation\.tasks names xquad-r\. .*nowhere"),
        (
            {"tasks": ["xquad-r", "tydiqa"], "data": ["a"]},
            ConfigError,
            r"data has 1 folders and evaluation\.tasks 2 tasks",
        ),
        ({"tasks": ["xquad-r"], "languages": ["xx"]}, ConfigError, r"names xquad-r\. xquad-r has no language xx"),
        ({"tasks": ["xquad-r"], "questions": 9999}, ConfigError, r"names xquad-r\. questions = 9999 cannot be kept"),
        ({"tasks": ["xquad-r"] * 2}, ConfigError, r"two tasks whose scores would go to one folder, xquad-r"),
    ],
)
def test_tasks_that_cannot_be_measured_are_refused(
    values: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    from hbdist.training.evaluation import load_tasks

    with pytest.raises(error, match=sentence):
        load_tasks(section(**values))


def test_only_scores_that_will_be_measured_can_decide(sentences: str) -> None:
    from hbdist.training.evaluation import load_tasks, score_names

    tasks = load_tasks(section(tasks=["xquad-r", sentences], languages=["en", "th"], questions=5))
    both, parallel = (score_names(task) for task in tasks.values())
    assert parallel == ["cross_lingual.recall@1", "cross_lingual.recall@10", "cross_lingual.mrr"]
    assert {"monolingual.map", "cross_lingual.map", "multilingual.ndcg@10", "bias.rank_distance"} <= set(both)
    (alone,) = (score_names(task) for task in load_tasks(section(languages=["en"], questions=5)).values())
    assert not [name for name in alone if name.startswith(("cross_lingual", "bias"))]


def test_an_unknown_score_is_refused_before_the_first_step(tiny: list[str], sentences: str, tmp_path: Path) -> None:
    asked = [f"evaluation.tasks=['{sentences}']", "evaluation.every=1", "evaluation.metric=multilingual.map"]
    done = main_here(*tiny, "steps=2", *asked, f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 2
    message = outcome(tmp_path / "run")["message"]
    assert (
        "has no multilingual.map. It has cross_lingual.recall@1, cross_lingual.recall@10, cross_lingual.mrr." in message
    )
    assert not (tmp_path / "run/metrics.jsonl").exists()
