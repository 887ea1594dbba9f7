"""A study's numbers for other programs: results.csv, a row a run, and its tables in Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from hbdist.evaluation.scores import BASELINES
from hbdist.reports.results import Found, Results
from hbdist.reports.table import Row, Table, show
from hbdist.runs.record import Scores

LEGEND = (
    "Bold: the best of the grid. ≈: not told from it, since the 95 % interval of the difference holds zero. †: without"
    " training, and better than all of the grid. In brackets: the 95 % interval, over questions and seeds."
)

FACTS = ("seed", "state", "steps", "pairs_seen", "tokens_seen", "hours", "processes", "peak_bytes")
"""Columns of results.csv between the axes and the measured numbers."""

LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "≈": r"$\approx$",
    "†": r"$\dagger$",
    "–": "--",
    "α": r"$\alpha$",
    "→": r"$\rightarrow$",
}
"""What LaTeX would not print as it stands, whichever engine and font."""


def results_csv(results: Results) -> str:
    """A row a run and a row a model without training; measured numbers are called MEASURE.PATH, as in scores.json.

    Empty where a number is not known. All digits are there.
    """
    study = results.study
    measured = [(measure, column) for measure in study.measures for column in measure.columns]

    def numbers(scores: dict[str, Scores]) -> list[str]:
        values = (measure.number(scores.get(measure.name, {}), column) for measure, column in measured)
        return ["" if value is None else repr(value) for value in values]

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = (f"{measure.name}.{measure.columns[column]}" for measure, column in measured)
    writer.writerow(["run", *study.axes, *FACTS, *titles])
    for found in results.runs:
        axes = [_joined(found.run.values[axis]) for axis in study.axes]
        writer.writerow([found.run.name, *axes, *_facts(found), *numbers(found.scores)])
    for name, scores in _untrained(results).items():
        facts = ["", "untrained", *[""] * (len(FACTS) - 2)]
        writer.writerow([name, *[""] * len(study.axes), *facts, *numbers(scores)])
    return file.getvalue()


def _joined(value: Any) -> str:
    return "+".join(map(_joined, value)) if isinstance(value, tuple) else str(value)


def _facts(found: Found) -> list[str]:
    """What FACTS names."""
    training = found.training
    if training is None:
        return [str(found.run.seed), found.state, *[""] * (len(FACTS) - 2)]
    sums = (training.steps, training.pairs, training.tokens, training.seconds / 3600, training.processes)
    return [str(found.run.seed), found.state, *map(str, sums), str(training.peak_bytes)]


def _untrained(results: Results) -> dict[str, dict[str, Scores]]:
    """Name of a model without training → measure → its scores."""
    found: dict[str, dict[str, Scores]] = {}
    for measure, models in results.untuned.items():
        for one in models:
            found.setdefault(one.baseline.name, {})[measure] = one.scores
            for name in BASELINES:
                if changed := (one.scores.get("removal") or {}).get(name):
                    found.setdefault(f"{one.baseline.name}-{name}", {})[measure] = changed
    return found


def report_markdown(results: Results, tables: Sequence[Table]) -> str:
    """All tables, under the question."""
    study, parts = results.study, []
    for table in tables:
        head = [escape_markdown(text) for text in (*study.axes, "seeds", *table.columns)]
        rule = [":--"] * len(study.axes) + ["--:"] * (1 + len(table.columns))
        rows = [
            [
                *name_cells(row, list(study.axes), escape_markdown),
                *(_markdown_cell(table, row, c) for c in table.columns),
            ]
            for row in (*table.points, *table.untrained)
        ]
        lines = (f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
        parts += [f"## {escape_markdown(table.measure.name)}", "\n".join(lines)]
    done = f"{len(results.complete)} of {len(results.runs)} runs are complete."
    text = [f"# {escape_markdown(study.title)}", *map(escape_markdown, filter(None, (study.question, study.note)))]
    return "\n\n".join([*text, done, *parts, LEGEND]) + "\n"


def _markdown_cell(table: Table, row: Row, column: str) -> str:
    number, mark, interval = table.cell(row, column)
    return f"{f'**{number}**' if mark == 'best' else number}{mark_sign(mark)}{f' [{interval}]' if interval else ''}"


def report_latex(results: Results, tables: Sequence[Table]) -> str:
    """Each table as a `table` environment with the rules of booktabs."""
    study, parts = results.study, [r"% \usepackage{booktabs}"]
    for table in tables:
        head = [escape_latex(text) for text in (*study.axes, "seeds", *table.columns)]
        blocks = [
            [
                [*name_cells(row, list(study.axes), escape_latex), *(_latex_cell(table, row, c) for c in table.columns)]
                for row in rows
            ]
            for rows in (table.points, table.untrained)
        ]
        lines = [rf"{' & '.join(head)} \\"]
        for block in filter(None, blocks):
            lines += [r"\midrule", *(rf"{' & '.join(cells)} \\" for cells in block)]
        columns = "l" * len(study.axes) + "r" * (1 + len(table.columns))
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(f'{study.title}: {table.measure.name}. {LEGEND}')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def _latex_cell(table: Table, row: Row, column: str) -> str:
    number, mark, interval = table.cell(row, column)
    shown = rf"\textbf{{{number}}}" if mark == "best" else escape_latex(number)
    sign = f"$^{{{escape_latex(mark_sign(mark)).strip('$')}}}$" if mark_sign(mark) else ""
    return f"{shown}{sign}" + (rf" {{\scriptsize [{escape_latex(interval)}]}}" if interval else "")


def name_cells(row: Row, axes: Sequence[str], escape: Callable[[str], str]) -> list[str]:
    """What names a row: a cell an axis, and how many seeds are in it."""
    if not row.values:
        return [escape(row.label), *[""] * len(axes)]
    seeds = f"{len(row.scored)}" + (f" of {row.asked}" if len(row.scored) < row.asked else "")
    return [*(escape(show(row.values[axis])) for axis in axes), seeds]


def mark_sign(mark: str) -> str:
    return {"tied": "≈", "beats": "†"}.get(mark, "")


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", text).replace("\n", " ")


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
