"""Tables: columns of numbers or of names of classes, given out a block of rows at a time.

Shapes: n rows (time), c columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .cells import class_names, code

Numbers = NDArray[np.float64]
Codes = Mapping[int, Mapping[str, int]]  # by column: the number of each class, by name

BLOCK = 4096  # rows given out at once; nothing depends on it
NUMBERS = 1 << 20  # in a block at most, but for a row
COLUMNS = 10_000  # a table may have


class Options(NamedTuple):
    """How a table is to be read."""

    header: bool | None = None  # whether the first line names the columns; None: as it looks
    marks: frozenset[str] = frozenset()  # cells, in small letters, that mean a missing value beside the usual ones
    time_axis: int | None = None  # of an array; None: the first, and more columns than rows are refused


class Table(Protocol):
    """Columns of numbers, or of names of classes."""

    @property
    def name(self) -> str:
        """What it is, in words."""

    @property
    def columns(self) -> Sequence[str]:
        """Their names; where none are written, their numbers from 0."""

    @property
    def roles(self) -> Mapping[str, str] | None:
        """The columns that are label, mask and reset by their names; None where names say nothing."""

    def count(self) -> int | None:
        """Return how many rows there are; None where nobody knows yet."""

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns of the rows from `first` to before `last`, in blocks (n, len(chosen)).

        Missing numbers are NaN. Raises ValueError for what is no number, or none of the classes.
        """

    def classes(self, column: int) -> set[str]:
        """Return the names of the classes in a column. Raises ValueError for too many, and for what are values."""

    def texts(self) -> Iterator[Sequence[str]]:
        """Yield the rows as text, to look at; of standard input the first alone, where it has come."""


class Array:
    """Arrays side by side, one row of each a time step: numbers, and of labels words too."""

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, NDArray[Any]],
        roles: Mapping[str, str] | None = None,
        options: Options = Options(),  # noqa: B008 - a tuple
    ) -> None:
        """Take arrays (n,) or (n, c) by name; the columns are named by theirs and numbered. Raises ValueError."""
        self.name, self.roles, self.marks = name, roles, options.marks
        own = {
            part: _column(f"{name}: array {part}", array) if part in (roles or {}).values() else array
            for part, array in arrays.items()
        }
        for part, array in own.items():
            kinds = "biufUS" if part == (roles or {}).get("label") else "biuf"
            if array.dtype.kind not in kinds or array.ndim not in (1, 2) or array.size == 0:
                windows = "; windows (n, time, columns) are read by --config recordings" if array.ndim == 3 else ""
                raise ValueError(
                    f"{name}: array {part or 'in it'} is of {array.dtype} and shape {array.shape}, "
                    f"expected numbers in the shape (time,) or (time, columns){windows}"
                )
        first = next(iter(own))
        own[first] = _time_first(
            name, own[first], {len(array) for part, array in own.items() if part != first}, options
        )
        if len({len(array) for array in own.values()}) > 1:
            sizes = ", ".join(f"{len(array):,} of {part}" for part, array in own.items())
            raise ValueError(f"{name}: the arrays have {sizes} rows, expected as many of each, one a time step")
        self.arrays = [array if array.ndim == 2 else array[:, None] for array in own.values()]
        self.columns = [column for part, array in own.items() for column in _columns(part, array)]
        if len(self.columns) > COLUMNS:
            raise ValueError(
                f"{name}: {len(self.columns):,} columns, expected at most {COLUMNS:,}: the first axis is time"
            )

    def count(self) -> int:
        """Return how many rows there are."""
        return len(self.arrays[0])

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns of the rows from `first` to before `last`, in blocks."""
        end, step = self.count() if last is None else last, max(1, min(BLOCK, NUMBERS // len(self.columns)))
        for at in range(first, end, step):
            own = [(column, self._part(column, at, min(at + step, end))) for column in chosen]
            parts = [self._coded(part, codes[c], c) if c in codes else self._numbers(part) for c, part in own]
            yield np.stack(parts, axis=1)

    def classes(self, column: int) -> set[str]:
        """Return the names of the classes in a column."""
        blocks = (np.unique(self._part(column, at, at + BLOCK)).tolist() for at in range(0, self.count(), BLOCK))
        cells = (_text(value) for block in blocks for value in block)
        return class_names(cells, f"{self.name}, column {self.columns[column]}", self.marks, self.count())

    def texts(self) -> Iterator[Sequence[str]]:
        """Yield the rows as text."""
        for row in range(self.count()):
            yield [str(value) for array in self.arrays for value in array[row].tolist()]

    def _part(self, column: int, first: int, last: int) -> NDArray[Any]:
        """Return some rows of a column."""
        for array in self.arrays:
            if column < array.shape[1]:
                return np.asarray(array[first:last, column])
            column -= array.shape[1]
        raise IndexError(column)

    def _numbers(self, values: NDArray[Any]) -> Numbers:
        """Return values (n,) as numbers, NaN where they are marks of missing ones."""
        own = values.astype(np.float64)
        if self.marks:
            own[np.isin(own, [float(mark) for mark in self.marks if _is_float(mark)])] = np.nan
        return own

    def _coded(self, values: NDArray[Any], codes: Mapping[str, int], column: int) -> Numbers:
        """Return the numbers of the classes (n,) in a column (n,)."""
        distinct, where = np.unique(values, return_inverse=True)
        try:
            return np.array([code(_text(value), codes, self.marks) for value in distinct.tolist()])[where]
        except ValueError as error:
            raise ValueError(f"{self.name}, column {self.columns[column]}: {error}") from None


def _text(value: Any) -> str:
    """Return a label as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_float(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(where: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return a label, mask or reset (n, 1) as (n,). Raises ValueError for a wider one."""
    if array.ndim == 2 and array.shape[1] > 1:
        raise ValueError(f"{where} has {array.shape[1]} columns, expected one: shape (time,) or (time, 1)")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _time_first(name: str, array: NDArray[Any], rows: set[int], options: Options) -> NDArray[Any]:
    """Return an array (time, columns). Raises ValueError where it looks like (channels, time), as mne gives it.

    rows: how many the other arrays have.
    """
    if options.time_axis is not None:
        return array.T if options.time_axis == 1 and array.ndim == 2 else array
    looks = array.ndim == 2 and (array.shape[1] > len(array) or (rows == {array.shape[1]} != {len(array)}))
    if looks:
        raise ValueError(
            f"{name}: {len(array):,} rows of {array.shape[1]:,} columns, expected (time, columns): it looks like "
            "(channels, time), which --task.time_axis 1 reads; --task.time_axis 0 if each row is a time step"
        )
    return array


def _columns(name: str, array: NDArray[Any]) -> list[str]:
    """Return the names of an array's columns: its own, numbered; the number alone where it has none."""
    return (
        [name] if array.ndim == 1 and name else [f"{name}{i}" for i in range(1 if array.ndim == 1 else len(array[0]))]
    )
