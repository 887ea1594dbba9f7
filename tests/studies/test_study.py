"""A study from submission to report, on real runs: what is started, what is kept, and how failures are explained."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import ROOT, environment, lines
from small_studies import write_base, write_sentences, write_study

from hbdist.cli import main
from hbdist.config.config import Config
from hbdist.errors import ConfigError
from hbdist.launch import find_handle
from hbdist.studies.api import Study
from hbdist.studies.status import RunStatus, handles_of, problems, scores_of, status_of
from hbdist.studies.study import StudyRun
from hbdist.utils.processes import process_start

GOOD_AND_BAD = """
[[zip]]
name = "languages"
[zip.values.both]
"data.languages" = ["en", "de"]
[zip.values.none]
"data.languages" = ["xx"]
"""


def hbdist(*words: str | Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hbdist", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_shards: Path) -> tuple[Path, str]:
    """Study of a valid run and an invalid one, submitted in one process: its file, and what the submission printed."""
    folder = tmp_path_factory.mktemp("study")
    write_base(folder, shards=tiny_shards, model=tiny_model)
    path = write_study(folder, axes=GOOD_AND_BAD, task=write_sentences(folder / "sentences"))
    done = hbdist("study", "submit", path, "--cluster", "debug")
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def by_name(study: Study) -> dict[str, RunStatus]:
    return {str(status.run.values["languages"]): status for status in study.status()}


def test_runs_are_trained_measured_and_reported(submitted: tuple[Path, str]) -> None:
    study = Study.load(submitted[0])
    status = by_name(study)["both"]
    assert status.complete
    assert (status.step, status.state, status.measured) == (3, "done", {"sentences": "done"})
    assert status.loss == lines(status.run.folder / "metrics.jsonl")[-1]["loss"]
    assert Config.load(status.run.folder / "config.toml") == status.run.config
    (measure,), (untuned,) = study.measures, study.baselines
    for model in (status.run, untuned):
        scores = scores_of(model, measure)
        assert scores
        assert measure.number(scores, "recall@1") == scores["cross_lingual"]["recall@1"]
        assert scores_of(model, measure.model_copy(update={"task": "parallel:elsewhere/sentences"})) is None
    assert f"recall@1 {scores_of(status.run, measure)['cross_lingual']['recall@1']:.3f}" in status.best
    assert (study.folder / "report.html").is_file()


def test_an_invalid_run_is_reported_with_its_reason_and_left_alone(submitted: tuple[Path, str]) -> None:
    study = Study.load(submitted[0])
    status = by_name(study)["none"]
    assert status.state == "invalid"
    assert "xx" in status.problem
    assert not status.complete
    assert [run.name for run in study.missing()] == [status.run.name]
    (line,) = problems(study, study.status())
    assert line.startswith("languages=none-seed=1: invalid: ")


def test_completed_work_is_not_started_again(submitted: tuple[Path, str]) -> None:
    study = Study.load(submitted[0])
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*.json*")}
    again = study.submit(cluster="debug")
    assert (again.trainings, again.evaluations, again.report) == ([], [], None)
    assert "left alone: languages=none-seed=1: invalid" in again.text()
    assert "nothing to start" in again.text()
    assert {path: path.stat().st_mtime_ns for path in study.folder.rglob("*.json*")} == before


def test_the_table_shows_every_run_and_its_state(
    submitted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "status", str(Study.load(submitted[0]).folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 runs trained and measured" in shown
    assert all(word in shown for word in ("untuned", "done", "invalid", "3/3", "0/3", "1/1"))


def test_an_edited_study_keeps_valid_runs_and_moves_others_away_only_on_request(
    submitted: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = submitted
    text = path.read_text(encoding="utf-8")
    kept = Study.load(path)
    try:
        path.write_text(text.replace('["xx"]', '["en"]').replace("seeds = [1]", "seeds = [1, 2]"), encoding="utf-8")
        edited = {run.name: run for run in Study.load(path).runs}
        # The invalid run has another config now: it may start.
        expected = {("both", 1): "done", ("both", 2): "missing", ("none", 1): "missing", ("none", 2): "missing"}
        assert by_seed(Study.load(path)) == expected
        assert edited["languages=both-seed=1"].folder == kept.runs[0].folder
        path.write_text(
            text.replace("[zip.values.both]", '[zip.values.both]\n"loss.temperature" = 0.5'), encoding="utf-8"
        )
        changed = Study.load(path)
        assert by_name(changed)["both"].state == "changed"
        with pytest.raises(ConfigError, match=r"loss\.temperature = 0\.05 there, 0\.5 now.*--set-aside"):
            changed.submit(cluster="debug")
        done = hbdist("study", "submit", path, "--cluster", "debug", "--set-aside")
        assert done.returncode == 0, done.stderr
        assert "moved away: " in done.stdout
        assert "started 1 trainings, 1 evaluations, and the report" in done.stdout
        assert by_name(Study.load(path))["both"].complete
        aside = changed.folder / "earlier" / "languages=both-seed=1"
        assert Config.load(aside / "config.toml").loss.temperature == 0.05
        assert (aside / "model").is_dir()
    finally:
        path.write_text(text, encoding="utf-8")


def by_seed(study: Study) -> dict[tuple[str, int], str]:
    return {(str(status.run.values["languages"]), status.run.seed): status.state for status in study.status()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_cancelled_on_a_workstation_resumes_where_it_was(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    write_base(tmp_path, steps=80, shards=tiny_shards, model=tiny_model)
    study = Study.load(write_study(tmp_path, task=write_sentences(tmp_path / "texts")))
    assert study.submit(cluster="local").text() == "started 2 trainings, 3 evaluations, and the report"
    try:
        wait_for(lambda: study.status()[0].step > 3)
        assert [status.state for status in study.status()] == ["running", "pending"]
        assert study.submit(cluster="local").text() == "nothing to start"
        study.cancel()
        queue = find_handle(study.runs[0].folder)
        assert queue
        wait_for(lambda: not process_start(int(queue.id)))
        assert {status.state for status in study.status()} <= {"interrupted", "cancelled"}
        reached = study.status()[0].step
        assert 3 < reached < 80
        study.submit(cluster="local")
        wait_for(lambda: (study.folder / "report.html").is_file())
        assert all(status.complete for status in study.status())
        logs = (study.runs[0].folder / "logs").glob("*.txt")
        assert f"resuming after step {reached}" in "".join(log.read_text(encoding="utf-8") for log in logs)
    finally:
        study.cancel()


def wait_for(condition: Callable[[], object], *, timeout: float = 400) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


# The tests below read folders that are written here as a run would write them.


@pytest.fixture
def run(tmp_path: Path) -> tuple[Study, StudyRun]:
    study = Study.load(write_study(tmp_path, seeds=[7]))
    (run := study.runs[0]).folder.mkdir(parents=True)
    (run.folder / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
    return study, run


def write_metrics(folder: Path, *steps: int, unfinished: str = "") -> None:
    rows = [json.dumps({"step": step, "loss": 4.0 / step, "seconds": 0.5}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n" + unfinished, encoding="utf-8")


def write_outcome(folder: Path, **values: Any) -> None:
    (folder / "outcome.json").write_text(json.dumps({"code": 1, "message": "", **values}), encoding="utf-8")


TOKENS = """
[set]
"model.pooling" = "cls"
"model.query_prefix" = ""
"model.fixed_language" = "de"
[grid]
"model.language_token" = ["keep", "drop", "fixed"]
"""


def test_an_untuned_model_is_measured_as_its_runs_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_base(tmp_path, model=(model := tmp_path / "none"))
    study = Study.load(write_study(tmp_path, axes=TOKENS, task=write_sentences(tmp_path / "sentences")))
    commands = [one.evaluate_words(study.measures[0]) for one in study.baselines]
    keep, drop, fixed = map(" ".join, commands)
    assert f"none --pooling cls --query-prefix  --document-prefix passage:  --task parallel:{tmp_path}" in keep
    assert "--language-token drop --task" in drop
    assert "--language-token fixed --fixed-language de --task" in fixed
    for command in commands:  # the only mistake in them is that there is no such model
        assert main(list(command)) == 2
        assert f"model.name = '{model}' cannot be loaded" in capsys.readouterr().err


def test_a_run_that_has_not_begun_is_missing(run: tuple[Study, StudyRun]) -> None:
    assert status_of(*run).state == "missing"


def test_a_run_that_stopped_without_an_outcome_is_interrupted(run: tuple[Study, StudyRun]) -> None:
    write_metrics(run[1].folder, 1, 2, unfinished='{"step": 3, "lo')
    status = status_of(*run)
    assert (status.state, status.step, status.loss, status.rate) == ("interrupted", 2, 2.0, None)
    assert "resumes it" in status.advice


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate", "loss.gradient_cache=always"),
        ("FloatingPointError: the gradient's norm is inf.", "a lower optimizer.lr"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("RuntimeError: rank 3 (node2) is gone", "for its memory"),
        ("TypeError: something else", "logs"),
    ],
)
def test_a_failure_comes_with_advice(message: str, advice: str, run: tuple[Study, StudyRun]) -> None:
    write_metrics(run[1].folder, 1)
    write_outcome(run[1].folder, state="failed", message=message)
    status = status_of(*run)
    assert (status.state, status.problem) == ("failed", message)
    assert advice in status.advice
    (line,) = problems(run[0], [status])
    assert message in line


def test_a_run_with_a_live_process_is_running_and_has_a_rate(run: tuple[Study, StudyRun]) -> None:
    study, one = run
    write_metrics(one.folder, 1, 2)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        write_job(one, process.pid, process_start(process.pid))
        status = status_of(study, one)
        process.kill()
    assert (status.state, status.rate, status.seconds_left) == ("running", 2.0, 0.5)
    assert status_of(study, one).state == "interrupted"


def test_jobs_of_runs_that_the_study_no_longer_wants_are_found(run: tuple[Study, StudyRun]) -> None:
    study, one = run
    earlier = replace(one, folder=study.folder / "loss.margin=0.1-seed=7")
    for model in (one, earlier):
        write_job(model, 1, "")
    assert sorted(handle.folder for handle in handles_of(study)) == sorted([one.folder, earlier.folder])


def test_a_folder_that_cannot_be_written_is_refused_with_a_sentence(tmp_path: Path) -> None:
    study = Study.load(write_study(tmp_path, out="/dev/null/study"))
    with pytest.raises(
        ConfigError, match=r"/dev/null/study cannot be written: Not a directory\. Give the study another"
    ):
        study.submit(cluster="debug")


def write_job(run: StudyRun, pid: int, born: str) -> None:
    run.folder.mkdir(exist_ok=True)
    values = {
        "folder": str(run.folder),
        "cluster": "local",
        "id": str(pid),
        "command": ["train", str(run.folder / "config.toml")],
        "run": str(run.folder),
        "submitted": time.time(),
        "born": born,
        "outcome": None,
        "ranks": [pid],
    }
    (run.folder / "job.json").write_text(json.dumps(values), encoding="utf-8")


def write_scores(run: StudyRun, **changed: Any) -> None:
    folder = run.folder / "evaluation" / "sentences"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"task": "parallel:none", "cut": None, "cross_lingual": {"recall@1": 0.25}} | changed
    (folder / "scores.json").write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "done"),
        ({"cut": {"questions": 5}}, "missing"),
        ({"cut": {"languages": ["en"]}}, "missing"),
        ({"task": "xquad-r"}, "missing"),
    ],
)
def test_scores_of_another_task_or_cut_count_as_missing(
    changed: dict[str, Any], state: str, run: tuple[Study, StudyRun]
) -> None:
    write_scores(run[1], **changed)
    assert status_of(*run).measured == {"sentences": state}


def test_damaged_scores_are_invalid_not_missing(run: tuple[Study, StudyRun]) -> None:
    write_scores(run[1])
    path = run[1].folder / "evaluation" / "sentences" / "scores.json"
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    status = status_of(*run)
    assert status.measured == {"sentences": "invalid"}
    assert problems(run[0], [status])[0].startswith(f"{run[1].name}: measuring sentences: invalid")


def test_the_lowest_validation_loss_is_shown_until_there_are_scores(run: tuple[Study, StudyRun]) -> None:
    rows = [{"step": step, "loss": {"held out": loss, "other": 0.1}} for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run[1].folder / "validation.jsonl").write_text(text, encoding="utf-8")
    assert status_of(*run).best == "validation loss 1.500"
    write_scores(run[1])
    assert status_of(*run).best == "recall@1 0.250"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plan", "STUDY", "--gpus", "8,many"], "'many' is not a whole number"),
        (["submit", "STUDY", "node=4"], "unknown key node. Did you mean nodes?"),
        (["submit", "STUDY", "at_once=0"], "at_once = 0"),
        (["submit", "STUDY", "--cluster", "local", "nodes=2"], "[resources]: nodes = 2"),
        (["status", "gone.toml"], "gone.toml does not exist"),
    ],
)
def test_mistakes_are_explained_in_a_sentence(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    assert main(["study", *[word.replace("STUDY", str(path)) for word in words]]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
