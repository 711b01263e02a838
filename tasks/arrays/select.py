"""Which columns a model sees where none are named: all that hold numbers and are no clock.

A timestamp, the number of a row, and a column without a number or with none below 1e18 are left out, and the output
says so. It is looked at in the first rows; that a column is empty is looked at further, until it holds something.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice, pairwise

from .cells import is_missing, is_number, number
from .stream import HUGE
from .table import Table
from .text import Text

ROWS, CELLS = 4096, 1 << 18  # that are looked at
LEAST = 3  # numbers that rise, before they are a clock; of standard input the first alone is there
TIMES = re.compile(
    r"(?:date|time|datetime|timestamp|ts|utc|epoch|unix)(?:[ _.-]?\w+)?|\w+[ _.-](?:time|timestamp|date)"
)
COUNTS = re.compile(r"index|idx|row|unnamed: ?\d+|column \d+|\d*")  # what pandas and R call a column of row numbers
DAYS = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d")
HOURS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p")
FORMS = (*DAYS, *HOURS, *(f"{day} {hour}" for day in DAYS for hour in HOURS))
EPOCH, UNITS = (1e9, 2e9), (1, 1e3, 1e6, 1e9)  # seconds since 1970, from 2001 to 2033, and units in a second


def left_out(table: Table) -> dict[int, str]:
    """Return the columns that are no input, each with the reason."""
    rows = table.texts()
    seen = list(islice(rows, max(LEAST, min(ROWS, CELLS // len(table.columns)))))
    comma, named = (table.dialect.comma, table.named) if isinstance(table, Text) else (False, False)
    reasons = dict[int, str]()
    for column, (name, *cells) in enumerate(zip(table.columns, *seen, strict=True)):
        if why := _reason(name, cells, comma, named, LEAST if table.count() is not None else 1):
            reasons[column] = why
    empty = {column for column, why in reasons.items() if why == "no number in it"}
    if empty and seen and table.count() is not None:
        for column in empty - _empty(rows, empty, comma):
            del reasons[column]
    return reasons


def _reason(name: str, cells: Sequence[str], comma: bool, named: bool, least: int) -> str:
    """Return why a column is no input; nothing where it may be one. A clock has `least` numbers or more, which rise."""
    there = [cell for cell in cells if not is_missing(cell)]
    if not there:
        return "no number in it" if cells and least > 1 else ""  # the first row of a live stream says nothing of others
    if all(_is_date(cell) for cell in there):
        return "a timestamp"
    if not all(is_number(cell, comma) for cell in there):
        return ""  # words: an error, unless it is the label
    values = [number(cell, comma) for cell in there]
    if least > 1 and all(abs(value) >= HUGE for value in values):
        return f"no number below {HUGE:g} in it: divide it"
    rises = len(values) >= least and all(b > a for a, b in pairwise(values))
    if rises and named and TIMES.fullmatch(name.strip().lower()):
        return "a timestamp"
    if rises and any(EPOCH[0] <= values[0] / unit and values[-1] / unit < EPOCH[1] for unit in UNITS):
        return "a timestamp"
    counts = rises and {b - a for a, b in pairwise(values)} == {1.0} and values[0] in (0.0, 1.0)
    return "the numbers of the rows" if counts and named and COUNTS.fullmatch(name.strip().lower()) else ""


def _is_date(cell: str) -> bool:
    """Return whether a cell is a date or a time of day as people and programs write them."""
    text = cell.strip()
    if not (10 > text.count(":") + text.count("-") + text.count("/") + text.count(".") > 0) or is_number(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return any(_parses(text, form) for form in FORMS)
    return True


def _parses(text: str, form: str) -> bool:
    """Return whether a text is a time of a form."""
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def _empty(rows: Iterable[Sequence[str]], columns: set[int], comma: bool) -> set[int]:
    """Return which of the columns hold no number in the rows that are left."""
    left, own = set(columns), iter(rows)
    while left and (row := next(own, None)) is not None:
        left -= {column for column in left if not is_missing(row[column])}
    return left
