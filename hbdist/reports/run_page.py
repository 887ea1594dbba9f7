"""The page of one run: what was trained, what it changed, how it went, and how to make it again. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hbdist.evaluation.scores import describe_cut
from hbdist.reports import page, plots
from hbdist.runs.record import Record

KINDS = ("monolingual", "cross-lingual", "mixed")

MOST_MARKS = 120
"""Marks of one kind in a training curve; a longer run is averaged over neighbouring steps."""

NAMES = {"map": "mAP", "rank_distance": "rank distance", "same_language_share@10": "same-language share"}
"""What numbers of scores.json are called here; others by their own names."""

SECTIONS = {
    "monolingual": "Monolingual",
    "cross_lingual": "Cross-lingual",
    "multilingual": "Multilingual",
    "bias": "Language bias",
}
"""Sections of scores.json that the table shows."""

RANKED = ("map", "recall@1", "recall@10")
BIAS = ("rank_distance", "same_language_share@10")
"""Their rows; of a task without these metrics, its first three."""

READING = (
    "mAP is over the full ranking. Multilingual: candidates of all languages in one pool; recall@k is the share of all"
    " translations of the answer that are in the top k. Rank distance: places between the best and the worst ranked of"
    " them; lower is better. Same-language share: of the top 10; best where it equals the language's share of the pool."
)


def run_page(record: Record) -> str:
    """The HTML of a run's report. Parts that are missing are named, with the command that makes them."""
    with plots.chart_style():
        parts = [
            *_opening(record),
            *_scores(record),
            *_pairs(record),
            *_training(record),
            *_throughput(record),
            *_provenance(record),
        ]
    return page.page(record.folder.resolve().name, parts)


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
    if metric := config.get("evaluation", {}).get("metric"):
        yield page.paragraph(
            f"The model was chosen among the run's steps by {metric}, a score of an evaluation task: on that task it is"
            " higher than it would be on other questions.",
            kind="note",
        )


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
    for section, title in SECTIONS.items():
        parts = [scores.get(section) or {} for scores in record.sides.values()]
        if all(parts):
            known = [name for name in parts[0] if all(name in part for part in parts)]
            names = [name for name in (*RANKED, *BIAS) if name in known]
            rows = names if len(names) > 1 else known[:3]
            yield title, [[NAMES.get(name, name), *_cells(record, section, name)] for name in rows]


def _cells(record: Record, section: str, name: str) -> list[str]:
    """One row of the table as HTML."""
    values = [scores[section][name] for scores in record.sides.values()]
    digits = shown(name)
    if not record.comparable:
        return [f"{value:,.{digits}f}" for value in values]
    good = {"rank_distance": 0.0}.get(name, 1.0)
    if name == "same_language_share@10":  # neither more nor less than the pool has
        good = record.sides["after"][section]["same_language_pool_share"]
    return [*page.compared(values[0], values[1], digits=digits, good=good)]


def shown(name: str) -> int:
    """Digits of a number after the decimal point; distances are counts of places."""
    return 1 if name.startswith("rank_distance") and not name.endswith("share") else 3


def _pairs(record: Record) -> Iterator[str]:
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
    yield page.heading("Language pairs")
    title = NAMES.get(metric, metric)
    shades = [value for values in by_pair.values() for value in values.values()]
    low, high = min(shades), max(shades)
    charts = [
        (
            plots.heat_map(values, low, high, name=f"heat-{side}"),
            f"{title} {side} training. Shades run from {low:.2f} to {high:.2f}.",
        )
        for side, values in by_pair.items()
    ]
    if all(by_language.values()):
        caption = f"{title} of each query language against the pool of all languages."
        charts.append((plots.dots(by_language, name="languages", x_name=f"multilingual {title}"), caption))
    yield page.figures(charts)


def metric_of_pairs(evaluations: Iterable[dict[str, Any]]) -> str:
    """mAP where the task has it, else its first metric; empty where no pair has scores."""
    pairs = [values for scores in evaluations for values in scores["by_pair"].values()]
    known = [name for name in (pairs[0] if pairs else ()) if all(name in values for values in pairs)]
    return "map" if "map" in known else next(iter(known), "")


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
    """The place in KINDS of a step: mono- or cross-lingual as a whole, or mixed."""
    return {1.0: 0, 0.0: 1}.get(float(step["mono_share"]), 2)
