"""Tables of scores for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from hbdist.evaluation.scores import BASELINES, SETTINGS, describe_cut, metric_label

SHOWN = ("map", "ndcg", "recall")
"""Kinds of metrics that are on a terminal."""


def table(scores: dict[str, Any], before: dict[str, Any] | None = None, change: dict[str, Any] | None = None) -> Table:
    """The main scores as a table for the terminal; with `before`, as "before → after".

    Args:
        scores: of one evaluation.
        before: of an earlier one.
        change: the paired differences between the two, of `confidence.compare`.
    """
    sides = (before, scores) if before else (scores,)

    def row(label: str, name: str, *sections: str, digits: int = 3, baseline: str = "") -> None:
        shown.add_row(
            label, *(_cell(sides, section, name, digits, baseline) if section else "" for section in sections)
        )

    def below(name: str, *settings: str, digits: int = 3) -> None:
        """The change, or else the interval, where there is one."""
        intervals = scores.get("confidence") or {}
        if change and any(name in metrics for metrics in change.values()):
            shown.add_row("  change", *(setting and _change(change, setting, name, digits) for setting in settings))
        elif not before and any(name in intervals.get(setting, ()) for setting in settings):
            shown.add_row("  95 %", *(setting and _interval(scores, setting, name, digits) for setting in settings))

    title = f"{scores['task']} · {scores['model']}" if before is None else f"{scores['task']} · before → after"
    shown = Table(title=title, caption=_caption(scores, before, change), caption_justify="left")
    shown.add_column("")
    for setting in SETTINGS:
        shown.add_column(setting.replace("_", "-"), justify="right")
    baselines = [name for name in scores.get("removal") or {} if all((side.get("removal") or {}) for side in sides)]
    for place, metric in enumerate(_metrics(scores)):
        row(metric_label(metric), metric, *SETTINGS)
        below(metric, *SETTINGS)
        for name in baselines if place == 0 else ():
            row(f"  with {BASELINES[name]}", metric, *SETTINGS, baseline=name)
    if not any(side.get("bias") for side in sides):
        return shown
    row("rank distance", "rank_distance", "", "", "bias", digits=1)
    below("rank_distance", "", "", "multilingual", digits=1)
    for name in baselines:
        row(f"  with {BASELINES[name]}", "rank_distance", "", "", "bias", digits=1, baseline=name)
    row("same-language share", "same_language_share@10", "", "", "bias")
    return shown


def _metrics(scores: dict[str, Any]) -> list[str]:
    """The metrics of the task that are shown, the main one first."""
    main, *others = next(scores[setting] for setting in SETTINGS if scores[setting])
    return [main, *(name for name in others if name.startswith(SHOWN))]


def comparison_table(found: dict[str, Any]) -> Table:
    """What `comparison.compare_folders` found, as a table for the terminal."""
    shown = Table(title=f"{found['task']} · before → after", caption=_comparison_caption(found), caption_justify="left")
    for column in ("", "before", "after", "change", "95 %", "p"):
        shown.add_column(column, justify="right" if column else "left")
    for setting, metrics in found["changes"].items():
        for metric, value in metrics.items():
            digits = 1 if metric == "rank_distance" else 3
            shown.add_row(
                f"{setting.replace('_', '-')} {metric_label(metric)}",
                *(f"{value[side]:,.{digits}f}" for side in ("before", "after")),
                f"{value['mean']:+,.{digits}f}" if value["real"] else "no difference",
                f"{value['low']:+,.{digits}f} to {value['high']:+,.{digits}f}",
                f"{value['p']:.4f}",
            )
    return shown


def _comparison_caption(found: dict[str, Any]) -> str:
    sides = ("before", "after")
    lines = [f"{side}: {', '.join(one['model'] for one in found[side])}" for side in sides]
    lines.append(f"{found['counts']['queries']:,} queries; {describe_cut(found['cut'])}.")
    if found.get("note"):
        lines.append(f"Note: {found['note']}.")
    lines.append(f"Intervals: the middle {found['level']:.0%} of {found['draws']:,} draws of {_drawn(found)}.")
    if not all(value["real"] for metrics in found["changes"].values() for value in metrics.values()):
        lines.append("No difference: the interval holds zero, so this cannot tell the two apart.")
    single = [side for side in sides if len(found[side]) == 1]
    if single:
        lines.append(f"One seed {' and '.join(single)}: what another seed would give is not in the interval.")
    return "\n".join(lines)


def _drawn(found: dict[str, Any]) -> str:
    groups = f"{found['clusters']:,} groups of questions"
    several = [f"{len(found[side])} seeds {side}" for side in ("before", "after") if len(found[side]) > 1]
    return " and of ".join([groups, *several])


def _cell(sides: Sequence[dict[str, Any]], section: str, name: str, digits: int, baseline: str) -> str:
    """One number, or "before → after"; a dash where there is none."""
    values = [((side["removal"][baseline] if baseline else side).get(section) or {}).get(name) for side in sides]
    if all(value is None for value in values):
        return "–"
    return " → ".join("–" if value is None else f"{value:,.{digits}f}" for value in values)


def _interval(scores: dict[str, Any], setting: str, name: str, digits: int) -> str:
    bounds = scores["confidence"].get(setting, {}).get(name)
    return f"{bounds[0]:,.{digits}f} to {bounds[1]:,.{digits}f}" if bounds else "–"


def _change(change: dict[str, Any], setting: str, name: str, digits: int) -> str:
    """A difference with its interval, or that there is none to speak of."""
    value = change.get(setting, {}).get(name)
    if value is None:
        return "–"
    if not value["real"]:
        return f"no difference ({value['low']:+,.{digits}f} to {value['high']:+,.{digits}f})"
    return f"{value['mean']:+,.{digits}f} ({value['low']:+,.{digits}f} to {value['high']:+,.{digits}f})"


def _caption(scores: dict[str, Any], before: dict[str, Any] | None, change: dict[str, Any] | None) -> str:
    counts = scores["counts"]
    lines = [f"{counts['queries']:,} queries, {counts['candidates']:,} candidates; {describe_cut(scores['cut'])}."]
    if scores.get("note"):
        lines.append(f"Note: {scores['note']}.")
    lines += [f"Left out: {count:,} queries, {reason}." for reason, count in scores.get("left_out", {}).items()]
    if change or (scores.get("confidence") and not before):
        drawn = scores["confidence"]
        lines.append(
            f"Intervals: the middle {drawn['level']:.0%} of {drawn['draws']:,} draws of {drawn['clusters']:,} groups of"
            " questions."
        )
    if change and not all(value["real"] for values in change.values() for value in values.values()):
        lines.append("No difference: the interval holds zero, so these questions cannot tell the two apart.")
    if scores["bias"]:
        perfect, chance = (scores["bias"][f"rank_distance_{name}"] for name in ("perfect", "random"))
        pool = scores["bias"]["same_language_pool_share"]
        lines.append(f"Rank distance: {perfect:,.0f} is perfect, {chance:,.0f} random.")
        lines.append(f"Same-language share: of the top 10; {pool:.3f} of the pool.")
        lines.append("Multilingual recall@k: share of all translations that are in the top k.")
    if scores.get("chosen_on"):
        lines.append(f"The model was chosen on {scores['chosen_on']}: its scores there are a little too good.")
    if before and before["task_fingerprint"] != scores["task_fingerprint"]:
        lines.append(f"Not comparable: before was {before['task']}, {describe_cut(before['cut'])}.")
    return "\n".join(lines)
