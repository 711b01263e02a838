"""The traces of a Mamba-2 block across a chunk, by numba: what its steps push is worked out row by row, as it is read.

The decay ahead P is one number per head, and most drives are products of a channel's part and a state's:

    A_log, dt_bias, dt    delta A a h_prev P;  m P, with m = (A a h_prev + B x) softplus';  m P times the inputs
    x                     B times what the taps weigh, delta P silu' w
    B                     delta P x times what the taps weigh, silu' w
    taps of x, of B       B times delta P silu' raw;  delta P x times silu' raw

So nothing but the traces is as large as the states of a chunk. A thread does one share of the channels and one of the
states of each stream. Letters: b streams, t steps, e channels, n states, j inputs, k taps; arrays are contiguous.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from .numba_jit import inlined, jit
from .numba_kernels import mix
from .numba_operator import array, data, size, sizes
from .numba_rows import add, fma, load, mul, row, store, total
from .numba_tile import A_BLOCK, BLOCK, carry, fold, narrow, pack, packed, wide

ROOM = 16384  # numbers of m that are worked out at once, packed: they stay in the second nearest cache


class Shared(NamedTuple):
    """What the rows of a stream share: `prepare` writes it."""

    A: Any  # (e,)
    start: Any  # (1, e) the decay of the whole chunk
    delta: Any  # (t, e)
    by_x: Any  # (t, e) delta P
    by_dt: Any  # (t, e) softplus' P
    pushed: Any  # (t, e) delta P x
    taps_channel: Any  # (t, k, e) what x passes on to its inputs, decay ahead included
    sides_channel: Any  # (t, k + 1, e) and to its own taps and bias
    taps_state: Any  # (t, k, n) likewise
    sides_state: Any  # (t, n, k + 1)
    signal: Any  # (n, e)


@jit
def share(i, size, b, part, parts):
    """Return where a part's rows of stream i begin and end, of `size` rows in each of b streams."""
    lo, hi = b * size * part // parts - i * size, b * size * (part + 1) // parts - i * size
    return max(0, lo), min(size, hi)


@jit
def alone(z, start, signal, post, to, states):
    """Contract and carry a row z (n,), which has no inputs."""
    v = load(z, states)
    store(fma(load(signal, states), v, load(to, states)), to)
    store(fma(row(start, states), v, load(post, states)), z)


@jit
def met(z, start, signal, to):
    """Contract a row z (e,) of a channel's own inputs, and let it decay."""
    for c in range(len(z)):
        v = wide(z[c])
        to[c] += signal[c] * v
        z[c] = narrow(start[c] * v, z[c])


@jit
def met_sum(z, start, signal, sums):
    """Return signal . z of a row z (e,) of a state's own inputs, and let it decay; sums (BLOCK,) is room."""
    sums[:] = 0
    whole = len(z) - len(z) % BLOCK
    for first in range(0, whole, BLOCK):
        for c in range(BLOCK):
            sums[c] += signal[first + c] * wide(z[first + c])
    for c in range(whole, len(z)):
        sums[0] += signal[c] * wide(z[c])
    for c in range(len(z)):
        z[c] = narrow(start[c] * wide(z[c]), z[c])
    return sums.sum()


