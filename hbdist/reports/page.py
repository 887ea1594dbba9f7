"""The HTML of a report: small builders of escaped text, and one page around them. Nothing is loaded from anywhere."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5f6b7a; --line: #e4e8ed; --wash: #f6f8fa; --better: #0b5c9e;
  --worse: #a8480a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 66rem; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word; }
h1 { margin: 0 0 .4rem; font-size: 1.65rem; line-height: 1.25; font-weight: 650; }
h2 { margin: 3rem 0 .8rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line); font-size: 1.12rem; }
p { margin: .6rem 0; max-width: 46rem; }
.lead { font-size: 1.08rem; }
.note, figcaption { color: var(--soft); font-size: .88rem; }
.missing { padding: .8rem 1rem; border-left: 3px solid #c3ccd6; background: var(--wash); }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: .5rem 0; padding: .8rem 1rem; overflow-x: auto; background: var(--wash); border-radius: 6px; }
.missing code { display: block; margin-top: .3rem; }
table { margin: .2rem 0 1rem; width: 100%; max-width: 46rem; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { color: var(--soft); font-weight: 500; font-size: .88em; }
tbody th { padding-top: 1.1rem; font-weight: 600; }
td:last-child { white-space: nowrap; }
.scroll { overflow-x: auto; } .scroll table { width: auto; min-width: min(100%, 46rem); max-width: none; }
.scroll th { vertical-align: bottom; } .scroll td { vertical-align: top; }
.scroll .name { text-align: left; padding-left: 0; white-space: nowrap; }
.scroll td.words { min-width: 16rem; white-space: normal; overflow-wrap: anywhere; }
.scroll td small { display: block; color: var(--soft); font-size: .8em; white-space: nowrap; }
tr.apart td { background: var(--wash); } tr.apart:not(tr.apart + tr) td { border-top: 2px solid #c3ccd6; }
.better { color: var(--better); } .worse { color: var(--worse); }
.facts { max-width: none; }
.facts td { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.facts td:first-child { width: 12rem; color: var(--soft); }
.facts td:last-child { white-space: normal; }
.figures { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 34rem; break-inside: avoid; } figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.tiles { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); }
.tiles div { padding: .7rem .9rem; background: var(--wash); border-radius: 6px; color: var(--soft); font-size: .85rem; }
.tiles b { display: block; color: var(--ink); font-size: 1.3rem; font-weight: 600; }
summary { padding: .4rem 0; cursor: pointer; }
@media (max-width: 36rem) { body { padding: 1.4rem 1rem 3rem; } th, td { padding: .34rem .3rem; font-size: .92rem; }
  .facts td:first-child { width: 7rem; } }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; } pre { white-space: pre-wrap; }
  h2 { break-after: avoid; } tr { break-inside: avoid; } .scroll { overflow: visible; font-size: 8.5pt; }
  .figures { grid-template-columns: 1fr 1fr; } }
"""


LONG = 44
"""Letters of a name that stay on one line in a table."""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document; `title` is text, `parts` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def text(text: str) -> str:
    """Text as HTML, for the cells of a table."""
    return escape(text)


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of text; `kind` is "", "lead" or "note"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def missing(what: str, command: str) -> str:
    """A sentence on what is not there, and the command that makes it."""
    return f'<p class="missing">{escape(what)} This makes it: <code>{escape(command)}</code></p>'


def figures(charts: Iterable[tuple[str, str]]) -> str:
    """Charts side by side where there is room; each is (SVG, caption as text)."""
    parts = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in charts)
    return f'<div class="figures">{"".join(parts)}</div>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Single numbers; each is (number, what it is)."""
    parts = (f"<div><b>{escape(number)}</b>{escape(label)}</div>" for number, label in facts)
    return f'<div class="tiles">{"".join(parts)}</div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they are."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def table(
    names: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    apart: Iterable[tuple[str, Sequence[str]]] = (),
) -> str:
    """A table that scrolls sideways where it is wider than the screen.

    Args:
        names: heads of the first columns, which name the row; text, as all heads.
        columns: heads of the others.
        rows: cells as HTML.
        apart: more rows, shaded, below the others: a name as text and the cells of the other columns.
    """

    def row(cells: Sequence[str], tag: str = "td") -> str:
        named = (
            f'<{tag} class="{"name words" if len(cell) > LONG else "name"}">{cell}</{tag}>'
            for cell in cells[: len(names)]
        )
        return "".join([*named, *(f"<{tag}>{cell}</{tag}>" for cell in cells[len(names) :])])

    head = row([escape(text) for text in (*names, *columns)], "th")
    body = "".join(f"<tr>{row(cells)}</tr>" for cells in rows)
    for name, cells in apart:
        named = f'<td class="name" colspan="{len(names)}">{escape(name)}</td>'
        body += f'<tr class="apart">{named}{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def preformatted(text: str) -> str:
    return f"<pre>{escape(text.rstrip())}</pre>"


def folded(summary: str, body: str) -> str:
    """HTML that a click shows."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def remarks(sentences: Sequence[str]) -> str:
    """Sentences one by one; behind a click where there are many."""
    body = "".join(paragraph(sentence, kind="note") for sentence in sentences)
    return folded(f"{len(sentences)} remarks", body) if len(sentences) > 4 else body


def score_table(columns: Sequence[str], groups: Iterable[tuple[str, Iterable[Sequence[str]]]]) -> str:
    """A table with a heading row a group; columns and group names are text, cells are HTML."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f'<tr><th colspan="{len(columns)}">{escape(name)}</th></tr>'
        + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        for name, rows in groups
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def compared(before: float, after: float, *, digits: int, good: float) -> tuple[str, str, str]:
    """Cells for before, after and the change, as HTML: the better in bold, an arrow up or down, its colour and a word.

    Args:
        digits: after the decimal point.
        good: what both are measured against: the nearer is the better.
    """
    texts = [f"{value:,.{digits}f}" for value in (before, after)]
    if texts[0] == texts[1]:
        return texts[0], texts[1], "no change"
    better = abs(after - good) < abs(before - good)
    texts[better] = f"<b>{texts[better]}</b>"
    arrow, word = "▲" if after > before else "▼", "better" if better else "worse"
    change = f'<span class="{word}" title="{word}">{arrow} {abs(after - before):,.{digits}f} {word}</span>'
    return texts[0], texts[1], change
