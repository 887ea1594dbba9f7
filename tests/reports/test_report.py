"""Report of a run or an evaluation: one file that loads nothing, names what is missing, and escapes every value."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from made_studies import Page

from hbdist.config.config import Config
from hbdist.errors import DataError
from hbdist.launch.snapshot import copy_code
from hbdist.reports.render import TEMPLATES, environment, render
from hbdist.reports.report import report_on, run_report
from hbdist.reports.run_page import compare

LANGUAGES = ("ar", "de", "en")
HOSTILE = "\"><script>alert('&')</script>"
METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")


def scores(level: float, **changed: Any) -> dict[str, Any]:
    """Return a scores.json whose numbers all follow from `level`."""
    values = dict.fromkeys(METRICS, level)
    bias = {
        "rank_distance": 1000 * (1 - level),
        "same_language_share@10": 1 - level,
        "same_language_pool_share": 1 / 3,
        "rank_distance_perfect": 2.0,
        "rank_distance_random": 1849.0,
    }
    return {
        "task": "xquad-r",
        "model": "some/model",
        "model_fingerprint": "",
        "task_fingerprint": "same",
        "counts": {"queries": 150, "candidates": 3678},
        "cut": {"languages": list(LANGUAGES), "questions": 50},
        "monolingual": values,
        "cross_lingual": values,
        "multilingual": values,
        "by_pair": {f"{x}-{y}": {**values, "map": level + 0.01 * (x == y)} for x in LANGUAGES for y in LANGUAGES},
        "by_language": dict.fromkeys(LANGUAGES, values),
        "bias": bias,
        "seconds": {"encode": 1.0, "score": 0.1},
    } | changed


def metric(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 2.0,
        "loss_above_chance": -1.5,
        "accuracy": 0.5,
        "pairs": 100,
        "tokens": 4000,
        "padding": 0.05,
        "masked": 0.001,
        "mono_share": float(step % 2),
        "seconds": 2.0,
        "data_seconds": 0.1,
        "peak_bytes": 2**30,
    }


def write_scores(run: Path, side: str, values: dict[str, Any]) -> None:
    folder = run / "evaluation" / side
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(values))


@pytest.fixture
def run(tmp_path) -> Path:
    """Return the folder of a finished run, with everything in it."""
    folder = tmp_path / "demo-<seed>=3"
    (folder / "checkpoints" / "000000010").mkdir(parents=True)
    values = {"steps": 10, "data": {"shards": "a & b"}, "model": {"name": "some/<model>"}, "batch": {"size": 100}}
    (folder / "config.toml").write_text(Config.check(values, source="test").to_toml())
    (folder / "plan.txt").write_text("global batch 100 pairs <plan>\n")
    environment = {"command": "hbdist/train.py <x>", "gpus": [], "packages": {"torch": "2.13"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metric(step)) + "\n" for step in range(1, 11)))
    (folder / "outcome.json").write_text(json.dumps({"state": "done", "code": 0, "message": "trained <10> steps"}))
    (folder / "checkpoints" / "000000010" / "state.json").write_text(
        json.dumps({"step": 10, "fingerprint": "f00d" * 16})
    )
    write_scores(folder, "before", scores(0.4))
    write_scores(folder, "after", scores(0.6))
    return folder


def test_a_report_of_an_evaluation_has_heat_maps_of_pairs_and_of_single_answers(tmp_path):
    values = scores(0.5, model="some/<model>", not_measured={"alignment": "there are no questions of two languages"})
    values["bias"]["one_answer_map"] = {"ar-ar": 0.75, "ar-de": 0.06, "de-ar": 0.05, "de-de": 0.8125}
    write_scores(tmp_path, "after", values)
    html = report_on(tmp_path / "evaluation/after").read_text()
    page = Page(html)
    assert page.open == []
    assert page.tags.count("svg") == 2
    for shade in (".51", ".81", ".05"):
        assert f">{shade}<" in html
    text = " ".join(page.text.split())
    for part in (
        "some/<model> on xquad-r",
        "mAP 0.500",
        "rank distance 500.0",
        "alignment was not measured: there are",
    ):
        assert part in text
    assert not re.search(r"https?:|//[a-z]", html)


def test_a_report_of_an_evaluation_within_languages_has_no_map(tmp_path):
    values = scores(0.5, not_measured={}, cross_lingual=None, multilingual=None, bias=None)
    values["by_pair"] = {f"{x}-{x}": values["monolingual"] for x in LANGUAGES}
    write_scores(tmp_path, "after", values)
    page = Page(report_on(tmp_path / "evaluation/after").read_text())
    assert page.tags.count("svg") == 1
    assert "each language's queries among the candidates of that language" in page.text
    assert "Language bias" not in page.text


def test_pairs_of_earlier_versions_with_hyphens_in_their_languages_are_drawn_whole(tmp_path):
    languages = ("pt-BR", "zh-Hans", "en")
    pairs = {f"{x}-{y}": {"map": 0.5 + 0.01 * (x == y)} for x in languages for y in languages}
    write_scores(tmp_path, "after", scores(0.5, not_measured={}, by_pair=pairs))
    html = report_on(tmp_path / "evaluation/after").read_text()
    labels = set(re.findall(r">([A-Za-z-]{2,10})</text>", html))
    assert {"pt-BR", "zh-Hans", "en"} <= labels
    assert not {"BR", "Hans", "zh", "pt"} & labels
    assert html.count(">.50<") == 6
    assert html.count(">.51<") == 3


def test_a_report_is_one_file_that_loads_nothing(run):
    html = run_report(run).read_text()
    assert not re.search(r"https?:|//[a-z]", html)
    assert not re.search(r"""(?:src|(?<!xlink:)href)=|@import|url\((?!#)""", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)


def test_a_report_is_well_formed_and_its_ids_are_unique(run):
    page = Page(run_report(run).read_text())
    assert page.open == []
    assert page.tags.count("svg") == 5  # two heat maps, languages, loss, accuracy
    assert len(page.ids) == len(set(page.ids))


def test_everything_from_the_run_is_escaped(run):
    html = run_report(run).read_text()
    for raw in ("<model>", "<plan>", "<x>", "<10>", "<seed>", "a & b"):
        assert raw not in html
        assert raw in Page(html).text


def test_a_hostile_name_is_text_wherever_it_is_shown(run):
    values = {"steps": 10, "data": {"shards": HOSTILE}, "model": {"name": HOSTILE}, "batch": {"size": 100}}
    (run / "config.toml").write_text(Config.check(values, source="test").to_toml())
    (run / "plan.txt").write_text(HOSTILE)
    (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}))
    (run / "outcome.json").write_text(json.dumps({"state": "failed", "code": 1, "message": HOSTILE}))
    by_pair = {f"{HOSTILE}-{HOSTILE}": {"map": 0.5}, f"{HOSTILE}-en": {"map": 0.5}}
    hostile = scores(0.5, task=HOSTILE, model=HOSTILE, by_pair=by_pair, not_measured={HOSTILE: HOSTILE})
    for side in ("before", "after"):
        write_scores(run, side, hostile)
    for path in (run, run / "evaluation" / "after"):
        html = report_on(path).read_text()
        page = Page(html)
        assert "script" not in page.tags
        assert page.open == []
        assert HOSTILE in page.text
        assert "<script" not in html