@jit  # not inlined: a parallel kernel would drop what is written through the named tuple and only read through it
def prepare(i, read, shared):
    """Write what the rows of stream i share."""
    signal, log_a, delta, softplus, x, raw, silu, weight, A, reset, resets = read
    t, e = shared.pushed.shape
    n, k, p = len(shared.signal), len(weight), e // len(A)
    since, none = np.zeros(len(A), A.dtype), A.dtype.type(0)  # the log of the decay ahead
    gone = False  # whether a sequence begins ahead
    for s in range(t - 1, -1, -1):  # a loop for each array: more in one would not be vectorised
        inflow, slope, by_x, sides = x[i, s], silu[i, s], shared.by_x[s], shared.sides_channel[s]
        for g in range(len(A)):
            lo, hi, P = g * p, (g + 1) * p, none if gone else np.exp(since[g])
            shared.delta[s, lo:hi] = delta[i, s, g]
            shared.by_dt[s, lo:hi] = P * softplus[i, s, g]
            by_x[lo:hi] = P * delta[i, s, g]
            since[g] += log_a[i, s, g]
        gone = gone or (resets and reset[i, s])
        for c in range(e):
            shared.pushed[s, c] = by_x[c] * inflow[c]
        for c in range(e):
            sides[k, c] = by_x[c] * slope[c]
        for y in range(n):
            shared.sides_state[s, y, k] = slope[e + y]
        for tap in range(k):
            there, before = A.dtype.type(1), raw[i, s + tap]
            for now in range(max(0, s + tap - k + 2), s + 1 if resets else 0):
                there = none if reset[i, now] else there  # the tap looks at what came before the reset
            for c in range(e):
                shared.taps_channel[s, tap, c] = there * sides[k, c] * weight[tap, c]
            for c in range(e):
                sides[tap, c] = there * sides[k, c] * before[c]
            for y in range(n):
                shared.taps_state[s, tap, y] = there * slope[e + y] * weight[tap, e + y]
                shared.sides_state[s, y, tap] = there * slope[e + y] * before[e + y]
    for g in range(len(A)):
        shared.A[g * p : (g + 1) * p] = A[g]
        shared.start[0, g * p : (g + 1) * p] = none if gone else np.exp(since[g])
    for y in range(n):
        for c in range(e):
            shared.signal[y, c] = signal[i, c, y]


