"""Report of a study: its numbers are those of scores.json, its marks are right, and it says what is missing."""

import csv
import html
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_studies import (
    BASE,
    STUDY,
    Page,
    level_of,
    made_per_query,
    made_scores,
    score,
    write_run,
    write_study,
    write_whole_study,
)

from hbdist.cli import main
from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.metrics.bootstrap import draw_scores, interval, seed_spread
from hbdist.evaluation.metrics.per_query import Values, read_per_query, values_of
from hbdist.evaluation.metrics.retrieval import NO_POSITION, metrics
from hbdist.evaluation.metrics.simultaneous import Grid
from hbdist.reports.exports import report_latex, report_markdown
from hbdist.reports.grid_comparison import GridComparison
from hbdist.reports.render import LATEX, escape_latex, escape_markdown, render
from hbdist.reports.report import report_on, study_report
from hbdist.reports.results import Results, RunResult
from hbdist.reports.seeds import Column, PerQueryFiles
from hbdist.reports.study_page import headline
from hbdist.reports.table import Table, make_tables
from hbdist.studies.api import Study
from hbdist.studies.submit import write_copies


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished study with its report, which no test changes."""
    study = write_whole_study(tmp_path_factory.mktemp("studies") / "made")
    study_report(study)
    return study.folder


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Return a finished study without a report, which a test may change."""
    return write_whole_study(tmp_path / "made")


def table_of(study: Study) -> Table:
    return make_tables(Results.read(study))[0]


def sentences_of(study: Study) -> str:
    """Return what the report says about the runs and its tables, without drawing charts."""
    results = Results.read(study)
    tables = make_tables(results)
    remarks = [remark for table in tables for remark in table.remarks]
    return Page(render("runs.html", results=results) + "".join(map(headline, tables))).words + " ".join(remarks)


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    return {row["run"]: row for row in csv.DictReader(io.StringIO((folder / "results.csv").read_text()))}


