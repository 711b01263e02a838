"""Kernels for the CPU, compiled by numba: the recurrence of `ssm` and its adjoint.

Threads share the streams. Letters: b streams, t steps, e channels, n states; a (b, t, g, n or 1), delta (b, t, g), g
heads of e / g channels. Kernels as `numba_operator` says.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numpy as np
from numba import prange

from .numba_jit import inlined
from .numba_operator import array, size, sizes
from .numba_rows import add, fma, load, mul, row, store, total


@inlined
def recur(handles, states, number, stored):
    """Write h_t = a_t h_{t-1} + delta_t u_t B_t; of a, delta, u, B, h0, h."""
    parts, n, (b, t, e) = handles[0], len(states), sizes(handles[3])
    heads, each = size(handles[1], 2), size(handles[1], 3) > 1
    p = e // heads
    a, delta = array(handles[1], (b, t, heads, n if each else 1), number), array(handles[2], (b, t, heads), number)
    u, B = array(handles[3], (b, t, e), number), array(handles[4], (b, t, n), number)
    h0, h = array(handles[5], (b, e, n), number), array(handles[6], (b, t, e, n), number)
    for part in prange(parts):
        now = np.empty((e, n), number)
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


@inlined
def recur_adjoint(handles, states, number, stored):
    """Write the adjoint, last step first; of a, delta, u, B, h0, h, by_h, by_a, by_delta, by_u, by_B, by_h0.

    by_h is dL/dh_t with h_{t+1} held; by_h0 holds a_{t+1} dL/dh_{t+1} on the way, of all later steps.
    """
    parts, n, (b, t, e) = handles[0], len(states), sizes(handles[3])
    heads, each = size(handles[1], 2), size(handles[1], 3) > 1
    p, rates = e // heads, (b, t, heads, n if each else 1)
    a, delta = array(handles[1], rates, number), array(handles[2], (b, t, heads), number)
    u, B = array(handles[3], (b, t, e), number), array(handles[4], (b, t, n), number)
    h0, h = array(handles[5], (b, e, n), number), array(handles[6], (b, t, e, n), number)
    by_h, by_a = array(handles[7], (b, t, e, n), number), array(handles[8], rates, number)
    by_delta, by_u = array(handles[9], (b, t, heads), number), array(handles[10], (b, t, e), number)
    by_B, by_h0 = array(handles[11], (b, t, n), number), array(handles[12], (b, e, n), number)
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            by_h0[i] = 0
            for s in range(t - 1, -1, -1):
                before = h[i, s - 1] if s else h0[i]
                drive, none = load(B[i, s], states), row(number(0), states)
                sums = none
                for g in range(heads):
                    rate = load(a[i, s, g], states) if each else row(a[i, s, g, 0], states)
                    slope, rise, by_rise = none, delta[i, s, g], number(0)
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


@inlined
def read(handles, states, number, stored):
    """Write y_t = h_t C_t; of h, C, y."""
    parts, n, (b, t, e) = handles[0], len(states), sizes(handles[1])
    h, C = array(handles[1], (b, t, e, n), number), array(handles[2], (b, t, n), number)
    y = array(handles[3], (b, t, e), number)
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                weights = load(C[i, s], states)
                for c in range(e):
                    y[i, s, c] = total(mul(weights, load(h[i, s, c], states)))


@inlined
def read_adjoint(handles, states, number, stored):
    """Write the adjoint of `read`; of h, C, g, by_h, by_C."""
    parts, n, (b, t, e) = handles[0], len(states), sizes(handles[1])
    h, C = array(handles[1], (b, t, e, n), number), array(handles[2], (b, t, n), number)
    g, by_h = array(handles[3], (b, t, e), number), array(handles[4], (b, t, e, n), number)
    by_C = array(handles[5], (b, t, n), number)
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                weights, sums = load(C[i, s], states), row(number(0), states)
                for c in range(e):
                    now = row(g[i, s, c], states)
                    store(mul(now, weights), by_h[i, s, c])
                    sums = fma(now, load(h[i, s, c], states), sums)
                store(sums, by_C[i, s])
