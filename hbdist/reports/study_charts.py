"""The charts of a study: the trade-off, each number along its axis, training curves, language pairs and language bias."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hbdist.reports import page, plots
from hbdist.reports.plots import Curve, Spot, Spread
from hbdist.reports.results import Results
from hbdist.reports.seeds import DISTANCE, Estimate
from hbdist.reports.table import CROSS, MONO, SHARE, Row, Table, label_of, show
from hbdist.studies.study import StudySpec

CAPTIONS = {
    "loss_above_chance": "Loss above chance: the loss less ln(candidates); 0 is guessing, lower is better.",
    "accuracy": "In-batch accuracy: queries whose own document scores highest. It falls as batches grow.",
}


def charts(results: Results, tables: Sequence[Table]) -> Iterator[str]:
    """All charts, each kind under its heading; what there are no numbers for is left out."""
    with plots.chart_style():
        kinds = {
            "Trade-off": [chart for table in tables for chart in _trade_off(results.study, table)],
            f"Along {results.study.x}": [chart for table in tables for chart in _along(results.study, table)],
            "Language pairs": [chart for table in tables for chart in _pairs(table)],
            "Language bias": [chart for table in tables for chart in _bias(table)],
            "Training": list(_training(results)),
        }
    for title, drawn in kinds.items():
        if drawn:
            yield page.heading(title)
            yield page.figures(drawn)


def _spread(estimate: Estimate) -> Spread:
    if estimate.low is None or estimate.high is None:
        return Spread(estimate.mean, estimate.mean, estimate.mean)
    return Spread(estimate.mean, estimate.low, estimate.high)


def _line_of(study: StudySpec, values: Mapping[str, Any]) -> str:
    """The line of a chart that a point belongs to: all its axes but the one that plots run along."""
    return label_of({axis: value for axis, value in values.items() if axis != study.x})


def _lines(study: StudySpec, rows: Sequence[Row], columns: Sequence[str]) -> dict[str, list[Row]]:
    """The points that have all these numbers, by their lines."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if all(column in row.numbers for column in columns):
            lines.setdefault(_line_of(study, row.values), []).append(row)
    return lines


def _trade_off(study: StudySpec, table: Table) -> Iterator[tuple[str, str]]:
    mono, cross = table.column_of(MONO), table.column_of(CROSS)

    def spot(label: str, row: Row) -> Spot:
        return Spot(label, _spread(row.numbers[mono]), _spread(row.numbers[cross]))

    spots = {
        line: [spot(show(row.values[study.x]), row) for row in rows]
        for line, rows in _lines(study, table.points, (mono, cross)).items()
    }
    crosses = [spot(row.label, row) for row in table.untrained if {mono, cross} <= row.numbers.keys()]
    if spots:
        joined = all(plots.is_number(value) for value in study.axes[study.x])
        names = {"x_name": "monolingual mAP", "y_name": "cross-lingual mAP"}
        yield (
            plots.trade_off(spots, crosses, name=f"trade-off {table.measure.name}", joined=joined, **names),
            f"{table.measure.name}: to the right is better within languages, upwards across them. Beside each point:"
            f" {study.x}. Bars: 95 % intervals. Crosses: without training.",
        )


def _along(study: StudySpec, table: Table) -> Iterator[tuple[str, str]]:
    # One level for all points: only where all began with one model.
    untuned = table.untrained[0] if len(study.baselines) == 1 and table.untrained else None
    for column in table.columns:
        lines = {
            line: [(row.values[study.x], _spread(row.numbers[column])) for row in rows]
            for line, rows in _lines(study, table.points, (column,)).items()
        }
        if len({x for points in lines.values() for x, _ in points}) > 1:
            level = untuned.numbers[column].mean if untuned and column in untuned.numbers else None
            better = {1: "higher is better", -1: "lower is better", 0: "neither high nor low is best"}
            yield (
                plots.along(lines, level, name=f"along {table.measure.name} {column}", x_name=study.x),
                f"{table.measure.name}: {column}; {better[table.measure.direction(column)]}. Bars: 95 % intervals.",
            )