def test_before_and_after_are_compared_and_the_cut_is_stated(run):
    text = " ".join(Page(run_report(run).read_text()).text.split())
    assert "mAP 0.400 0.600 ▲ 0.200 better" in text
    assert "rank distance 600.0 400.0 ▼ 200.0 better" in text
    assert (
        "150 queries against 3,678 candidates; languages cut to ar, de, en and questions cut to 50 a language" in text
    )
    assert text.count("Shades run from 0.40 to 0.61.") == 2


def test_provenance_has_fingerprint_environment_commands_and_config(run):
    text = Page(run_report(run).read_text()).text
    for part in ("f00d" * 16, "torch 2.13", "accelerate launch --num_processes", "hbdist evaluate 'some/<model>'"):
        assert part in text
    assert "-again" in text, "the repeated run has a folder of its own"
    assert "--task xquad-r --languages ar,de,en --questions 50 --out" in text
    assert "[optimizer]" in text


def test_throughput_is_over_the_whole_run(run):
    text = " ".join(Page(run_report(run).read_text()).text.split())
    for part in ("50 pairs a second", "2,000 tokens a second", "5.0% padding", "5.0% of the time waiting", "1.0 GiB"):
        assert part in text


@pytest.mark.parametrize(
    ("path", "sentence", "command"),
    [
        ("evaluation/before/scores.json", "The scores before training are missing", "/evaluation/before"),
        ("evaluation/after/scores.json", "The scores after training are missing", "/evaluation/after"),
        ("metrics.jsonl", "metrics.jsonl is missing or empty", "accelerate launch"),
        ("outcome.json", "The run has not ended", "accelerate launch"),
        ("environment.json", "environment.json is missing", "accelerate launch"),
    ],
)
def test_a_missing_part_is_named_with_the_command_that_makes_it(run, path, sentence, command):
    (run / path).unlink()
    html = run_report(run).read_text()
    sentences = re.findall(r'<p class="missing">(.*?)</p>', html)
    assert len(sentences) == 1
    assert sentence in sentences[0]
    assert command in sentences[0]


