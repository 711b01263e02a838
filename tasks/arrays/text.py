"""Tables in lines: a .csv file, or standard input as it comes.

Every error is one line that names the file and the line in it. A file with a bad line is refused; of standard input it
is passed over and counted, because nobody can mend a line that another program has printed.
"""

import csv
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from .cells import class_names, code, number
from .dialect import LETTERS, LINES, Dialect, has_header, sniff, split
from .lines import Line, numbered, open_lines
from .table import BLOCK, COLUMNS, Codes, Numbers, Options

NAME = 80  # characters kept of a column's name
HELD = 1 << 26  # bytes of standard input that can be read again, which is what the baselines do


class Position(NamedTuple):
    """Where lines begin."""

    offset: int  # bytes from the beginning of the file
    number: int  # lines before it


class Text:
    """Lines of cells; the first says how many, and may name them."""

    roles = None
    hint = ""

    def __init__(self, name: str, lines: Sequence[Line], comments: Sequence[str], options: Options) -> None:
        """Find out how lines are written from the first of them. Raises ValueError where there is none."""
        self.name, self.marks, self.columns = name, options.marks, list[str]()
        self.dropped = Counter[str]()  # marks of missing values in the column of the classes
        if not lines:
            raise ValueError(f"{name} is empty, expected lines of numbers{self.hint}")
        self.first = lines[0]
        self.dialect = sniff([line for _, line in lines])
        rows = [self.cells(*line) for line in lines[:1]] + [self._cells_or_none(*line) for line in lines[1:]]
        header = has_header(rows[0], rows[1:], self.dialect.comma) if options.header is None else options.header
        names = rows[0] if header else _commented(comments, rows[0], self.dialect)
        self.header, self.named = header, names is not None
        self.columns = _named(names or [""] * len(rows[0]))
        if len(self.columns) > COLUMNS or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{name}, line {lines[0][0]}: expected at most {COLUMNS:,} columns, each of another name")

    def cells(self, number: int, line: str) -> list[str]:
        """Return the cells of a line. Raises ValueError where they are not as many as in the first."""
        try:
            cells = split(line, self.dialect.delimiter)
        except csv.Error as error:
            raise ValueError(
                f"{self.name}, line {number}: {error}, expected numbers and {self.dialect.delimiter!r}"
            ) from error
        if self.columns and len(cells) != len(self.columns):
            raise ValueError(
                f"{self.name}, line {number}: {len(cells)} columns, expected {len(self.columns)} as in the first line"
            )
        return cells

    def value(self, cell: str, column: int, codes: Codes) -> float:
        """Return a cell as a number, or as that of its class. Raises ValueError for one that is neither."""
        own = codes.get(column)
        if own is None:
            return number(cell, self.dialect.comma, self.marks)
        return code(cell.replace(",", ".") if self.dialect.comma else cell, own, self.marks)

    def values(self, lines: Iterable[Line], chosen: Sequence[int], codes: Codes) -> Iterator[list[float]]:
        """Yield the chosen cells of each line as numbers. Raises ValueError for one that is none."""
        for at, line in lines:
            cells, row = self.cells(at, line), []
            for column in chosen:
                try:
                    row.append(self.value(cells[column], column, codes))
                except ValueError as error:
                    raise ValueError(f"{self.name}, line {at}, column {self.columns[column]}: {error}") from None
            yield row

    def _cells_or_none(self, number: int, line: str) -> list[str]:
        """Return the cells of a line; none where it cannot be cut."""
        try:
            return self.cells(number, line)
        except ValueError:
            return []