def _pairs(table: Table) -> Iterator[tuple[str, str]]:
    """Heat maps of the untuned model, of the best point, and of the change; dots where there is one language a pair."""
    best = table.best
    metric = _metric_of_pairs(table, best) if best else ""
    if best is None or not metric:
        return
    untuned = next((row for row in table.untrained if row.baseline == best.baseline), None)
    before, after = _by_pair(untuned, metric), _by_pair(best, metric)
    sides = {name: values for name, values in (("untuned", before), (best.label, after)) if values}
    title = "mAP" if metric == "map" else metric
    words = f"{table.measure.name}: {title} by language of the query (rows) and of the documents"
    if all(x == y for x, y in (pair.split("-") for pair in after)):
        by_language = {name: {pair.split("-")[0]: v for pair, v in values.items()} for name, values in sides.items()}
        name = f"languages {table.measure.name}"
        yield plots.dots(by_language, name=name, x_name=title), f"{table.measure.name}: {title} within each language."
        return
    low, high = min(map(min, map(dict.values, sides.values()))), max(map(max, map(dict.values, sides.values())))
    for name, values in sides.items():
        chart = plots.heat_map(values, low, high, name=f"pairs {table.measure.name} {name}")
        yield chart, f"{words}: {name}. Shades run from {low:.2f} to {high:.2f}."
    change = {pair: value - before[pair] for pair, value in after.items() if pair in before}
    if change:
        furthest = max(map(abs, change.values()))
        chart = plots.heat_map(change, -furthest, furthest, name=f"change {table.measure.name}", change=True)
        gained = sum(value > 0 for value in change.values())
        yield chart, f"{words}: the change. {gained} of {len(change)} pairs gain (purple); what loses is orange."


def _metric_of_pairs(table: Table, best: Row) -> str:
    """The metric of the primary column where pairs have it too, else mAP, else the first that they have, if any."""
    known: dict[str, float] = next(iter(best.scored[0][1]["by_pair"].values()), {})
    wanted = table.measure.columns[table.measure.primary].partition(".")[2]
    return next((name for name in (wanted, "map", *known) if name in known), "")


def _by_pair(row: Row | None, metric: str) -> dict[str, float]:
    """The mean over seeds, of the pairs that all have."""
    parts: list[dict[str, dict[str, float]]] = [scores["by_pair"] for _, scores in row.scored] if row else []
    pairs = [pair for pair in (parts[0] if parts else ()) if all(metric in part.get(pair, {}) for part in parts)]
    return {pair: float(np.mean([part[pair][metric] for part in parts])) for pair in pairs}


def _bias(table: Table) -> Iterator[tuple[str, str]]:
    bias: dict[str, Any] = next(
        (scores["bias"] for row in table.points for _, scores in row.scored if scores.get("bias")), {}
    )
    bounds = [
        f"{bias[f'rank_distance_{name}']:,.0f} is {name}"
        for name in ("perfect", "random")
        if f"rank_distance_{name}" in bias
    ]
    pool = bias.get("same_language_pool_share")
    captions = {
        DISTANCE: "Rank distance: places between a question's best and worst answer in the pool of all languages; lower is"
        " better" + f" ({', '.join(bounds)})." * bool(bounds),
        SHARE: "Same-language share: of the first ten in the pool of all languages"
        + (
            f"; {pool:.3f} of the pool is in the question's language, as a ranker blind to language would give."
            if pool
            else "."
        ),
    }
    for path, caption in captions.items():
        column = table.column_of(path)
        spreads = {row.label: _spread(row.numbers[column]) for row in table.points if column in row.numbers}
        hollow = {row.label: row.numbers[column].mean for row in table.untrained if column in row.numbers}
        if spreads:
            chart = plots.rows(spreads, hollow, name=f"{path} {table.measure.name}", x_name=caption.partition(":")[0])
            yield chart, f"{table.measure.name}: {caption} Hollow: without training."


def _training(results: Results) -> Iterator[tuple[str, str]]:
    """A chart for each metric and each line of the other charts; of every point, the mean of its seeds."""
    study = results.study
    trained = {found.run.name: found.training for found in results.runs if found.training}
    # Runs of other lengths are held side by side by what they have seen.
    by_pairs = len({run.config.steps for run in study.runs}) > 1
    for key, caption in CAPTIONS.items():
        lines: dict[str, dict[str, Curve]] = {}
        for runs in study.points():
            if curves := [trained[run.name].curve_K[key] for run in runs if run.name in trained]:
                step_K, value_K = _mean_curve(curves)
                scale = runs[0].config.batch.size if by_pairs else 1
                label = show(runs[0].values[study.x])
                lines.setdefault(_line_of(study, runs[0].values), {})[label] = (step_K * scale, value_K)
        values = [value for drawn in lines.values() for _, value_K in drawn.values() for value in value_K]
        limits = (0.0, 1.0) if key == "accuracy" else (min(values, default=0.0), max(values, default=0.0))
        for line, drawn in lines.items():
            x_name = "pairs seen" if by_pairs else "step"
            chart = plots.curves(drawn, name=f"{key} {line}", x_name=x_name, limits=limits)
            yield chart, f"{line}. {caption} Each line: {study.x}.".removeprefix(". ")


def _mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the seeds that are as far as the furthest."""
    step_K, _ = max(curves, key=lambda curve: curve[0][-1])
    return step_K, np.mean([value_K for other_K, value_K in curves if np.array_equal(other_K, step_K)], axis=0)