def test_a_study_report_is_one_well_formed_file_that_loads_nothing(whole):
    html = (whole / "report.html").read_text()
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]", html)
    assert not re.search(r"""(?:src|(?<!xlink:)href)=|@import|url\((?!#)""", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    # trade-off, five columns along the batch, three heat maps, two of bias, two curves for each strategy
    assert page.tags.count("svg") == 1 + 5 + 3 + 2 + 4


def test_everything_from_the_study_is_escaped(whole):
    html = (whole / "report.html").read_text()
    for raw in ("X-X & <mono>", "<sizes>", "<real>", "mAP <mono>", "NVIDIA & Co"):
        assert raw not in html
        assert raw in Page(html).text


def test_a_hostile_name_of_a_study_is_text(tmp_path):
    hostile = "\"><script>alert('&')</script>"
    text = STUDY
    for name in ("Batches & <sizes>", "X-X & <mono>", "mAP <mono>"):
        text = text.replace(f'"{name}"', json.dumps(hostile))
    study = write_study(tmp_path / "made", text)
    (measure,) = study.measures
    for run in study.runs:
        write_run(run, message=hostile, steps=2)
        score(run.evaluation(measure), level_of(run), task=f"xquad-r{hostile}", note=hostile)
    written = study_report(study).read_text()
    page = Page(written)
    assert "script" not in page.tags
    assert page.open == []
    assert page.text.count(hostile) > 10
    assert "<script" not in written


def test_the_question_the_setting_and_the_measure_are_stated(whole):
    words = Page((whole / "report.html").read_text()).words
    for part in (
        "What do hybrid batch sizes do to the mono/cross trade-off, at 100 %?",
        "Made-up_numbers stand in",
        "batch.size 64; 128",
        "hybrid_50 (batch.mono_share = 0.5)",
        "seeds 0, 1",
        "20 to 40 steps, 2,560 pairs (the same pairs for all)",
        "times √(batch.size / 64)",
        "xquad-r, 72 queries, 1,200 candidates; questions cut to 24 a language",
        "is chosen by an evaluation task (xquad-r)",
        "X-X & <mono>. Loss above chance",
    ):
        assert part in words


def test_results_csv_has_the_numbers_of_scores_json_to_the_last_digit(whole):
    study, rows = Study.load(whole), rows_of(whole)
    for run in study.runs:
        scores = json.loads((run.evaluation(study.measures[0]) / "scores.json").read_text())
        row = rows[run.name]
        for path in ("monolingual.map", "cross_lingual.map", "multilingual.recall@10", "bias.rank_distance"):
            section, name = path.split(".")
            assert float(row[f"xquad-r.{path}"]) == scores[section][name]
        assert (row["batch.size"], row["strategy"]) == (str(run.values["batch.size"]), run.values["strategy"])
        assert (row["seed"], row["state"], row["pairs_seen"]) == (str(run.seed), "done", "2560")
        assert float(row["hours"]) == pytest.approx(run.config.steps * 3.6 / 3600)
    untuned = json.loads((study.baselines[0].evaluation(study.measures[0]) / "scores.json").read_text())
    assert float(rows["baseline"]["xquad-r.monolingual.map"]) == untuned["monolingual"]["map"]
    assert float(rows["baseline-lir"]["xquad-r.monolingual.map"]) == untuned["removal"]["lir"]["monolingual"]["map"]
    assert len(rows) == len(study.runs) + 3


def test_a_cell_is_the_mean_over_seeds_and_the_interval_of_the_pooled_seeds(whole):
    study = Study.load(whole)
    table, (measure,) = table_of(study), study.measures

    def values(point, setting, metric):
        return [values_of(read_per_query(run.evaluation(measure), "same"), setting, metric) for run in point]

    for row, point in zip(table.points, study.points(), strict=True):
        for column, setting, metric in (
            ("mAP_cross", "cross_lingual", "map"),
            ("recall", "multilingual", "recall@10"),
            ("rank distance", "multilingual", "rank_distance"),
        ):
            spread = seed_spread([draw_scores(values(one, setting, metric), 1).score_R for one in study.points()])
            assert spread is not None
            assert spread.freedom == 4
            estimate, pooled = row.numbers[column], interval(values(point, setting, metric), spread=spread)
            assert estimate.mean == pytest.approx(pooled.mean)
            assert (estimate.low, estimate.high) == pytest.approx((pooled.low, pooled.high))
        assert row.numbers["cosine"].low is None, "a cosine does not follow from ranks"
        html = (whole / "report.html").read_text()
        number, _, bounds = table.cell(row, "mAP_cross")
        assert re.search(rf"{number}(</b>)?≈?<small>{bounds}</small>", html)


def test_the_best_point_is_bold_and_ties_with_it_are_marked(study):
    (measure,) = study.measures
    for run in study.runs:  # two points with nearly the same positions, two that are far worse
        size, hybrid = run.values["batch.size"], run.config.batch.mono_share == 0.5
        score(run.evaluation(measure), 0.8 + 1e-4 * (size == 128) if hybrid else 0.4, seed=run.seed + (size == 128))
    table = table_of(study)
    marks = [(row.values["strategy"], row.marks.get("mAP_cross", "")) for row in table.points]
    assert sorted(marks) == [("X-X & <mono>", ""), ("X-X & <mono>", ""), ("hybrid_50", "best"), ("hybrid_50", "tied")]
    best = table.best
    assert best is not None
    number, _, bounds = table.cell(best, "mAP_cross")
    sentences = headline(table)
    assert f"the best by mAP_cross is {best.label}, with {number} ({bounds})." in sentences
    assert "Not distinguishable from it: batch.size" in sentences
    results = Results.read(study)
    assert f"**{number}** [{bounds}]" in report_markdown(results, [table])
    assert rf"\textbf{{{number}}} {{\scriptsize [{bounds}]}}" in report_latex(results, [table])


def test_the_gain_is_over_the_model_that_the_best_point_began_with(study):
    table, (measure,) = table_of(study), study.measures
    levels = [level_of(runs[0]) for runs in study.points()]

    def values(models):
        return [values_of(read_per_query(one.evaluation(measure), "same"), "cross_lingual", "map") for one in models]

    grid = Grid([*map(values, study.points()), values([study.baselines[0]])], without_seed=[4])
    together = grid.compare([(4, point) for point in range(4)])
    assert table.gain == together[levels.index(max(levels))]
    (alone,) = grid.compare([(4, levels.index(max(levels)))])
    assert table.gain.high - table.gain.low > alone.high - alone.low
    assert table.gain.real
    assert f"Change from the untuned model: {table.gain.mean:+.3g}" in headline(table)


def test_two_untuned_models_have_rows_of_their_own(tmp_path):
    text = STUDY.replace('name = "strategy"', 'name = "backbone"').replace('lines = "strategy"', 'lines = "backbone"')
    for name, keys in (("first", '"model.name" = "first/model"'), ("second", '"model.name" = "second/model"')):
        old = re.search(r'\[zip\.values\.(?:"X-X & <mono>"|hybrid_50)\]\n"batch.mono_share" = [0-9.]+', text)
        assert old
        text = text.replace(old[0], f"[zip.values.{name}]\n{keys}")
    study = write_study(tmp_path / "made", text)
    (measure,) = study.measures
    for run in study.runs:
        write_run(run, steps=2)
        score(run.evaluation(measure), 0.5 + 0.2 * (run.values["backbone"] == "second"), seed=run.seed)
    for untuned, level in zip(study.baselines, (0.2, 0.4), strict=True):
        score(untuned.evaluation(measure), level)
    table = table_of(study)
    assert [row.label for row in table.untrained] == ["untuned, backbone=first", "untuned, backbone=second"]
    best, (first, second) = table.best, table.untrained
    assert best is not None
    assert best.values["backbone"] == "second"
    assert table.gain is not None
    assert table.gain.before == pytest.approx(second.numbers["mAP_cross"].mean)
    assert table.gain.before > first.numbers["mAP_cross"].mean


def test_better_models_without_training_are_marked(whole):
    table = table_of(Study.load(whole))
    marks = {row.label: row.marks.get("mAP_cross", "") for row in table.untrained}
    assert marks == {"untuned": "", "untuned, language means removed": "beats", "untuned, LIR": "beats"}
    assert (
        "Untrained models that beat every run: untuned, language means removed"
        in Page((whole / "report.html").read_text()).words
    )
    assert "†" in (whole / "report.md").read_text()


numbers = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=8, max_size=8), st.sets(st.integers(0, 7), max_size=7))
@settings(max_examples=40)
def test_the_best_is_the_highest_mean_or_the_lowest_if_low_is_good(whole, drawn, unscored):
    study = Study.load(whole)
    base = made_scores(made_per_query(0.5, 0, languages=2, questions=4), ("de", "en"))
    found = []
    for place, (run, (mono, cross, distance)) in enumerate(zip(study.runs, drawn, strict=True)):
        scores = base | {
            "task_fingerprint": "of no ranks.npz",
            "monolingual": {"map": mono},
            "cross_lingual": {"map": cross},
            "bias": base["bias"] | {"rank_distance": 1000 * distance},
        }
        found.append(RunResult(run, "done", "", scores={} if place in unscored else {"xquad-r": scores}))
    (table,) = make_tables(Results(study, tuple(found), {"xquad-r": ()}, ()))
    for column, index, pick in (("mAP <mono>", 0, max), ("mAP_cross", 1, max), ("rank distance", 2, min)):
        means = {
            place: np.mean([drawn[place + seed][index] for seed in (0, 1) if place + seed not in unscored])
            for place in range(0, 8, 2)
            if not {place, place + 1} <= unscored
        }
        best = GridComparison(table.points, table.untrained, Column(PerQueryFiles(table.measure), column)).best
        (place,) = (2 * place for place, row in enumerate(table.points) if row is best)
        assert means[place] == pytest.approx(pick(means.values()), abs=1e-12)
    assert not any(row.marks for row in table.points), "without scores per question, nothing is tested"


