"""Charts of a report as inline SVG: sharp on a phone and in print, and every colour with a marker beside it.

Colours are those of Okabe and Ito, or run from dark to light, so that they can be told apart with any colour vision.

    X query languages · Y document languages · S sides, such as before and after
"""

import io
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hbdist.evaluation.scores import split_pair
from hbdist.reports.render import TEMPLATES
from hbdist.reports.row import show

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2933")
MARKERS = "o^sDvPX"
CROSSES = "x+1234"
"""Markers of models without training."""
SOFT, QUIET = "#5f6b7a", "#9aa5b1"

MOST_TICKS = 9
"""Most values that the x axis names; if there are more, some are left out."""

Style = dict[str, Any]
"""Keyword arguments of matplotlib."""

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y of marks that a line joins."""


class Spread(NamedTuple):
    """A number and its confidence interval; if that is not known, its bounds are the number itself."""

    value: float
    low: float
    high: float


class Spot(NamedTuple):
    """One point of a chart, with a label beside it."""

    label: str
    x: Spread
    y: Spread


def chart_style() -> AbstractContextManager[None]:
    """Return a context in which charts are drawn in the style of the reports."""
    return style.context(TEMPLATES / "charts.mplstyle")


def trade_off(
    lines: Mapping[str, Sequence[Spot]], crosses: Sequence[Spot], *, name: str, joined: bool, x_name: str, y_name: str
) -> str:
    """Draw one number against another: a colour per group of points, `joined` by a line in their order.

    Args:
        crosses: models without training.
        name: name of the chart within its page, here and in the functions below.
    """
    axes = _chart(4.2)
    for number, (line, spots) in enumerate(lines.items()):
        colour, marker = _look(number)
        x_spreads, y_spreads = [spot.x for spot in spots], [spot.y for spot in spots]
        x, y = [spread.value for spread in x_spreads], [spread.value for spread in y_spreads]
        bars: Style = {"fmt": "none", "ecolor": colour, "elinewidth": 0.7, "alpha": 0.45}
        axes.errorbar(x, y, xerr=_bars(x_spreads), yerr=_bars(y_spreads), **bars)
        axes.plot(x, y, marker, color=colour, label=line, linewidth=0.9, markersize=6, linestyle="-" if joined else "")
        for spot in spots:
            text: Style = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": 7.5, "color": colour}
            axes.annotate(spot.label, (spot.x.value, spot.y.value), **text)
    for number, spot in enumerate(crosses):
        # Named in the legend, since models without training often overlap.
        cross: Style = {"linestyle": "", "markersize": 7, "markeredgewidth": 1.5, "color": SOFT, "label": spot.label}
        axes.plot(spot.x.value, spot.y.value, CROSSES[number % len(CROSSES)], **cross)
    axes.set_ylabel(y_name)
    return _finish(axes, name, x_name, "both", [*lines, *(spot.label for spot in crosses)])


def along(lines: Mapping[str, Sequence[tuple[Any, Spread]]], untuned: float | None, *, name: str, x_name: str) -> str:
    """Draw one number over the values of an axis: a line per group of points, a dashed one for the untuned model.

    Numbers that span a factor of eight or more have a logarithmic axis; values that are not numbers are evenly spaced.
    """
    values = list(dict.fromkeys(x for points in lines.values() for x, _ in points))
    x_of = _coordinates(values)
    joined = "-" if all(map(is_number, values)) else ""
    first, last = min(x_of.values()), max(x_of.values())
    span = last - first or 1.0
    axes = _chart(3.3)
    for number, (line, points) in enumerate(lines.items()):
        colour, marker = _look(number)
        # Moved a little sideways, so that intervals of lines that meet can be told apart.
        shift = 0.012 * span * (number - (len(lines) - 1) / 2)
        ordered = sorted(points, key=lambda point: x_of[point[0]])
        x, spreads = [x_of[value] + shift for value, _ in ordered], [spread for _, spread in ordered]
        y = [spread.value for spread in spreads]
        axes.errorbar(x, y, _bars(spreads), fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.6)
        axes.plot(x, y, marker, linestyle=joined, color=colour, label=line, linewidth=1.1, markersize=5.5)
    if untuned is not None:
        axes.axhline(untuned, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="untuned")
    shown = sorted(values, key=x_of.__getitem__)
    shown = shown[:: -(-len(shown) // MOST_TICKS)]
    axes.set_xticks([x_of[value] for value in shown], [show(value) for value in shown])
    axes.set_xlim(first - 0.08 * span, last + 0.08 * span)
    return _finish(axes, name, x_name, "y", [*lines, *["untuned"] * (untuned is not None)])


def _coordinates(values: Sequence[Any]) -> dict[Any, float]:
    """Return value of an axis → its x coordinate."""
    if not all(map(is_number, values)):
        return {value: float(index) for index, value in enumerate(values)}
    if min(values) > 0 and max(values) >= 8 * min(values):
        return {value: float(np.log2(value)) for value in values}
    return {value: float(value) for value in values}


def is_number(value: Any) -> bool:
    """Return whether a value of an axis has a position on a scale of numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def curves(lines: Mapping[str, Curve], *, name: str, x_name: str, limits: tuple[float, float]) -> str:
    """Draw numbers over a training, a line each, from dark to light in their order; `limits` are of the y axis."""
    axes = _chart(3.3)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(2, len(lines))))
    for number, (line, (x, y)) in enumerate(lines.items()):
        marks: Style = {"marker": MARKERS[number % len(MARKERS)], "markevery": max(1, len(x) // 8), "markersize": 4.2}
        axes.plot(x, y, color=shades[number], linewidth=1.1, label=line, **marks)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    margin = 0.04 * (limits[1] - limits[0])
    axes.set_ylim(limits[0] - margin, limits[1] + margin)
    return _finish(axes, name, x_name, "y", lines)


def curve_by_kind(kinds: Mapping[str, Curve], *, name: str, share: bool) -> str:
    """Draw one number over steps, marked by the kind of each step: monolingual, cross-lingual, mixed."""
    axes = _chart(3.1)
    looks = {"monolingual": (PALETTE[0], "o"), "cross-lingual": (PALETTE[1], "^"), "mixed": ("#6b7682", "s")}
    for kind, (steps, values) in kinds.items():
        colour, marker = looks[kind]
        marks: Style = {"linestyle": "-", "linewidth": 0.8, "markersize": 4.2, "alpha": 0.85}
        axes.plot(steps, values, marker, color=colour, label=kind, **marks)
    if share:
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter("{x:.1f}")
    return _finish(axes, name, "step", "y", kinds)


def heat_map(value_of_pair: Mapping[str, float], low: float, high: float, *, name: str, change: bool = False) -> str:
    """Draw numbers by query language (rows) and document language (columns), with the numbers in their cells.

    Args:
        value_of_pair: language pair, such as "en-de" → its number.
        low, high: numbers of the lightest and the darkest shade; of a change, they are symmetric around zero.
        change: use two colours that meet at zero instead of one.
    """
    languages = sorted({language for pair in value_of_pair for language in split_pair(pair, value_of_pair)})
    value_XY = np.array([[value_of_pair.get(f"{x}-{y}", np.nan) for y in languages] for x in languages])
    axes = _chart(5.0)
    many = len(languages) > 24
    largest = max(abs(low), abs(high), 1e-9)
    shade = Normalize(-1.25 * largest, 1.25 * largest) if change else Normalize(low - 0.15 * (high - low), high + 1e-9)
    # Drawn as shapes, which are sharp at any size and in print; but ten thousand shapes would be megabytes.
    cells: Style = {"rasterized": True} if many else {"edgecolors": "#fff", "linewidth": 1.2}
    axes.pcolormesh(value_XY, cmap="PuOr" if change else "Blues", norm=shade, **cells)
    size = 8 if len(languages) <= 12 and not change else 80 / max(len(languages), 11)
    for (row, column), value in np.ndenumerate(value_XY):
        if np.isfinite(value) and not many:
            dark = abs(value) > 0.6 * largest if change else value > low + 0.5 * (high - low)
            text = f"{value:+.2f}".replace("0.", ".") if change else f"{value:.2f}".removeprefix("0")
            font: Style = {"ha": "center", "va": "center", "fontsize": size, "color": "#fff" if dark else "#1f2933"}
            axes.text(column + 0.5, row + 0.5, text, **font)
    ticks, every = np.arange(0.5, len(languages)), -(-len(languages) // 40)
    axes.set_xticks(ticks[::every], languages[::every], rotation=90 if many else 0)
    axes.set_yticks(ticks[::every], languages[::every])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.set_ylabel("query language")
    return _finish(axes, name, "document language", None, ())


def dots(sides: Mapping[str, Mapping[str, float]], *, name: str, x_name: str) -> str:
    """Draw a number per language, a dot per side, joined; hollow on all sides but the last, and on one called before."""
    languages = sorted({language for values in sides.values() for language in values})
    value_SX = np.array([[values.get(language, np.nan) for language in languages] for values in sides.values()])
    axes = _chart(4.0)
    rows, ends = np.arange(len(languages)), (np.nanmin(value_SX, axis=0), np.nanmax(value_SX, axis=0))
    axes.hlines(rows, *ends, color="#c3ccd6", linewidth=1.6, zorder=1)
    for number, (side, value_X) in enumerate(zip(sides, value_SX, strict=True)):
        colour, fill = (QUIET, "#fff") if number < len(sides) - 1 or side == "before" else (PALETTE[0], PALETTE[0])
        axes.plot(value_X, rows, "o", color=colour, markerfacecolor=fill, markersize=7, label=side)
    axes.set_yticks(rows, languages)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    return _finish(axes, name, x_name, "x", sides)


def rows(spreads: Mapping[str, Spread], hollow: Mapping[str, float], *, name: str, x_name: str) -> str:
    """Draw a row for each of many numbers: a dot with its interval, then hollow squares for numbers to compare with."""
    labels = [*spreads, *hollow]
    axes = _chart(1.0 + 0.24 * len(labels))
    for row, spread in enumerate(spreads.values()):
        axes.plot([spread.low, spread.high], [row, row], color=PALETTE[0], linewidth=1.2, alpha=0.6)
        axes.plot(spread.value, row, "o", color=PALETTE[0], markersize=5.5)
    for row, value in enumerate(hollow.values(), start=len(spreads)):
        axes.plot(value, row, "s", color=SOFT, markerfacecolor="#fff", markersize=5.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_formatter("{x:,.5g}")
    axes.spines["left"].set_visible(False)
    return _finish(axes, name, x_name, "x", ())


def _look(number: int) -> tuple[str, str]:
    """Return colour and marker of a line: seven of each, paired differently from the eighth line on."""
    return PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]


def _bars(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return lengths below and above. A number can be outside of its interval, but a length cannot be negative."""
    return [[max(0.0, s.value - s.low) for s in spreads], [max(0.0, s.high - s.value) for s in spreads]]


def _chart(height: float) -> Axes:
    """Return an empty chart, `height` inches high and as wide as a phone's screen, where text keeps its size."""
    return Figure(figsize=(5.0, height), layout="constrained").subplots()


def _finish(axes: Axes, name: str, x_name: str, grid: Literal["x", "y", "both"] | None, labels: Collection[str]) -> str:
    """Return the chart as an <svg> element that can be in one page with others; equal charts have equal bytes.

    Args:
        grid: axis across which lines are drawn.
        labels: names in the legend, which has as many columns as fit; none if the only line has no name.
    """
    axes.set_xlabel(x_name)
    if grid:
        axes.grid(axis=grid)
    if longest := max(map(len, labels), default=0):
        columns = max(1, min(len(labels), 76 // (longest + 6)))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    figure, file = axes.get_figure(root=True), io.StringIO()
    assert figure
    unwanted = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=unwanted)
    svg = file.getvalue()
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    # Ids within the drawing must be unique in the whole page.
    unique = f"c{zlib.crc32(f'{name} {svg}'.encode()):x}"
    return re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{unique}-", svg)
