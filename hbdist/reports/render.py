"""Templates of the reports (jinja2). Every value is escaped for the kind of file that it is put into."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from hbdist.evaluation.scores import describe_cut
from hbdist.utils.json_toml import read_toml
from hbdist.utils.templates import environment as template_environment

TEMPLATES = Path(__file__).parent / "templates"

LATEX = read_toml(TEMPLATES / "latex.toml")
"""Characters that LaTeX reads as commands, or that some engine or font cannot print → their replacement."""


class Chart(NamedTuple):
    """One chart of a page, with its caption."""

    svg: str
    """An <svg> element, in which all text is escaped already."""
    caption: str


def render(template: str, **values: Any) -> str:
    """Return a template, filled in with these values as text; a value that the template lacks is an error."""
    return environment(Path(template).suffix).get_template(template).render(values)


@cache
def environment(suffix: str) -> Environment:
    """Return the templates of .html, .txt, .md or .tex files, with the escaping of these files."""
    syntax: dict[str, Any] = {
        ".html": {"autoescape": True},
        ".txt": {},
        ".md": {"finalize": escape_markdown},
        # LaTeX is full of braces itself.
        ".tex": {
            "finalize": escape_latex,
            "variable_start_string": "<<",
            "variable_end_string": ">>",
            "block_start_string": "<%",
            "block_end_string": "%>",
        },
    }
    templates = template_environment(TEMPLATES, **syntax[suffix])
    templates.filters["commas"] = "{:,}".format
    templates.globals["describe_cut"] = describe_cut
    return templates


def escape_markdown(value: Any) -> str:
    """Return text that Markdown shows as it is, in one cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", str(value)).replace("\n", " ")


def escape_latex(value: Any) -> str:
    """Return text that LaTeX prints as it is."""
    return str(value).translate(str.maketrans(LATEX))
