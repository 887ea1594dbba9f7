"""Reports of a run, a study or an evaluation: one HTML file each, which loads nothing; of a study also tables as text."""

from pathlib import Path

from hbdist.errors import DataError, without_secrets
from hbdist.evaluation.scores import read_evaluation
from hbdist.reports.evaluation_page import evaluation_page
from hbdist.reports.exports import report_latex, report_markdown, results_csv
from hbdist.reports.results import Results
from hbdist.reports.run_page import run_page
from hbdist.reports.study_page import study_page
from hbdist.reports.table import make_tables
from hbdist.runs.record import Record
from hbdist.studies.study import STUDY, StudySpec
from hbdist.utils.files import write_atomically
from hbdist.utils.leftovers import remove_leftovers

HTML = "report.html"


def report_on(path: Path) -> Path:
    """Write the report of a study (its file or folder), of a run's folder or of an evaluation's folder; return its path.

    Raises:
        DataError: `path` is none of these, or nothing of it has begun.
        ConfigError: the study's file is wrong.
    """
    if (path / "config.toml").is_file():
        return run_report(path)
    if path.is_file() or (path / STUDY).is_file():
        return study_report(StudySpec.load(path))
    if (path / "scores.json").is_file():
        return evaluation_report(path)
    problem = f"contains neither config.toml nor {STUDY} nor scores.json" if path.is_dir() else "does not exist"
    raise DataError(
        f"{path} {problem}. Give the folder of a run (with config.toml), of a study (with {STUDY}) or of an evaluation"
        " (with scores.json), or a study's TOML file."
    )


def run_report(run: Path) -> Path:
    """Write `run`/report.html: what was trained, what it changed, how it went, and how to make it again.

    Raises:
        DataError: `run` is not a run folder, or a file in it is damaged.
    """
    return _write(run, run_page(Record.read(run)))


def evaluation_report(out: Path) -> Path:
    """Write `out`/report.html: the scores, and heat maps of language pairs.

    Raises:
        DataError: there is no scores.json, or it is damaged.
    """
    scores = read_evaluation(out)
    if scores is None:
        raise DataError(f"{out} contains no scores.json. Give the --out of `hbdist evaluate`.")
    return _write(out, evaluation_page(scores))


def study_report(study: StudySpec) -> Path:
    """Write report.html, results.csv, report.md and report.tex into the study's folder, from the runs there are so far.

    Raises:
        DataError: no run of the study has begun.
    """
    results = Results.read(study)
    tables = make_tables(results)
    write_atomically(study.folder / "results.csv", results_csv(results))
    write_atomically(study.folder / "report.md", report_markdown(results, tables))
    write_atomically(study.folder / "report.tex", report_latex(results, tables))
    return _write(study.folder, study_page(results, tables))


def _write(folder: Path, page: str) -> Path:
    remove_leftovers(folder)
    write_atomically(folder / HTML, without_secrets(page))
    return folder / HTML
