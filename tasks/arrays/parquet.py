"""A Parquet file as a table, a group of rows at a time; read by pyarrow, which is imported where it is used."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import package
from .cells import class_name, class_names, code, number
from .table import BLOCK, COLUMNS, Codes, Numbers, Options

LETTERS = 200  # of an error of pyarrow


class Parquet:
    """Columns of numbers, words or dates; columns of anything else cannot be chosen."""

    roles = None

    def __init__(self, path: Path, options: Options) -> None:
        """Read the file's schema. Raises ValueError, and ImportError without pyarrow."""
        self.path, self.marks = path, options.marks
        self.name = f"file {path.absolute().parent.name}/{path.name}"
        try:
            schema, rows = self._file.schema_arrow, self._file.metadata.num_rows
        except ImportError:
            raise
        except Exception as error:  # pyarrow raises what it likes on a damaged file
            raise ValueError(f"{self.name} is no Parquet file: {_short(error)}") from error
        self.columns = list(schema.names)
        if not 0 < len(self.columns) <= COLUMNS or len(set(self.columns)) < len(self.columns) or rows < 1:
            raise ValueError(
                f"{self.name}: {rows:,} rows of {len(self.columns):,} columns, expected 1 row or more of at most "
                f"{COLUMNS:,} columns, each of another name"
            )

    def count(self) -> int:
        """Return how many rows there are."""
        return int(self._file.metadata.num_rows)

    def rows(self, chosen: Sequence[int], codes: Codes, first: int = 0, last: int | None = None) -> Iterator[Numbers]:
        """Yield the chosen columns of the rows from `first` to before `last`, in blocks."""
        end = self.count() if last is None else last
        for at, columns in self._blocks(chosen, first):
            if at >= end:
                return
            keep = slice(max(0, first - at), end - at)
            parts = [self._values(own[keep], column, codes) for own, column in zip(columns, chosen, strict=True)]
            if len(parts[0]):
                yield np.stack(parts, axis=1)

    def classes(self, column: int) -> set[str]:
        """Return the names of the classes in a column."""
        cells = (_cell(value) for _, (own,) in self._blocks([column], 0) for value in own)
        return class_names(cells, f"{self.name}, column {self.columns[column]}", self.marks)

    def texts(self) -> Iterator[Sequence[str]]:
        """Yield the rows as text."""
        for _, columns in self._blocks(range(len(self.columns)), 0):
            for row in zip(*columns, strict=True):
                yield [_cell(value) for value in row]

    def _values(self, own: list[Any], column: int, codes: Codes) -> Numbers:
        """Return some cells of a column as numbers. Raises ValueError for one that is none."""
        try:
            if column in codes:
                known = {value: code(_cell(value), codes[column], self.marks) for value in set(own)}
                return np.array([known[value] for value in own], dtype=np.float64)
            if not self.marks and all(type(value) in (int, float) for value in own):
                return np.array(own, dtype=np.float64)
            return np.array([number(_cell(value), marks=self.marks) for value in own], dtype=np.float64)
        except (ValueError, TypeError) as error:  # TypeError: a list in a cell
            raise ValueError(f"{self.name}, column {self.columns[column]}: {error}") from None

    def _blocks(self, chosen: Sequence[int], first: int) -> Iterator[tuple[int, list[list[Any]]]]:
        """Yield the number of a block's first row and its columns, from the group of rows that holds `first` on."""
        names, sizes = [self.columns[i] for i in chosen], self._groups
        begin = max((i for i in range(len(sizes)) if sum(sizes[:i]) <= first), default=0)
        at = sum(sizes[:begin])
        try:
            groups = list(range(begin, len(sizes)))
            for batch in self._file.iter_batches(BLOCK, row_groups=groups, columns=names):
                yield at, [batch.column(name).to_pylist() for name in names]
                at += batch.num_rows
        except (OSError, ArithmeticError, self._arrow.ArrowException) as error:
            raise ValueError(f"{self.name}: from row {at:,} on it is damaged: {_short(error)}") from error

    @cached_property
    def _groups(self) -> list[int]:
        """Return how many rows each group has."""
        return [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]

    @property
    def _arrow(self) -> Any:
        """Return pyarrow. Raises ImportError."""
        return package("pyarrow", "tables", "reading Parquet")

    @cached_property
    def _file(self) -> Any:
        """Return the open file."""
        return package("pyarrow.parquet", "tables", "reading Parquet").ParquetFile(self.path)


def _cell(value: Any) -> str:
    """Return a cell as text."""
    return "" if value is None else class_name(str(value)) if isinstance(value, float) else str(value)


def _short(error: Exception) -> str:
    """Return an error as one short line."""
    return " ".join(str(error).split())[:LETTERS]