@given(st.floats(0.05, 0.95), st.integers(0, 1000), st.integers(1, 3), st.integers(2, 20))
@settings(max_examples=12)
def test_an_interval_contains_its_mean(tmp_path_factory, level, seed, seeds, questions):
    study = write_study(
        tmp_path_factory.mktemp("study"), STUDY.replace("seeds = [0, 1]", f"seeds = {list(range(seeds))}")
    )
    (measure,), runs = study.measures, study.points()[0]
    for run in runs:
        write_run(run, steps=2)
        score(run.evaluation(measure), level, seed=seed + run.seed, languages=("de", "en"), questions=questions)
    for estimate in table_of(study).points[0].numbers.values():
        if estimate.low is not None:
            assert estimate.low - 1e-9 <= estimate.mean <= estimate.high + 1e-9


def test_with_one_seed_a_point_nothing_is_marked_and_the_report_says_so(tmp_path):
    study = write_study(tmp_path / "made", STUDY.replace("seeds = [0, 1]", "seeds = [0]"))
    (measure,) = study.measures
    for run in study.runs:
        write_run(run, steps=2)
        score(run.evaluation(measure), level_of(run), seed=run.seed)
    table = table_of(study)
    assert not any(row.marks for row in table.points)
    assert table.best is not None
    assert table.gain is None
    sentences = headline(table)
    assert f"the highest by mAP_cross is {table.best.label}" in sentences
    assert "each point has one seed" in sentences
    assert "each point has one seed" in report_markdown(Results.read(study), [table])
    assert "each point has one seed" in Page(study_report(study).read_text()).words


