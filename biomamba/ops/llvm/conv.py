"""Kernels of the causal depthwise convolution of `ops.conv`, and of its adjoint. Parts share the channels.

Letters: b streams, t steps, c channels, k taps.
"""

from .kernel import Part, flags, given, kernel, result
from .language import BIT, LANES, Array, Value, Variable, constant, fixed, lanes, loop, select, when


@kernel(
    "k",
    x=given("b k-1+t c"),
    weight=given("c k"),
    bias=given("c"),
    mask=flags("b t k", optional=True),
    y=result("b t c"),
)
def conv(part: Part, x: Array, weight: Array, bias: Array, mask: Array, y: Array) -> None:
    """Write y_s = bias + sum_i weight_i x_{s+i}."""
    b, t, channels = y.shape
    lo, hi = part.range(channels, LANES)
    taps = transposed(part, weight, lo, hi)
    for i in loop(b):
        for s in loop(t):
            sees = seen(mask, i, s)
            for c in lanes(lo, hi, LANES):
                total = bias[c]
                for tap, there in enumerate(sees):
                    total = total + taps[tap, c] * select(there, x[i, s + tap, c], 0)
                y[i, s, c] = total


@kernel(
    "k",
    x=given("b k-1+t c"),
    weight=given("c k"),
    mask=flags("b t k", optional=True),
    grad_y=given("b t c"),
    grad_x=result("b k-1+t c"),
    grad_weight=result("c k"),
    grad_bias=result("c"),
)
def conv_adjoint(
    part: Part,
    x: Array,
    weight: Array,
    mask: Array,
    grad_y: Array,
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
) -> None:
    """Write the gradients."""
    b, t, channels = grad_y.shape
    k = fixed(weight.shape[1])
    lo, hi = part.range(channels, LANES)
    taps, grad_taps = transposed(part, weight, lo, hi), part.empty(k, channels)
    for c in lanes(lo, hi, LANES):
        grad_bias[c] = 0
        for tap in range(k):
            grad_taps[tap, c] = 0
    for i in loop(b):
        for s in loop(t + (k - 1)):
            for c in lanes(lo, hi, LANES):
                grad_x[i, s, c] = 0
        for s in loop(t):
            sees = seen(mask, i, s)
            for c in lanes(lo, hi, LANES):
                signal = grad_y[i, s, c]
                grad_bias[c] = grad_bias[c] + signal
                for tap, there in enumerate(sees):
                    here = select(there, signal, 0)
                    grad_x[i, s + tap, c] = grad_x[i, s + tap, c] + taps[tap, c] * here
                    grad_taps[tap, c] = grad_taps[tap, c] + select(there, x[i, s + tap, c], 0) * here
    for c in loop(lo, hi):
        for tap in range(k):
            grad_weight[c, tap] = grad_taps[tap, c]


def transposed(part: Part, weight: Array, lo: Value, hi: Value) -> Array:
    """Return the taps of channels lo to hi with the channels side by side, (k, c)."""
    channels, k = weight.shape
    taps = part.empty(k, channels)
    for c in loop(lo, hi):
        for tap in range(fixed(k)):
            taps[tap, c] = weight[c, tap]
    return taps


def seen(mask: Array, i: Value, s: Value) -> list[Value]:
    """Return, for each tap of a step, whether it sees its own sequence."""
    assert mask.there is not None
    sees = [Variable(constant(BIT, 1)) for _ in range(fixed(mask.shape[2]))]
    with when(mask.there):
        for tap, there in enumerate(sees):
            there.set(mask[i, s, tap])
    return [there.get() for there in sees]
