"""Tables: columns of numbers or of names of classes, given out a block of rows at a time.

Shapes: n rows (time), c columns.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Codes = Mapping[int, Mapping[str, int]]  # by column: the number of each class, by name

BLOCK = 4096  # rows given out at once; nothing depends on it
NUMBERS = 1 << 20  # in a block at most, but for a row
COLUMNS = 10_000  # a table may have
CLASSES = 1000  # a column may have
MISSING = ("", "na", "n/a", "null", "none")  # cells without a value, in any case of letters


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
        """Return the names of the classes in a column. Raises ValueError for too many."""


class Array:
    """Arrays of numbers side by side, one row of each a time step."""

    def __init__(self, name: str, arrays: Mapping[str, NDArray[Any]], roles: Mapping[str, str] | None = None) -> None:
        """Take arrays (n,) or (n, c) by name; the columns are named by theirs and numbered. Raises ValueError."""
        for part, array in arrays.items():
            if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or array.size == 0:
                raise ValueError(
                    f"{name}: array {part or 'in it'} is of {array.dtype} and shape {array.shape}, "
                    "expected numbers in the shape (time,) or (time, columns)"
                )
        if len({len(array) for array in arrays.values()}) > 1:
            sizes = ", ".join(f"{len(array):,} of {part}" for part, array in arrays.items())
            raise ValueError(f"{name}: the arrays have {sizes} rows, expected as many of each, one a time step")
        self.name, self.roles = name, roles
        self.arrays = [array if array.ndim == 2 else array[:, None] for array in arrays.values()]
        self.columns = [column for part, array in arrays.items() for column in _columns(part, array)]
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
            parts = [array[at : min(at + step, end)].astype(np.float64) for array in self.arrays]
            block = np.concatenate(parts, axis=1)[:, list(chosen)]
            for i, column in enumerate(chosen):
                if column in codes:
                    block[:, i] = self._coded(block[:, i], codes[column], column)
            yield block

    def classes(self, column: int) -> set[str]:
        """Return the names of the classes in a column."""
        values = (np.unique(block).tolist() for block in self.rows([column], {}))
        return class_names(chain.from_iterable(values), f"{self.name}, column {self.columns[column]}")

    def _coded(self, values: Numbers, codes: Mapping[str, int], column: int) -> Numbers:
        """Return the numbers of the classes (n,) in a column (n,)."""
        distinct, where = np.unique(values, return_inverse=True)
        try:
            return np.array([code(value, codes) for value in distinct.tolist()])[where]
        except ValueError as error:
            raise ValueError(f"{self.name}, column {self.columns[column]}: {error}") from None


def _columns(name: str, array: NDArray[Any]) -> list[str]:
    """Return the names of an array's columns: its own, numbered; the number alone where it has none."""
    return (
        [name] if array.ndim == 1 and name else [f"{name}{i}" for i in range(1 if array.ndim == 1 else len(array[0]))]
    )


def class_name(cell: str | float) -> str | None:
    """Return the name of a class: whole numbers as such, so that 1 and 1.0 are one class; None where there is none."""
    try:
        value = float(cell)
    except ValueError:
        text = str(cell).strip()
        return None if text.lower() in MISSING else text
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else str(value)


def class_names(cells: Iterable[str | float], where: str) -> set[str]:
    """Return the names of the classes in some cells. Raises ValueError for too many."""
    names = set[str]()
    for cell in cells:
        if (name := class_name(cell)) is not None:
            names.add(name)
        if len(names) > CLASSES:
            raise ValueError(f"{where}: over {CLASSES:,} classes, expected fewer: for values, --task.kind value")
    return names


def code(cell: str | float, codes: Mapping[str, int]) -> float:
    """Return the number of a class; NaN where there is none. Raises ValueError for one that is not known."""
    name = class_name(cell)
    if name is None:
        return math.nan
    if name not in codes:
        raise ValueError(f"got {name[:30]!r}, expected one of the classes {', '.join(list(codes)[:10])}")
    return codes[name]