def test_a_complete_run_misses_nothing(run):
    assert 'class="missing"' not in run_report(run).read_text()


def test_a_run_with_only_a_config_has_a_report(run):
    for path in ("plan.txt", "environment.json", "metrics.jsonl", "outcome.json"):
        (run / path).unlink()
    for side in ("before", "after"):
        (run / "evaluation" / side / "scores.json").unlink()
    assert Page(run_report(run).read_text()).open == []


def test_evaluations_of_other_cuts_are_not_compared(run):
    write_scores(run, "before", scores(0.4, task_fingerprint="other", cut=None))
    text = " ".join(Page(run_report(run).read_text()).text.split())
    assert "not comparable" in text
    assert "▲" not in text
    assert "Before: xquad-r, 150 queries against 3,678 candidates; nothing cut." in text
    assert "hbdist evaluate 'some/<model>' --task xquad-r --languages ar,de,en --questions 50" in text


def test_one_language_has_neither_cross_lingual_scores_nor_bias(run):
    for side in ("before", "after"):
        write_scores(run, side, scores(0.5, cross_lingual=None, bias=None, by_pair={"en-en": {"map": 0.5}}))
    assert "rank distance" not in Page(run_report(run).read_text()).text


def test_a_task_without_map_shows_the_metrics_that_it_has(run):
    for side, level in (("before", 0.4), ("after", 0.6)):
        values = {"ndcg@10": level, "recall@100": level}
        by_pair = {"sw-sw": values, "yo-yo": values}
        changed = dict.fromkeys(("cross_lingual", "multilingual", "bias"))
        write_scores(run, side, scores(level, monolingual=values, by_pair=by_pair, by_language={}, **changed))
    page = Page(run_report(run).read_text())
    assert "ndcg@10 0.400 0.600 ▲ 0.200 better recall@100" in page.words
    assert "ndcg@10 after training. Shades run from 0.40 to 0.60." in page.words
    assert page.tags.count("svg") == 4


def test_a_model_chosen_by_an_evaluation_task_is_labelled(run):
    assert "chosen among the run's steps" not in Page(run_report(run).read_text()).words
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('metric = ""', 'metric = "multilingual.map"'))
    words = Page(run_report(run).read_text()).words
    assert "chosen among the run's steps by multilingual.map, a score of an evaluation task" in words


def test_blocks_are_a_kind_of_their_own_and_long_runs_are_averaged(run):
    lines = (json.dumps(metric(step) | {"mono_share": 0.5}) + "\n" for step in range(1, 1001))
    (run / "metrics.jsonl").write_text("".join(lines))
    text = Page(run_report(run).read_text()).text
    assert "Each mark is the mean of up to 9 neighbouring steps" in text
    assert "mixed" in text


def test_a_line_that_is_still_being_written_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    assert "trained for 10 of 10 steps" in Page(run_report(run).read_text()).text


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no config\.toml"):
        run_report(tmp_path)


def test_the_same_run_gives_the_same_bytes(run):
    first = run_report(run).read_bytes()
    assert run_report(run).read_bytes() == first


@pytest.mark.parametrize(
    ("before", "after", "good", "expected"),
    [
        (0.5, 0.6, 1, "▲ 0.100 better"),
        (0.6, 0.5, 1, "▼ 0.100 worse"),
        (300.0, 200.0, 0, "▼ 100.000 better"),
        (0.2, 0.05, 0.09, "▼ 0.150 better"),
        (0.09, 0.05, 0.09, "▼ 0.040 worse"),
        (0.5, 0.5000001, 1, "no change"),
    ],
)
def test_the_number_nearer_to_the_best_possible_one_is_the_better(before, after, good, expected):
    change = compare(before, after, digits=3, good=good)
    cells = environment(".html").get_template("parts.html").module.change_cells(change)
    first, second, third = cells.removeprefix("<td>").removesuffix("</td>").split("</td><td>")
    assert expected in third
    assert (first.startswith("<b>"), second.startswith("<b>")) == ("worse" in expected, "better" in expected)


def test_templates_travel_with_the_package(tmp_path):
    copy_code(tmp_path)
    copied = {path.name for path in (tmp_path / "hbdist/reports/templates").iterdir()}
    assert copied == {path.name for path in TEMPLATES.iterdir()}
    project = tomllib.loads((TEMPLATES.parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    data = [path for path in TEMPLATES.parents[1].rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert len(data) > 20
    for path in data:  # in a wheel too
        package = next(parent for parent in path.parents if (parent / "__init__.py").is_file())
        assert any(path.relative_to(package).match(pattern) for pattern in patterns), path


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")


def test_a_report_needs_no_torch():
    code = "import sys; import hbdist.reports.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
