"""A chunk of a Mamba-2 block between its two projections: one kernel to the states, one from them, and their adjoints.

    states    x, B, C, gate = silu(conv(x, B, C)), silu(z);  delta = softplus(dt + dt_bias);  h_t = a_t h_{t-1} + ...
    output    y_t = C_t . h_t + D x_t;   norm(y gate) weight

Parts share the streams. What a parameter gets is written once a stream, and summed by who called: no sum depends on the
number of parts. Letters: b streams, t steps, e channels in g heads, n states, k conv taps.
"""

from .conv import transposed
from .kernel import Part, flags, given, kernel, result
from .language import (
    BIT,
    LANES,
    Array,
    Size,
    Value,
    Variable,
    constant,
    dot,
    either,
    exp,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    real,
    reduce_sum,
    select,
    sigmoid,
    softplus,
    span,
    sqrt,
    when,
)
from .mamba2 import seen, there

EPS = 1e-5  # of the norm, as in the official models
PROJECTED, CONVOLVED = "e+e+n+n+g", "e+n+n"  # z, x, B, C, dt, and those that the convolution reads

GATES = {
    "delta": "b t g",
    "delta_slope": "b t g",  # softplus'
    "log_a": "b t g",
    "x": "b t e",
    "B": "b t n",
    "slope": "b t e+n",  # silu' of x and B
    "C": "b t n",
    "gate": "b t e",
    "slope_out": "b t n+e",  # silu' of C and z
}


@kernel(
    "n k",
    projected=given(f"b k-1+t {PROJECTED}"),
    weight=given(f"{CONVOLVED} k"),
    bias=given(CONVOLVED),
    dt_bias=given("g"),
    A_log=given("g"),
    h0=given("b e n"),
    reset=flags("b t", optional=True),
    h=result("b t e n"),
    **{name: result(shape) for name, shape in GATES.items()},
)
def mamba2_states(
    part: Part,
    projected: Array,
    weight: Array,
    bias: Array,
    dt_bias: Array,
    A_log: Array,
    h0: Array,
    reset: Array,
    h: Array,
    delta: Array,
    delta_slope: Array,
    log_a: Array,
    x: Array,
    B: Array,
    slope: Array,
    C: Array,
    gate: Array,
    slope_out: Array,
) -> None:
    """Write the states, and all that is to be known of the chunk later."""
    (b, t, e, n), heads, k = h.shape, dt_bias.shape[0], fixed(weight.shape[1])
    width, row, many = integer(e) // heads, span(0, fixed(n)), integer(e) + 2 * fixed(n)
    taps, summed, rates = transposed(part, weight, integer(0), many), part.empty(many), part.empty(heads)
    for g in loop(heads):
        rates[g] = -exp(A_log[g])
    for i in part.rows(b):
        for s in loop(t):
            now = s + (k - 1)
            sees = seen(reset, i, s, k)
            for c in lanes(0, many, LANES):
                total = bias[c]
                for tap, visible in enumerate(sees):
                    total = total + taps[tap, c] * select(visible, projected[i, s + tap, c + e], 0)
                summed[c] = total
            for c in lanes(0, e, LANES):
                x[i, s, c], slope[i, s, c] = silu(summed[c])
                gate[i, s, c], slope_out[i, s, c + n] = silu(projected[i, now, c])
            for y in loop(n):
                B[i, s, y], slope[i, s, y + e] = silu(summed[y + e])
                C[i, s, y], slope_out[i, s, y] = silu(summed[y + (integer(e) + n)])
            begins = begins_at(reset, i, s)
            before, drive = either(s > 0, h[i, s - 1], h0[i]), B[i, s, row]
            for g in loop(heads):
                raw = projected[i, now, g + (many + e)] + dt_bias[g]
                step = softplus(raw)
                delta[i, s, g], delta_slope[i, s, g], log_a[i, s, g] = step, sigmoid(raw), step * rates[g]
                decay = select(begins, 0, exp(step * rates[g]))
                for c in loop(g * width, (g + 1) * width):
                    h[i, s, c, row] = fma(step * x[i, s, c], drive, decay * before[c, row])


