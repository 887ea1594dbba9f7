"""The report of one run: all that its folder knows, as a single HTML file with inline charts. No torch."""

import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hbdist.atomic import write_atomically
from hbdist.evaluation.scores import describe_cut
from hbdist.studies import page
from hbdist.studies.record import Record, Scores

KINDS = (("monolingual", "#0072b2", "o"), ("cross-lingual", "#d55e00", "^"), ("mixed", "#6b7682", "s"))
"""Kinds of steps: name, colour, marker. Blue and vermilion stay apart in every kind of colour vision (Okabe, Ito)."""

BEFORE, AFTER = "#9aa5b1", "#0072b2"

MOST_MARKS = 120
"""Marks of one kind in a training curve; a longer run is averaged over neighbouring steps."""

RANKED = {"map": "mAP", "recall@1": "recall@1", "recall@10": "recall@10"}
SECTIONS = {
    "monolingual": ("Monolingual", RANKED),
    "cross_lingual": ("Cross-lingual", RANKED),
    "multilingual": ("Multilingual", RANKED),
    "bias": ("Language bias", {"rank_distance": "rank distance", "same_language_share@10": "same-language share"}),
}
"""Sections of scores.json that the table shows: their titles, and their rows."""

READING = (
    "mAP is over the full ranking. Multilingual: candidates of all languages in one pool; recall@k is the share of all"
    " translations of the answer that are in the top k. Rank distance: places between the best and the worst ranked of"
    " them; lower is better. Same-language share: of the top 10; best where it equals the language's share of the pool."
)

CHART_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8c1cb",
    "axes.labelcolor": "#5f6b7a",
    "text.color": "#1f2933",
    "xtick.color": "#5f6b7a",
    "ytick.color": "#5f6b7a",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def run_report(run: Path) -> Path:
    """Write `run`/report.html: what was trained, what it changed, how it went, and how to make it again.

    Parts that are missing are named, with the command that makes them.

    Raises:
        DataError: `run` is no run folder, or a file in it is damaged.
    """
    record = Record.read(run)
    with matplotlib.rc_context(CHART_STYLE):
        parts = [
            *_opening(record),
            *_scores(record),
            *_pairs(record),
            *_training(record),
            *_throughput(record),
            *_provenance(record),
        ]
    path = run / "report.html"
    write_atomically(path, page.page(run.resolve().name, parts))
    return path


def _opening(record: Record) -> Iterator[str]:
    config, batch = record.config, record.config.get("batch", {})
    unit = "pairs of each batch" if batch.get("mix") == "blocks" else "steps"
    yield page.paragraph(
        f"{config.get('model', {}).get('name', 'A model')}, trained for {len(record.metrics):,} of"
        f" {config.get('steps', 0):,} steps with {batch.get('size', 0):,} pairs in each global batch,"
        f" {batch.get('mono_share', 0.5):.0%} of the {unit} monolingual and the rest cross-lingual.",
        kind="lead",
    )
    if record.outcome:
        yield page.paragraph(f"{record.outcome['state']}: {record.outcome['message']}", kind="note")
    else:
        yield page.missing("The run has not ended: there is no outcome.json.", record.train_command)


def _scores(record: Record) -> Iterator[str]:
    yield page.heading("What the training changed")
    sides = record.sides
    for side in ("before", "after"):
        if side not in sides:
            yield page.missing(f"The scores {side} training are missing.", record.evaluate_command(side))
    if not sides:
        return
    columns = ["", *sides] + ["change"] * record.comparable
    yield page.score_table(columns, _score_groups(record))
    for side, scores in [("both", sides["after"])] if record.comparable else sides.items():
        counts = scores["counts"]
        yield page.paragraph(
            f"{side.capitalize()}: {scores['task']}, {counts['queries']:,} queries against {counts['candidates']:,}"
            f" candidates; {describe_cut(scores['cut'])}.",
            kind="note",
        )
    if len(sides) == 2 and not record.comparable:
        command = record.evaluate_command("before", like="after")
        yield page.missing(
            "The two are not comparable: task or cut differ. Before training, scores like those after are missing.",
            command,
        )
    yield page.paragraph(READING, kind="note")