@inlined
def channels(states, i, lo, hi, traces, to, h, signal, x, B, inputs, shared):
    """Contract and carry the rows lo to hi of A_log, dt_bias, dt and x of stream i."""
    of_A, of_bias, of_dt, of_x = traces
    to_A, to_bias, to_dt, to_x = to
    start, taps = shared.start[0], shared.taps_channel
    t, n, j, k = h.shape[1], h.shape[3], inputs.shape[2], taps.shape[1]
    room = min(hi - lo, max(1, ROOM // (t * BLOCK)))
    side = 1 if t == 1 else max(1, room // 4)  # channels whose folded posts stay in the nearest
    p, pushed, folded = packed(room, t, n, h), packed(1, t, n, h), packed(side, k - 1 + t, n, h)
    rows, line, mixed = np.empty((3, room, n), h.dtype), np.empty(n, h.dtype), np.empty((1, j), h.dtype)
    sums_A, sums_m, rates = rows[0], rows[1], rows[2]
    pack(pushed, B[i].reshape(t, 1, n))
    for first in range(lo, hi, room):
        last = min(first + room, hi)
        many = last - first
        sums_A[:] = 0
        sums_m[:] = 0
        leaks = shared.A[first:last]
        for s in range(t):
            drive, now = load(B[i, s], states), h[i, s, first:last]
            inflow, rate = x[i, s, first:last], shared.delta[s, first:last]
            weight_A, weight_m = shared.by_x[s, first:last], shared.by_dt[s, first:last]
            for at in range(many):
                push = mul(drive, row(inflow[at], states))
                before = fma(push, row(-rate[at], states), load(now[at], states))  # a h_prev
                leak = mul(before, row(leaks[at], states))
                m = mul(add(leak, push), row(weight_m[at], states))
                store(add(load(sums_m[at], states), m), sums_m[at])
                store(fma(leak, row(weight_A[at], states), load(sums_A[at], states)), sums_A[at])
                if n <= BLOCK:
                    store(m, p[at, 0, s])
                else:
                    store(m, line)
                    for y in range(n):
                        p[at, y // BLOCK, s, y % BLOCK] = line[y]
        for at in range(many):
            c = first + at
            rates[at] = start[c]
            alone(of_A[i, c], start[c], signal[i, c], sums_A[at], to_A[c], states)
            alone(of_bias[i, c], start[c], signal[i, c], sums_m[at], to_bias[c], states)
        carry(of_dt[i, first:last], rates, signal[i, first:last], p, inputs[i, k - 1 :], to_dt[first:last])
        for c in range(first, last, side):
            end = min(c + side, last)
            if t == 1:
                mix(taps[0, :, c], inputs[i], mixed)
                carry(of_x[i, c:end], rates[c - first :], signal[i, c:end], pushed, mixed, to_x[c:end])
            else:
                for channel in range(c, end):
                    fold(folded[channel - c], taps, channel, pushed[0])
                carry(of_x[i, c:end], rates[c - first :], signal[i, c:end], folded, inputs[i], to_x[c:end])


@jit
def own(lo, hi, of_x, of_taps, to_x, to_taps, drive, shared):
    """Contract and carry what x and B get from their own inputs (n, k+1, e)."""
    start, signal, pushed = shared.start, shared.signal, shared.pushed
    _, taps, e = of_x.shape
    t, many, size, sums = len(pushed), hi - lo, taps * e, np.empty(BLOCK, start.dtype)
    for y in range(lo, hi):
        for tap in range(taps):
            met(of_x[y, tap], start[0], signal[y], to_x[tap])
            to_taps[y, tap] += met_sum(of_taps[y, tap], start[0], signal[y], sums)
    # what has met its signal and decayed takes in the drives of all steps as a product of matrices
    one, none = np.ones((many, taps), start.dtype), np.zeros((many, taps), start.dtype)
    nowhere = np.empty((many, size), start.dtype)
    by_state, by_tap = packed(1, t, many, start), packed(many, t, taps, start)
    pack(by_state, drive[:, lo:hi].copy().reshape(t, 1, many))
    pack(by_tap, shared.sides_state[:, lo:hi])
    z = of_x[lo:hi].reshape(1, many, size)
    carry(z, one.reshape(1, -1), none.reshape(1, -1), by_state, shared.sides_channel.reshape(t, size), nowhere)
    carry(of_taps[lo:hi], one, none, by_tap, pushed, nowhere)


@jit
def own_once(lo, hi, of_x, of_taps, to_x, to_taps, drive, shared):
    """Do what `own` does for a single step and e of whole blocks, by rows, each read and written once."""
    start, signal, pushed = shared.start[0], shared.signal, shared.pushed[0]
    sides_channel, sides_state = shared.sides_channel[0], shared.sides_state[0]
    _, taps, e = of_x.shape
    for tap in range(taps):
        for c in range(0, e, BLOCK):
            side, rate = load(sides_channel[tap, c:], A_BLOCK), load(start[c:], A_BLOCK)
            sums = load(to_x[tap, c:], A_BLOCK)
            for y in range(lo, hi):
                v = load(of_x[y, tap, c:], A_BLOCK)
                sums = fma(load(signal[y, c:], A_BLOCK), v, sums)
                store(fma(row(drive[0, y], A_BLOCK), side, mul(rate, v)), of_x[y, tap, c:])
            store(sums, to_x[tap, c:])
    for y in range(lo, hi):
        for tap in range(taps):
            side, sums = row(sides_state[y, tap], A_BLOCK), row(start.dtype.type(0), A_BLOCK)
            for c in range(0, e, BLOCK):
                v = load(of_taps[y, tap, c:], A_BLOCK)
                sums = fma(load(signal[y, c:], A_BLOCK), v, sums)
                store(fma(load(pushed[c:], A_BLOCK), side, mul(load(start[c:], A_BLOCK), v)), of_taps[y, tap, c:])
            to_taps[y, tap] += total(sums)


@inlined
def states_(i, lo, hi, traces, to, B, inputs, shared):
    """Contract and carry the rows lo to hi of B, and of the taps of x and of B, of stream i."""
    of_B, of_x, of_taps = traces
    to_B, to_x, to_taps = to
    start, signal, pushed, taps = shared.start, shared.signal, shared.pushed, shared.taps_state
    t, e = pushed.shape
    j, k = inputs.shape[2], taps.shape[1]
    p, folded, mixed = packed(1, t, e, start), packed(1, k - 1 + t, e, start), np.empty((1, j), start.dtype)
    pack(p, pushed.reshape(t, 1, e))
    for y in range(lo, hi):
        end = y + 1
        if t == 1:
            mix(taps[0, :, y], inputs[i], mixed)
            carry(of_B[i, y:end], start, signal[y:end], p, mixed, to_B[y:end])
        else:
            fold(folded[0], taps, y, p[0])
            carry(of_B[i, y:end], start, signal[y:end], folded, inputs[i], to_B[y:end])
    if t == 1 and e % BLOCK == 0:
        own_once(lo, hi, of_x[i], of_taps[i], to_x, to_taps, B[i], shared)
    else:
        own(lo, hi, of_x[i], of_taps[i], to_x, to_taps, B[i], shared)


@jit
def matrix(numbers, at, rows, columns):
    """Return the matrix whose numbers begin at `at`."""
    return numbers[at : at + rows * columns].reshape(rows, columns)


@inlined
def cross_mamba2(handles, states, number, stored):
    """Write the gradients and move every trace where `go`: what `mamba2.cross_mamba2` hands over, in its order."""
    into, go, Z, given = handles[1], handles[2], handles[3:10], handles[10:]
    parts = handles[0] if array(go, (1,), np.bool_)[0] else 0
    n, (b, t, e) = len(states), sizes(given[0])
    heads, j, k = size(given[2], 2), size(given[9], 2), size(given[10], 0)
    of_A, of_bias = array(Z[0], (b, e, n), stored), array(Z[1], (b, e, n), stored)
    of_dt, of_x = array(Z[2], (b, e, n, j), stored), array(Z[3], (b, e, n, j), stored)
    of_B = array(Z[4], (b, n, e, j), stored)
    of_taps_x, of_taps_B = array(Z[5], (b, n, k + 1, e), stored), array(Z[6], (b, n, k + 1, e), stored)
    h, signal = array(given[0], (b, t, e, n), number), array(given[1], (b, e, n), number)
    log_a, delta = array(given[2], (b, t, heads), number), array(given[3], (b, t, heads), number)
    slope = array(given[4], (b, t, heads), number)
    x, B = array(given[5], (b, t, e), number), array(given[6], (b, t, n), number)
    raw, passed = array(given[7], (b, k - 1 + t, e + n), number), array(given[8], (b, t, e + n), number)
    inputs, weight = array(given[9], (b, k - 1 + t, j), number), array(given[10], (k, e + n), number)
    A, reset = array(given[11], (heads,), number), array(given[12], (b, t), np.bool_)
    read = signal, log_a, delta, slope, x, raw, passed, weight, A, reset, data(given[12]) != 0
    numbers = size(into, 0)
    gradients = np.empty((parts, numbers), number) if parts > 1 else array(into, (1, numbers), number)
    for part in prange(parts):
        gradient = gradients[part]
        gradient[:] = 0
        to_A, to_bias = matrix(gradient, 0, e, n), matrix(gradient, e * n, e, n)
        done = 2 * e * n
        to_dt, to_x = matrix(gradient, done, e, j), matrix(gradient, done + e * j, e, j)
        to_B = matrix(gradient, done + 2 * e * j, n, j)
        done += (2 * e + n) * j
        to_taps_x, to_taps_B = matrix(gradient, done, k + 1, e), matrix(gradient, done + (k + 1) * e, n, k + 1)
        shared = Shared(
            np.empty(e, number),
            np.empty((1, e), number),
            np.empty((t, e), number),
            np.empty((t, e), number),
            np.empty((t, e), number),
            np.empty((t, e), number),
            np.empty((t, k, e), number),
            np.empty((t, k + 1, e), number),
            np.empty((t, k, n), number),
            np.empty((t, n, k + 1), number),
            np.empty((n, e), number),
        )
        for i in range(b):
            first, last = share(i, e, b, part, parts)
            top, bottom = share(i, n, b, part, parts)
            if first < last or top < bottom:
                prepare(i, read, shared)
            if first < last:
                of, to = (of_A, of_bias, of_dt, of_x), (to_A, to_bias, to_dt, to_x)
                channels(states, i, first, last, of, to, h, signal, x, B, inputs, shared)
            if top < bottom:
                states_(i, top, bottom, (of_B, of_taps_x, of_taps_B), (to_B, to_taps_x, to_taps_B), B, inputs, shared)
    if parts > 1:
        total = array(into, (numbers,), number)
        total[:] = gradients[0]
        for part in range(1, parts):
            total += gradients[part]
