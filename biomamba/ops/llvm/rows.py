"""Kernels of `ops.rows`. Letters: m rows of a table, c numbers in one, b streams, t steps, k rows that a step names."""

from .kernel import Argument, Part, given, index, kernel, result, trace
from .language import LANES, Array, Variable, fma, lanes, loop, reduce_sum, span

TABLE = Argument(("m", "c"), "trace")


@kernel(W=TABLE, r=index("b t k"), weights=given("b t k"), out=result("b t c"))
def gather(part: Part, W: Array, r: Array, weights: Array, out: Array) -> None:
    """Write the weighted sum of each step's rows. Parts share the steps of all streams."""
    b, t, c = out.shape
    for place in part.rows(b * t):
        i, s = place // t, place % t
        for x in lanes(0, c, LANES):
            out[i, s, x] = 0
        for q in loop(r.shape[2]):
            row, weight = r[i, s, q], weights[i, s, q]
            for x in lanes(0, c, LANES):
                out[i, s, x] = fma(weight, W[row, x], out[i, s, x])


@kernel(W=TABLE, r=index("b t k"), g=given("b t c"), out=result("b t k"))
def contract(part: Part, W: Array, r: Array, g: Array, out: Array) -> None:
    """Write the product of each step's g with each of its rows. Parts share the steps of all streams."""
    b, t, c = g.shape
    whole = c // LANES * LANES
    for place in part.rows(b * t):
        i, s = place // t, place % t
        for q in loop(r.shape[2]):
            row, total = r[i, s, q], Variable(g.zero(LANES))
            for y in loop(c // LANES):
                x = span(y * LANES, LANES)
                total.set(fma(g[i, s, x], W[row, x], total.get()))
            rest = Variable(reduce_sum(total.get()))
            for x in loop(whole, c):
                rest.set(fma(g[i, s, x], W[row, x], rest.get()))
            out[i, s, q] = rest.get()


@kernel(W=trace("m c"), r=index("b t k"), weights=given("b t k"), g=given("b t c"))
def scatter(part: Part, W: Array, r: Array, weights: Array, g: Array) -> None:
    """Take every step's weighted g from its rows. Parts share the columns of the table."""
    b, t, c = g.shape
    lo, hi = part.range(c, LANES)
    for i in loop(b):
        for s in loop(t):
            for q in loop(r.shape[2]):
                row, weight = r[i, s, q], weights[i, s, q]
                for x in lanes(lo, hi, LANES):
                    W[row, x] = fma(-weight, g[i, s, x], W[row, x])