def _score_groups(record: Record) -> Iterator[tuple[str, list[list[str]]]]:
    for section, (title, rows) in SECTIONS.items():
        if all(scores.get(section) for scores in record.sides.values()):
            yield title, [[label, *_cells(record, section, name)] for name, label in rows.items()]


def _cells(record: Record, section: str, name: str) -> list[str]:
    """One row of the table as HTML."""
    values = [scores[section][name] for scores in record.sides.values()]
    digits = 1 if name == "rank_distance" else 3
    if not record.comparable:
        return [f"{value:,.{digits}f}" for value in values]
    good = {"rank_distance": 0.0}.get(name, 1.0)
    if name == "same_language_share@10":  # neither more nor less than the pool has
        good = record.sides["after"][section]["same_language_pool_share"]
    return [*page.compared(values[0], values[1], digits=digits, good=good)]


def _pairs(record: Record) -> Iterator[str]:
    sides = record.sides
    if not sides:
        return
    yield page.heading("Language pairs")
    shades = [values["map"] for scores in sides.values() for values in scores["by_pair"].values()]
    low, high = min(shades), max(shades)
    charts = [
        (_heat_map(scores["by_pair"], low, high), f"mAP {side} training. Shades run from {low:.2f} to {high:.2f}.")
        for side, scores in sides.items()
    ]
    charts.append((_dots(sides), "mAP of each query language against the pool of all languages."))
    yield page.figures(charts)


