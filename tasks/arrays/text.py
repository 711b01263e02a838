"""Lines of numbers, a line at a time: a .csv file, or standard input as it comes.

Every error is one line that names the file and the line in it.
"""

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from .table import BLOCK, COLUMNS, MISSING, Codes, Numbers, class_names, code

LINE = 1 << 20  # bytes a line may have
NAME = 80  # characters kept of a column's name
TRUTH = {"false": 0.0, "true": 1.0}
HELD = 1 << 26  # bytes of standard input that can be read again, which is what the baselines do


class Position(NamedTuple):
    """Where lines begin."""

    offset: int  # bytes from the beginning of the file
    number: int  # lines before it


class Text:
    """Lines of numbers between commas, semicolons or tabs; the first line says how many, and may name them."""

    roles = None
    hint = ""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        """Read the first line. Raises ValueError where there is none."""
        self.name, self.delimiter, self.columns = name, ",", list[str]()
        number, line = next(numbered(file, name), (0, ""))
        if not line:
            raise ValueError(f"{name} is empty, expected lines of numbers{self.hint}")
        self.delimiter = max(",;\t", key=line.count)
        cells = self.cells(number, line)
        self.header = not any(_is_number(cell) for cell in cells)
        self.columns = [cell.strip()[:NAME] for cell in cells] if self.header else [str(i) for i in range(len(cells))]
        if len(cells) > COLUMNS or len(set(self.columns)) < len(cells):
            raise ValueError(f"{name}, line {number}: expected at most {COLUMNS:,} columns, each of another name")
        self.first = (number, line)

    def cells(self, number: int, line: str) -> list[str]:
        """Return the cells of a line. Raises ValueError where they are not as many as in the first."""
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise ValueError(f"{self.name}, line {number}: {error}, expected numbers and {self.delimiter!r}") from error
        if self.columns and len(cells) != len(self.columns):
            raise ValueError(
                f"{self.name}, line {number}: {len(cells)} columns, expected {len(self.columns)} as in the first line"
            )
        return cells

    def values(self, lines: Iterable[tuple[int, str]], chosen: Sequence[int], codes: Codes) -> Iterator[list[float]]:
        """Yield the chosen cells of each line as numbers. Raises ValueError for one that is none."""
        for number, line in lines:
            cells, row = self.cells(number, line), []
            for column in chosen:
                try:
                    own = codes.get(column)
                    row.append(_number(cells[column]) if own is None else code(cells[column], own))
                except ValueError as error:
                    raise ValueError(f"{self.name}, line {number}, column {self.columns[column]}: {error}") from None
            yield row


class Csv(Text):
    """A file of lines."""

    def __init__(self, path: Path) -> None:
        """Read the first line."""
        self.path = path
        with path.open("rb") as file:
            super().__init__(f"file {path.absolute().parent.name}/{path.name}", file)

    def count(self) -> int:
        """Return how many rows there are."""
        return self._index[0]

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns in blocks."""
        left, at = (self.count() if last is None else last) - first, self._index[1][first // BLOCK]
        with self.path.open("rb") as file:
            file.seek(at.offset)
            skip = first % BLOCK
            values = self.values(islice(numbered(file, self.name, at.number), skip, skip + left), chosen, codes)
            while block := list(islice(values, BLOCK)):
                yield np.array(block, dtype=np.float64).reshape(len(block), len(chosen))

    def classes(self, column: int) -> set[str]:
        """Return the names in a column."""
        with self.path.open("rb") as file:
            lines = islice(numbered(file, self.name), int(self.header), None)
            return class_names((self.cells(*line)[column] for line in lines), f"{self.name}, {self.columns[column]}")

    @cached_property
    def _index(self) -> tuple[int, list[Position]]:
        """Return how many rows there are, and where every block of them begins; one pass over the lines."""
        rows, begins = -int(self.header), list[Position]()
        with self.path.open("rb") as file:
            at = Position(0, 0)
            for number, _ in numbered(file, self.name):
                if rows >= 0 and rows % BLOCK == 0:
                    begins.append(at)
                rows, at = rows + 1, Position(file.tell(), number)
        return rows, begins or [at]


class Live(Text):
    """Lines of standard input, each handed over as soon as it is there; the first 64 MiB can be read again."""

    hint = "; what runs several times, as compare does, needs a file: --task.path FILE.csv"

    def __init__(self) -> None:
        """Wait for the first line."""
        self.input: IO[bytes] = sys.stdin.buffer
        super().__init__("standard input", self.input)
        self.held, self.begun = io.BytesIO(), False

    def count(self) -> None:
        """Return None: nobody knows what will come."""

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns in blocks of one row."""
        self.held.seek(0)
        lines = numbered(self.held, self.name, self.first[0]) if self.begun else self._coming()
        self.begun = True
        for row in islice(self.values(chain([] if self.header else [self.first], lines), chosen, codes), first, last):
            yield np.array([row], dtype=np.float64)

    def classes(self, column: int) -> set[str]:
        """Raise ValueError: they cannot be known beforehand."""
        raise ValueError("the classes on standard input must be known before it begins: --task.classes NAME NAME ...")

    def _coming(self) -> Iterator[tuple[int, str]]:
        """Yield the lines as they come, and hold the first of them."""
        room = HELD
        for number, line in numbered(self.input, self.name, self.first[0]):
            room -= len(line) + 1
            if room >= 0:
                self.held.write(line.encode() + b"\n")
            yield number, line


def numbered(file: IO[bytes], name: str, before: int = 0) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank; `before` lines lie before the first."""
    for number in itertools.count(before + 1):
        raw = file.readline(LINE + 1)
        if not raw:
            return
        if len(raw) > LINE:
            raise ValueError(f"{name}, line {number}: over {LINE:,} bytes, expected a row of numbers")
        try:
            line = raw.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: no UTF-8 text ({error.reason}), expected numbers") from error
        if line.strip():
            yield number, line


def _number(cell: str) -> float:
    """Return a cell as a number; NaN where it is missing. Raises ValueError, what was expected."""
    try:
        return float(cell)
    except ValueError:
        pass
    word = cell.strip().lower()
    if word in MISSING:
        return math.nan
    if word in TRUTH:
        return TRUTH[word]
    raise ValueError(f"got {cell[:30]!r}, expected a number: name the columns of numbers in task.inputs")


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
