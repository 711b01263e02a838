"""Kernels for the CPU, compiled by numba: the causal depthwise convolution of `conv`, and its adjoint.

Threads share the streams. Letters: b streams, t steps, c channels, k taps. Arrays are contiguous: x and by_x
(b, k-1+t, c), weight (c, k), y and g (b, t, c), within (b, t, k) bool, or (0, 0, 0) where every tap sees its sequence.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import Any

import numpy as np
from numba import prange
from torch import Tensor

from .numba_jit import threaded, threads


@threaded
def convolve(parts, x, weight, bias, within, y):
    """Write y_s = bias + sum_i weight_i x_{s+i}."""
    b, t, channels = y.shape
    taps = weight.T.copy()
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for s in range(t):
                to = y[i, s]
                for c in range(channels):
                    to[c] = bias[c]
                for tap in range(len(taps)):
                    if not within.size or within[i, s, tap]:
                        seen, by = x[i, s + tap], taps[tap]
                        for c in range(channels):
                            to[c] += by[c] * seen[c]


@threaded
def adjoint(parts, x, weight, within, g, by_x, by_weight, by_bias):
    """Write the adjoint; by_weight is (parts, k, c) and by_bias (parts, c), to be summed over the parts."""
    b, t, channels = g.shape
    taps = weight.T.copy()
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
                    if not within.size or within[i, s, tap]:
                        seen, by, to_seen, to = x[i, s + tap], taps[tap], by_x[i, s + tap], to_taps[tap]
                        for c in range(channels):
                            to_seen[c] += by[c] * signal[c]
                        for c in range(channels):
                            to[c] += seen[c] * signal[c]


def forward(x: Tensor, weight: Tensor, bias: Tensor, within: Tensor | None, y: Tensor) -> None:
    """Write y."""
    convolve(*map(array, (x, weight, bias)), seen(within), y.numpy())


def backward(
    x: Tensor, weight: Tensor, within: Tensor | None, g: Tensor, by_x: Tensor, by_weight: Tensor, by_bias: Tensor
) -> None:
    """Write the gradients to x, weight and bias."""
    channels, k = weight.shape
    signal = array(g)
    taps, bias = np.empty((threads(), k, channels), signal.dtype), np.empty((threads(), channels), signal.dtype)
    adjoint(array(x), array(weight), seen(within), signal, by_x.numpy(), taps, bias)
    np.sum(taps, 0, out=by_weight.numpy().T)
    np.sum(bias, 0, out=by_bias.numpy())


def array(tensor: Tensor) -> Any:
    """Return the tensor as an array in one piece."""
    return tensor.detach().contiguous().numpy()


def seen(within: Tensor | None) -> Any:
    """Return which taps see their own sequence."""
    return np.empty((0, 0, 0), np.bool_) if within is None else array(within)
