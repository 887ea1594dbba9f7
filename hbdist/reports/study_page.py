"""Page of a study: its question, setting, tables and charts, and what it cost and was made with."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from hbdist.reports.provenance import cost_table, environment_facts, single_commands, study_commands
from hbdist.reports.render import render
from hbdist.reports.results import Results
from hbdist.reports.row import show
from hbdist.reports.study_charts import charts
from hbdist.reports.table import Table
from hbdist.studies.study import StudySpec
from hbdist.utils.json_toml import read_text


def study_page(results: Results, tables: Sequence[Table]) -> str:
    """Return the HTML of a study's report; if runs are missing, its first lines say so."""
    study = results.study
    return render(
        "study.html",
        title=study.title,
        study=study,
        results=results,
        tables=tables,
        submit_command=f"hbdist study submit {shlex.quote(str(study.argument))}",
        legend=legend("Below a number"),
        headlines=list(filter(None, map(headline, tables))),
        **_setting(study, tables),
        chosen_by=", ".join(table.measure.name for table in tables if table.best),
        charts=charts(results, tables),
        cost=cost_table(results),
        facts=list(environment_facts(results)),
        study_commands=study_commands(study),
        commands=single_commands(study),
        files=[(path.name, read_text(path)) for path in (study.path, study.base) if path.is_file()],
    )


def legend(where: str) -> str:
    """Return what the marks and intervals mean; `where` says where the interval is printed."""
    return render("legend.txt", where=where).rstrip("\n")


def headline(table: Table) -> str:
    """Return what the primary column of a table shows, in sentences; "" if no point has a number there."""
    best, column = table.best, table.measure.primary
    if best is None:
        return ""
    tied = [row.label for row in table.points if row.marks.get(column) == "tied"]
    beaten = [row.label for row in table.untrained if row.marks.get(column) == "beats"]
    shown = {
        "table": table,
        "best": best,
        "column": column,
        "cell": table.cell(best, column),
        "tested": best.marks.get(column) == "best",
        "rising": table.measure.direction(column) > 0,
    }
    return render("headline.txt", **shown, tied=tied, beaten=beaten).rstrip("\n")


def _setting(study: StudySpec, tables: Sequence[Table]) -> dict[str, Any]:
    """Return the values of setting.html."""
    configs = [run.config for run in study.runs]
    axes = study.axes.items()
    return {
        "axes": {axis: "; ".join(_axis_value(value, keys) for value, keys in values.items()) for axis, values in axes},
        "models": _distinct(config.model.name for config in configs),
        "shards": _distinct(config.data.shards for config in configs),
        "steps": _range([config.steps for config in configs]),
        "pairs": _range([config.steps * config.batch.size for config in configs]),
        "rates": _range([config.optimizer.lr for config in configs]),
        "all_else": "".join(f", {key} = {show(value)}" for key, value in study.file.set.items()),
        "first_scores": [
            (table, next((scores for row in (*table.points, *table.untrained) for _, scores in row.scored), None))
            for table in tables
        ],
    }


def _axis_value(value: Any, keys: dict[str, Any]) -> str:
    """Return a value of an axis; if it is a name, with the keys of the config that it sets."""
    if list(keys.values()) == [value]:
        return show(value)
    return f"{value} ({', '.join(f'{key} = {one}' for key, one in keys.items())})"


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