class Csv(Text):
    """A file of lines, packed by gzip or not."""

    def __init__(self, path: Path, options: Options) -> None:
        """Read the first lines."""
        self.path, comments, head = path, list[str](), list[Line]()
        name, letters = f"file {path.absolute().parent.name}/{path.name}", 0
        with open_lines(path) as file:
            for line in islice(numbered(file, name, comments=comments), LINES):
                if not head:
                    self.above = list(comments)
                head.append(line)
                letters += len(line[1])
                if letters > LETTERS:
                    break
        super().__init__(name, head, self.above[-1:] if head else [], options)

    def count(self) -> int:
        """Return how many rows there are."""
        return self._index[0]

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns in blocks."""
        left, at = (self.count() if last is None else last) - first, self._index[1][first // BLOCK]
        with open_lines(self.path) as file:
            file.seek(at.offset)
            skip = first % BLOCK
            values = self.values(islice(numbered(file, self.name, at.number), skip, skip + left), chosen, codes)
            while block := list(islice(values, BLOCK)):
                yield np.array(block, dtype=np.float64).reshape(len(block), len(chosen))

    def classes(self, column: int) -> set[str]:
        """Return the names in a column."""
        where = f"{self.name}, {self.columns[column]}"
        self.dropped.clear()
        cells = (self._plain(row[column]) for row in self.texts())
        return class_names(cells, where, self.marks, dropped=self.dropped)

    def texts(self) -> Iterator[list[str]]:
        """Yield the cells of all rows as they are written."""
        with open_lines(self.path) as file:
            for line in islice(numbered(file, self.name), int(self.header), None):
                yield self.cells(*line)

    def _plain(self, cell: str) -> str:
        """Return a cell with points in its numbers."""
        return cell.replace(",", ".") if self.dialect.comma else cell

    @cached_property
    def _index(self) -> tuple[int, list[Position]]:
        """Return how many rows there are, and where every block of them begins; one pass over the lines."""
        rows, begins = -int(self.header), list[Position]()
        with open_lines(self.path) as file:
            at = Position(0, 0)
            for number, _ in numbered(file, self.name):
                if rows >= 0 and rows % BLOCK == 0:
                    begins.append(at)
                rows, at = rows + 1, Position(file.tell(), number)
        return rows, begins or [at]


class Live(Text):
    """Lines of standard input, each handed over as soon as it is there; the first 64 MiB can be read again.

    kept: so many bytes of them; 0 where nobody will read them again.
    """

    hint = "; what runs several times, as compare does, needs a file: --task.path FILE.csv"

    def __init__(self, options: Options) -> None:
        """Wait for the first line."""
        self.input: IO[bytes] = sys.stdin.buffer
        comments = list[str]()
        head = list(islice(numbered(self.input, "standard input", comments=comments), 1))
        super().__init__("standard input", head, comments[-1:], options)
        self.held, self.kept, self.begun = io.BytesIO(), HELD, False
        self.waiting = list[Line]()  # the first line behind the header, where it was looked at before its turn
        self.bad, self.unknown, self.first_bad = 0, 0, ""

    def count(self) -> None:
        """Return None: nobody knows what will come."""

    def texts(self) -> Iterator[list[str]]:
        """Yield the first row, which is waited for."""
        if self.header and not self.begun and not self.waiting:
            self.waiting = list(islice(self._lines(self.first[0]), 1))
        rows = self.waiting if self.header else [self.first]
        return iter([cells for line in rows if (cells := self._cells_or_none(*line))])

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns in blocks of one row; what cannot be read is NaN, and its line counted once."""
        self.held.seek(0)
        again, self.begun = self.begun, True
        lines = self._held() if again else self._coming()
        whole = chain([] if self.header else [self.first], lines)
        for line in islice(whole, first, last):
            yield np.array([self._row(line, chosen, codes, not again)])

    def classes(self, column: int) -> set[str]:
        """Raise ValueError: they cannot be known beforehand."""
        raise ValueError("the classes on standard input must be known before it begins: --task.classes NAME NAME ...")

    def _row(self, line: Line, chosen: Sequence[int], codes: Codes, counted: bool) -> list[float]:
        """Return the chosen cells of a line."""
        try:
            cells = self.cells(*line)
        except ValueError as error:
            if counted and line[1]:  # an empty one was told of when it was read
                self._tell(error)
            return [math.nan] * len(chosen)
        row, errors = [], list[ValueError]()
        for column in chosen:
            try:
                row.append(self.value(cells[column], column, codes))
            except ValueError as error:
                row.append(math.nan)
                errors.append(ValueError(f"{self.name}, line {line[0]}, column {self.columns[column]}: {error}"))
                self.unknown += counted and column in codes
        if errors and counted:
            self._tell(errors[0])
        return row

    def _tell(self, error: ValueError) -> None:
        """Count a line that cannot be read, and keep what was wrong with the first."""
        self.bad += 1
        self.first_bad = self.first_bad or str(error)

    def _coming(self) -> Iterator[Line]:
        """Yield the lines as they come, and hold the first of them."""
        room = self.kept
        before = self.waiting[-1][0] if self.waiting else self.first[0]
        for at, line in chain(self.waiting, self._lines(before)):
            room -= len(line) + 1
            if room >= 0:
                self.held.write(line.encode() + b"\n")
            yield at, line

    def _lines(self, before: int) -> Iterator[Line]:
        """Yield the lines of standard input behind so many."""
        return numbered(self.input, self.name, before, self._tell)

    def _held(self) -> Iterator[Line]:
        """Yield the lines that were held, an empty one for each that could not be read."""
        for at, line in enumerate(self.held, self.first[0] + 1):
            yield at, line.decode().rstrip("\n")


def _commented(comments: Sequence[str], first: Sequence[str], dialect: Dialect) -> list[str] | None:
    """Return the names in a comment above the first row, as numpy.savetxt writes them; None where it holds none."""
    for comment in comments[-1:]:
        try:
            names = [name.strip() for name in split(comment.strip(), dialect.delimiter)]
        except csv.Error:
            continue
        if len(names) == len(first) == len(set(names)) and has_header(names, [first], dialect.comma):
            return names
    return None


def _named(names: Sequence[str]) -> list[str]:
    """Return names of columns; their numbers from 0 where they have none."""
    own = [name.strip()[:NAME] for name in names]
    return [name or (str(i) if str(i) not in own else f"column {i}") for i, name in enumerate(own)]
