"""How a table is written, found from its first lines: what parts the cells, points or commas in numbers, a header.

Of the ways to cut the lines, the one wins in which most lines have as many cells as the first and most cells are
numbers; of equals the one with most columns.
"""

import csv
from collections.abc import Sequence
from typing import NamedTuple

from .cells import is_missing, is_number

DELIMITERS = ("\t", ";", "|", ",", " ")  # the last: blanks, however many
LINES, LETTERS = 100, 1 << 16  # that are looked at


class Dialect(NamedTuple):
    """How lines are to be read."""

    delimiter: str
    comma: bool  # 0,5 is a half: where numbers may be written so, and no point was seen


def split(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line. Raises csv.Error."""
    if delimiter == " " and '"' not in line:
        return line.split()
    line = line.replace("\t", " ").strip() if delimiter == " " else line
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))


def sniff(lines: Sequence[str]) -> Dialect:
    """Return how the first lines of a table are written, of which there is one at least."""
    return max((_scored(lines, delimiter) for delimiter in DELIMITERS), key=lambda found: found[0])[1]


def has_header(first: Sequence[str], others: Sequence[Sequence[str]], comma: bool) -> bool:
    """Return whether the first row (its cells) names the columns of the others."""
    if not any(is_number(cell, comma) for cell in first):
        return True
    columns = list(zip(first, *[row for row in others if len(row) == len(first)], strict=True))
    if len(columns[0]) == 1:
        return False
    if start := _counts(first):
        numbered = columns[-start:]
        never_whole = [not any(cell.strip().lstrip("+-").isdecimal() for cell in own) for _, *own in numbered]
        steps = {int(own[0]) - int(cell) for cell, *own in numbered if own[0].strip().isdecimal()}
        goes_on = len(steps) == 1 and not any(never_whole)  # 3,4,5 below 0,1,2
        return all(never_whole) or (start >= 3 and not goes_on)
    return any(
        not is_number(cell, comma)
        and not is_missing(cell)
        and any(is_number(c, comma) for c in own)
        and all(is_number(c, comma) or is_missing(c) for c in own)
        for cell, *own in columns
    )


def _counts(cells: Sequence[str]) -> int:
    """Return over how many cells at the end of a row pandas has numbered columns, 0, 1, 2, ...; 0 where it has not."""
    own = cells[1:] if not cells[0].strip() else cells  # above the index there is nothing
    return len(own) if len(own) > 1 and [cell.strip() for cell in own] == [str(i) for i in range(len(own))] else 0


def _scored(lines: Sequence[str], delimiter: str) -> tuple[tuple[float, float, int, int], Dialect]:
    """Return how well a delimiter fits, and the dialect with it."""
    rows = list[list[str]]()
    for line in lines:
        try:
            rows.append(split(line, delimiter))
        except csv.Error:
            rows.append([])
    width = len(rows[0])
    body = [cell for row in rows[1:] or rows for cell in row]
    commas = delimiter != "," and width > 1
    numbers = [is_number(cell, commas) or is_missing(cell) for cell in body]
    fits = sum(len(row) == width for row in rows) / len(rows) if width else 0.0
    share = sum(numbers) / len(numbers) if numbers else 0.0
    points = any("." in cell and is_number(cell) for cell in body)
    return (fits * share, fits, width, -DELIMITERS.index(delimiter)), Dialect(delimiter, commas and not points)
