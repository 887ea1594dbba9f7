"""Tables of scores for the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from hbdist.evaluation.scores import BASELINES, SETTINGS, metric_label
from hbdist.reports.render import render

SHOWN = ("map", "ndcg", "recall")
"""Beginnings of the names of metrics that are shown on a terminal."""

NO_NUMBER = "–"


def table(scores: dict[str, Any], before: dict[str, Any] | None = None, change: dict[str, Any] | None = None) -> Table:
    """Return the main scores as a table for the terminal; with `before`, as "before → after".

    Args:
        change: paired differences between the two, from `bootstrap.compare`.
    """
    sides = (before, scores) if before else (scores,)
    unsure = change and any(value["real"] is False for values in change.values() for value in values.values())
    tested = any(setting in (scores.get("confidence") or {}) for setting in SETTINGS)
    known = {"scores": scores, "before": before, "change": change, "unsure": unsure, "tested": tested}
    caption = render("scores.txt", **known).rstrip("\n")
    title = f"{scores['task']} · {'before → after' if before else scores['model']}"
    shown = Table(title=title, caption=caption, caption_justify="left")
    for column in ("", *SETTINGS):
        shown.add_column(column.replace("_", "-"), justify="right" if column else "left")
    removals = list(scores.get("removal") or {}) if all(side.get("removal") for side in sides) else []
    own: dict[str, str] = {setting: setting for setting in SETTINGS}
    metrics = list(next((scores[setting] for setting in SETTINGS if scores[setting]), {}))
    shown_metrics = metrics[:1] + [name for name in metrics[1:] if name.startswith(SHOWN)]
    rows: list[list[str]] = []
    for metric in shown_metrics:
        kept = removals if metric == metrics[0] else []
        rows += _rows(sides, change, metric_label(metric), metric, own, removals=kept)
    if any(side.get("bias") for side in sides):
        bias = {"multilingual": "bias"}
        rows += _rows(sides, change, "rank distance", "rank_distance", bias, digits=1, removals=removals)
        rows += _rows(sides, change, "same-language share", "same_language_share@10", bias)
    for row in rows:
        shown.add_row(*row)
    return shown


def _rows(
    sides: Sequence[dict[str, Any]],
    change: dict[str, Any] | None,
    label: str,
    name: str,
    section_of: Mapping[str, str],
    *,
    digits: int = 3,
    removals: Sequence[str] = (),
) -> Iterator[list[str]]:
    """Yield the rows of one number: the number, its change or interval if known, and the number after language removal.

    Args:
        section_of: setting, which is a column → section of scores.json that contains its number.
    """

    def row(label: str, cell: Callable[[str], str]) -> list[str]:
        return [label, *(cell(setting) if setting in section_of else "" for setting in SETTINGS)]

    def values(parts: Sequence[dict[str, Any]]) -> Callable[[str], str]:
        return lambda setting: _values([(part.get(section_of[setting]) or {}).get(name) for part in parts], digits)

    yield row(label, values(sides))
    intervals = sides[-1].get("confidence") or {}
    if change and any(name in metrics for metrics in change.values()):
        yield row("  change", lambda setting: _change(change.get(setting, {}).get(name), digits))
    elif len(sides) == 1 and any(name in intervals.get(setting, ()) for setting in section_of):
        yield row("  95 %", lambda setting: _bounds(intervals.get(setting, {}).get(name), digits))
    for removal in removals:
        yield row(f"  with {BASELINES[removal]}", values([side["removal"][removal] for side in sides]))


def _values(values: Sequence[float | None], digits: int) -> str:
    """Return one number, or "before → after"."""
    if all(value is None for value in values):
        return NO_NUMBER
    return " → ".join(NO_NUMBER if value is None else f"{value:,.{digits}f}" for value in values)


def _bounds(bounds: Sequence[float] | None, digits: int, sign: str = "") -> str:
    return " to ".join(f"{bound:{sign},.{digits}f}" for bound in bounds) if bounds else NO_NUMBER


def _change(value: dict[str, Any] | None, digits: int) -> str:
    """Return a difference with its interval; a difference that is not significant is called none."""
    if value is None:
        return NO_NUMBER
    if value["real"] is None:
        return f"{_mean(value, digits)} (not tested)"
    return f"{_mean(value, digits)} ({_bounds((value['low'], value['high']), digits, '+')})"


def _mean(value: dict[str, Any], digits: int) -> str:
    """Return a difference, or that there is none that could be told from zero."""
    return "no difference" if value["real"] is False else f"{value['mean']:+,.{digits}f}"


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Return the result of `comparison.compare_folders` as a table for the terminal."""
    sides = ("before", "after")
    unsure = any(value["real"] is False for metrics in comparison["changes"].values() for value in metrics.values())
    tested = any(value["low"] is not None for metrics in comparison["changes"].values() for value in metrics.values())
    known = {"comparison": comparison, "sides": sides, "unsure": unsure, "tested": tested}
    caption = render("comparison.txt", **known).rstrip("\n")
    shown = Table(title=f"{comparison['task']} · before → after", caption=caption, caption_justify="left")
    for column in ("", "before", "after", "change", "95 %", "p"):
        shown.add_column(column, justify="right" if column else "left")
    for setting, metrics in comparison["changes"].items():
        for metric, value in metrics.items():
            digits = 1 if metric == "rank_distance" else 3
            shown.add_row(
                f"{setting.replace('_', '-')} {metric_label(metric)}",
                *(f"{value[side]:,.{digits}f}" for side in sides),
                _mean(value, digits),
                *(
                    ("not tested", NO_NUMBER)
                    if value["real"] is None
                    else (_bounds((value["low"], value["high"]), digits, "+"), f"{value['p']:.4f}")
                ),
            )
    return shown
