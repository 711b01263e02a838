"""The traces of a Mamba block across a chunk, and what came through them back at the true weights.

With P the decay ahead of a step, m = (A a h_prev + B u) softplus' and pre the inputs of a channel's taps and bias, the
drives on h[e, n] are

    A_log            delta A a h_prev P
    dt_bias          m P
    delta            m P times u of all channels
    conv1d.delta     m P times pre of all channels
    B                delta u P times u of all channels
    conv1d.B         delta u P times pre of all channels
    in_proj.x        delta B P times what the taps weigh
    conv1d           delta B P times the channel's own pre

Back at the weights, M = dt_proj x_proj[:r] is held for the taps, and the taps for M: see `blocks.mamba`. Letters:
b streams, t steps, d width, e channels, n states, k conv taps, r rank of the step sizes.
"""

from typing import NamedTuple

from . import product
from .influence import rows
from .kernel import Part, pointer
from .language import (
    LANES,
    Array,
    Size,
    Value,
    Variable,
    choose,
    equal,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    piece,
    select,
    shuffled,
    smaller,
    span,
    when,
)
from .mamba2 import seen
from .mamba_layer import Kept, Room, Weights
from .stack import add
from .tile import BLOCK, contract_and_advance, fold, mix, pack, packed

DIRECT, EXACT = 6, 8  # traces with conv="direct" and with conv="exact"
SIDE = 8  # channels whose folded posts stay in the nearest cache


class Past(NamedTuple):
    """The gradients through the traces of what `Mamba.effective` returns."""

    A_log: Array
    dt_bias: Array
    delta: Array
    B: Array
    in_proj_x: Array
    conv1d: Array
    conv1d_delta: Array
    conv1d_B: Array


class Scratch(NamedTuple):
    """Memory for what is on the way from a stream's chunk to its traces."""

    past: Past
    ahead: Array  # (e, n) P
    sums_A: Array  # (e, n)
    sums_dt: Array
    to_state: Array  # (e, n) delta P of one step
    by_state: Array  # (t, n, e) the same of all steps, states first; times B in turn
    pushed: Array  # (t, n, e) delta u P
    of_delta: Array  # (e,) packed rows of n: m P
    of_x: Array  # (e,) packed: delta B P
    folded: Array  # (SIDE,) packed, k - 1 + t steps
    of_B: Array  # (n,) packed rows of e: delta u P
    taps: Array  # (t, k, e) what a channel passes on to its inputs
    sides: Array  # (t, k+1, e) and to its own taps and bias: pre
    flat: Array  # (t, e (k+1)) the same, a channel's side by side
    mixed: Array  # (1, d)
    decay: Array  # (n, e) of the whole chunk
    signal: Array  # (n, e)
    M: Array  # (e, e)
    low: Array  # (e, r)
    held: Array  # (1, e (k+1))

    @classmethod
    def of(cls, part: Part, t: Size, e: Size, n: int, d: Size, k: int, r: Size) -> "Scratch":
        """Return the memory for chunks of these sizes."""
        new, wide = part.empty, integer(e) * (k + 1)
        return cls(
            past=Past(new(e, n), new(e, n), new(e, e), new(n, e), new(e, d), new(k + 1, e), new(e, wide), new(n, wide)),
            ahead=new(e, n),
            sums_A=new(e, n),
            sums_dt=new(e, n),
            to_state=new(e, n),
            by_state=new(t, n, e),
            pushed=new(t, n, e),
            of_delta=packed(part, e, t, n),
            of_x=packed(part, e, t, n),
            folded=packed(part, SIDE, integer(t) + (k - 1), n),
            of_B=packed(part, n, t, e),
            taps=new(t, k, e),
            sides=new(t, k + 1, e),
            flat=new(t, wide),
            mixed=new(1, d),
            decay=new(n, e),
            signal=new(n, e),
            M=new(e, e),
            low=new(e, r),
            held=new(1, wide),
        )

    def of_steps(self, steps: Value, k: int) -> "Scratch":
        """Return the same memory for so many steps, no more than there is room for."""
        p = dict[str, Array]()
        for name in ("of_delta", "of_x", "of_B", "folded"):
            many, blocks, _, block = getattr(self, name).shape
            rows = steps + (k - 1) if name == "folded" else steps
            p[name] = Array(getattr(self, name).pointer, (many, blocks, rows, block))
        for name in ("by_state", "pushed", "taps", "sides", "flat"):
            own = getattr(self, name)
            p[name] = Array(own.pointer, (steps, *own.shape[1:]), own.strides)
        return self._replace(**p)  # type: ignore[arg-type]


