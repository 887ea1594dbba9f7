"""Page of one run: what was trained, what it changed, how it went, and how to make it again. Loads no torch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hbdist.reports import plots
from hbdist.reports.render import Chart, render
from hbdist.reports.results import TrainingSummary, throughput
from hbdist.runs.record import Record

KINDS = ("monolingual", "cross-lingual", "mixed")

MOST_MARKS = 120
"""Most marks of one kind in a training curve; a longer run is averaged over neighbouring steps."""

NAMES = {"map": "mAP", "rank_distance": "rank distance", "same_language_share@10": "same-language share"}
"""Number of scores.json → its name on a page; others are called by their own names."""

SECTIONS = {
    "monolingual": "Monolingual",
    "cross_lingual": "Cross-lingual",
    "multilingual": "Multilingual",
    "bias": "Language bias",
}
"""Sections of scores.json in the table of scores."""

ROWS = ("map", "recall@1", "recall@10", "rank_distance", "same_language_share@10")
"""Rows of a section in the table of scores; of a task without these numbers, its first three."""

CURVES = {
    "loss_above_chance": "Loss above chance: the loss less ln(candidates); 0 is guessing, lower is better.",
    "accuracy": "In-batch accuracy: queries whose own document scores highest; higher is better.",
}


class Change(NamedTuple):
    """A number before and after training, as text; the arrow is empty where the two are the same text."""

    before: str
    after: str
    word: Literal["better", "worse", "no change"]
    arrow: str = ""
    size: str = ""


def run_page(record: Record) -> str:
    """Return the HTML of a run's report. It names missing parts, with the command that makes them."""
    both = {"Both": record.sides["after"]} if record.comparable else {}
    with plots.chart_style():
        return render(
            "run.html",
            title=record.folder.resolve().name,
            record=record,
            tasks=both or {side.capitalize(): scores for side, scores in record.sides.items()},
            score_columns=["", *record.sides, *["change"] * record.comparable],
            sections=list(_sections(record)),
            pair_charts=list(_pair_charts(record)),
            training_charts=list(_training_charts(record.metrics)),
            tiles=list(_tiles(record)),
            facts=list(_facts(record)),
        )


def _sections(record: Record) -> Iterator[tuple[str, list[tuple[str, Sequence[str]]]]]:
    for section, title in SECTIONS.items():
        sides = [scores.get(section) or {} for scores in record.sides.values()]
        if sides and all(sides):
            known = [name for name in sides[0] if all(name in side for side in sides)]
            names = [name for name in ROWS if name in known]
            rows = names if len(names) > 1 else known[:3]
            yield title, [(NAMES.get(name, name), _cells(record, section, name)) for name in rows]


def _cells(record: Record, section: str, name: str) -> Sequence[str]:
    values = [scores[section][name] for scores in record.sides.values()]
    digits = digits_of(name)
    if not record.comparable:
        return [f"{value:,.{digits}f}" for value in values]
    good = 0.0 if name == "rank_distance" else 1.0
    if name == "same_language_share@10":  # neither more nor less than its share of the pool
        good = record.sides["after"][section]["same_language_pool_share"]
    return compare(values[0], values[1], digits=digits, good=good)


def compare(before: float, after: float, *, digits: int, good: float) -> Change:
    """Return a number before and after training, and whether it became better.

    Args:
        digits: digits after the decimal point.
        good: best possible value: of the two numbers, the nearer one is the better.
    """
    texts = [f"{value:,.{digits}f}" for value in (before, after)]
    if texts[0] == texts[1]:
        return Change(texts[0], texts[1], "no change")
    word: Literal["better", "worse"] = "better" if abs(after - good) < abs(before - good) else "worse"
    return Change(texts[0], texts[1], word, "▲" if after > before else "▼", f"{abs(after - before):,.{digits}f}")


def digits_of(name: str) -> int:
    """Return the digits of a number after the decimal point; distances are differences of positions."""
    return 1 if name.startswith("rank_distance") and not name.endswith("share") else 3


def _pair_charts(record: Record) -> Iterator[Chart]:
    metric = metric_of_pairs(record.sides.values())
    if not metric:
        return
    by_pair, by_language = (
        {
            side: {name: values[metric] for name, values in scores[section].items() if metric in values}
            for side, scores in record.sides.items()
        }
        for section in ("by_pair", "by_language")
    )
    title = NAMES.get(metric, metric)
    shades = [value for values in by_pair.values() for value in values.values()]
    low, high = min(shades), max(shades)
    for side, values in by_pair.items():
        yield Chart(
            plots.heat_map(values, low, high, name=f"heat-{side}"),
            f"{title} {side} training. Shades run from {low:.2f} to {high:.2f}.",
        )
    if all(by_language.values()):
        yield Chart(
            plots.dots(by_language, name="languages", x_name=f"multilingual {title}"),
            f"{title} of each query language against the pool of all languages.",
        )


def metric_of_pairs(evaluations: Iterable[dict[str, Any]]) -> str:
    """Return "map" if all language pairs have it, else the first metric they share; "" if there is none."""
    pairs = [values for scores in evaluations for values in scores["by_pair"].values()]
    known = [name for name in (pairs[0] if pairs else ()) if all(name in values for values in pairs)]
    return "map" if "map" in known else next(iter(known), "")


def _training_charts(metrics: Sequence[dict[str, Any]]) -> Iterator[Chart]:
    width = max(1, -(-len(metrics) // MOST_MARKS))
    marks = "Each mark is one step." if width == 1 else f"Each mark is the mean of up to {width} neighbouring steps."
    for key, caption in CURVES.items() if metrics else ():
        yield Chart(_curve(metrics, key, width), f"{caption} {marks}")


def _curve(metrics: Sequence[dict[str, Any]], key: str, width: int) -> str:
    """Draw one number per step; `width` neighbouring steps make one mark of each kind of step."""
    kinds = {}
    for number, name in enumerate(KINDS):
        bins: dict[int, list[tuple[int, float]]] = {}
        for step in metrics:
            if _kind(step) == number:
                bins.setdefault(step["step"] // width, []).append((step["step"], step[key]))
        if bins:
            x, y = zip(*(np.mean(points, axis=0) for points in bins.values()), strict=True)
            kinds[name] = (x, y)
    return plots.curve_by_kind(kinds, name=f"curve-{key}", share=key == "accuracy")


def _kind(step: dict[str, Any]) -> int:
    """Return the index in KINDS of a step: all its pairs monolingual, all cross-lingual, or mixed."""
    return {1.0: 0, 0.0: 1}.get(float(step["mono_share"]), 2)


def _tiles(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the throughput of a run as (number, label)."""
    metrics, training = record.metrics, TrainingSummary.of(record)
    if training is None:
        return
    pairs, tokens, waiting, peak = throughput([training])
    # Padding is a share of real tokens, so the mean over the run weighs each step by its tokens.
    padding = sum(step["padding"] * step["tokens"] for step in metrics) / training.tokens
    yield pairs, "pairs a second"
    yield tokens, "tokens a second"
    yield f"{padding:.1%}", "padding, of real tokens"
    yield f"{np.mean([step['masked'] for step in metrics]):.2%}", "candidates masked"
    yield waiting, "of the time waiting for data"
    yield peak, "peak memory of a process"
    yield f"{training.seconds / 60:,.1f} min", "for all steps"


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    yield "manifest fingerprint", record.fingerprint or "no checkpoint says (see the plan)"
    for name, value in record.environment.items():
        if name != "packages":
            yield name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    if packages := record.environment.get("packages"):
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
