"""Traces of one fixed decay in a Mamba-2 block, as S-TLLR has them, one kernel to learn, one to move them on.

    S_t = lam S_{t-1} + pre_t         dL/dtheta += sum_t g_t post_t (a_pre S_t - pre_t)     of what has inputs
    S_t = lam S_{t-1} + post_t        dL/dtheta += sum_t g_t (a_pre S_t - post_t)           of A_log and dt_bias

g_t = dL/dh_t with h_{t+1} held, and g_t post_t pre_t is what a chunk has learned through its states already: it is
taken away again, and what x, B and dt learn meets the traces of the inputs in the inputs' place.
Letters: b streams, t steps, e channels in g heads, n states, j inputs, k taps.
"""

from .conv import transposed
from .kernel import Argument, Part, given, index, kernel, result
from .language import (
    LANES,
    Array,
    Size,
    Value,
    Variable,
    either,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    reduce_sum,
    select,
    span,
)
from .mamba2 import seen
from .mamba2_chunk import CONVOLVED, GATES, PROJECTED, add_conv_adjoint
from .mamba2_half import CHUNK, keeping, posts

STEPS = {
    **CHUNK,
    "slope": given(GATES["slope"]),
    "projected": given(f"b k-1+t {PROJECTED}"),
    "inputs": given("b k-1+t j"),
}
INPUTS = tuple(f"S_{name}" for name in ("dt", "x", "B"))  # all three of the same inputs
SIDES = {"S_taps_x": ("b", "e", "k+1"), "S_taps_B": ("b", "n", "k+1")}


@kernel(
    "n k",
    **STEPS,
    weight=given(f"{CONVOLVED} k"),
    signal=given("b t e n"),
    S_A_log=given("b e n"),
    S_dt_bias=given("b e n"),
    S_inputs=given("b k j"),
    **{name: Argument(shape) for name, shape in SIDES.items()},
    a_pre=given(""),
    lam=given(""),
    grad_projected=result(f"b k-1+t {PROJECTED}"),
    grad_weight=result(f"b {CONVOLVED} k"),
    grad_bias=result(f"b {CONVOLVED}"),
    grad_dt_bias=result("b g"),
    grad_A_log=result("b g"),
    causal=result("b k-1+t e+n"),
    causal_dt=result("b k-1+t g"),
    rows=result("b k-1+t j"),
)
def mamba2_decaying(part: Part, *arrays: Array) -> None:
    """Change the gradients of what is projected, of taps and biases; write what meets the traces of inputs, and these.

    What is added to in_proj's rows of x, B and dt are the products of causal and causal_dt with rows.
    """
    A, reset, h, delta, delta_slope, x, B, slope, projected, inputs, weight, signal, *rest = arrays
    S_A, S_bias, S_inputs, S_taps_x, S_taps_B, a_pre, lam, *to = rest
    grad_projected, grad_weight, grad_bias, grad_dt_bias, grad_A_log, causal, causal_dt, rows = to
    (b, t, e, n), heads, k = h.shape, A.shape[0], fixed(weight.shape[1])
    width, row, none, many = integer(e) // heads, span(0, fixed(n)), h.zero(fixed(n)), integer(e) + n
    taps, grad_taps, sums = transposed(part, weight, integer(0), many), part.empty(k, many), part.empty(k + 1, many)
    own, own_dt = part.empty(t, many), part.empty(t, heads)
    for i in part.rows(b):
        for array in (own, own_dt, grad_taps, causal[i], causal_dt[i]):
            fill(array)
        write_rows(rows[i], inputs[i], S_inputs[i], reset, i, lam, k)
        read_sides(sums, S_taps_x[i], S_taps_B[i])
        for g in loop(heads):
            of_A, of_bias = Variable(none), Variable(none)
            for c in loop(g * width, (g + 1) * width):
                traces = [Variable(S[i, c, row]) for S in (S_A, S_bias)]
                for s in loop(t):
                    to_A, to_dt, to_x, to_B = posts(A[g], h, delta, delta_slope, x, B, i, s, g, c)
                    g_t, states = signal[i, s, c, row], span(e, fixed(n))
                    own_dt[s, g] = own_dt[s, g] + reduce_sum(g_t * to_dt)
                    own[s, c] = reduce_sum(g_t * to_x)
                    own[s, states] = fma(g_t, to_B, own[s, states])
                    for trace, post, sum_of in zip(traces, (to_A, to_dt), (of_A, of_bias), strict=True):
                        trace.set(trace.get() * keeping(reset, i, s, lam) + post)
                        sum_of.set(fma(g_t, trace.get(), sum_of.get()))
            grad_A_log[i, g] = a_pre[()] * reduce_sum(of_A.get())
            grad_dt_bias[i, g] = a_pre[()] * reduce_sum(of_bias.get())
        for s in loop(t):
            now, sees = s + (k - 1), seen(reset, i, s, k)
            for g in loop(heads):
                at = g + (integer(e) * 2 + 2 * fixed(n))
                grad_projected[i, now, at] = grad_projected[i, now, at] - own_dt[s, g]
                causal_dt[i, now, g] = a_pre[()] * own_dt[s, g]
            take_sides(sums, slope[i, s], projected[i], e, s, sees, keeping(reset, i, s, lam))
            for c in lanes(0, many, LANES):
                learned = a_pre[()] * own[s, c]
                grad_bias[i, c] = fma(learned, sums[k, c], grad_bias[i, c])
                for tap, visible in enumerate(sees):
                    grad_taps[tap, c] = fma(learned, sums[tap, c], grad_taps[tap, c])
                    here = taps[tap, c] * select(visible, learned * slope[i, s, c], 0)
                    causal[i, s + tap, c] = causal[i, s + tap, c] + here
                own[s, c] = own[s, c] * slope[i, s, c] * -1.0
            add_conv_adjoint(own[s], sees, taps, s, projected[i], e, many, grad_projected[i], grad_taps, grad_bias[i])
        for c in loop(many):
            for tap in range(k):
                grad_weight[i, c, tap] = grad_weight[i, c, tap] + grad_taps[tap, c]


