"""The traces of a Mamba-2 block across a chunk: what its steps push is worked out row by row, as it is read.

The decay ahead P is one number per head, and most drives are products of a channel's part and a state's:

    A_log                 delta A a h_prev P
    dt_bias, dt           d_dt P, with d_dt = (A a h_prev + B x) softplus';  d_dt P times the inputs
    x                     B times what the taps weigh, delta P silu' w
    B                     delta P x times what the taps weigh, silu' w
    taps of x, of B       B times delta P silu' raw;  delta P x times silu' raw

So nothing but the traces is as large as the states of a chunk. A part owns some channels and some
states, of all streams. Letters: b streams, t steps, e channels in g heads, n states, j inputs, k taps.
"""

from typing import NamedTuple

from .influence import rows
from .kernel import Part, flags, given, kernel, result, trace
from .language import (
    BIT,
    LANES,
    Array,
    Value,
    Variable,
    choose,
    constant,
    equal,
    exp,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    larger,
    loop,
    piece,
    reduce_sum,
    select,
    smaller,
    span,
    when,
)
from .tile import BLOCK, contract_and_advance, fold, mix, pack, packed

PACKED = 16384  # numbers of d_dt that are worked out at once, packed: they stay in the second nearest cache


class Chunk(NamedTuple):
    """What a block computed."""

    h: Array
    signal: Array
    log_a: Array
    delta: Array
    delta_slope: Array
    x: Array
    B: Array
    raw: Array
    slope: Array
    inputs: Array
    weight: Array
    A: Array
    reset: Array


class Shared(NamedTuple):
    """What the rows of a stream share, as far as a part needs it."""

    A: Array  # (e,)
    decay: Array  # (1, e) of the whole chunk
    delta: Array  # (t, e)
    weight_dt: Array  # (t, e) softplus' P
    weight_x: Array  # (t, e) delta P
    pushed: Array  # (t, 1, e) delta P x
    taps_channel: Array  # (t, k, e) what x passes on to its inputs, decay ahead included
    sides_channel: Array  # (t, k + 1, e) and to its own taps and bias
    taps_state: Array  # (t, k, n) likewise
    sides_state: Array  # (t, n, k + 1)
    signal: Array  # (n, e)


TRACES = {
    "A_log": trace("b e n"),
    "dt_bias": trace("b e n"),
    "dt": trace("b e n j"),
    "x": trace("b e n j"),
    "B": trace("b n e j"),
    "taps_x": trace("b n k+1 e"),
    "taps_B": trace("b n k+1 e"),
}
GRADIENTS = {
    "grad_A_log": result("e n"),
    "grad_dt_bias": result("e n"),
    "grad_dt": result("e j"),
    "grad_x": result("e j"),
    "grad_B": result("n j"),
    "grad_taps_x": result("k+1 e"),
    "grad_taps_B": result("n k+1"),
}
CHUNK = {
    "h": given("b t e n"),
    "signal": given("b e n"),
    "log_a": given("b t g"),
    "delta": given("b t g"),
    "delta_slope": given("b t g"),
    "x_in": given("b t e"),
    "B_in": given("b t n"),
    "raw": given("b k-1+t e+n"),
    "slope": given("b t e+n"),
    "inputs": given("b k-1+t j"),
    "weight": given("k e+n"),
    "A": given("g"),
    "reset": flags("b t", optional=True),
}


class Extent(NamedTuple):
    """The rows that a part owns."""

    first: Value  # channels, whole blocks of them
    last: Value
    top: Value  # states
    bottom: Value


class Scratch(NamedTuple):
    """Memory for what is on the way from a stream's chunk to its traces."""

    since: Array  # (g,) log of the decay ahead
    d_dt: Array  # (channels at once,) packed rows of n
    sums_A: Array  # (channels at once, n)
    sums_dt: Array
    decays: Array
    of_B: Array  # (1,) packed: B
    of_x: Array  # (1,) packed: delta P x
    folded_n: Array  # (channels side by side,) packed rows of n, k - 1 + t steps
    folded_e: Array  # (1,) packed rows of e, likewise
    mixed: Array  # (1, j)
    by_tap: Array  # (n,) packed rows of k + 1
    ones: Array  # (n, max(n, k + 1))
    zeros: Array
    nowhere: Array  # (n, e) what nobody reads
    sums: Array  # (LANES,)


