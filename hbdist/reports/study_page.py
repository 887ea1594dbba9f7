"""The page of a study: its question, its setting and its tables, and after them the charts and the accounts."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from hbdist.evaluation.scores import describe_cut
from hbdist.reports import page
from hbdist.reports.exports import mark_sign, name_cells
from hbdist.reports.provenance import cost, provenance, runs
from hbdist.reports.results import Results
from hbdist.reports.study_charts import charts
from hbdist.reports.table import Row, Table, show
from hbdist.studies.study import StudySpec

LEGEND = (
    "Bold: the best of the grid. ≈: not told from it: the 95 % interval of the difference, on the same questions, holds"
    " zero. †: without training, and better than all of the grid. Below a number: its 95 % interval, over questions and,"
    " where there are several, seeds. A number without an interval does not follow from the ranks of single queries, so"
    " no difference in its column has been tested. One interval is right 95 times in 100: of twenty comparisons, expect"
    " one that is wrong."
)

CHOSEN = (
    "A model chosen by these tables is chosen by an evaluation task ({}): its score there is higher than it would be on"
    " other questions. Choose by validation loss, or measure the chosen one elsewhere."
)


def study_page(results: Results, tables: Sequence[Table]) -> str:
    """The HTML of a study's report; what is missing of it is said at its head."""
    parts = [*_opening(results, tables), *_setting(results, tables)]
    for table in tables:
        parts += _table(results.study, table)
    parts.append(page.paragraph(LEGEND, kind="note"))
    if chosen_by := ", ".join(table.measure.name for table in tables if table.best):
        parts.append(page.paragraph(CHOSEN.format(chosen_by), kind="note"))
    parts += [*charts(results, tables), *cost(results), *runs(results), *provenance(results)]
    return page.page(results.study.title, parts)


def _opening(results: Results, tables: Sequence[Table]) -> Iterator[str]:
    study = results.study
    yield page.paragraph(study.question, kind="lead")
    if study.note:
        yield page.paragraph(study.note)
    left = len(results.runs) - len(results.complete)
    if left:
        yield page.missing(
            f"{left} of {len(results.runs)} runs are not complete: what is here may change. They are listed under Runs.",
            f"hbdist study submit {shlex.quote(str(study.argument))}",
        )
    for table in tables:
        if words := headline(table):
            yield page.paragraph(words)


def headline(table: Table) -> str:
    """What a table says in its primary column, in words."""
    best, column = table.best, table.measure.primary
    if best is None:
        return ""
    number, _, interval = table.cell(best, column)
    words = f"{table.measure.name}: the best by {column} is {best.label}, with {number}"
    words += f" ({interval})." if interval else "."
    if tied := [row.label for row in table.points if row.marks.get(column) == "tied"]:
        named = "; ".join(tied[:4]) + (f"; and {len(tied) - 4} more" if len(tied) > 4 else "")
        words += f" Not told from it: {named}."
    if table.gain:
        change = f"{table.gain.mean:+.3g} ({table.gain.low:+.3g} to {table.gain.high:+.3g})"
        words += f" To the untuned model: {change}" + ("." if table.gain.real else ", which is no difference.")
    beaten = [row.label for row in table.untrained if row.marks.get(column) == "beats"]
    if beaten:
        words += f" Better than all of the grid without training: {'; '.join(beaten)}."
    return words


def _setting(results: Results, tables: Sequence[Table]) -> Iterator[str]:
    study, configs = results.study, [run.config for run in results.study.runs]
    yield page.heading("Setting")
    rows = [(axis, "; ".join(map(_value, values.items()))) for axis, values in study.axes.items()]
    rows.append(("seeds", ", ".join(map(str, study.seeds))))
    rows.append(("runs", f"{len(study.runs):,}{_conditions(study)}"))
    rows.append(("model", _distinct(config.model.name for config in configs)))
    rows.append(("data", _distinct(config.data.shards for config in configs)))
    steps, rates = [config.steps for config in configs], [config.optimizer.lr for config in configs]
    pairs = [config.steps * config.batch.size for config in configs]
    alike = {"steps": "the same steps for all", "pairs": "the same pairs for all"}.get(study.file.equal or "", "")
    rows.append(("length", f"{_range(steps)} steps, {_range(pairs)} pairs" + (f" ({alike})" if alike else "")))
    rule = {
        "none": "not changed with the batch",
        "sqrt": f"times √(batch.size / {study.file.lr_reference_batch})",
        "linear": f"times batch.size / {study.file.lr_reference_batch}",
    }.get(study.file.lr_rule or "", "")
    rows.append(("learning rate", f"{_range(rates)}" + (f", {rule}" if rule else "")))
    rows.append(("all else", f"{study.base}" + "".join(f", {k} = {show(v)}" for k, v in study.file.set.items())))
    rows += [(f"measured: {table.measure.name}", _measured(table)) for table in tables]
    yield page.facts(rows)


def _value(value: tuple[Any, dict[str, Any]]) -> str:
    """A value of an axis, with the keys it sets where it is a name for them."""
    name, keys = value
    return (
        show(name) if list(keys.values()) == [name] else f"{name} ({', '.join(f'{k} = {v}' for k, v in keys.items())})"
    )


def _conditions(study: StudySpec) -> str:
    words = [
        f"{word} {'; '.join(', '.join(f'{axis} = {value}' for axis, value in one.items()) for one in conditions)}"
        for word, conditions in (("only", study.file.only), ("without", study.file.exclude))
        if conditions
    ]
    return f" ({'; '.join(words)})" if words else ""


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _measured(table: Table) -> str:
    scores = next((scores for row in (*table.points, *table.untrained) for _, scores in row.scored), None)
    if scores is None:
        return f"{table.measure.task}, of no run yet"
    counts = scores["counts"]
    words = f"{scores['task']}, {counts['queries']:,} queries, {counts['candidates']:,} candidates; "
    words += describe_cut(scores["cut"])
    words += f". {scores['note']}" if scores.get("note") else ""
    return words + "".join(f". Left out: {n:,} queries, {why}" for why, n in (scores.get("left_out") or {}).items())


def _table(study: StudySpec, table: Table) -> Iterator[str]:
    yield page.heading(f"Results: {table.measure.name}")
    axes, columns = list(study.axes), table.columns
    points = [
        [*name_cells(row, axes, page.text), *(_cell(table, row, column) for column in columns)] for row in table.points
    ]
    untrained = [(row.label, [_cell(table, row, column) for column in columns]) for row in table.untrained]
    yield page.table([*axes, "seeds"], columns, points, untrained)
    if chosen := {scores["chosen_on"] for row in table.points for _, scores in row.scored if scores.get("chosen_on")}:
        yield page.paragraph(
            f"Models are those of the steps that scored best on {', '.join(sorted(chosen))} while they were trained: scores"
            " there are higher than they would be on other questions.",
            kind="note",
        )
    yield page.remarks(table.remarks)


def _cell(table: Table, row: Row, column: str) -> str:
    number, mark, interval = table.cell(row, column)
    shown = f"<b>{number}</b>" if mark == "best" else number
    return f"{shown}{mark_sign(mark)}" + (f"<small>{interval}</small>" if interval else "")