@kernel(
    "n k",
    **STEPS,
    S_A_log=result("b e n"),
    S_dt_bias=result("b e n"),
    **{name: result("b k j") for name in INPUTS},
    **{name: Argument(shape, written=True) for name, shape in SIDES.items()},
    lam=given(""),
    steps=index(""),
)
def mamba2_decaying_advance(part: Part, *arrays: Array) -> None:
    """Move every trace by the first steps of the chunk, one at least."""
    A, reset, h, delta, delta_slope, x, B, slope, projected, inputs, *rest = arrays
    S_A, S_bias, *of_inputs, S_taps_x, S_taps_B, lam, steps = rest
    (b, t, e, n), heads, (_, k, j) = h.shape, A.shape[0], of_inputs[0].shape
    width, row, many, k = integer(e) // heads, span(0, fixed(n)), integer(e) + n, fixed(k)
    rows, sums = part.empty(integer(t) + (k - 1), j), part.empty(k + 1, many)
    for i in part.rows(b):
        for g in loop(heads):
            for c in loop(g * width, (g + 1) * width):
                traces = [Variable(S[i, c, row]) for S in (S_A, S_bias)]
                for s in loop(steps[()]):
                    to_A, to_dt, *_ = posts(A[g], h, delta, delta_slope, x, B, i, s, g, c)
                    for trace, post in zip(traces, (to_A, to_dt), strict=True):
                        trace.set(trace.get() * keeping(reset, i, s, lam) + post)
                S_A[i, c, row], S_bias[i, c, row] = (trace.get() for trace in traces)
        read_sides(sums, S_taps_x[i], S_taps_B[i])
        for s in loop(steps[()]):
            take_sides(sums, slope[i, s], projected[i], e, s, seen(reset, i, s, k), keeping(reset, i, s, lam))
        for tap in range(k + 1):
            for c in loop(e):
                S_taps_x[i, c, tap] = sums[tap, c]
            for y in loop(n):
                S_taps_B[i, y, tap] = sums[tap, y + e]
        write_rows(rows, inputs[i], of_inputs[0][i], reset, i, lam, k)
        last = steps[()] - 1
        for tap, sees in enumerate(seen(reset, i, last, k)):  # where a sequence begins, nothing of an earlier one
            for c in lanes(0, j, LANES):
                row_of = select(sees, rows[last + tap, c], 0)
                for S in of_inputs:
                    S[i, tap, c] = row_of


def write_rows(rows: Array, inputs: Array, before: Array, reset: Array, i: Value, lam: Array, k: int) -> None:
    """Write the traces of inputs at each row (k - 1 + t, j), from the last k of them before the chunk."""
    many, j = rows.shape
    for tap in range(k - 1):
        for c in lanes(0, j, LANES):
            rows[tap, c] = before[tap + 1, c]
    for s in loop(integer(many) - (k - 1)):
        earlier, keeps = either(s > 0, rows[s + (k - 2)], before[k - 1]), keeping(reset, i, s, lam)
        for c in lanes(0, j, LANES):
            rows[s + (k - 1), c] = fma(keeps, earlier[c], inputs[s + (k - 1), c])


def read_sides(sums: Array, of_x: Array, of_B: Array) -> None:
    """Write the traces of what taps and biases see, channels side by side: (k + 1, e + n)."""
    (e, taps), n = of_x.shape, of_B.shape[0]
    for tap in range(fixed(taps)):
        for c in loop(e):
            sums[tap, c] = of_x[c, tap]
        for y in loop(n):
            sums[tap, y + e] = of_B[y, tap]


def take_sides(sums: Array, slope: Array, projected: Array, e: Size, s: Value, sees: list[Value], keeps: Value) -> None:
    """Let these traces take in a step: each tap its input, the bias 1, times silu'."""
    for c in lanes(0, sums.shape[1], LANES):
        for tap, visible in enumerate(sees):
            pre = slope[c] * select(visible, projected[s + tap, c + e], 0)
            sums[tap, c] = fma(keeps, sums[tap, c], pre)
        sums[len(sees), c] = fma(keeps, sums[len(sees), c], slope[c])