@kernel(
    "n k",
    projected=given(f"b k-1+t {PROJECTED}"),
    weight=given(f"{CONVOLVED} k"),
    A_log=given("g"),
    h0=given("b e n"),
    reset=flags("b t", optional=True),
    through=flags(""),
    h=given("b t e n"),
    **{name: given(GATES[name]) for name in ("delta", "delta_slope", "log_a", "x", "B", "slope", "slope_out")},
    grad_h=given("b t e n"),
    grad_x=given("b t e"),
    grad_C=given("b t n"),
    grad_gate=given("b t e"),
    grad_projected=result(f"b k-1+t {PROJECTED}"),
    grad_weight=result(f"b {CONVOLVED} k"),
    grad_bias=result(f"b {CONVOLVED}"),
    grad_dt_bias=result("b g"),
    grad_A_log=result("b g"),
    grad_h0=result("b e n"),
)
def mamba2_states_adjoint(
    part: Part,
    projected: Array,
    weight: Array,
    A_log: Array,
    h0: Array,
    reset: Array,
    through: Array,
    h: Array,
    delta: Array,
    delta_slope: Array,
    log_a: Array,
    x: Array,
    B: Array,
    slope: Array,
    slope_out: Array,
    grad_h: Array,
    grad_x: Array,
    grad_C: Array,
    grad_gate: Array,
    grad_projected: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_dt_bias: Array,
    grad_A_log: Array,
    grad_h0: Array,
) -> None:
    """Write the gradients, last step first; `through`: those that go from a state to the one before it too.

    grad_h is dL/dh_t with h_{t+1} held; grad_h0 holds a_{t+1} dL/dh_{t+1} on the way, of all later steps.
    """
    (b, t, e, n), heads, k = h.shape, A_log.shape[0], fixed(weight.shape[1])
    width, row, many = integer(e) // heads, span(0, fixed(n)), integer(e) + 2 * fixed(n)
    taps, grad_taps = transposed(part, weight, integer(0), many), part.empty(k, many)
    rates, grad_summed = part.empty(heads), part.empty(many)
    none = grad_h.zero(fixed(n))
    for g in loop(heads):
        rates[g] = -exp(A_log[g])
    for i in part.rows(b):
        for own in (grad_bias[i], grad_dt_bias[i], grad_A_log[i], grad_h0[i], grad_projected[i], grad_taps):
            fill(own)
        for s in loop(integer(t) - 1, -1, -1):
            now = s + (k - 1)
            begins, sees = begins_at(reset, i, s), seen(reset, i, s, k)
            before, drive, grad_drive = either(s > 0, h[i, s - 1], h0[i]), B[i, s, row], Variable(none)
            for g in loop(heads):
                decay, step = select(begins, 0, exp(log_a[i, s, g])), delta[i, s, g]
                kept = select(through[()], decay, 0)
                grad_a, grad_step = Variable(none), Variable(grad_h.zero())
                for c in loop(g * width, (g + 1) * width):
                    v = grad_h[i, s, c, row] + grad_h0[i, c, row]
                    grad_drive.set(fma(v, step * x[i, s, c], grad_drive.get()))
                    grad_push = reduce_sum(v * drive)
                    grad_summed[c] = fma(step, grad_push, grad_x[i, s, c])
                    grad_step.set(fma(x[i, s, c], grad_push, grad_step.get()))
                    grad_a.set(fma(v, before[c, row], grad_a.get()))
                    grad_h0[i, c, row] = v * kept
                grad_log_a = reduce_sum(grad_a.get()) * decay
                grad_raw = fma(grad_log_a, rates[g], grad_step.get()) * delta_slope[i, s, g]
                grad_projected[i, now, g + (many + e)] = grad_raw
                grad_dt_bias[i, g] = grad_dt_bias[i, g] + grad_raw
                grad_A_log[i, g] = fma(grad_log_a, log_a[i, s, g], grad_A_log[i, g])
            grad_summed[span(e, fixed(n))] = grad_drive.get()
            for y in loop(n):
                grad_summed[y + (integer(e) + n)] = grad_C[i, s, y] * slope_out[i, s, y]
            for c in lanes(0, integer(e) + n, LANES):
                grad_summed[c] = grad_summed[c] * slope[i, s, c]
            for c in lanes(0, e, LANES):
                grad_projected[i, now, c] = grad_gate[i, s, c] * slope_out[i, s, c + n]
            add_conv_adjoint(
                grad_summed, sees, taps, s, projected[i], e, many, grad_projected[i], grad_taps, grad_bias[i]
            )
        for c in loop(many):
            for tap in range(k):
                grad_weight[i, c, tap] = grad_taps[tap, c]


