"""Charts of a study: the trade-off, each number along its axis, training curves, language pairs and language bias."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hbdist.evaluation.scores import own_language
from hbdist.reports import plots
from hbdist.reports.plots import Curve, Spot, Spread
from hbdist.reports.render import Chart
from hbdist.reports.results import Results
from hbdist.reports.row import Row, show
from hbdist.reports.seeds import DISTANCE
from hbdist.reports.table import CROSS, MONO, SHARE, Table, label_of
from hbdist.studies.study import StudySpec

CAPTIONS = {
    "loss_above_chance": "Loss above chance: the loss less ln(candidates); 0 is guessing, lower is better.",
    "accuracy": "In-batch accuracy: queries whose own document scores highest. It falls as batches grow.",
}
DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "neither high nor low is best"}


def charts(results: Results, tables: Sequence[Table]) -> dict[str, list[Chart]]:
    """Return heading → its charts; charts without numbers are left out."""
    study = results.study
    with plots.chart_style():
        return {
            "Trade-off": [chart for table in tables for chart in _trade_off(study, table)],
            f"Along {study.x}": [chart for table in tables for chart in _along(study, table)],
            "Language pairs": [chart for table in tables for chart in _pairs(table)],
            "Language bias": [chart for table in tables for chart in _bias(table)],
            "Training": list(_training(results)),
        }


def _spread(row: Row, column: str) -> Spread:
    estimate = row.numbers[column]
    if estimate.low is None or estimate.high is None:
        return Spread(estimate.mean, estimate.mean, estimate.mean)
    return Spread(estimate.mean, estimate.low, estimate.high)


def _line_of(study: StudySpec, values: Mapping[str, Any]) -> str:
    """Return the name of a point's line: the values of all axes but the one along which plots run."""
    return label_of({axis: value for axis, value in values.items() if axis != study.x})


