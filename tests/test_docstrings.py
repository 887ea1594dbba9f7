"""Docstrings of the package: a function's begins with a verb, a class's and a module's with a noun, none with a riddle.

ruff's D401 asks for the imperative mood; it passes over first words that are no verb at all, which are refused here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hbdist"

NEVER = set("Of What How Where Whether Whose Who Which When As Nothing None Stands That If".split())  # noqa: SIM905
NOT_VERBS = set("The A An All Each Every This These Those It Its One Two Some Any In On At By To For From With".split())  # noqa: SIM905


def documented() -> Iterator[tuple[str, ast.AST, str]]:
    """Yield (where, node, docstring) of everything in the package that has one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}", node, text


def test_no_docstring_begins_with_a_relative_or_a_question_word() -> None:
    riddles = [f"{where}: {text.splitlines()[0]}" for where, _, text in documented() if first_word(text) in NEVER]
    assert not riddles


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    nouns = [
        f"{where}: {text.splitlines()[0]}"
        for where, node, text in documented()
        if isinstance(node, ast.FunctionDef) and not is_property(node) and first_word(text) in NOT_VERBS
    ]
    assert not nouns


def first_word(text: str) -> str:
    return text.split()[0].strip(":,.;")


def is_property(node: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
