"""Kernels of spike trains: filtered spikes, jumps of pairs, the filter that follows w, post drawn anew bin by bin.

Letters: n bins, l lags, c bases of a filter, r rows, m spikes at most, p pre spikes, k bases of the modification
function, both sides.
"""

import math

from .kernel import Part, flags, given, index, kernel, result
from .language import (
    LANES,
    Array,
    Value,
    Variable,
    constant,
    cos,
    equal,
    exp,
    integer,
    lanes,
    log,
    loop,
    real,
    select,
    smaller,
    when,
)

AT_ONCE = 200  # spikes of one bin at most: far more than a bin whose rate is allowed ever has
BITS = 40  # of the place of a spike in a train


@kernel(table=given("c l"), numbers=given("m"), places=index("m 3"), out=result("c r"))
def add_filtered(part: Part, table: Array, numbers: Array, places: Array, out: Array) -> None:
    """Add to out, for each of m spikes, so many times the table from a lag on. places: the row, the lag, how many lags.

    Parts share the bases.
    """
    for j in part.rows(table.shape[0]):
        for i in loop(numbers.shape[0]):
            row, lag, count = (places[i, q] for q in range(3))
            source, target = Array(table.address(j, lag), (count,)), Array(out.address(j, row), (count,))
            for x in lanes(0, count, LANES):
                target[x] = target[x] + numbers[i] * source[x]