def test_with_too_few_questions_nothing_is_marked_and_the_reason_is_stated(study):
    (measure,) = study.measures
    for run in study.runs:
        score(run.evaluation(measure), level_of(run), seed=run.seed, questions=12)
    table = table_of(study)
    assert not any(row.marks for row in table.points)
    assert "11 groups of questions are too few" in headline(table)
    assert all(row.numbers["mAP_cross"].low is None for row in table.points)


def test_a_partial_study_has_a_report_that_says_what_is_missing(study):
    (measure,) = study.measures
    gone, failed, killed, unscored, waiting, *_ = study.runs
    for run in (gone, failed, killed, waiting):
        shutil.rmtree(run.folder)
    waiting.folder.mkdir()
    (waiting.folder / "config.toml").write_text(waiting.config.to_toml())
    write_run(failed, state="failed", message="RuntimeError: out of <memory>", steps=3)
    write_run(killed, state="", steps=5)
    shutil.rmtree(unscored.evaluation(measure))
    unscored.evaluation(measure).mkdir()
    ended = {"state": "failed", "code": 1, "message": "hbdist evaluate ended with status 1"}
    (unscored.evaluation(measure) / "job.json").write_text(json.dumps({"outcome": ended}))
    page = Page(study_report(study).read_text())
    for sentence in (
        "5 of 8 runs are not complete: what is here may change.",
        f"{gone.name} missing Not started",
        f"{waiting.name} missing Not started, or stopped before its first step.",
        f"{failed.name} failed Failed after 3 of 40 steps: RuntimeError: out of <memory>",
        f"{killed.name} not ended Not ended: 5 of 40 steps are done",
        f"{unscored.name} done Not scored on xquad-r: failed, hbdist evaluate ended with status 1.",
        "3 of 8 are trained and measured in full.",
    ):
        assert sentence in page.words
    assert [len(row.scored) for row in table_of(study).points] == [0, 0, 1, 2]
    rows = rows_of(study.folder)
    assert rows[gone.name]["xquad-r.monolingual.map"] == rows[failed.name]["xquad-r.monolingual.map"] == ""
    assert (rows[failed.name]["state"], rows[failed.name]["steps"]) == ("failed", "3")


