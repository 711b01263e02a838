"""Kernels for the CPU, compiled by numba: the causal depthwise convolution of `conv`, and its adjoint.

Threads share the streams. Letters: b streams, t steps, c channels, k taps: x and by_x (b, k-1+t, c), weight (c, k),
y and g (b, t, c), within (b, t, k) bool, or empty where every tap sees its sequence. Kernels as `numba_operator` says.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numpy as np
from numba import prange

from .numba_jit import inlined
from .numba_operator import array, data, size, sizes


@inlined
def conv(handles, states, number, stored):
    """Write y_s = bias + sum_i weight_i x_{s+i}; of x, weight, bias, within, y."""
    parts, k, (b, t, channels) = handles[0], size(handles[2], 1), sizes(handles[5])
    x, bias = array(handles[1], (b, k - 1 + t, channels), number), array(handles[3], (channels,), number)
    within, cut = array(handles[4], (b, t, k), np.bool_), data(handles[4]) != 0
    y, taps = array(handles[5], (b, t, channels), number), array(handles[2], (channels, k), number).T.copy()
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                to = y[i, s]
                for c in range(channels):
                    to[c] = bias[c]
                for tap in range(len(taps)):
                    if not cut or within[i, s, tap]:
                        seen, by = x[i, s + tap], taps[tap]
                        for c in range(channels):
                            to[c] += by[c] * seen[c]


@inlined
def conv_adjoint(handles, states, number, stored):
    """Write the adjoint; of x, weight, within, g, by_x, by_weight, by_bias."""
    parts, k, (b, t, channels) = handles[0], size(handles[2], 1), sizes(handles[4])
    x, by_x = array(handles[1], (b, k - 1 + t, channels), number), array(handles[5], (b, k - 1 + t, channels), number)
    within, cut = array(handles[3], (b, t, k), np.bool_), data(handles[3]) != 0
    g, taps = array(handles[4], (b, t, channels), number), array(handles[2], (channels, k), number).T.copy()
    weight, bias = array(handles[6], (channels, k), number), array(handles[7], (channels,), number)
    by_weight, by_bias = np.empty((parts, k, channels), number), np.empty((parts, channels), number)
    for part in prange(parts):
        to_taps, to_bias = by_weight[part], by_bias[part]
        to_taps[:] = 0
        to_bias[:] = 0
        for i in range(b * part // parts, b * (part + 1) // parts):
            by_x[i] = 0
            for s in range(t):
                signal = g[i, s]
                for c in range(channels):
                    to_bias[c] += signal[c]
                for tap in range(len(taps)):
                    if not cut or within[i, s, tap]:
                        seen, by, to_seen, to = x[i, s + tap], taps[tap], by_x[i, s + tap], to_taps[tap]
                        for c in range(channels):
                            to_seen[c] += by[c] * signal[c]
                        for c in range(channels):
                            to[c] += seen[c] * signal[c]
    weight[:] = by_weight.sum(0).T
    bias[:] = by_bias.sum(0)