@kernel("n k", **TRACES, **GRADIENTS, **CHUNK, go=flags(""))
def contract_and_advance_mamba2(part: Part, *arrays: Array) -> None:
    """Write the gradients and move every trace where `go`."""
    traces, gradients, chunk, go = arrays[:7], arrays[7:14], Chunk(*arrays[14:-1]), arrays[-1]
    (b, t, e, n), (k, _), j = chunk.h.shape, chunk.weight.shape, chunk.inputs.shape[2]
    n, k = fixed(n), fixed(k)
    extent = Extent(*part.range(e, BLOCK), *part.range(n))
    many = larger(1, smaller(extent.last - extent.first, larger(1, PACKED // (larger(t, 1) * BLOCK))))
    side = larger(1, integer(many) // 4)  # channels whose folded posts stay in the nearest cache
    new = part.empty
    shared = Shared(
        A=new(e),
        decay=new(1, e),
        delta=new(t, e),
        weight_dt=new(t, e),
        weight_x=new(t, e),
        pushed=new(t, 1, e),
        taps_channel=new(t, k, e),
        sides_channel=new(t, k + 1, e),
        taps_state=new(t, k, n),
        sides_state=new(t, n, k + 1),
        signal=new(n, e),
    )
    scratch = Scratch(
        since=new(chunk.A.shape[0]),
        d_dt=packed(part, many, t, n),
        sums_A=new(many, n),
        sums_dt=new(many, n),
        decays=new(many, n),
        of_B=packed(part, 1, t, n),
        of_x=packed(part, 1, t, e),
        folded_n=packed(part, side, t + (k - 1), n),
        folded_e=packed(part, 1, t + (k - 1), e),
        mixed=new(1, j),
        by_tap=packed(part, n, t, k + 1),
        ones=new(n, max(n, k + 1)),
        zeros=new(n, max(n, k + 1)),
        nowhere=new(n, e),
        sums=new(LANES),
    )
    fill(scratch.ones, 1)
    fill(scratch.zeros)
    with when(go[()]):
        for gradient in gradients[:4]:
            fill(rows(gradient, extent.first, extent.last - extent.first))
        for tap in range(k + 1):
            for c in lanes(extent.first, extent.last, LANES):
                gradients[5][tap, c] = 0
        for gradient in (gradients[4], gradients[6]):
            fill(rows(gradient, extent.top, extent.bottom - extent.top))
        for i in loop(b):
            prepare(i, chunk, extent, scratch, shared)
            pack(scratch.of_B, Array(chunk.B.address(i), (t, 1, n)))
            pack(scratch.of_x, shared.pushed)
            channels(i, traces[:4], gradients[:4], chunk, extent, scratch, shared)
            states(i, traces[4], gradients[4], chunk, extent, scratch, shared)
            with choose(equal(integer(t), 1) & (integer(e) % BLOCK <= 0)) as (once, often):
                with once:
                    taps_once(i, traces[5:], gradients[5:], chunk, extent, shared)
                with often:
                    taps_often(i, traces[5:], gradients[5:], extent, scratch, shared)


def prepare(i: Value, chunk: Chunk, extent: Extent, scratch: Scratch, shared: Shared) -> None:
    """Write what the rows of stream i share, last step first."""
    (_, t, e, n), heads, k = chunk.h.shape, chunk.A.shape[0], fixed(chunk.weight.shape[0])
    width = integer(e) // heads
    gone = Variable(constant(BIT, 0))  # whether a sequence begins ahead
    fill(scratch.since)
    for s in loop(integer(t) - 1, -1, -1):
        for g in loop(heads):
            P = select(gone.get(), 0, exp(scratch.since[g]))
            delta, weight_dt, weight_x = chunk.delta[i, s, g], P * chunk.delta_slope[i, s, g], P * chunk.delta[i, s, g]
            for c in lanes(g * width, (g + 1) * width, LANES):
                shared.delta[s, c] = delta
                shared.weight_dt[s, c] = weight_dt
                shared.weight_x[s, c] = weight_x
            scratch.since[g] = scratch.since[g] + chunk.log_a[i, s, g]
        with when(there(chunk.reset)):
            gone.set(gone.get() | chunk.reset[i, s])
        for c in lanes(0, e, LANES):
            shared.pushed[s, 0, c] = shared.weight_x[s, c] * chunk.x[i, s, c]
        for c in lanes(extent.first, extent.last, LANES):
            shared.sides_channel[s, k, c] = shared.weight_x[s, c] * chunk.slope[i, s, c]
        for y in loop(extent.top, extent.bottom):
            shared.sides_state[s, y, k] = chunk.slope[i, s, e + y]
        for tap, sees in enumerate(seen(chunk.reset, i, s, k)):
            for c in lanes(extent.first, extent.last, LANES):
                by = select(sees, shared.sides_channel[s, k, c], 0)
                shared.taps_channel[s, tap, c] = by * chunk.weight[tap, c]
                shared.sides_channel[s, tap, c] = by * select(sees, chunk.raw[i, s + tap, c], 0)
            for y in loop(extent.top, extent.bottom):
                by = select(sees, chunk.slope[i, s, e + y], 0)
                shared.taps_state[s, tap, y] = by * chunk.weight[tap, e + y]
                shared.sides_state[s, y, tap] = by * select(sees, chunk.raw[i, s + tap, e + y], 0)
    for g in loop(heads):
        decay = select(gone.get(), 0, exp(scratch.since[g]))
        for c in lanes(g * width, (g + 1) * width, LANES):
            shared.A[c] = chunk.A[g]
            shared.decay[0, c] = decay
    for y in loop(n):  # (n, e), of the part's extent channels and states
        mine = (y >= extent.top) & (y < extent.bottom)
        for c in loop(select(mine, 0, extent.first), select(mine, integer(e), extent.last)):
            shared.signal[y, c] = chunk.signal[i, c, y]


def seen(reset: Array, i: Value, s: Value, k: int) -> list[Value]:
    """Return, for each of the k taps of a step, whether it sees its own sequence."""
    sees = [Variable(constant(BIT, 1)) for _ in range(k)]
    with when(there(reset)):
        for tap, own in enumerate(sees):
            for now in loop(larger(0, s + (tap - k + 2)), s + 1):
                own.set(select(reset[i, now], constant(BIT, 0), own.get()))
    return [own.get() for own in sees]


def there(flag: Array) -> Value:
    """Return whether an optional argument was given."""
    assert flag.there is not None
    return flag.there


def channels(
    i: Value,
    traces: tuple[Array, ...],
    gradients: tuple[Array, ...],
    chunk: Chunk,
    extent: Extent,
    scratch: Scratch,
    shared: Shared,
) -> None:
    """Do the part's rows of A_log, dt_bias, dt and x of stream i."""
    of_A, of_bias, of_dt, of_x = traces
    to_A, to_bias, to_dt, to_x = gradients
    (_, t, e, n), k, j = chunk.h.shape, fixed(chunk.weight.shape[0]), chunk.inputs.shape[2]
    row, most, side, none = span(0, fixed(n)), scratch.d_dt.shape[0], scratch.folded_n.shape[0], chunk.h.zero(fixed(n))
    for group in loop((extent.last - extent.first + (integer(most) - 1)) // most):
        first = extent.first + group * most
        many = smaller(extent.last - first, most)
        for at in loop(many):
            scratch.sums_A[at, row] = none
            scratch.sums_dt[at, row] = none
        for s in loop(t):
            drive = chunk.B[i, s, row]
            for at in loop(many):
                c = first + at
                push = drive * chunk.x[i, s, c]
                before = fma(push, -shared.delta[s, c], chunk.h[i, s, c, row])  # a h_prev
                decay_term = before * shared.A[c]
                d_dt = (decay_term + push) * shared.weight_dt[s, c]
                scratch.sums_dt[at, row] = scratch.sums_dt[at, row] + d_dt
                scratch.sums_A[at, row] = fma(decay_term, shared.weight_x[s, c], scratch.sums_A[at, row])
                for y in range(0, fixed(n), BLOCK):
                    count = min(BLOCK, fixed(n) - y)
                    scratch.d_dt[at, y // BLOCK, s, span(0, count)] = piece(d_dt, y, count)
        for at in loop(many):
            c = first + at
            decay, signal = shared.decay[0, c], chunk.signal[i, c, row]
            scratch.decays[at, row] = decay
            for Z, to, sums in ((of_A, to_A, scratch.sums_A), (of_bias, to_bias, scratch.sums_dt)):
                z = Z[i, c, row]
                to[c, row] = fma(signal, z, to[c, row])
                Z[i, c, row] = fma(decay, z, sums[at, row])
        signal, inputs = rows(chunk.signal[i], first, many), Array(chunk.inputs.address(i, k - 1), (t, j))
        contract_and_advance(
            rows(of_dt[i], first, many), scratch.decays, signal, scratch.d_dt, inputs, rows(to_dt, first, many)
        )
        with choose(equal(integer(t), 1)) as (once, often):
            with once:
                for at in loop(many):
                    c = first + at
                    mix(Array(shared.taps_channel.address(0, 0, c), (k,), (e,)), chunk.inputs[i], scratch.mixed)
                    of = rows(of_x[i], c, 1), rows(scratch.decays, at, 1), rows(chunk.signal[i], c, 1)
                    contract_and_advance(*of, scratch.of_B, scratch.mixed, rows(to_x, c, 1))
            with often:
                for start in loop((integer(many) + (side - 1)) // side):
                    at = start * side
                    few = smaller(many - at, side)
                    for channel in loop(few):
                        fold(scratch.folded_n[channel], shared.taps_channel, first + at + channel, scratch.of_B[0])
                    c = first + at
                    of = rows(of_x[i], c, few), rows(scratch.decays, at, few), rows(chunk.signal[i], c, few)
                    contract_and_advance(*of, scratch.folded_n, chunk.inputs[i], rows(to_x, c, few))


def states(i: Value, of_B: Array, to_B: Array, chunk: Chunk, extent: Extent, scratch: Scratch, shared: Shared) -> None:
    """Do the part's rows of B of stream i."""
    t, k = chunk.h.shape[1], fixed(chunk.weight.shape[0])
    for y in loop(extent.top, extent.bottom):
        of = rows(of_B[i], y, 1), shared.decay, rows(shared.signal, y, 1)
        with choose(equal(integer(t), 1)) as (once, often):
            with once:
                taps = Array(shared.taps_state.address(0, 0, y), (k,), shared.taps_state.strides[1:2])
                mix(taps, chunk.inputs[i], scratch.mixed)
                contract_and_advance(*of, scratch.of_x, scratch.mixed, rows(to_B, y, 1))
            with often:
                fold(scratch.folded_e[0], shared.taps_state, y, scratch.of_x[0])
                contract_and_advance(*of, scratch.folded_e, chunk.inputs[i], rows(to_B, y, 1))


def taps_once(
    i: Value, traces: tuple[Array, ...], gradients: tuple[Array, ...], chunk: Chunk, extent: Extent, shared: Shared
) -> None:
    """Do what x and B get from their extent inputs at a single step, e being whole blocks: each row is read once."""
    (of_x, of_B), (to_x, to_B) = traces, gradients
    _, n, taps, e = of_x.shape
    for tap in range(fixed(taps)):
        for first in loop(extent.first, extent.last, BLOCK):
            c = span(first, BLOCK)
            side, decay, sums = shared.sides_channel[0, tap, c], shared.decay[0, c], Variable(to_x[tap, c])
            for y in loop(n):
                z = of_x[i, y, tap, c]
                sums.set(fma(shared.signal[y, c], z, sums.get()))
                of_x[i, y, tap, c] = fma(chunk.B[i, 0, y], side, decay * z)
            to_x[tap, c] = sums.get()
    for y in loop(extent.top, extent.bottom):
        for tap in range(fixed(taps)):
            sums = Variable(to_B.zero(BLOCK))
            for first in loop(0, e, BLOCK):
                c = span(first, BLOCK)
                z = of_B[i, y, tap, c]
                sums.set(fma(shared.signal[y, c], z, sums.get()))
                of_B[i, y, tap, c] = fma(shared.sides_state[0, y, tap], shared.pushed[0, 0, c], shared.decay[0, c] * z)
            to_B[y, tap] = to_B[y, tap] + reduce_sum(sums.get())


def taps_often(
    i: Value, traces: tuple[Array, ...], gradients: tuple[Array, ...], extent: Extent, scratch: Scratch, shared: Shared
) -> None:
    """Do the same for a chunk: what has met its signal and decayed takes in all drives as a product of matrices."""
    (of_x, of_B), (to_x, to_B) = traces, gradients
    (_, n, taps, e), t, mine, count = (
        of_x.shape,
        shared.pushed.shape[0],
        extent.last - extent.first,
        extent.bottom - extent.top,
    )
    for y in loop(n):
        for tap in range(fixed(taps)):
            for c in lanes(extent.first, extent.last, LANES):
                z = of_x[i, y, tap, c]
                to_x[tap, c] = to_x[tap, c] + shared.signal[y, c] * z
                of_x[i, y, tap, c] = shared.decay[0, c] * z
    for tap in range(fixed(taps)):
        z = Array(of_x.address(i, 0, tap, extent.first), (1, n, mine), (0, taps * e, 1))
        sides = Array(shared.sides_channel.address(0, tap, extent.first), (t, mine), shared.sides_channel.strides[::2])
        contract_and_advance(
            z, scratch.ones, scratch.zeros, scratch.of_B, sides, Array(scratch.nowhere.pointer, (1, mine))
        )
    for y in loop(extent.top, extent.bottom):
        for tap in range(fixed(taps)):
            fill(scratch.sums)
            for c in lanes(0, e, LANES):
                z, place = of_B[i, y, tap, c], span(0, c.width)
                scratch.sums[place] = scratch.sums[place] + shared.signal[y, c] * z
                of_B[i, y, tap, c] = shared.decay[0, c] * z
            to_B[y, tap] = to_B[y, tap] + reduce_sum(scratch.sums[span(0, LANES)])
    sides = shared.sides_state
    pack(scratch.by_tap, Array(sides.address(0, extent.top), (t, count, taps), sides.strides))
    z = rows(of_B[i], extent.top, count)
    contract_and_advance(
        z, scratch.ones, scratch.zeros, scratch.by_tap, Array(shared.pushed.pointer, (t, e)), scratch.nowhere
    )