def move(
    own: Weights,
    found: Kept,
    steps: Value,
    signal: Array,
    reset: Array,
    addresses: Array,
    stored: object,
    room: Room,
    scratch: Scratch,
) -> None:
    """Move a layer's traces by the first steps of the chunk, and write the gradients through them to `past`."""
    (b, _, e, n), d, k = found.h.shape, found.inputs.shape[2], fixed(own.conv.shape[1])
    wide, exact = integer(e) * (k + 1), integer(addresses.shape[0]) >= EXACT
    sizes = (e, n), (e, n), (e, n, e), (n, e, e), (e, n, d), (n, k + 1, e)
    traces = [Array(pointer(addresses[i], stored), (b, *size)) for i, size in enumerate(sizes)]
    for of in scratch.past[:DIRECT]:
        fill(of)
    with when(exact):
        for of in scratch.past[DIRECT:]:
            fill(of)
    for i in loop(b):
        begun = scratch.of_steps(steps, k)
        _drive(i, own, found, steps, signal, reset, room, begun)
        _of_channels(i, traces, found, signal, begun)
        _of_all_channels(i, traces[2:4], Array(found.u.address(i), (steps, e)), signal, begun.past[2:4], begun)
        with when(exact):
            wider = ((e, n, wide), (n, e, wide))
            taps = [Array(pointer(addresses[DIRECT + at], stored), (b, *size)) for at, size in enumerate(wider)]
            _of_all_channels(i, taps, begun.flat, signal, begun.past[DIRECT:], begun)