def add_conv_adjoint(
    grad: Array,
    sees: list[Value],
    taps: Array,
    s: Value,
    projected: Array,
    e: Size,
    many: Size,
    grad_projected: Array,
    grad_taps: Array,
    grad_bias: Array,
) -> None:
    """Add what reaches the taps (k, c) of a step, its inputs and the bias from the gradient of `many` channels."""
    for c in lanes(0, many, LANES):
        signal = grad[c]
        grad_bias[c] = grad_bias[c] + signal
        for tap, visible in enumerate(sees):
            here, at = select(visible, signal, 0), c + e
            grad_projected[s + tap, at] = fma(taps[tap, c], here, grad_projected[s + tap, at])
            grad_taps[tap, c] = fma(select(visible, projected[s + tap, at], 0), here, grad_taps[tap, c])


OUTPUT = {
    "h": given("b t e n"),
    "C": given("b t n"),
    "x": given("b t e"),
    "gate": given("b t e"),
    "D": given("g"),
    "weight": given("e"),
}


@kernel("n", **OUTPUT, y=result("b t e"), scale=result("b t"), out=result("b t e"))
def mamba2_output(
    part: Part, h: Array, C: Array, x: Array, gate: Array, D: Array, weight: Array, y: Array, scale: Array, out: Array
) -> None:
    """Write what the projection receives, and y and the norm's scale on the way."""
    b, t, e, n = h.shape
    heads, row = D.shape[0], span(0, fixed(n))
    width = integer(e) // heads
    for i in part.rows(b):
        for s in loop(t):
            weights = C[i, s, row]
            for g in loop(heads):
                for c in loop(g * width, (g + 1) * width):
                    y[i, s, c] = fma(D[g], x[i, s, c], reduce_sum(weights * h[i, s, c, row]))
            for c in lanes(0, e, LANES):
                out[i, s, c] = y[i, s, c] * gate[i, s, c]
            r = 1 // sqrt(dot(out[i, s], out[i, s], e) // real(e, y.number) + EPS)
            scale[i, s] = r
            for c in lanes(0, e, LANES):
                out[i, s, c] = out[i, s, c] * (r * weight[c])


@kernel(
    "n",
    **OUTPUT,
    y=given("b t e"),
    scale=given("b t"),
    grad_out=given("b t e"),
    grad_h=result("b t e n"),
    grad_C=result("b t n"),
    grad_x=result("b t e"),
    grad_gate=result("b t e"),
    grad_D=result("b g"),
    grad_weight=result("b e"),
)
def mamba2_output_adjoint(
    part: Part,
    h: Array,
    C: Array,
    x: Array,
    gate: Array,
    D: Array,
    weight: Array,
    y: Array,
    scale: Array,
    grad_out: Array,
    grad_h: Array,
    grad_C: Array,
    grad_x: Array,
    grad_gate: Array,
    grad_D: Array,
    grad_weight: Array,
) -> None:
    """Write the gradients of `mamba2_output`."""
    b, t, e, n = h.shape
    heads, row = D.shape[0], span(0, fixed(n))
    width = integer(e) // heads
    gated, grad_gated = part.empty(e), part.empty(e)
    for i in part.rows(b):
        fill(grad_D[i])
        fill(grad_weight[i])
        for s in loop(t):
            r = scale[i, s]
            for c in lanes(0, e, LANES):
                gated[c] = y[i, s, c] * gate[i, s, c]
                grad_weight[i, c] = fma(grad_out[i, s, c], gated[c] * r, grad_weight[i, c])
                grad_gated[c] = grad_out[i, s, c] * weight[c]
            along = dot(grad_gated, gated, e) * r * r // real(e, y.number)
            for c in lanes(0, e, LANES):
                grad_gated[c] = r * (grad_gated[c] - gated[c] * along)
                grad_gate[i, s, c] = grad_gated[c] * y[i, s, c]
                grad_gated[c] = grad_gated[c] * gate[i, s, c]  # to y
            weights, sums = C[i, s, row], Variable(h.zero(fixed(n)))
            for g in loop(heads):
                grad_skip = Variable(grad_D[i, g])
                for c in loop(g * width, (g + 1) * width):
                    signal = grad_gated[c]
                    grad_h[i, s, c, row] = signal * weights
                    sums.set(fma(signal, h[i, s, c, row], sums.get()))
                    grad_x[i, s, c] = signal * D[g]
                    grad_skip.set(fma(signal, x[i, s, c], grad_skip.get()))
                grad_D[i, g] = grad_skip.get()
            grad_C[i, s, row] = sums.get()


def silu(x: Value) -> tuple[Value, Value]:
    """Return x sigmoid(x) and its derivative."""
    s = sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


def begins_at(reset: Array, i: Value, s: Value) -> Value:
    """Return whether a sequence begins at a step."""
    begins = Variable(constant(BIT, 0))
    with when(there(reset)):
        begins.set(reset[i, s])
    return begins.get()