def test_a_missing_seed_is_stated(study):
    (measure,) = study.measures
    shutil.rmtree(study.runs[0].evaluation(measure))
    assert "| 64 | X-X \\& \\<mono\\> | 1 of 2 |" in report_markdown(Results.read(study), [table_of(study)])


def test_a_finished_study_misses_nothing(whole):
    words = Page((whole / "report.html").read_text()).words
    assert "8 of 8 are trained and measured in full." in words
    assert "not complete" not in words


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run, scores: scores.write_text("{"), "scores.json is not JSON"),
        (lambda run, scores: scores.write_text("[]"), "scores.json is damaged: it contains no object"),
        (
            lambda run, scores: (run.folder / "metrics.jsonl").write_text("{}\n"),
            "line 1, is damaged: step is missing",
        ),
        (lambda run, scores: (run.folder / "config.toml").write_text("steps = 3"), "is missing"),
        (
            lambda run, scores: (run.folder / "config.toml").write_text(
                run.config.to_toml().replace("learn_temperature = false", "learn_temperature = true")
            ),
            "is that of another run than the study wants, with loss.learn_temperature = True",
        ),
        (
            lambda run, scores: scores.write_text(scores.read_text().replace('"same"', '"other"')),
            "Scored on another cut or version of xquad-r than most runs",
        ),
    ],
)
def test_damaged_files_are_left_out_and_named(study, damage, sentence):
    run, (measure,) = study.runs[0], study.measures
    damage(run, run.evaluation(measure) / "scores.json")
    assert sentence in sentences_of(study)
    assert [len(row.scored) for row in table_of(study).points] == [1, 2, 2, 2]


def test_scores_without_per_query_scores_have_no_interval_and_a_remark(study):
    run, (measure,) = study.runs[0], study.measures
    (run.evaluation(measure) / "ranks.npz").unlink()
    table = table_of(study)
    assert [row.numbers["mAP_cross"].low is None for row in table.points] == [True, False, False, False]
    assert f"No interval for {run.name} on xquad-r" in sentences_of(study)


def test_a_number_that_contradicts_its_per_query_scores_has_no_interval(study):
    run, (measure,) = study.runs[0], study.measures
    path = run.evaluation(measure) / "scores.json"
    scores = json.loads(path.read_text())
    scores["monolingual"]["map"] += 0.01
    path.write_text(json.dumps(scores))
    table = table_of(study)
    assert table.points[0].numbers["mAP <mono>"].low is None
    assert table.points[0].numbers["mAP_cross"].low is not None
    assert any("its positions do not give" in remark for remark in table.remarks)


@given(
    st.integers(0, 1000), st.sampled_from(("by_pair.ar-ar.map", "by_pair.sw-ar.ndcg@10", "by_language.sw.recall@10"))
)
@settings(max_examples=6)
def test_a_number_of_one_language_or_pair_has_an_interval_of_its_own_queries(tmp_path_factory, seed, path):
    text = STUDY.replace('"mAP <mono>" = "monolingual.map"', f'"mAP <mono>" = "{path}"')
    study = write_study(tmp_path_factory.mktemp("study"), text)
    (measure,), run = study.measures, study.runs[0]
    write_run(run, steps=2)
    languages = ("ar", "de", "sw")
    scores = score(run.evaluation(measure), 0.5, seed=seed, languages=languages, questions=24)
    table = table_of(study)
    assert not table.remarks
    estimate = table.points[0].numbers["mAP <mono>"]
    section, of, metric = path.split(".")
    assert estimate.mean == scores[section][of][metric]
    kept = read_per_query(run.evaluation(measure), "same")
    rows = kept.language_Q == languages.index(of[:2])
    position_QR = kept.pool_QR[rows]
    if section == "by_pair":
        position_QR = np.where(
            kept.relevant_language_QR[rows] == languages.index(of[3:]), kept.own_QR[rows], NO_POSITION
        )
    plain = Values(metrics(position_QR, [metric])[metric], np.zeros(rows.sum()), kept.cluster_Q[rows])
    assert estimate.low is not None
    assert (estimate.low, estimate.high) == (interval([plain]).low, interval([plain]).high)


