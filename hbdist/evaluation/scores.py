"""scores.json: read, put in place, shown on a terminal. No torch, so that reports need none.

Its keys are in the docstrings of `benchmark.evaluate` and `benchmark.summarise`, which fill it.
"""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from hbdist.errors import DataError


def read_scores(out: Path) -> dict[str, Any] | None:
    """`out`/scores.json, or None if there is none.

    Raises:
        DataError: it is not JSON.
    """
    path = out / "scores.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Delete it; `hbdist evaluate` writes it again.") from None


def table(scores: dict[str, Any], before: dict[str, Any] | None = None) -> Table:
    """The main scores as a table for the terminal; with `before`, as "before → after"."""

    def cell(section: str, name: str, digits: int = 3) -> str:
        values = [(side or {}).get(section) for side in ((before, scores) if before else (scores,))]
        return " → ".join(f"{value[name]:,.{digits}f}" if value else "–" for value in values)

    title = f"{scores['task']} · {scores['model']}" if before is None else f"{scores['task']} · before → after"
    shown = Table(title=title, caption=_caption(scores, before), caption_justify="left")
    shown.add_column("")
    for setting in ("monolingual", "cross-lingual", "multilingual"):
        shown.add_column(setting, justify="right")
    for name, label in (("map", "mAP"), ("recall@1", "recall@1"), ("recall@10", "recall@10")):
        shown.add_row(label, *(cell(section, name) for section in ("monolingual", "cross_lingual", "multilingual")))
    shown.add_row("rank distance", "", "", cell("bias", "rank_distance", 1))
    shown.add_row("same-language share", "", "", cell("bias", "same_language_share@10"))
    return shown


def _caption(scores: dict[str, Any], before: dict[str, Any] | None) -> str:
    counts = scores["counts"]
    lines = [f"{counts['queries']:,} queries, {counts['candidates']:,} candidates; {describe_cut(scores['cut'])}."]
    if scores["bias"]:
        perfect, chance = (scores["bias"][f"rank_distance_{name}"] for name in ("perfect", "random"))
        pool = scores["bias"]["same_language_pool_share"]
        lines.append(f"Rank distance: {perfect:,.0f} is perfect, {chance:,.0f} random.")
        lines.append(f"Same-language share: of the top 10; {pool:.3f} of the pool.")
        lines.append("Multilingual recall@k: share of all translations that are in the top k.")
    if before and before["task_fingerprint"] != scores["task_fingerprint"]:
        lines.append(f"Not comparable: before was {before['task']}, {describe_cut(before['cut'])}.")
    return "\n".join(lines)


def describe_cut(cut: dict[str, Any] | None) -> str:
    """What is left of a task, in words."""
    if not cut:
        return "nothing cut"
    parts = []
    if cut.get("languages"):
        parts.append(f"languages cut to {', '.join(cut['languages'])}")
    if cut.get("questions"):
        parts.append(f"questions cut to {cut['questions']:,} a language, against all candidates")
    return " and ".join(parts)
