"""What the page is written with: numbers, tables, keys and figures as HTML.

    number    0.841       24.26       24,000        3.1e-05
    quantity  1.77 MB     4.87 us     12.3 nJ       three digits and a prefix of the SI
    pair      0.841 +- 0.025                        mean and standard deviation

Text from files passes `escape` before it meets any of these; what they return is HTML.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import accumulate, groupby
from typing import Any, NamedTuple

NOTHING = "\u2013"  # en dash: there is no such number
PREFIXES = ("p", "n", "\u00b5", "m", "", "k", "M", "G", "T")

SHAPES = {  # of the markers, around (11, 5)
    "o": "M14 5a3 3 0 1 1-6 0a3 3 0 1 1 6 0z",
    "s": "M8 2h6v6h-6z",
    "^": "M11 1.5l3.5 6.5h-7z",
    "D": "M11 1l4 4l-4 4l-4-4z",
    "v": "M11 8.5l3.5-6.5h-7z",
    "P": "M9.7 1.5h2.6v2.2h2.2v2.6h-2.2v2.2h-2.6v-2.2h-2.2v-2.6h2.2z",
    "X": "M8.4 1.6l2.6 2l2.6-2l1 1l-2 2.4l2 2.4l-1 1l-2.6-2l-2.6 2l-1-1l2-2.4l-2-2.4z",
}

COMPARE = "biomamba compare --config CONFIG"


class Style(NamedTuple):
    """How a setting looks, in every plot and in the keys."""

    colour: str
    dash: tuple[float, ...] = ()  # lengths on and off, in line widths; empty: a whole line
    marker: str = ""  # as matplotlib names it: o, s, ^, D, v, P, X; none where nothing is marked


class Column(NamedTuple):
    """A column of a table: a cell of HTML for every row."""

    title: str
    cells: Sequence[str]
    group: str = ""  # over neighbouring columns of the same group


class Part(NamedTuple):
    """A heading, a sentence on what one sees and how it was got, and what is there to see."""

    title: str
    lead: str
    body: str


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text: whole ones as they are, others with `digits` decimals, fewer from 10 on.

    Two digits of those too small or too large for that.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 10.0 ** (1 - digits) or size >= 1e9:
        return f"{value:.2g}"
    return f"{value:,.{max(0, digits - (size >= 10) - (size >= 100) - digits * (size >= 1000))}f}"


def count(value: float | None) -> str:
    """Return a mean of counts as text, rounded."""
    return number(None if value is None else round(value))


def quantity(value: float | None, unit: str = "") -> str:
    """Return three digits with a prefix, such as 1.77 MB."""
    if value is None or not math.isfinite(value):
        return NOTHING
    mantissa, exponent = f"{value:.2e}".split("e")
    place = max(-4, min(4, int(exponent) // 3))
    scaled = float(mantissa) * 10.0 ** (int(exponent) - 3 * place)
    return f"{scaled:.3g} {PREFIXES[place + 4]}{unit}".strip()


def pair(value: Mapping[str, Any] | float | None, write: Callable[[Any], str] = number) -> str:
    """Return mean and spread, or the one number there is."""
    if not isinstance(value, Mapping):
        return write(value)
    mean, spread = write(value["mean"]), value["spread"]
    if value["mean"] is None or spread is None:
        return mean
    decimals = re.fullmatch(r"-?[\d,]+\.?(\d*)", mean)  # where the mean has so many, the spread has them too
    beside = f"{spread:,.{len(decimals[1])}f}" if decimals else write(spread)
    return f'{mean} <span class="spread">&plusmn; {beside}</span>'


def key(label: str, style: Style) -> str:
    """Return a label with a piece of its line before it."""
    dash = ",".join(f"{2 * part:g}" for part in style.dash)
    line = f'<line x1="1" y1="5" x2="21" y2="5" stroke="{style.colour}" stroke-dasharray="{dash or "none"}"/>'
    shape = f'<path d="{SHAPES[style.marker]}" fill="{style.colour}"/>' if style.marker else ""
    mark = f'<svg class="key" viewBox="0 0 22 10" aria-hidden="true">{line}{shape}</svg>'
    return f'<span class="keyed">{mark}{escape(label)}</span>'


def keys(styles: Mapping[str, Style]) -> str:
    """Return the keys of a plot in a row, where it has any."""
    return f'<p class="keys">{" ".join(key(label, style) for label, style in styles.items())}</p>\n' if styles else ""


def table(heads: Sequence[str], columns: Sequence[Column], quiet: int = 0, turned: bool = False, kind: str = "") -> str:
    """Return a table in a box of its own that scrolls: a row per head, the last `quiet` of them set apart.

    Groups stand over their columns. Turned on its side, heads are columns, and each group is named in its first row.
    """
    if turned:
        names = [f"{column.group}, {column.title}" if column.group else column.title for column in columns]
        rows = zip(*(column.cells for column in columns), strict=True)
        return table(names, [Column(head, row) for head, row in zip(heads, rows, strict=True)])
    groups = [(name, len(list(own))) for name, own in groupby(column.group for column in columns)]
    starts = set(accumulate((size for _, size in groups), initial=0)) if len(groups) > 1 else set[int]()
    marks = [' class="start"' if i in starts else "" for i in range(len(columns))]
    titles = "".join(f'<th scope="col"{m}>{column.title}</th>' for m, column in zip(marks, columns, strict=True))
    lines = [f"<tr><td></td>{titles}</tr>", "</thead>", "<tbody>"]
    if any(name for name, _ in groups):
        over = "".join(f'<th colspan="{size}" scope="colgroup" class="start">{name}</th>' for name, size in groups)
        lines.insert(0, f"<tr><td></td>{over}</tr>")
    for row, head in enumerate(heads):
        cells = "".join(f"<td{m}>{column.cells[row]}</td>" for m, column in zip(marks, columns, strict=True))
        apart = ' class="quiet"' if row >= len(heads) - quiet else ""
        lines.append(f'<tr{apart}><th scope="row">{head}</th>{cells}</tr>')
    body = "\n".join(lines)
    return f'<div class="scroll"><table class="{kind}">\n<thead>\n{body}\n</tbody>\n</table></div>\n'


def figure(plots: Mapping[str, str], caption: str) -> str:
    """Return plots, each under its title, side by side where there is room, with a caption under them."""
    boxes = "\n".join(f'<div class="scroll"><h4>{title}</h4>\n{plot}</div>' for title, plot in plots.items())
    return f'<figure>\n<div class="plots">\n{boxes}\n</div>\n<figcaption>{caption}</figcaption>\n</figure>\n'


def details(summary: str, body: str) -> str:
    """Return what is shown when asked for."""
    return f"<details>\n<summary>{summary}</summary>\n{body}</details>\n"


def missing(what: str, command: str = COMPARE) -> str:
    """Return the line that stands where there are no numbers."""
    return f'<p class="missing">{what} not there: <code>{command}</code> adds them.</p>\n'
