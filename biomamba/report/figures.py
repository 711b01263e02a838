"""The plots of the page as inline SVG: text stays text, and the same numbers give the same bytes.

A plot's name is what it says to those who cannot see it (aria-label), and the salt of its ids: no two plots of a
page may have the same name. Colours: Okabe and Ito 2008, without their yellow, pale on white, and their black.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from .data import Curve
from .markup import Style, number, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1.5, 1.5), (6, 1.5, 1.5, 1.5))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # of lines that may coincide
MARKED = 12  # marks of a long curve
SMALLEST = 1e-16  # of gaps by factors: below, float64 rounds
GREY, INK, RULE = "#77808a", "#3a424b", "#e4e7eb"
PANEL = (420, 280)  # points; a point is about a pixel on a wide screen
WIDE = 900
TOGETHER = 6  # curves in one plot, at most
ACROSS = 4  # small plots in a row
LOOK: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
}
DROPPED = (
    r'(?s)<defs>\s*<style type="text/css">.*?</style>\s*</defs>\s*',  # it would hold for the whole page, which says it
    r'(?<=<svg )xmlns:xlink="[^"]*" ',
    r' xmlns="[^"]*"',
    r' (?:width|height)="[\d.]+pt"',
    r'(?<=<g) id="[^"]*"',  # figure_1, axes_1: every plot has them
    r' transform="rotate\(-?0 [^"]*"',
    r"font-family: 'DejaVu Sans'; ",  # the page's own
)


class Scale(NamedTuple):
    """An axis: its label, the unit its ticks carry, and whether it counts by factors."""

    label: str
    unit: str | None = None  # None: plain numbers
    log: bool = False


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return a colour, a dash and a marker for each setting: of lines that coincide, all are to be seen."""
    colours, dashes, marks = len(PALETTE), len(DASHES), len(MARKERS)
    return {
        label: Style(PALETTE[i % colours], DASHES[(i + i // colours) % dashes], MARKERS[i % marks])
        for i, label in enumerate(labels)
    }


def greys(labels: Iterable[str]) -> dict[str, Style]:
    """Return the looks of the baselines."""
    return {label: Style(GREY, DASHES[1:][i % 3]) for i, label in enumerate(labels)}


def inks(labels: Iterable[str]) -> dict[str, Style]:
    """Return the looks of what is no setting but stands beside them."""
    return {label: Style(INK, DASHES[1:][i % 3]) for i, label in enumerate(labels)}


def unnamed(labels: Iterable[str]) -> list[str]:
    """Return the labels that `curves` leaves to keys: none where it writes them over small plots."""
    labels = list(labels)
    return [] if len(labels) > TOGETHER else labels


def curves(
    name: str,
    curves: Mapping[str, Curve],
    looks: Mapping[str, Style],
    x: Scale,
    y: Scale,
    levels: Mapping[str, float] | None = None,
    marker: str = "",
    width: float = PANEL[0],
    together: int = TOGETHER,
) -> str:
    """Return curves with their spread as a band and a horizontal line for each level.

    In one plot of that width; beyond `together` curves in a small plot for each, all to one scale.
    """
    x = x._replace(log=x.log and any(value > 0 for own in curves.values() for value in own.x))
    y = y._replace(log=y.log and any(value > 0 for own in curves.values() for value in own.mean))
    apart = len(curves) > together
    down, across = (-(-len(curves) // ACROSS), ACROSS) if apart else (1, 1)

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
        for i, (label, own) in enumerate(curves.items()):
            axes = grid[i] if apart else grid[0]
            look = Style(looks[label].colour, marker=looks[label].marker) if apart else looks[label]
            _curve(axes, own, look, y.log, marker, 0.0 if apart else i / len(curves))
            if apart:
                axes.set_title(label, fontsize=9.5, loc="left")
        for axes in grid:
            _finish(axes, x, y, levels or {}, looks)
        for axes in grid[len(curves) if apart else 1 :]:
            axes.set_axis_off()
        for axes in grid[max(0, len(curves) - ACROSS) : len(curves)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(x.label, fontsize=10)
        figure.supylabel(y.label, fontsize=10)

    return _svg(name, WIDE if apart else width, 40 + 150 * down if apart else PANEL[1], paint)


def bars(
    name: str,
    values: Mapping[str, Sequence[float | None]],
    looks: Mapping[str, Style],
    write: Callable[[float | None], str],
    spreads: Mapping[str, float | None] | None = None,
) -> str:
    """Return bars from the left, the label over each setting's own, from pale to full, their numbers written behind."""
    each = max(map(len, values.values()))
    tall = each + 1.4  # rows of a setting: its bars, its label and a space
    ends = [(v or 0) + ((spreads or {}).get(label) or 0) for label, own in values.items() for v in own]
    longest = max(ends, default=0.0) or 1.0

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for i, (label, own) in enumerate(values.items()):
            axes.text(longest / 150, i * tall, label, va="center", fontsize=9.5)
            for j, value in enumerate(own, start=1):
                place, end, spread = i * tall + j - 0.1, value or 0, (spreads or {}).get(label)
                axes.barh(place, end, 0.85, color=looks[label].colour, alpha=0.4 ** ((each - j) * 2 / each))
                if spread:
                    axes.errorbar(end, place, xerr=spread, ecolor=INK, elinewidth=1)
                axes.text(end + (spread or 0) + longest / 80, place, write(value), va="center", fontsize=9)
        axes.set(ylim=(len(values) * tall - 0.6, -0.8), xlim=(0, longest * 1.25), yticks=[], xticks=[])
        axes.spines["bottom"].set_visible(False)

    return _svg(name, PANEL[0], 12 + 17 * tall * len(values), paint)


def dots(name: str, values: Mapping[str, Sequence[float | None]], looks: Mapping[str, Style], x: Scale) -> str:
    """Return a row of dots for each setting, one a seed, and a line at their mean."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for i, (label, own) in enumerate(values.items()):
            known = [value for value in own if value is not None]
            axes.text(0.005, i - 0.34, label, va="center", fontsize=9.5, transform=axes.get_yaxis_transform())
            if known:
                mean = math.fsum(known) / len(known)
                axes.plot([mean, mean], [i - 0.16, i + 0.3], color=looks[label].colour, linewidth=2)
                axes.plot(known, [i + 0.07] * len(known), "o", color=looks[label].colour, markersize=5, alpha=0.6)
        axes.set(ylim=(len(values) - 0.5, -0.7), yticks=[], xlabel=x.label)
        axes.margins(x=0.06)

    return _svg(name, PANEL[0], 60 + 34 * len(values), paint)


def points(
    name: str, heads: Sequence[str], values: Mapping[str, Sequence[float | None]], looks: Mapping[str, Style]
) -> str:
    """Return a row for each head with a mark of each setting, by factors from left to right."""
    left = 6.2 * max(map(len, heads)) + 8

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for i, (label, own) in enumerate(values.items()):
            place = (i - (len(values) - 1) / 2) * 0.6 / max(1, len(values))
            at = [(max(v, SMALLEST), r + place) for r, v in enumerate(own) if v is not None]
            x, y = zip(*at, strict=True) if at else ((), ())
            axes.plot(x, y, looks[label].marker or "o", color=looks[label].colour, markersize=5)
        axes.set(xscale="log", ylim=(len(heads) - 0.5, -0.5), xlabel="1 - cosine")
        axes.set_yticks(range(len(heads)), heads)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")

    return _svg(name, max(PANEL[0], left + 240), 60 + 24 * len(heads), paint)


def heat(
    name: str,
    heads: Sequence[str],
    columns: Mapping[str, Sequence[float | None]],
    shade: Callable[[float], float],
    digits: int,
) -> str:
    """Return a field for each number, from orange where `shade` is -1 over white to blue where it is 1."""
    left, top = 6.2 * max(map(len, heads)) + 8, 6.2 * max(map(len, columns)) * 0.72 + 14

    def paint(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("signed", [PALETTE[1], "#ffffff", PALETTE[0]])
        axes = figure.subplots()
        fields = [[columns[c][r] for c in columns] for r in range(len(heads))]
        shades = [[math.nan if v is None else max(-1.0, min(1.0, shade(v))) for v in row] for row in fields]
        axes.pcolormesh(shades, cmap=colours, vmin=-1, vmax=1, edgecolors="white", linewidth=1.5)
        for r, row in enumerate(fields):
            for c, value in enumerate(row):
                colour = "white" if value is not None and abs(shade(value)) > 0.8 else "black"
                text = number(value, digits)
                axes.text(c + 0.5, r + 0.5, text, ha="center", va="center", fontsize=9, color=colour)
        axes.set_yticks([r + 0.5 for r in range(len(heads))], heads)
        axes.set_xticks([c + 0.5 for c in range(len(columns))], columns, rotation=45, ha="left")
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.set(ylim=(len(heads), 0), frame_on=False)
        axes.grid(visible=False)

    return _svg(name, max(280, left + 52 * len(columns) + 0.72 * top), top + 24 * len(heads), paint)


def _curve(axes: "Axes", curve: Curve, look: Style, log: bool, marker: str = "", shift: float = 0.0) -> None:
    """Draw a curve and its band, which stays above 0 where the axis has no 0.

    A mark stands at every point of a short curve, and at MARKED of a long one, from a share `shift` of their distance.
    """
    line = (0, look.dash) if look.dash else "-"
    apart = max(1, len(curve.x) // MARKED)
    given: Any = {"linestyle": line, "marker": marker or look.marker, "markevery": (int(shift * apart), apart)}
    axes.plot(curve.x, curve.mean, color=look.colour, markersize=4, **given)
    if any(curve.spread):
        low = [m - s if m > s or not log else m / 10 for m, s in zip(curve.mean, curve.spread, strict=True)]
        high = [m + s for m, s in zip(curve.mean, curve.spread, strict=True)]
        axes.fill_between(curve.x, low, high, color=look.colour, alpha=0.18, linewidth=0)


def _finish(axes: "Axes", x: Scale, y: Scale, levels: Mapping[str, float], looks: Mapping[str, Style]) -> None:
    """Draw the levels and set the scales."""
    from matplotlib.ticker import LogLocator

    for label, level in levels.items():
        axes.axhline(level, color=looks[label].colour, linestyle=(0, looks[label].dash), linewidth=1.1)
    for axis, scale, place in ((axes.xaxis, x, axes.set_xscale), (axes.yaxis, y, axes.set_yscale)):
        if scale.log:
            place("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axis.set_major_formatter(partial(_tick, unit=scale.unit))
    if x.log:
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    if y.log:
        axes.yaxis.set_minor_formatter(lambda value, _: "")


def _tick(value: float, position: int | None, unit: str | None) -> str:
    """Return the text at a tick."""
    return quantity(value, unit) if unit is not None else f"{value:,.6g}"


def _svg(name: str, width: float, height: float, paint: Callable[["Figure"], None]) -> str:
    """Return what `paint` draws on a figure of so many points, to be put into a page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**LOOK, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        paint(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()[text.getvalue().index("<svg ") :]
    for pattern in DROPPED:
        svg = re.sub(pattern, "", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    wide = width > 1.35 * PANEL[0]  # it takes the whole breadth of the page, and scrolls where that is narrow
    box = f"max-width: {1.25 * width:.0f}px; min-width: {0.7 * width if wide else 0:.0f}px"
    kind = ' class="wide"' if wide else ""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}"{kind} style="{box}" ', 1)
