"""Kernels of `ops.rows`. Letters: b streams, t steps, w tokens, k orders, m rows of all orders, c numbers in a row."""

from collections.abc import Iterator

from ..rows import BUCKETS, LEAST, MIX, PRIME
from .kernel import Argument, Part, flags, given, index, kernel, result, trace
from .language import (
    BIT,
    LANES,
    Array,
    Size,
    Value,
    Variable,
    constant,
    dot,
    equal,
    fill,
    fma,
    integer,
    lanes,
    loop,
    select,
    sqrt,
    when,
)
from .mamba2 import there

SCALES = f"k {BUCKETS}"


@kernel(
    W=Argument(("m", "c"), "trace"),
    key=index("m"),
    visits=given("m"),
    scale=given(SCALES),
    tokens=index("b w"),
    reset=flags("b t", optional=True),
    orders=index("k"),
    keys=index("b t k", written=True),
    out=result("b t c"),
)
def read(
    part: Part,
    W: Array,
    key: Array,
    visits: Array,
    scale: Array,
    tokens: Array,
    reset: Array,
    orders: Array,
    keys: Array,
    out: Array,
) -> None:
    """Write each step's keys, and the scaled sum of their rows. Parts share the steps of all streams."""
    b, t, c = out.shape
    k, newest = integer(orders.shape[0]), integer(tokens.shape[1]) - t
    for place in part.rows(b * t):
        i, s = place // t, place % t
        h, first, sees = Variable(integer(0)), Variable(integer(0)), Variable(constant(BIT, 1))
        for q in loop(k):
            for back in loop(first.get(), orders[q]):
                h.set((h.get() + select(sees.get(), tokens[i, s + newest - back], 0)) * PRIME)
                with when(there(reset) & (back <= s)):
                    sees.set(select(reset[i, s - back], constant(BIT, 0), sees.get()))
            first.set(orders[q])
            mixed = (h.get() ^ (h.get() >> 29)) * MIX
            keys[i, s, q] = mixed ^ (mixed >> 32)
        for x in lanes(0, c, LANES):
            out[i, s, x] = 0
        for q in loop(k):
            row = find(key, keys[i, s, q], q, k)
            weight = scale[q, bucket(visits[row])]
            for x in lanes(0, c, LANES):
                out[i, s, x] = fma(weight, W[row, x], out[i, s, x])


@kernel(
    W=trace("m c"),
    key=index("m", written=True),
    A=result("m"),
    visits=result("m"),
    scale=result(SCALES),
    keys=index("b t k"),
    g=given("b t c"),
    rates=given("3"),
)
def learn(
    part: Part,
    W: Array,
    key: Array,
    A: Array,
    visits: Array,
    scale: Array,
    keys: Array,
    g: Array,
    rates: Array,
) -> None:
    """Move the rows that steps read, and what is kept of them. One part does it: steps share rows."""
    (b, t, c), k = g.shape, integer(keys.shape[2])
    rate, floor, scale_rate = (rates[i] for i in range(3))
    pace, before, slopes = part.empty(b, t), part.empty(b, t, k), part.empty(k, BUCKETS)
    for _ in part.rows(1):
        fill(slopes)
        for i in loop(b):
            for s in loop(t):
                size, met = dot(g[i, s], g[i, s], c), Variable(constant(g.number, 1))
                for q in loop(k):
                    row = find(key, keys[i, s, q], q, k)
                    with when(equal(key[row], integer(0))):
                        key[row] = keys[i, s, q]
                    with when(visits[row] > 0):
                        met.set(met.get() + 1)
                        with when(scale_rate > 0):
                            at = bucket(visits[row])
                            slopes[q, at] = slopes[q, at] + dot(g[i, s], W[row], c)
                    before[i, s, q] = visits[row]
                    A[row] = A[row] + size
                pace[i, s] = rate // sqrt(met.get())
        for i, s, q in each(b, t, k):
            row = find(key, keys[i, s, q], q, k)
            visits[row] = visits[row] + 1
        with when(scale_rate > 0):
            for q in loop(k):
                for power in range(BUCKETS):
                    moved = scale[q, power] - scale_rate * slopes[q, power]
                    scale[q, power] = select(moved < LEAST, LEAST, moved)
        for i, s, q in each(b, t, k):
            row = find(key, keys[i, s, q], q, k)
            weight = pace[i, s] // sqrt((A[row] + floor) * (visits[row] - before[i, s, q]))
            for x in lanes(0, c, LANES):
                W[row, x] = fma(-weight, g[i, s, x], W[row, x])


def each(*sizes: Size) -> Iterator[tuple[Value, ...]]:
    """Write loops over all places of an array of these sizes."""
    if not sizes:
        yield ()
        return
    for i in loop(sizes[0]):
        for rest in each(*sizes[1:]):
            yield (i, *rest)


def find(key: Array, wanted: Value, q: Value, k: Value) -> Value:
    """Return the row of a key of order q of k."""
    size = integer(key.shape[0]) // k
    first = (wanted & (size - 1)) + size * q
    second = first ^ integer(1)
    mine = [equal(key[row], wanted) | equal(key[row], integer(0)) for row in (first, second)]
    return select((mine[0] ^ constant(BIT, 1)) & mine[1], second, first)


def bucket(visits: Value) -> Value:
    """Return which of the powers of two a number of visits has reached."""
    found = integer(0)
    for power in range(BUCKETS - 1):
        found = found + select(visits < 2**power, integer(0), 1)
    return found
