"""Targets that read configs and overrides, studies, the files of runs and jobs, scores, and what reports are made of."""

import atexit
import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from made_studies import score, write_run, write_study
from shard_sources import write_jsonl
from task_files import write_text

from fuzz.campaign import Target
from fuzz.data_targets import rows
from hbdist.cli.score_tables import comparison_table, table
from hbdist.config.config import Config, refuse_another_run, split_arguments
from hbdist.config.criterion import Criterion
from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import HbdistError
from hbdist.evaluation.comparison import compare_folders
from hbdist.evaluation.metrics.bootstrap import compare
from hbdist.evaluation.metrics.per_query import read_per_query
from hbdist.evaluation.scores import read_evaluation, read_scores
from hbdist.launch.handle import find_handle
from hbdist.launch.job_state import job_outcome, read_job
from hbdist.models.pretrained import chosen_on
from hbdist.reports import plots
from hbdist.reports.report import evaluation_report, report_on, run_report, study_report
from hbdist.runs import checkpoint
from hbdist.runs.lock import owner_of
from hbdist.runs.outcome import outcome_state, read_outcome
from hbdist.runs.plan import Plan
from hbdist.studies.cost import plan_text
from hbdist.studies.status import problems, statuses_of
from hbdist.studies.status import table as status_table
from hbdist.studies.study import StudySpec

LARGEST_PLAN = 10**6
"""Pairs of a batch above which a plan is not made: it may take as long as it likes."""


def each(*reads: Callable[[], object]) -> None:
    """Call all of these; then raise the first error of ours, or at once any other."""
    errors: list[HbdistError] = []
    for read in reads:
        try:
            read()
        except HbdistError as error:
            errors.append(error)
    if errors:
        raise errors[0]


# Configs

CONFIG = """
seed = 3
steps = 30
[run]
folder = "runs/x"
trackers = []
[data]
shards = "SHARDS"
languages = ["en", "de"]
datasets = []
cache_gb = 50.0
[model]
name = "none"
dropout = 0.1
query_prefix = "query: "
[batch]
size = 12
mono_share = 0.5
mix = "blocks"
mono_block = "batch"
cross_block = 1
language_exponent = 0.5
dataset_exponent = 1.0
small_pool = "repeat"
[loss]
temperature = 0.05
margin = 0.1
[optimizer]
lr = 1e-3
warmup_steps = 2
[validation]
every = 5
batch_size = 8
shards = ["SHARDS"]
[evaluation]
tasks = ["xquad-r"]
languages = []
[checkpoint]
every = 4
[engine]
precision = "fp32"
deepspeed = ""
"""


