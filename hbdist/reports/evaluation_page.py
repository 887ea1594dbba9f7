"""The page of one evaluation: its scores, and heat maps of who finds answers in which language. No torch."""

from collections.abc import Iterator
from typing import Any

from hbdist.evaluation.scores import describe_cut
from hbdist.reports import page, plots
from hbdist.reports.run_page import NAMES, READING, SECTIONS, metric_of_pairs, shown

ONE_ANSWER = (
    "mAP in the pool of all languages where the answer in one language (column) stays in it and its translations leave:"
    " LAReQA's map of language bias. The stronger the diagonal, the more the model prefers the query's own language."
)


def evaluation_page(scores: dict[str, Any]) -> str:
    """The HTML of what scores.json holds."""
    with plots.chart_style():
        parts = [*_opening(scores), *_maps(scores), *_table(scores)]
    return page.page(f"{scores['model']} on {scores['task']}", parts)


def _opening(scores: dict[str, Any]) -> Iterator[str]:
    counts = scores["counts"]
    yield page.paragraph(
        f"{counts['queries']:,} queries against {counts['candidates']:,} candidates; {describe_cut(scores['cut'])}.",
        kind="lead",
    )


def _table(scores: dict[str, Any]) -> Iterator[str]:
    yield page.heading("Scores")
    groups = []
    for section, title in SECTIONS.items():
        if values := scores.get(section):
            rows = [
                [NAMES.get(name, name.replace("_", " ")), f"{values[name]:,.{shown(name)}f}"] for name in _named(values)
            ]
            groups.append((title, rows))
    yield page.score_table(["", "score"], groups)
    yield page.paragraph(READING, kind="note")
    yield page.remarks([f"{what} was not measured: {why}" for what, why in scores["not_measured"].items()])


def _named(values: dict[str, Any]) -> list[str]:
    """Names of the numbers of a section that are single ones and are there."""
    return [name for name, value in values.items() if isinstance(value, int | float)]


def _maps(scores: dict[str, Any]) -> Iterator[str]:
    metric = metric_of_pairs([scores])
    if not metric:
        return
    yield page.heading("Language pairs")
    title = NAMES.get(metric, metric)
    by_pair = {pair: values[metric] for pair, values in scores["by_pair"].items() if metric in values}
    own = {pair.partition("-")[0]: value for pair, value in by_pair.items() if len(set(pair.split("-"))) == 1}
    charts = []
    if len(own) == len(by_pair):
        chart = plots.dots({title: own}, name="languages", x_name=title)
        charts.append((chart, f"{title} of each language's queries among the candidates of that language."))
    else:
        chart = plots.heat_map(by_pair, min(by_pair.values()), max(by_pair.values()), name="pairs")
        charts.append((chart, f"{title} of one language's queries among another language's candidates."))
    bias = scores.get("bias") or {}
    if one_answer := bias.get("one_answer_map"):
        chart = plots.heat_map(one_answer, min(one_answer.values()), max(one_answer.values()), name="one answer")
        charts.append((chart, ONE_ANSWER))
    yield page.figures(charts)
