"""Page of one evaluation: its scores, and heat maps of the language pairs. Loads no torch."""

from collections.abc import Iterator
from typing import Any

from hbdist.evaluation.scores import own_language
from hbdist.reports import plots
from hbdist.reports.render import Chart, render
from hbdist.reports.run_page import NAMES, SECTIONS, digits_of, metric_of_pairs

ONE_ANSWER = (
    "mAP in the pool of all languages where the answer in one language (column) stays in it and its translations leave:"
    " LAReQA's map of language bias. The stronger the diagonal, the more the model prefers the query's own language."
)


def evaluation_page(scores: dict[str, Any]) -> str:
    """Return the HTML that shows what scores.json holds."""
    with plots.chart_style():
        return render(
            "evaluation.html",
            title=f"{scores['model']} on {scores['task']}",
            scores=scores,
            charts=list(_charts(scores)),
            sections=[(title, _rows(values)) for name, title in SECTIONS.items() if (values := scores.get(name))],
            remarks=[f"{what} was not measured: {why}" for what, why in scores.get("not_measured", {}).items()],
        )


def _rows(values: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the name and the cell of each single number of a section."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return [
        (NAMES.get(name, name.replace("_", " ")), [f"{value:,.{digits_of(name)}f}"]) for name, value in numbers.items()
    ]


def _charts(scores: dict[str, Any]) -> Iterator[Chart]:
    metric = metric_of_pairs([scores])
    if not metric:
        return
    title = NAMES.get(metric, metric)
    by_pair = {pair: values[metric] for pair, values in scores["by_pair"].items() if metric in values}
    own = own_language(by_pair)
    if len(own) == len(by_pair):
        yield Chart(
            plots.dots({title: own}, name="languages", x_name=title),
            f"{title} of each language's queries among the candidates of that language.",
        )
    else:
        yield Chart(
            plots.heat_map(by_pair, min(by_pair.values()), max(by_pair.values()), name="pairs"),
            f"{title} of one language's queries among another language's candidates.",
        )
    if one_answer := (scores.get("bias") or {}).get("one_answer_map"):
        low, high = min(one_answer.values()), max(one_answer.values())
        yield Chart(plots.heat_map(one_answer, low, high, name="one answer"), ONE_ANSWER)
