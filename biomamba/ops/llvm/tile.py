"""The inner loop of every trace: a tile of Z meets its signal, decays and takes in its drives, held in registers.

    gradient += signal z;   z = decay z + sum_s p_s q_s        for each of m matrices

A compiler left alone does not keep a tile of z in registers over the drives of a chunk, and so writes it as often as
there are steps. Shapes: z (m, r, j), decay and signal (m, r), gradient (m, j), q (T, j); p is (m, r / BLOCK, T, BLOCK),
laid out as the tile reads it: p[c, y // BLOCK, s, y % BLOCK].
"""

from .kernel import Part
from .language import (
    LANES,
    LINE,
    WIDTH,
    Array,
    Size,
    Value,
    Variable,
    choose,
    equal,
    fma,
    integer,
    lanes,
    larger,
    loop,
    prefetch,
    smaller,
    span,
    subroutine,
)

ROWS, VECTORS = 4, 2 if WIDTH == 32 else 4  # of a tile: what the registers hold, beside a row of q
BLOCK = LINE // 4  # rows of z side by side in p: a line of the cache


def vector(array: Array) -> int:
    """Return how many numbers of the array a vector of the processor holds."""
    return WIDTH // {"float": 4, "double": 8}[str(array.number)]


def blocks(rows: Size) -> Size:
    """Return how many blocks hold so many rows."""
    return (rows + (BLOCK - 1)) // BLOCK


def packed(part: Part, many: Size, steps: Size, rows: Size) -> Array:
    """Return room for the p of `many` matrices."""
    return part.empty(many, blocks(rows), steps, BLOCK)


@subroutine
def pack(p: Array, post: Array) -> None:
    """Put the posts (T, m, r) of m matrices where the tile reads them."""
    steps, m, r = post.shape
    whole, block = integer(r) // BLOCK, span(0, BLOCK)
    for s in loop(steps):
        for c in loop(m):
            for y in loop(whole):
                p[c, y, s, block] = post[s, c, span(y * BLOCK, BLOCK)]
            for y in loop(integer(r) % BLOCK):
                p[c, whole, s, y] = post[s, c, whole * BLOCK + y]


@subroutine
def contract_and_advance(z: Array, decay: Array, signal: Array, p: Array, q: Array, gradient: Array) -> None:
    """Do m matrices, whose gradients come on top of what is there."""
    m, r, j = z.shape
    steps, thin = q.shape[0], vector(gradient)
    broad = thin * VECTORS
    whole, full = integer(j) // broad * broad, integer(j) // thin * thin
    of = z, decay, signal, p, q, gradient
    for c in loop(m):
        with choose(equal(integer(steps), 1)) as (once, often):
            with once:  # memory sets the pace
                twice = integer(j) // (2 * broad) * (2 * broad)
                with choose(twice > 2 * broad) as (wide, narrow):
                    with wide:
                        for y in loop(r):
                            _line(*of, c, y, twice, 2 * VECTORS)
                    with narrow:
                        for x in loop(0, twice, 2 * broad):
                            _column(*of, c, x, 2 * VECTORS)
                for x in loop(twice, whole, broad):
                    _column(*of, c, x, VECTORS)
                for x in loop(whole, full, thin):
                    _column(*of, c, x, 1)
            with often:
                even = integer(r) // ROWS * ROWS
                for lo, hi, vectors in ((integer(0), whole, VECTORS), (whole, full, 1)):
                    for x in loop(lo, hi, thin * vectors):
                        for y in loop(0, even, ROWS):
                            _tile(*of, c, y, x, ROWS, vectors)
                        for y in loop(even, r):
                            _tile(*of, c, y, x, 1, vectors)
        for x in loop(full, j):
            for y in loop(r):
                _tile(*of, c, y, x, 1, 0)