def _drive(
    i: Value,
    own: Weights,
    found: Kept,
    steps: Value,
    signal: Array,
    reset: Array,
    room: Room,
    scratch: Scratch,
) -> None:
    """Write what stream i's steps push, as it arrives at the last one, and the decay of them all."""
    (_, _, e, n), k = found.h.shape, fixed(own.conv.shape[1])
    row, blocks = span(0, fixed(n)), range(0, fixed(n), BLOCK)
    fill(scratch.ahead, 1)
    fill(scratch.sums_A)
    fill(scratch.sums_dt)
    for s in loop(steps - 1, -1, -1):
        B = found.B[i, s, row]
        for c in loop(e):
            delta, P = found.delta[i, s, c], scratch.ahead[c, row]
            push = B * found.u[i, s, c]
            decay_term = fma(push, -delta, found.h[i, s, c, row]) * room.rates[c, row]  # A a h_prev
            to_state = P * delta
            m = (decay_term + push) * (P * found.delta_slope[i, s, c])
            scratch.sums_A[c, row] = fma(decay_term, to_state, scratch.sums_A[c, row])
            scratch.sums_dt[c, row] = scratch.sums_dt[c, row] + m
            scratch.to_state[c, row] = to_state
            to_x = to_state * B
            for first in blocks:
                place = span(0, min(BLOCK, fixed(n) - first))
                scratch.of_delta[c, first // BLOCK, s, place] = piece(m, first, place.width)
                scratch.of_x[c, first // BLOCK, s, place] = piece(to_x, first, place.width)
            scratch.ahead[c, row] = P * found.decay[i, s, c, row]
        _transpose(scratch.by_state[s], scratch.to_state)
        sees = seen(reset, i, s, k)
        for c in lanes(0, e, LANES):
            slope, u = found.slope[i, s, c], found.u[i, s, c]
            scratch.sides[s, k, c] = slope
            for tap, visible in enumerate(sees):
                by = select(visible, slope, 0)
                scratch.taps[s, tap, c] = by * room.taps[tap, c]
                scratch.sides[s, tap, c] = by * select(visible, found.projected[i, s + tap, c], 0)
            for y in loop(n):
                weight = scratch.by_state[s, y, c]
                scratch.pushed[s, y, c] = weight * u
                scratch.by_state[s, y, c] = weight * found.B[i, s, y]
        _transpose(Array(scratch.flat.address(s), (e, k + 1)), scratch.sides[s])
    pack(scratch.of_B, scratch.pushed)
    _transpose(scratch.decay, scratch.ahead)
    _transpose(scratch.signal, signal[i])


def _transpose(to: Array, of: Array) -> None:
    """Write a matrix's transpose; the shorter side is known."""
    rows_of, columns = of.shape
    short, long = (rows_of, columns) if isinstance(rows_of, int) else (columns, rows_of)
    for c in loop(long):
        for y in range(fixed(short)):
            if short is rows_of:
                to[c, y] = of[y, c]
            else:
                to[y, c] = of[c, y]


def _of_channels(i: Value, traces: list[Array], found: Kept, signal: Array, scratch: Scratch) -> None:
    """Do what belongs to a channel alone, of stream i: A_log, dt_bias, in_proj.x and conv1d."""
    (_, e, n), (of_x, of_taps), past = traces[0].shape, traces[4:], scratch.past
    row, steps, k, d = span(0, fixed(n)), scratch.taps.shape[0], fixed(scratch.taps.shape[1]), of_x.shape[3]
    for c in loop(e):
        s, P = signal[i, c, row], scratch.ahead[c, row]
        for Z, to, sums in zip(traces[:2], past[:2], (scratch.sums_A, scratch.sums_dt), strict=True):
            z = Z[i, c, row]
            to[c, row] = fma(s, z, to[c, row])
            Z[i, c, row] = fma(P, z, sums[c, row])
    inputs = Array(found.inputs.address(i), (steps + (k - 1), d))
    with choose(equal(integer(steps), 1)) as (once, often):
        with once:
            for c in loop(e):
                mix(Array(scratch.taps.address(0, 0, c), (k,), (e,)), inputs, scratch.mixed)
                of = rows(of_x[i], c, 1), rows(scratch.ahead, c, 1), rows(signal[i], c, 1)
                contract_and_advance(*of, rows(scratch.of_x, c, 1), scratch.mixed, rows(past.in_proj_x, c, 1))
        with often:
            for group in loop((integer(e) + (SIDE - 1)) // SIDE):
                first = group * SIDE
                many = smaller(integer(e) - first, SIDE)
                for at in loop(many):
                    fold(scratch.folded[at], scratch.taps, first + at, scratch.of_x[first + at])
                of = rows(of_x[i], first, many), rows(scratch.ahead, first, many), rows(signal[i], first, many)
                contract_and_advance(*of, scratch.folded, inputs, rows(past.in_proj_x, first, many))
    for y in loop(n):
        for tap in loop(k + 1):
            for c in lanes(0, e, LANES):
                z = of_taps[i, y, tap, c]
                past.conv1d[tap, c] = fma(scratch.signal[y, c], z, past.conv1d[tap, c])
                now = Variable(scratch.decay[y, c] * z)
                for s in loop(steps):
                    now.set(fma(scratch.by_state[s, y, c], scratch.sides[s, tap, c], now.get()))
                of_taps[i, y, tap, c] = now.get()


def _of_all_channels(
    i: Value, traces: list[Array], pre: Array, signal: Array, to: tuple[Array, ...], scratch: Scratch
) -> None:
    """Do the traces of what reaches delta and B of every channel, of stream i, from pre (steps, j)."""
    (of_delta, of_B), (to_delta, to_B) = traces, to
    contract_and_advance(of_delta[i], scratch.ahead, signal[i], scratch.of_delta, pre, to_delta)
    contract_and_advance(of_B[i], scratch.decay, scratch.signal, scratch.of_B, pre, to_B)


def add_past(own: Weights, to: Weights, traces: Size, scratch: Scratch) -> None:
    """Add what came through so many traces to the gradients of a layer's weights: see `Mamba.effective`."""
    past, (e, n), (k, _), r = scratch.past, own.A_log.shape, scratch.taps.shape[1:], scratch.low.shape[1]
    n, k = fixed(n), fixed(k)
    first, second = (Array(w.pointer, (r, e)) for w in (own.x_proj, to.x_proj))
    of_B, to_B = (Array(w.address(r), (n, e)) for w in (own.x_proj, to.x_proj))
    add(to.A_log, past.A_log)
    for c in loop(e):
        total = to.dt_bias[c]
        for y in range(n):
            total = total + past.dt_bias[c, y]
        to.dt_bias[c] = total
    product.forward(scratch.low, past.delta, first)
    add(to.dt_proj, scratch.low)
    product.to_weight(second, own.dt_proj, past.delta)
    add(to_B, past.B)
    add(Array(to.in_proj.pointer, past.in_proj_x.shape), past.in_proj_x)
    for c in loop(e):
        for tap in range(k):
            to.conv[c, tap] = to.conv[c, tap] + past.conv1d[tap, c]
        to.conv_bias[c] = to.conv_bias[c] + past.conv1d[k, c]
    with when(integer(traces) >= EXACT):
        fill(scratch.M)
        fill(scratch.held)
        product.to_inputs(scratch.M, own.dt_proj, first)
        for weights, gradient in ((scratch.M, past.conv1d_delta), (of_B, past.conv1d_B)):
            _add_held(scratch.held[0], weights, gradient, k + 1)
        for c in loop(e):
            for tap in range(k):
                to.conv[c, tap] = to.conv[c, tap] + scratch.held[0, c * (k + 1) + tap]
            to.conv_bias[c] = to.conv_bias[c] + scratch.held[0, c * (k + 1) + k]


def _add_held(to: Array, weights: Array, gradient: Array, taps: int) -> None:
    """Add sum_i weights[i, c] gradient[i, (c, tap)] to `to` (c, tap)."""
    many, e = weights.shape
    whole = integer(e) // LANES
    for i in loop(many):
        for block in loop(whole):
            own = weights[i, span(block * LANES, LANES)]
            for vector in range(taps):  # of as many channels' numbers side by side
                each = [(vector * LANES + lane) // taps for lane in range(LANES)]
                at = span(block * (LANES * taps) + vector * LANES, LANES)
                to[at] = fma(shuffled(own, each), gradient[i, at], to[at])
        for c in loop(whole * LANES, e):
            for tap in range(taps):
                at = c * taps + tap
                to[at] = fma(weights[i, c], gradient[i, at], to[at])
