"""Kernels of the recurrence and the readout of `ops.ssm`, and of their adjoints. Parts share the streams.

Letters: b streams, t steps, e channels in g heads, n states of a channel. n is
known when a kernel is compiled: a row of states is a vector. a is (b, t, g, r), r being n or 1.
"""

from .kernel import Part, given, kernel, result
from .language import Array, Variable, either, fixed, fma, loop, reduce_sum, span

STATES = {
    "a": given("b t g r"),
    "delta": given("b t g"),
    "u": given("b t e"),
    "B": given("b t n"),
    "h0": given("b e n"),
}


@kernel("n r", **STATES, h=result("b t e n"))
def selective_scan(part: Part, a: Array, delta: Array, u: Array, B: Array, h0: Array, h: Array) -> None:
    """Write h_t = a_t h_{t-1} + delta_t u_t B_t."""
    b, t, e, n = h.shape
    heads, rates = delta.shape[2], fixed(a.shape[3])
    width, row, decays = e // heads, span(0, fixed(n)), span(0, rates)
    for i in part.rows(b):
        for s in loop(t):
            before, drive = either(s > 0, h[i, s - 1], h0[i]), B[i, s, row]
            for g in loop(heads):
                decay, step = a[i, s, g, decays], delta[i, s, g]
                for c in loop(g * width, (g + 1) * width):
                    h[i, s, c, row] = fma(step * u[i, s, c], drive, decay * before[c, row])


@kernel(
    "n r",
    **STATES,
    h=given("b t e n"),
    grad_h=given("b t e n"),
    grad_a=result("b t g r"),
    grad_delta=result("b t g"),
    grad_u=result("b t e"),
    grad_B=result("b t n"),
    grad_h0=result("b e n"),
)
def selective_scan_adjoint(
    part: Part,
    a: Array,
    delta: Array,
    u: Array,
    B: Array,
    h0: Array,
    h: Array,
    grad_h: Array,
    grad_a: Array,
    grad_delta: Array,
    grad_u: Array,
    grad_B: Array,
    grad_h0: Array,
) -> None:
    """Write the gradients, last step first.

    grad_h is dL/dh_t with h_{t+1} held; grad_h0 holds a_{t+1} dL/dh_{t+1} on the way, of all later steps.
    """
    b, t, e, n = h.shape
    heads, rates = delta.shape[2], fixed(a.shape[3])
    width, row, decays = e // heads, span(0, fixed(n)), span(0, rates)
    none = grad_h.zero(fixed(n))
    for i in part.rows(b):
        for c in loop(e):
            grad_h0[i, c, row] = none
        for s in loop(t - 1, -1, -1):
            before, drive, grad_drive = either(s > 0, h[i, s - 1], h0[i]), B[i, s, row], Variable(none)
            for g in loop(heads):
                decay, step = a[i, s, g, decays], delta[i, s, g]
                slope, grad_step = Variable(none), Variable(grad_h.zero())
                for c in loop(g * width, (g + 1) * width):
                    v = grad_h[i, s, c, row] + grad_h0[i, c, row]
                    grad_drive.set(fma(v, step * u[i, s, c], grad_drive.get()))
                    grad_push = reduce_sum(v * drive)
                    grad_u[i, s, c] = step * grad_push
                    grad_step.set(grad_step.get() + u[i, s, c] * grad_push)
                    slope.set(fma(v, before[c, row], slope.get()))
                    grad_h0[i, c, row] = v * decay
                grad_delta[i, s, g] = grad_step.get()
                grad_a[i, s, g, decays] = slope.get() if rates == n else reduce_sum(slope.get())
            grad_B[i, s, row] = grad_drive.get()


@kernel("n", h=given("b t e n"), C=given("b t n"), y=result("b t e"))
def readout(part: Part, h: Array, C: Array, y: Array) -> None:
    """Write y_t = h_t C_t."""
    b, t, e, n = h.shape
    row = span(0, fixed(n))
    for i in part.rows(b):
        for s in loop(t):
            weights = C[i, s, row]
            for c in loop(e):
                y[i, s, c] = reduce_sum(weights * h[i, s, c, row])


@kernel(
    "n", h=given("b t e n"), C=given("b t n"), grad_y=given("b t e"), grad_h=result("b t e n"), grad_C=result("b t n")
)
def readout_adjoint(part: Part, h: Array, C: Array, grad_y: Array, grad_h: Array, grad_C: Array) -> None:
    """Write the gradients of `readout`."""
    b, t, e, n = h.shape
    row = span(0, fixed(n))
    for i in part.rows(b):
        for s in loop(t):
            weights, sums = C[i, s, row], Variable(h.zero(fixed(n)))
            for c in loop(e):
                signal = grad_y[i, s, c]
                grad_h[i, s, c, row] = signal * weights
                sums.set(fma(signal, h[i, s, c, row], sums.get()))
            grad_C[i, s, row] = sums.get()