def _lines(study: StudySpec, rows: Sequence[Row], *columns: str) -> dict[str, list[Row]]:
    """Return line → its points, of the points that have all these numbers."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if all(column in row.numbers for column in columns):
            lines.setdefault(_line_of(study, row.values), []).append(row)
    return lines


def _trade_off(study: StudySpec, table: Table) -> Iterator[Chart]:
    mono, cross = table.column_of(MONO), table.column_of(CROSS)

    def spot(label: str, row: Row) -> Spot:
        return Spot(label, _spread(row, mono), _spread(row, cross))

    spots = {
        line: [spot(show(row.values[study.x]), row) for row in rows]
        for line, rows in _lines(study, table.points, mono, cross).items()
    }
    if spots:
        svg = plots.trade_off(
            spots,
            [spot(row.label, row) for row in table.untrained if {mono, cross} <= row.numbers.keys()],
            name=f"trade-off {table.measure.name}",
            joined=all(map(plots.is_number, study.axes[study.x])),
            x_name="monolingual mAP",
            y_name="cross-lingual mAP",
        )
        yield Chart(
            svg,
            f"{table.measure.name}: to the right is better within languages, upwards across them. Beside each point:"
            f" {study.x}. Bars: 95 % intervals. Crosses: without training.",
        )


def _along(study: StudySpec, table: Table) -> Iterator[Chart]:
    # One level for all points makes sense only if all began with the same model.
    untuned = table.untrained[0] if len(study.baselines) == 1 and table.untrained else None
    for column in table.columns:
        lines = {
            line: [(row.values[study.x], _spread(row, column)) for row in rows]
            for line, rows in _lines(study, table.points, column).items()
        }
        if len({x for points in lines.values() for x, _ in points}) > 1:
            level = untuned.numbers[column].mean if untuned and column in untuned.numbers else None
            direction = DIRECTIONS[table.measure.direction(column)]
            yield Chart(
                plots.along(lines, level, name=f"along {table.measure.name} {column}", x_name=study.x),
                f"{table.measure.name}: {column}; {direction}. Bars: 95 % intervals.",
            )


def _pairs(table: Table) -> Iterator[Chart]:
    """Yield heat maps of the untuned model, the best point and the change; dots if queries and documents share a language."""
    best = table.best
    metric = _metric_of_pairs(table, best) if best else ""
    if best is None or not metric:
        return
    untuned = next((row for row in table.untrained if row.baseline == best.baseline), None)
    before, after = _by_pair(untuned, metric), _by_pair(best, metric)
    sides = {name: values for name, values in (("untuned", before), (best.label, after)) if values}
    title, task = "mAP" if metric == "map" else metric, table.measure.name
    if len(own_language(after)) == len(after):
        by_language = {name: own_language(values) for name, values in sides.items()}
        svg = plots.dots(by_language, name=f"languages {task}", x_name=title)
        yield Chart(svg, f"{task}: {title} within each language.")
        return
    words = f"{task}: {title} by language of the query (rows) and of the documents"
    shades = [value for values in sides.values() for value in values.values()]
    low, high = min(shades), max(shades)
    for name, values in sides.items():
        svg = plots.heat_map(values, low, high, name=f"pairs {task} {name}")
        yield Chart(svg, f"{words}: {name}. Shades run from {low:.2f} to {high:.2f}.")
    change = {pair: value - before[pair] for pair, value in after.items() if pair in before}
    if change:
        largest = max(map(abs, change.values()))
        svg = plots.heat_map(change, -largest, largest, name=f"change {task}", change=True)
        gained = sum(value > 0 for value in change.values())
        yield Chart(svg, f"{words}: the change. {gained} of {len(change)} pairs gain (purple); what loses is orange.")


def _metric_of_pairs(table: Table, best: Row) -> str:
    """Return the metric of the primary column if pairs have it, else mAP, else the first they have; "" if there is none."""
    known: dict[str, float] = next(iter(best.scored[0][1]["by_pair"].values()), {})
    wanted = table.measure.columns[table.measure.primary].partition(".")[2]
    return next((name for name in (wanted, "map", *known) if name in known), "")


def _by_pair(row: Row | None, metric: str) -> dict[str, float]:
    """Return language pair → mean over seeds, of the pairs that all seeds have."""
    parts: list[dict[str, dict[str, float]]] = [scores["by_pair"] for _, scores in row.scored] if row else []
    pairs = [pair for pair in (parts[0] if parts else ()) if all(metric in part.get(pair, {}) for part in parts)]
    return {pair: float(np.mean([part[pair][metric] for part in parts])) for pair in pairs}


def _bias(table: Table) -> Iterator[Chart]:
    known = (scores["bias"] for row in table.points for _, scores in row.scored if scores.get("bias"))
    bias: dict[str, Any] = next(known, {})
    bounds = ", ".join(
        f"{bias[key]:,.0f} is {name}" for name in ("perfect", "random") if (key := f"rank_distance_{name}") in bias
    )
    blind = ""
    if pool := bias.get("same_language_pool_share"):
        blind = f"; {pool:.3f} of the pool is in the question's language, as a ranker blind to language would give"
    captions = {
        DISTANCE: "Rank distance: positions between a question's best and worst answer in the pool of all languages; lower is"
        f" better{f' ({bounds}).' if bounds else ''}",
        SHARE: f"Same-language share: of the first ten in the pool of all languages{blind}.",
    }
    for path, caption in captions.items():
        column = table.column_of(path)
        spreads = {row.label: _spread(row, column) for row in table.points if column in row.numbers}
        hollow = {row.label: row.numbers[column].mean for row in table.untrained if column in row.numbers}
        if spreads:
            svg = plots.rows(spreads, hollow, name=f"{path} {table.measure.name}", x_name=caption.partition(":")[0])
            yield Chart(svg, f"{table.measure.name}: {caption} Hollow: without training.")


def _training(results: Results) -> Iterator[Chart]:
    """Yield a chart for each metric and each line of the other charts, with the mean over seeds of every point."""
    study = results.study
    trained = {result.run.name: result.training for result in results.runs if result.training}
    # Runs of different lengths are compared by the pairs they have seen.
    by_pairs = len({run.config.steps for run in study.runs}) > 1
    x_name = "pairs seen" if by_pairs else "step"
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
            svg = plots.curves(drawn, name=f"{key} {line}", x_name=x_name, limits=limits)
            yield Chart(svg, f"{line}. {caption} Each line: {study.x}.".removeprefix(". "))


def _mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the seeds that have come as far as the furthest."""
    step_K, _ = max(curves, key=lambda curve: curve[0][-1])
    return step_K, np.mean([value_K for other_K, value_K in curves if np.array_equal(other_K, step_K)], axis=0)
