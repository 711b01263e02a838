"""Kernels for the CPU, compiled by numba: the recurrence of `ssm` and its adjoint.

Threads share the streams. Letters: b streams, t steps, e channels, n states; `states` is a tuple of n zeros, so each n
is compiled for once. Arrays are contiguous; a (b, t, g, n or 1), delta (b, t, g), g heads of e / g channels.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numpy as np
from numba import prange

from .numba_jit import threaded
from .numba_rows import add, fma, load, mul, row, store, total


@threaded
def recur(parts, states, a, delta, u, B, h0, h):
    """Write h_t = a_t h_{t-1} + delta_t u_t B_t."""
    b, t, e, n = h.shape
    heads, each = a.shape[2], a.shape[3] > 1
    p = e // heads
    for part in prange(parts):
        now = np.empty((e, n), h.dtype)
        for i in range(b * part // parts, b * (part + 1) // parts):
            for c in range(e):
                store(load(h0[i, c], states), now[c])
            for s in range(t):
                drive = load(B[i, s], states)
                for g in range(heads):
                    rate = load(a[i, s, g], states) if each else row(a[i, s, g, 0], states)
                    for c in range(g * p, (g + 1) * p):
                        v = fma(row(delta[i, s, g] * u[i, s, c], states), drive, mul(rate, load(now[c], states)))
                        store(v, now[c])
                        store(v, h[i, s, c])


@threaded
def recur_adjoint(parts, states, a, delta, u, B, h0, h, by_h, by_a, by_delta, by_u, by_B, by_h0):
    """Write the adjoint, last step first; by_h0 holds a_{t+1} dL/dh_{t+1} on the way, of all later steps."""
    b, t, e, _ = h.shape
    heads, each = a.shape[2], a.shape[3] > 1
    p = e // heads
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            by_h0[i] = 0
            for s in range(t - 1, -1, -1):
                before = h[i, s - 1] if s else h0[i]
                drive, none = load(B[i, s], states), row(u.dtype.type(0), states)
                sums = none
                for g in range(heads):
                    rate = load(a[i, s, g], states) if each else row(a[i, s, g, 0], states)
                    slope, rise, by_rise = none, delta[i, s, g], u.dtype.type(0)
                    for c in range(g * p, (g + 1) * p):
                        v = add(load(by_h[i, s, c], states), load(by_h0[i, c], states))
                        sums = fma(v, row(rise * u[i, s, c], states), sums)
                        by_push = total(mul(v, drive))
                        by_u[i, s, c] = rise * by_push
                        by_rise += u[i, s, c] * by_push
                        slope = fma(v, load(before[c], states), slope)
                        store(mul(v, rate), by_h0[i, c])
                    by_delta[i, s, g] = by_rise
                    if each:
                        store(slope, by_a[i, s, g])
                    else:
                        by_a[i, s, g, 0] = total(slope)
                store(sums, by_B[i, s])


@threaded
def read(parts, states, h, C, y):
    """Write y_t = h_t C_t."""
    b, t, e, _ = h.shape
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                weights = load(C[i, s], states)
                for c in range(e):
                    y[i, s, c] = total(mul(weights, load(h[i, s, c], states)))


@threaded
def read_adjoint(parts, states, h, C, g, by_h, by_C):
    """Write the adjoint of `read`."""
    b, t, e, _ = h.shape
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                weights, sums = load(C[i, s], states), row(g.dtype.type(0), states)
                for c in range(e):
                    now = row(g[i, s, c], states)
                    store(mul(now, weights), by_h[i, s, c])
                    sums = fma(now, load(h[i, s, c], states), sums)
                store(sums, by_C[i, s])