@pytest.mark.parametrize("path", ["by_pair.pt-BR-zh-Hans.map", "by_language.pt-BR.map", "by_pair.zh-Hans-zh-Hans.map"])
def test_a_study_of_earlier_scores_with_hyphens_in_their_languages_has_a_report(tmp_path, path):
    study = write_study(
        tmp_path / "made", STUDY.replace('"mAP <mono>" = "monolingual.map"', f'"mAP <mono>" = "{path}"')
    )
    (measure,) = study.measures
    for run in study.runs:
        write_run(run)
        languages = ("en", "pt-BR", "zh-Hans")
        scores = score(run.evaluation(measure), level_of(run), seed=run.seed, languages=languages, questions=12)
    assert "pt-BR-zh-Hans" in scores["by_pair"]
    page = Page(study_report(study).read_text())
    assert page.open == []
    assert "zh-Hans" in page.text
    assert not table_of(study).remarks


def test_a_missing_untuned_model_is_named(study):
    shutil.rmtree(study.baselines[0].folder)
    assert "The untuned models/me5-small-demo is not scored on xquad-r." in sentences_of(study)


@pytest.mark.parametrize(
    ("languages", "charts"),
    [
        (("de", "en"), 1 + 4 + 1 + 2 + 4),  # no cosine, and no untuned model
        (("en",), 1 + 4),  # one column, and no best by the primary one, which is not there
    ],
)
def test_fewer_languages_have_fewer_charts(study, languages, charts):
    (measure,) = study.measures
    shutil.rmtree(study.baselines[0].folder)
    for run in study.runs:
        score(run.evaluation(measure), level_of(run), seed=run.seed, languages=languages, questions=8, alignment=None)
    page = Page(study_report(study).read_text())
    assert page.tags.count("svg") == charts
    assert page.open == []


def test_a_task_without_a_multilingual_setting_or_map_has_a_report(tmp_path):
    text = re.sub(r"\[measure.columns\][^\[]*", '[measure.columns]\n"nDCG" = "monolingual.ndcg@10"\n', STUDY)
    study = write_study(tmp_path / "made", text.replace('primary = "mAP_cross"\n', ""))
    (measure,) = study.measures
    for run in study.runs:
        write_run(run)
        kept = made_per_query(level_of(run), run.seed, languages=3, questions=8)
        scores = made_scores(kept, ("ar", "de", "sw"))
        pairs = {f"{x}-{x}": {"ndcg@10": 0.5 + level_of(run) / 10} for x in ("ar", "de", "sw")}
        changed = dict.fromkeys(("cross_lingual", "multilingual", "bias", "alignment"))
        score(
            run.evaluation(measure),
            level_of(run),
            seed=run.seed,
            by_pair=pairs,
            by_language={},
            monolingual={"ndcg@10": scores["monolingual"]["ndcg@10"]},
            **changed,
        )
    page = Page(study_report(study).read_text())
    assert page.open == []
    assert page.tags.count("svg") == 1 + 1 + 4  # along the batch, dots of three languages, curves
    assert "nDCG" in page.text


def test_a_hundred_runs_make_a_page_of_less_than_five_megabytes(tmp_path):
    text = STUDY.replace("[64, 128]", "[1, 2, 4, 5, 8, 10, 16, 20, 32, 40]").replace("[0, 1]", "[0, 1, 2, 3, 4]")
    study = write_study(tmp_path / "made", text)
    assert len(study.runs) == 100
    (measure,) = study.measures
    languages = [f"l{number:02}" for number in range(12)]
    shared = score(tmp_path / "one", 0.5, languages=languages, questions=4)
    for run in study.runs:
        write_run(run, steps=60)
        run.evaluation(measure).mkdir(parents=True)
        (run.evaluation(measure) / "scores.json").write_text(json.dumps(shared))
    path = study_report(study)
    assert path.stat().st_size < 5_000_000
    page = Page(path.read_text())
    assert page.open == []
    assert "100 of 100 are trained" in page.words