def _tile(
    z: Array,
    decay: Array,
    signal: Array,
    p: Array,
    q: Array,
    gradient: Array,
    c: Value,
    y: Value,
    x: Value,
    rows: int,
    vectors: int,
) -> None:
    """Do a tile whose corner is z[c, y, x]; no vectors: a single number."""
    width = vector(gradient) if vectors else 1
    columns = [span(x + i * width, width) for i in range(max(1, vectors))]
    lines = [y + i for i in range(rows)]
    if rows > 1:
        for line in lines:
            for column in columns:
                prefetch(z.address(c, line + 2 * rows, column))
    held = [[z[c, line, column] for column in columns] for line in lines]
    for i, column in enumerate(columns):
        total = gradient[c, column]
        for line, own in zip(lines, held, strict=True):
            total = fma(signal[c, line], own[i], total)
        gradient[c, column] = total
    now = [[Variable(decay[c, line] * value) for value in own] for line, own in zip(lines, held, strict=True)]
    block, within = y // BLOCK, y % BLOCK
    for s in loop(q.shape[0]):
        right = [q[s, column] for column in columns]
        for i, own in enumerate(now):
            left = p[c, block, s, within + i]
            for value, pushed in zip(own, right, strict=True):
                value.set(fma(left, pushed, value.get()))
    for line, own in zip(lines, now, strict=True):
        for column, value in zip(columns, own, strict=True):
            z[c, line, column] = value.get()


def _column(
    z: Array, decay: Array, signal: Array, p: Array, q: Array, gradient: Array, c: Value, x: Value, vectors: int
) -> None:
    """Do a single step's columns from x on, of all rows; the sums and the row of q stay in registers."""
    width = vector(gradient)
    columns = [span(x + i * width, width) for i in range(vectors)]
    right = [q[0, column] for column in columns]
    sums = [Variable(gradient[c, column]) for column in columns]
    for y in loop(z.shape[1]):
        weight, rate, left = signal[c, y], decay[c, y], p[c, y // BLOCK, 0, y % BLOCK]
        for column, pushed, total in zip(columns, right, sums, strict=True):
            value = z[c, y, column]
            z[c, y, column] = fma(left, pushed, rate * value)
            total.set(fma(weight, value, total.get()))
    for column, total in zip(columns, sums, strict=True):
        gradient[c, column] = total.get()


def _line(
    z: Array,
    decay: Array,
    signal: Array,
    p: Array,
    q: Array,
    gradient: Array,
    c: Value,
    y: Value,
    end: Value,
    vectors: int,
) -> None:
    """Do a single step's columns up to `end` of a row, all at once: from memory far away neighbours come faster."""
    width = vector(gradient)
    weight, rate, left = signal[c, y], decay[c, y], p[c, y // BLOCK, 0, y % BLOCK]
    for x in loop(0, end, vectors * width):
        for i in range(vectors):
            column = span(x + i * width, width)
            value = z[c, y, column]
            z[c, y, column] = fma(left, q[0, column], rate * value)
            gradient[c, column] = fma(weight, value, gradient[c, column])


@subroutine
def fold(p: Array, taps: Array, channel: Value, post: Array) -> None:
    """Write p_s = sum_k taps[s - k, k, channel] post[s - k]: see `conv.fold`.

    taps (t, k, e); post (r / BLOCK, t, BLOCK) as `pack` lays it, p likewise with k - 1 + t steps.
    """
    t, k, _ = taps.shape
    for block in loop(post.shape[0]):
        for at in range(0, BLOCK, vector(p)):
            column = span(at, vector(p))
            for s in loop(integer(t) + k - 1):
                total = Variable(p.zero(vector(p)))
                for tap in loop(larger(0, s - t + 1), smaller(k, s + 1)):
                    total.set(fma(taps[s - tap, tap, channel], post[block, s - tap, column], total.get()))
                p[block, s, column] = total.get()


@subroutine
def mix(taps: Array, inputs: Array, mixed: Array) -> None:
    """Write sum_k taps_k inputs_k to mixed (1, j): what a single step's taps (k,) make of inputs (k, j)."""
    k, j = inputs.shape
    for x in lanes(0, j, LANES):
        total = Variable(taps[0] * inputs[0, x])
        for tap in loop(1, k):
            total.set(total.get() + taps[tap] * inputs[tap, x])
        mixed[0, x] = total.get()