def _training(record: Record) -> Iterator[str]:
    yield page.heading("Training")
    if not record.metrics:
        yield page.missing("No step is done yet: metrics.jsonl is missing or empty.", record.train_command)
        return
    width = max(1, -(-len(record.metrics) // MOST_MARKS))
    marks = "Each mark is one step." if width == 1 else f"Each mark is the mean of up to {width} neighbouring steps."
    charts = (
        ("loss_above_chance", "Loss above chance: the loss less ln(candidates); 0 is guessing, lower is better."),
        ("accuracy", "In-batch accuracy: queries whose own document scores highest; higher is better."),
    )
    yield page.figures((_curve(record.metrics, key, width), f"{caption} {marks}") for key, caption in charts)


def _throughput(record: Record) -> Iterator[str]:
    metrics = record.metrics
    if not metrics:
        return
    total = {key: sum(step[key] for step in metrics) for key in ("seconds", "data_seconds", "pairs", "tokens")}
    # Padding is a share of real tokens, so the mean over the run weighs each step by its tokens.
    padding = sum(step["padding"] * step["tokens"] for step in metrics) / total["tokens"]
    yield page.heading("Throughput")
    yield page.tiles(
        [
            (f"{total['pairs'] / total['seconds']:,.0f}", "pairs a second"),
            (f"{total['tokens'] / total['seconds']:,.0f}", "tokens a second"),
            (f"{padding:.1%}", "padding, of real tokens"),
            (f"{np.mean([step['masked'] for step in metrics]):.2%}", "candidates masked"),
            (f"{total['data_seconds'] / total['seconds']:.1%}", "of the time waiting for data"),
            (f"{max(step['peak_bytes'] for step in metrics) / 2**30:,.1f} GiB", "peak memory of a process"),
            (f"{total['seconds'] / 60:,.1f} min", "for all steps"),
        ]
    )


def _provenance(record: Record) -> Iterator[str]:
    yield page.heading("Provenance")
    environment = dict(record.environment)
    packages = environment.pop("packages", {})
    rows = [("manifest fingerprint", record.fingerprint or "no checkpoint says (see the plan)")]
    rows += [
        (name, ", ".join(map(str, v)) or "none" if isinstance(v, list) else str(v)) for name, v in environment.items()
    ]
    rows += [("packages", ", ".join(f"{name} {version}" for name, version in packages.items()))] if packages else []
    yield page.facts(rows)
    if not record.environment:
        yield page.missing("What it was made with is unknown: environment.json is missing.", record.train_command)
    commands = [record.again_command, record.evaluate_command("before"), record.evaluate_command("after")]
    yield page.paragraph("The same again:")
    yield page.preformatted("\n".join([*commands, record.report_command]))
    if record.plan:
        yield page.folded("plan.txt", page.preformatted(record.plan))
    yield page.folded("config.toml", page.preformatted(record.config_text))


def _curve(metrics: Sequence[dict[str, Any]], key: str, width: int) -> str:
    """One number a step, marked by the kind of the step; `width` steps in a row make one mark of each kind."""
    figure, axes = _chart(3.1)
    for number, (name, colour, marker) in enumerate(KINDS):
        steps = [step for step in metrics if _kind(step) == number]
        bins: dict[int, list[tuple[int, float]]] = {}
        for step in steps:
            bins.setdefault(step["step"] // width, []).append((step["step"], step[key]))
        if bins:
            x, y = zip(*(np.mean(points, axis=0) for points in bins.values()), strict=True)
            axes.plot(x, y, marker, linestyle="-", linewidth=0.8, color=colour, markersize=4.2, alpha=0.85, label=name)
    axes.set_xlabel("step")
    axes.grid(axis="y", color="#e4e8ed", linewidth=0.7)
    if key == "accuracy":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter("{x:.1f}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1.4)
    return _svg(figure, f"curve-{key}")


def _kind(step: dict[str, Any]) -> int:
    """The place in KINDS of a step: mono- or cross-lingual as a whole, or mixed."""
    return {1.0: 0, 0.0: 1}.get(float(step["mono_share"]), 2)


def _heat_map(by_pair: dict[str, dict[str, float]], low: float, high: float) -> str:
    """mAP by query language (rows) and document language (columns), shaded from `low` to `high`, with numbers."""
    languages = sorted({language for pair in by_pair for language in pair.split("-")})
    value_XY = np.array([[by_pair.get(f"{x}-{y}", {}).get("map", np.nan) for y in languages] for x in languages])
    figure, axes = _chart(5.0)
    shade = Normalize(low - 0.15 * (high - low), high + 1e-9)
    # Drawn as shapes, not as an image: sharp at any size, and it prints.
    axes.pcolormesh(value_XY, cmap="Blues", norm=shade, edgecolors="#fff", linewidth=1.2)
    for (row, column), value in np.ndenumerate(value_XY):
        if np.isfinite(value):
            colour = "#fff" if value > low + 0.5 * (high - low) else "#1f2933"
            text = f"{value:.2f}".removeprefix("0")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(np.arange(0.5, len(languages)), languages)
    axes.set_yticks(np.arange(0.5, len(languages)), languages)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.set_xlabel("document language")
    axes.set_ylabel("query language")
    return _svg(figure, "heat")


def _dots(sides: Mapping[str, Scores]) -> str:
    """Multilingual mAP of each query language: a dot a side, joined."""
    languages = sorted({x for scores in sides.values() for x in scores["by_language"]})
    value_SX = np.array(
        [[scores["by_language"].get(x, {}).get("map", np.nan) for x in languages] for scores in sides.values()]
    )
    figure, axes = _chart(4.0)
    rows = np.arange(len(languages))
    axes.hlines(
        rows, np.nanmin(value_SX, axis=0), np.nanmax(value_SX, axis=0), color="#c3ccd6", linewidth=1.6, zorder=1
    )
    for side, value_X in zip(sides, value_SX, strict=True):
        colour, fill = (BEFORE, "#fff") if side == "before" else (AFTER, AFTER)
        axes.plot(value_X, rows, "o", color=colour, markerfacecolor=fill, markersize=7, label=side)
    axes.set_yticks(rows, languages)
    axes.invert_yaxis()
    axes.set_xlabel("multilingual mAP")
    axes.grid(axis="x", color="#e4e8ed", linewidth=0.7)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1)
    return _svg(figure, "languages")


def _chart(height: float) -> tuple[Figure, Axes]:
    """An empty chart, `height` inches high. It is as wide as a phone's screen: text keeps its size there."""
    figure = Figure(figsize=(5.0, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """The chart as an <svg> element that can stand in a page beside others; the same chart gives the same bytes."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = file.getvalue()
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    # Names within the drawing must be unique in the whole page.
    unique = f"{name}-{zlib.crc32(svg.encode()):x}"
    return re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{unique}-", svg)
