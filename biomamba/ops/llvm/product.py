"""Products of matrices as a linear layer needs them, on the way, and back to its inputs and its weight.

    forward      y_s = x_s W^T              (rows, o) from (rows, j) and (o, j)
    to_inputs    y_s += g_s W               (rows, j) from (rows, o) and (o, j)
    to_weight    G += g^T x                 (o, j) from (rows, o) and (rows, j)

A row depends on nothing but itself and W, whatever the number of rows, so that a stream's numbers are the same beside
others. Tiles are held in registers, as `tile` does.
"""

from collections.abc import Callable, Sequence

from .language import Array, Size, Value, Variable, fma, integer, loop, reduce_sum, span, subroutine
from .tile import vector

ROWS, SIDE = 4, 4  # of a tile: rows and vectors, or rows and rows


@subroutine
def forward(y: Array, x: Array, W: Array) -> None:
    """Write y (rows, o) from x (rows, j) and W (o, j)."""
    for s, rows in _pieces(y.shape[0], (ROWS, 1)):
        for o, many in _pieces(y.shape[1], (SIDE, 1)):
            _dots(y, x, W, s, o, rows, many)


def _dots(y: Array, x: Array, W: Array, s: Value, o: Value, rows: int, many: int) -> None:
    """Write the products of some rows of x and of W."""
    width, j = vector(x), integer(x.shape[1])
    whole = j // width * width
    sums = [[Variable(x.zero(width)) for _ in range(many)] for _ in range(rows)]
    for at in loop(0, whole, width):
        column = span(at, width)
        weights = [W[o + i, column] for i in range(many)]
        for i, own in enumerate(sums):
            given = x[s + i, column]
            for total, weight in zip(own, weights, strict=True):
                total.set(fma(given, weight, total.get()))
    for i, own in enumerate(sums):
        for k, total in enumerate(own):
            rest = Variable(reduce_sum(total.get()))
            for at in loop(whole, j):
                rest.set(fma(x[s + i, at], W[o + k, at], rest.get()))
            y[s + i, o + k] = rest.get()


@subroutine
def to_inputs(y: Array, g: Array, W: Array) -> None:
    """Add g (rows, o) times W (o, j) to y (rows, j)."""
    _tiles(y, W.shape[0], lambda row, o: g[row, o], lambda o, column: W[o, column])


@subroutine
def to_weight(G: Array, g: Array, x: Array) -> None:
    """Add the outer products of the rows of g (rows, o) and x (rows, j) to G (o, j)."""
    _tiles(G, x.shape[0], lambda row, s: g[s, row], lambda s, column: x[s, column])


def _tiles(
    y: Array, count: Size, left: Callable[[Value, Value], Value], right: Callable[[Value, Value], Value]
) -> None:
    """Add sum_i left(row, i) right(i, column) to every y[row, column]."""
    width = vector(y)
    for lo, rows in _pieces(y.shape[0], (ROWS, 1)):
        for at, vectors in _pieces(y.shape[1], (SIDE * width, width, 1)):
            columns = [span(at + i * width, width) for i in range(vectors // width)] or [at]
            held = [[Variable(y[lo + i, column]) for column in columns] for i in range(rows)]
            for i in loop(count):
                values = [right(i, column) for column in columns]
                for row, own in enumerate(held):
                    by = left(lo + row, i)
                    for total, value in zip(own, values, strict=True):
                        total.set(fma(by, value, total.get()))
            for row, own in enumerate(held):
                for column, total in zip(columns, own, strict=True):
                    y[lo + row, column] = total.get()


def _pieces(size: Size, widths: Sequence[int]):  # type: ignore[no-untyped-def]
    """Write a loop over pieces of each width in turn, widest first, over what is left; yield where, and how wide."""
    lo: Value = integer(0)
    for width in widths:
        hi = integer(size) // width * width
        for at in loop(lo, hi, width):
            yield at, width
        lo = hi
