"""Kernels of the linear recurrence of `ops.scan`, and of its adjoint. Parts share the streams; m is e n."""

from .kernel import Part, given, kernel, result
from .language import LANES, Array, either, lanes, loop


@kernel(a=given("b t m"), drive=given("b t m"), h0=given("b m"), h=result("b t m"))
def scan(part: Part, a: Array, drive: Array, h0: Array, h: Array) -> None:
    """Write h_t = a_t h_{t-1} + b_t."""
    b, t, m = h.shape
    for i in part.rows(b):
        for s in loop(t):
            before = either(s > 0, h[i, s - 1], h0[i])
            for x in lanes(0, m, LANES):
                h[i, s, x] = a[i, s, x] * before[x] + drive[i, s, x]


@kernel(
    a=given("b t m"),
    grad_h=given("b t m"),
    h0=given("b m"),
    h=given("b t m"),
    grad_a=result("b t m"),
    grad_drive=result("b t m"),
    grad_h0=result("b m"),
)
def scan_adjoint(
    part: Part, a: Array, grad_h: Array, h0: Array, h: Array, grad_a: Array, grad_drive: Array, grad_h0: Array
) -> None:
    """Write the gradients, last step first: see `ops.scan`; grad_h0 holds what comes from later steps on the way."""
    b, t, m = h.shape
    for i in part.rows(b):
        for x in lanes(0, m, LANES):
            grad_h0[i, x] = 0
        for s in loop(t - 1, -1, -1):
            before = either(s > 0, h[i, s - 1], h0[i])
            for x in lanes(0, m, LANES):
                v = grad_h[i, s, x] + grad_h0[i, x]
                grad_drive[i, s, x] = v
                grad_a[i, s, x] = v * before[x]
                grad_h0[i, x] = a[i, s, x] * v