@kernel(train=given("s"), begin=index("e"), places=index("m 3"), facts=given("3"), jumps=result("r k"))
def jumps_of_pairs(part: Part, train: Array, begin: Array, places: Array, facts: Array, jumps: Array) -> None:
    """Write, for each bin, the bases of the modification function summed over the pairs that end in it.

    train (s): the spikes of pre, then those of post. Row r of jumps has the spikes begin[r] to begin[r + 1] of places:
    each spike's own place in the train, and from where to where the spikes of the other neuron lie that it pairs with.
    facts: window_span and offset of the bases (s), how many spikes pre has. Parts share the rows.
    """
    half = integer(jumps.shape[1]) // 2
    step = pace(half, facts[0], facts[1])
    for r in part.rows(jumps.shape[0]):
        for j in loop(jumps.shape[1]):
            jumps[r, j] = constant(train.number, 0)
        for i in loop(begin[r], begin[r + 1]):
            own, low, high = (places[i, q] for q in range(3))
            late = select(real(own, train.number) < facts[2], half, integer(0))  # columns: post first, or pre first
            for k in loop(low, high):
                lag = train[own] - train[k]
                phi = log((lag + facts[1]) // facts[1]) // step
                c, s = (Variable(cos((phi - quarters) * (math.pi / 2))) for quarters in (0, 1))
                size = select(lag > 0, constant(train.number, 0.5), 0.25)  # at 0, half of both
                size = select(lag > facts[0], 0.0, size)
                for j in loop(half):
                    away, wave = phi - real(j, train.number), c.get()
                    share = select((away > -2) & (away < 2), (1 + wave) * size, 0.0)
                    c.set(s.get())  # of the next basis, a quarter of a turn on
                    s.set(-wave)
                    jumps[r, late + j] = jumps[r, late + j] + share
                    with when(lag <= 0):
                        jumps[r, half - late + j] = jumps[r, half - late + j] + share


@kernel(
    y=given("n"),
    base=given("n"),
    slope=given("n"),
    since=given("n"),
    start=given("3"),
    before=result("n"),
    w=result("n"),
    variance=result("n"),
    expected=result("n"),
)
def follow(
    part: Part,
    y: Array,
    base: Array,
    slope: Array,
    since: Array,
    start: Array,
    before: Array,
    w: Array,
    variance: Array,
    expected: Array,
) -> None:
    """Write the filter's course: see `plasticity.inference.point_process`. start: w, its variance, noise per second."""
    for _ in part.rows(1):
        now, spread = Variable(start[0]), Variable(start[1])
        for i in loop(y.shape[0]):
            was, c = now.get(), slope[i]
            predicted = base[i] * exp(c * was)
            v = spread.get() + start[2] * since[i]
            v = v // (1 + v * c * c * predicted)
            now.set(was + v * c * (y[i] - predicted))
            spread.set(v)
            before[i], w[i], variance[i], expected[i] = was, now.get(), v, predicted


@kernel(
    drive=result("n"),
    coupled=given("n"),
    arrives=flags("n"),
    by_post=given("l"),
    waits=given("m"),
    pre=given("p"),
    gamma=given("k"),
    facts=given("5"),
    spikes=result("m"),
    w=result("n"),
    told=index("2", written=True),
)
def draw(
    part: Part,
    drive: Array,
    coupled: Array,
    arrives: Array,
    by_post: Array,
    waits: Array,
    pre: Array,
    gamma: Array,
    facts: Array,
    spikes: Array,
    w: Array,
    told: Array,
) -> None:
    """Write the spikes of post (s), w of every bin, how many spikes there are, and whether all went well.

    drive: log of the rate without pre, to which what spikes do to it is added. arrives: whether a bin has pre spikes.
    waits: standard exponential. facts: bin, decay of w per bin, window_span and offset of the bases (s), spikes that
    may be expected of a bin. told[1]: 0, or 1 where the waits did not suffice, 2 where post runs away. What is drawn is
    what `plasticity.inference.simulate` says.
    """
    n, m = integer(drive.shape[0]), integer(waits.shape[0])
    step, decay, many = facts[0], facts[1], facts[4]
    for _ in part.rows(1):
        told[0], told[1] = integer(0), integer(0)
        change, wait, used = Variable(constant(drive.number, 0)), Variable(waits[0]), Variable(integer(1))
        for k in loop(n):
            with when(equal(told[1], 0)):
                change.set(change.get() * decay)
                w[k] = 1 + change.get()
                expected = exp(drive[k] + w[k] * coupled[k]) * step
                before = told[0]
                with when(wait.get() <= expected):
                    told[1] = select(expected > many, integer(2), 0)
                    for _ in loop(AT_ONCE):
                        with when((wait.get() <= expected) & equal(told[1], 0)):
                            share = wait.get() // expected
                            share = select(share < 1e-6, 1e-6, select(share > 1 - 1e-6, 1 - 1e-6, share))
                            spikes[told[0]] = (real(k, drive.number) + share) * step
                            told[0] = told[0] + 1
                            told[1] = select(used.get() < m, integer(0), 1)
                            wait.set(wait.get() + waits[smaller(used.get(), m - 1)])
                            used.set(used.get() + 1)
                    number = real(told[0] - before, drive.number)
                    for lag in loop(smaller(integer(by_post.shape[0]), n - k - 1)):
                        drive[k + 1 + lag] = drive[k + 1 + lag] + number * by_post[lag]
                wait.set(wait.get() - expected)
                with when((integer(gamma.shape[0]) > 0) & ((told[0] > before) | arrives[k])):
                    change.set(change.get() + jump(k, pre, spikes, told[0], gamma, facts))


def jump(k: Value, pre: Array, post: Array, number: Value, gamma: Array, facts: Array) -> Value:
    """Return dw summed over the pairs whose second spike is in bin k; number: of post spikes so far."""
    step, span = facts[0], facts[2]
    begin, total = real(k, pre.number) * step, Variable(constant(pre.number, 0))
    end = real(k + 1, pre.number) * step
    pre_count = integer(pre.shape[0])
    for i in loop(place(pre, pre_count, begin - span), place(pre, pre_count, end)):
        for j in loop(place(post, number, begin - span), number):
            dt = pre[i] - post[j]
            lag = select(dt < 0, -dt, dt)
            with when(((pre[i] >= begin) | (post[j] >= begin)) & (lag <= span)):
                total.set(total.get() + modification(dt, lag, gamma, facts))
    return total.get()


def modification(dt: Value, lag: Value, gamma: Array, facts: Array) -> Value:
    """Return dw(dt) in the bases of gamma: see `plasticity.inference.bases`. lag: |dt|."""
    total, half = Variable(constant(dt.ir.type, 0)), integer(gamma.shape[0]) // 2
    phi = log((lag + facts[3]) // facts[3]) // pace(half, facts[2], facts[3])
    for j in loop(half):
        away = phi - real(j, dt.ir.type)
        first, last = gamma[j], gamma[half + j]  # pre first, post first; at 0, half of both
        weight = select(dt < 0, first, select(dt > 0, last, (first + last) * 0.5))
        angle = select(away < -2, -2.0, select(away > 2, 2.0, away)) * (math.pi / 2)
        total.set(total.get() + weight * (1 + cos(angle)) * 0.5)
    return total.get()


def pace(number: Value, span: Value, offset: Value) -> Value:
    """Return how much log time lies between two of so many bases that reach to `span`."""
    return log((span + offset) // offset) // real(number + 1, span.ir.type)


def place(train: Array, count: Value, time: Value) -> Value:
    """Return how many of the first `count` spikes of a train come before a time."""
    low, high = Variable(integer(0)), Variable(count)
    for _ in loop(BITS):
        with when(low.get() < high.get()):
            middle = (low.get() + high.get()) // 2
            earlier = train[middle] < time
            low.set(select(earlier, middle + 1, low.get()))
            high.set(select(earlier, high.get(), middle))
    return low.get()