def test_a_missing_folder_and_a_study_that_has_not_begun_are_refused_with_a_sentence(tmp_path, capsys):
    with pytest.raises(DataError, match=r"does not exist\. Give the folder of a run"):
        report_on(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"contains neither config\.toml nor study\.toml nor scores\.json"):
        report_on(tmp_path)
    study = write_study(tmp_path / "made")
    assert main(["report", str(study.folder)]) == 2
    assert "None of the 8 runs of the study made has done a step in" in capsys.readouterr().err
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        report_on(tmp_path / "broken.toml")


def test_the_kind_of_report_depends_on_the_kind_of_path(study, capsys):
    for run in study.runs[1:]:
        shutil.rmtree(run.folder)
    assert report_on(study.runs[0].folder) == study.runs[0].folder / "report.html"
    assert report_on(study.folder) == study.folder / "report.html"
    toml = study.folder.parent / "moved.toml"
    toml.write_text(f'folder = "{study.folder}"\n' + STUDY.replace("base.toml", "made/base.toml"))
    assert main(["report", str(toml)]) == 0
    assert f"wrote {study.folder / 'report.html'}" in capsys.readouterr().out


def test_the_same_study_gives_the_same_bytes(whole):
    names = ("report.html", "report.md", "report.tex", "results.csv")
    first = [(whole / name).read_bytes() for name in names]
    study_report(Study.load(whole))
    assert [(whole / name).read_bytes() for name in names] == first


def test_provenance_has_versions_machines_and_the_commands(whole):
    words = Page((whole / "report.html").read_text()).words
    for part in ("torch 2.13", "2 × NVIDIA & Co", f"hbdist study submit {whole}", "accelerate launch"):
        assert part in words
    assert "GPU-hours" in words
    hours = sum(run.config.steps * 3.6 / 3600 for run in Study.load(whole).runs)
    assert f"{hours:.2f} {2 * hours:.2f}" in words, "two processes a run"


def test_the_commands_in_a_report_find_the_study_that_it_was_made_of(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "base.toml").write_text(BASE)
    path = tmp_path / "made.toml"
    path.write_text(f'folder = "{tmp_path}/a folder"\n' + STUDY.replace("base.toml", "train/base.toml"))
    by_file = Study.load(path)
    write_copies(by_file)
    write_run(by_file.runs[0])
    for study in (by_file, Study.load(by_file.folder)):
        written = html.unescape(study_report(study).read_text())
        commands = [shlex.split(line) for line in re.findall(r"hbdist study \w+ [^<\n]*", written)]
        assert {command[2] for command in commands} == {"plan", "submit", "report"}
        for command in commands:
            assert Study.load(command[3]).runs == study.runs


def test_markdown_and_latex_tables_are_complete_and_escaped(whole):
    lines = [line for line in (whole / "report.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    tex = (whole / "report.tex").read_text()
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 4 + 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}
    assert tex.count(r"\begin{") == tex.count(r"\end{") == 2
    for part in (r"\toprule", r"\bottomrule", r"X-X \& \textless{}mono\textgreater{}", r"hybrid\_50"):
        assert part in tex
    assert not re.search(r"(?<!\\)[%#_]", tex.partition("\n")[2])


@given(st.text(alphabet="".join(LATEX) + "ab "))
def test_escaped_latex_has_balanced_braces_and_no_bare_special(text):
    escaped = escape_latex(text)
    plain = re.sub(r"\\[&%$#_{}]", "", escaped)
    assert not set(re.sub(r"\\text[a-z]+\{\}|\$\\[a-z]+\$", "", plain)) & set("&%#_~^\\{}$|<>")


@given(st.text(alphabet="\\`*_{}[]<>#|&ab \n"))
def test_escaped_markdown_stays_in_its_cell(text):
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`<]", escaped)