@cache
def _shards() -> Manifest:
    """Build a few small groups, once per process."""
    folder = Path(tempfile.mkdtemp(prefix="hbdist-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for language in ("en", "de"):
        write_jsonl(folder / f"{language}.jsonl", rows(language, 12))
    dataset = '[[dataset]]\nname = "made"\nreader = "jsonl"\nparallel = true\n[dataset.files]\n'
    write_text(folder / "recipe.toml", dataset + 'en = "en.jsonl"\nde = "de.jsonl"\n')
    return build(folder / "recipe.toml", folder / "shards", workers=1)


def _write_config(folder: Path) -> None:
    write_text(folder / "config.toml", CONFIG.replace("SHARDS", str(_shards().root)))


def _use(config: Config) -> None:
    refuse_another_run(config)
    Criterion.of(config)
    assert Config.check(dict(_toml(config)), source="its own TOML") == config
    if max(config.batch.size, config.validation.batch_size) <= LARGEST_PLAN:
        Plan.of(config, _shards(), ranks=2).text()


def _toml(config: Config) -> dict[str, Any]:
    return tomllib.loads(config.to_toml())


def _read_config(folder: Path) -> None:
    _use(Config.load(folder / "config.toml"))


def _write_override(folder: Path) -> None:
    _write_config(folder)
    keys = ("batch.size=8", "model.name=some/model", "batch.mono_share=0.5", "data.languages=['en', \"de\"]", "steps=9")
    more = ("batch.language_exponent=0.5", "batch.dataset_exponent=1.0", "run.folder=runs/y", "model.query_prefix=q: ")
    write_text(folder / "words.txt", "\n".join((*keys, *more)))


def _read_overrides(folder: Path) -> None:
    # As Python decodes the bytes of a command line, which cannot have a zero byte.
    line = (folder / "words.txt").read_bytes().replace(b"\0", b"").decode(errors="surrogateescape")
    file, overrides = split_arguments([str(folder / "config.toml"), *line.split("\n")])
    for words in ([overrides[0]], overrides):
        _use(Config.load(file, words))


# Studies

STUDY = """
name = "made"
question = "Does it?"
note = "x"
base = "base.toml"
folder = "none"
seeds = [0, 1]
x = "batch.mono_share"
lines = "strategy"
lr_rule = "sqrt"
lr_reference_batch = 64
equal = "pairs"
pairs_seen = 2560
warmup_share = 0.1
[set]
"model.query_prefix" = ""
loss.temperature = 0.1
[grid]
"batch.mono_share" = [0.0, 0.5]
"batch.size" = [64, 128]
[[zip]]
name = "strategy"
[zip.values.first]
"batch.cross_block" = 1
[zip.values.second]
"batch.cross_block" = 2
[[only]]
strategy = ["first", "second"]
[[exclude]]
seed = 1
"batch.mono_share" = 0.5
[[measure]]
task = "xquad-r"
languages = ["en", "de"]
questions = 24
primary = "cross"
columns = { mono = "monolingual.map", cross = "cross_lingual.map" }
resources = { nodes = 1 }
[[measure]]
task = "parallel:folder/sentences"
columns = { recall = "cross_lingual.recall@1" }
[resources]
gpus_per_node = 8
hours = 2
[plan]
gpus = [8, 64]
tokens_per_second = 1e4
gigabytes_per_second = 25
parameters = { "none" = 1000000 }
dimensions = { "none" = 384 }
"""
BASE = 'steps = 30\n[data]\nshards = "shards"\n[model]\nname = "none"\n[batch]\nsize = 64\n'


def _write_study(folder: Path) -> None:
    write_text(folder / "study.toml", STUDY)
    write_text(folder / "base.toml", BASE)


def _read_study(folder: Path) -> None:
    study = StudySpec.load(folder / "study.toml")
    plan_text(study)
    status_table(study, statuses_of(study))


# Runs

JOB = {
    "folder": "x",
    "cluster": "local",
    "id": "999999999",
    "command": ["train", "config.toml"],
    "run": ".",
    "submitted": 1.0,
    "born": "1",
    "outcome": {"state": "done", "code": 0, "message": "done"},
    "cancel": False,
    "ranks": [3],
    "checkpoint": "000000004",
}
OWNER = {"host": "h", "machine": "m", "pid": 999999999, "born": "1", "job": "", "restarts": 0}
POSITION = {"step": 4, "seed": 1, "fingerprint": "f00d" * 16, "version": 2}
CHART_INPUTS = ("dots", "heat_map", "curve_by_kind", "curves", "along", "trade_off", "rows")


def _write_run(folder: Path) -> Path:
    """Write the folder of a run in a study of one run, with all that a run and its job may leave."""
    study = write_study(folder)
    run = study.runs[0]
    write_run(run, steps=4)
    measure = study.measures[0]
    for place in (run.evaluation(measure), run.folder / "evaluation/before", run.folder / "evaluation/after"):
        score(place, 0.5, languages=("de", "en"), questions=4)
    write_text(run.folder / "plan.txt", "a plan\n")
    write_text(run.folder / "job.json", json.dumps(JOB))
    write_text(run.folder / "running.json", json.dumps(OWNER))
    write_text(run.folder / "model/chosen.json", json.dumps({"chosen_on": "xquad-r", "metric": "x", "step": 4}))
    write_text(run.folder / "checkpoints/latest", "000000004")
    write_text(run.folder / "checkpoints/best", "000000004")
    write_text(run.folder / "checkpoints/000000004/state.json", json.dumps(POSITION))
    write_jsonl(run.folder / "validation.jsonl", [{"step": 4, "loss": {"own": 1.5, "x": 2}, "skipped": 0}])
    evaluated = {"step": 4, "task": "xquad-r", "task_fingerprint": "f", "multilingual": {"map": 0.5}, "seconds": 1.0}
    write_jsonl(run.folder / "evaluation.jsonl", [evaluated])
    run.folder.rename(folder / "run")
    return folder / "run"


RUN_FILES = ("*.json", "*.jsonl", "latest", "best", "run/*.toml", "plan.txt")


def _write_run_alone(folder: Path) -> None:
    _write_run(folder)
    _cache_charts()


def _read_run(folder: Path) -> None:
    run = folder / "run"
    each(
        lambda: read_outcome(run),
        lambda: outcome_state(run),
        lambda: owner_of(run),
        lambda: read_job(run),
        lambda: job_outcome(run),
        lambda: (handle := find_handle(run)) and (handle.outcome, handle.state, handle.logs),
        lambda: checkpoint.latest(run / "checkpoints"),
        lambda: checkpoint.best(run / "checkpoints"),
        lambda: checkpoint.steps(run / "checkpoints"),
        lambda: checkpoint.read_position(run / "checkpoints/000000004"),
        lambda: chosen_on(str(run / "model")),
        lambda: Config.load(run / "config.toml"),
        lambda: _status(folder),
    )


def _status(folder: Path) -> None:
    study = StudySpec.load(folder)
    (folder / "run").rename(study.runs[0].folder)
    statuses = statuses_of(study)
    status_table(study, statuses)
    problems(study, statuses)


def _report_run(folder: Path) -> None:
    page = run_report(folder / "run").read_text(encoding="utf-8")
    assert "</html>" in page


def _report_study(folder: Path) -> None:
    study = StudySpec.load(folder)
    (folder / "run").rename(study.runs[0].folder)
    study_report(study)


def _cache_charts() -> None:
    """Let each chart be drawn once for the same numbers: matplotlib would take most of the campaign's time."""
    for name in CHART_INPUTS:
        draw = getattr(plots, name)
        if hasattr(draw, "drawn"):
            continue
        drawn: dict[str, str] = {}

        def remembered(*given: Any, draw: Any = draw, drawn: dict[str, str] = drawn, **named: Any) -> str:
            with np.printoptions(threshold=10**6):
                key = f"{given!r} {named!r}"
            if key not in drawn:
                drawn[key] = draw(*given, **named)
            return drawn[key]

        remembered.drawn = drawn  # type: ignore[attr-defined]
        setattr(plots, name, remembered)


# Scores


def _write_scores(folder: Path) -> None:
    _cache_charts()
    interval = {"map": [0.1, 0.9]}
    confidence = {"level": 0.95, "draws": 100, "clusters": 2, "monolingual": interval, "multilingual": interval}
    more = {"confidence": confidence, "search": {"exact": True, "vectors": "float32"}, "note": "", "left_out": {"x": 1}}
    part = {
        "monolingual": {"map": 0.5},
        "cross_lingual": None,
        "multilingual": {"map": 0.2},
        "bias": {"rank_distance": 4},
    }
    more |= {"not_measured": {"x": "y"}, "removal": {"demean": part}, "chosen_on": None}
    for number, side in enumerate(("first", "second")):
        score(
            folder / side,
            0.5 + 0.1 * number,
            languages=("de", "en"),
            questions=4,
            model_fingerprint=side,
            **more,
        )


def _read_scores(folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    each(
        lambda: read_scores(first),
        lambda: evaluation_report(first),
        lambda: table(read_evaluation(first) or {}),
        lambda: table(read_evaluation(first) or {}, read_evaluation(second)),
        lambda: comparison_table(compare_folders([first], [second])),
        lambda: report_on(first),
    )


def _read_per_query(folder: Path) -> None:
    values = [read_per_query(folder / side, "same") for side in ("first", "second")]
    with suppress(HbdistError):
        compare([values[0]], [values[1]])


RUNS = (
    Target("config", _write_config, _read_config, ("config.toml",)),
    Target("override", _write_override, _read_overrides, ("words.txt",)),
    Target("study", _write_study, _read_study, ("study.toml", "base.toml"), share=0.5),
    Target("runfiles", _write_run_alone, _read_run, RUN_FILES, share=0.5),
    Target("report", _write_run_alone, _report_run, RUN_FILES, share=0.2),
    Target("study-report", _write_run_alone, _report_study, (*RUN_FILES, "*.npz"), share=0.1),
    Target("scores", _write_scores, _read_scores, ("first/scores.json",), share=0.5),
    Target("per_query", _write_scores, _read_per_query, ("first/ranks.npz",)),
)
