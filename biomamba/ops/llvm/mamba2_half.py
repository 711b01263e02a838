"""STDP's post-before-pre half in a Mamba-2 block: what later inputs find of earlier posts, one kernel to learn, one on.

    R_t = lam (R_{t-1} + post_{t-1})        Q_t = R_t + post_t
    dL/dtheta  +=  a_post sum_t g_t R_t pre_t          g_t = dL/dh_t with h_{t+1} held

What has inputs pushes on the state through dt, x or B, so a_post g_t . R_t is one more gradient of these, which goes
back to in_proj and to the taps as theirs does. Letters: b streams, t steps, e channels in g heads, n states, k taps.
"""

from .conv import transposed
from .kernel import Argument, Part, flags, given, index, kernel, result
from .language import (
    LANES,
    Array,
    Value,
    Variable,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    reduce_sum,
    select,
    span,
    when,
)
from .mamba2 import seen
from .mamba2_chunk import CONVOLVED, GATES, PROJECTED, add_conv_adjoint, begins_at

CHUNK = {
    "A": given("g"),
    "reset": flags("b t", optional=True),
    "h": given("b t e n"),
    **{name: given(GATES[name]) for name in ("delta", "delta_slope", "x", "B")},
}
NAMES = "dt", "x", "B"  # through which an input pushes
OPTIONS = {"a_post": given(""), "lam": given("")}


@kernel(
    "n k",
    **CHUNK,
    slope=given(GATES["slope"]),
    projected=given(f"b k-1+t {PROJECTED}"),
    weight=given(f"{CONVOLVED} k"),
    signal=given("b t e n"),
    **{f"Q_{name}": given("b e n") for name in NAMES},
    **OPTIONS,
    first=index(""),
    grad_projected=result(f"b k-1+t {PROJECTED}"),
    grad_weight=result(f"b {CONVOLVED} k"),
    grad_bias=result(f"b {CONVOLVED}"),
)
def mamba2_half(
    part: Part,
    A: Array,
    reset: Array,
    h: Array,
    delta: Array,
    delta_slope: Array,
    x: Array,
    B: Array,
    slope: Array,
    projected: Array,
    weight: Array,
    signal: Array,
    *rest: Array,
) -> None:
    """Add the half of the steps from `first` on to the gradients of what is projected and of the taps."""
    Q, (a_post, lam, first, grad_projected, grad_weight, grad_bias) = rest[:3], rest[3:]
    (b, t, e, n), heads, k = h.shape, A.shape[0], fixed(weight.shape[1])
    width, row = integer(e) // heads, span(0, fixed(n))
    many = integer(e) + n
    taps, grad_taps = transposed(part, weight, integer(0), many), part.empty(k, many)
    late, late_dt = part.empty(t, many), part.empty(t, heads)
    for i in part.rows(b):
        for own in (late, late_dt, grad_taps):
            fill(own)
        for g in loop(heads):
            for c in loop(g * width, (g + 1) * width):
                traces = [Variable(own[i, c, row]) for own in Q]
                for s in loop(t):
                    R = decayed(traces, reset, i, s, lam)
                    with when(s >= first[()]):
                        late_signal = signal[i, s, c, row] * a_post[()]
                        late_dt[s, g] = late_dt[s, g] + reduce_sum(late_signal * R[0])
                        late[s, c] = reduce_sum(late_signal * R[1])
                        states = span(e, fixed(n))
                        late[s, states] = fma(late_signal, R[2], late[s, states])
                    took(traces, R, posts(A[g], h, delta, delta_slope, x, B, i, s, g, c)[1:])
        for s in loop(first[()], t):
            now, sees = s + (k - 1), seen(reset, i, s, k)
            for g in loop(heads):
                at = g + (integer(e) * 2 + 2 * fixed(n))
                grad_projected[i, now, at] = grad_projected[i, now, at] + late_dt[s, g]
            for c in lanes(0, many, LANES):
                late[s, c] = late[s, c] * slope[i, s, c]
            add_conv_adjoint(late[s], sees, taps, s, projected[i], e, many, grad_projected[i], grad_taps, grad_bias[i])
        for c in loop(many):
            for tap in range(k):
                grad_weight[i, c, tap] = grad_weight[i, c, tap] + grad_taps[tap, c]


@kernel(
    "n",
    **CHUNK,
    **{f"Q_{name}": Argument(("b", "e", "n"), written=True) for name in (*NAMES, "taps_x", "taps_B")},
    lam=given(""),
    steps=index(""),
)
def mamba2_half_advance(
    part: Part,
    A: Array,
    reset: Array,
    h: Array,
    delta: Array,
    delta_slope: Array,
    x: Array,
    B: Array,
    *rest: Array,
) -> None:
    """Move every Q by the first steps of the chunk; taps find the posts that their projection's inputs do."""
    Q, taps, lam, steps = rest[:3], rest[3:5], rest[5], rest[6]
    (b, _, e, n), heads = h.shape, A.shape[0]
    width, row = integer(e) // heads, span(0, fixed(n))
    for i in part.rows(b):
        for g in loop(heads):
            for c in loop(g * width, (g + 1) * width):
                traces = [Variable(own[i, c, row]) for own in Q]
                for s in loop(steps[()]):
                    R = decayed(traces, reset, i, s, lam)
                    took(traces, R, posts(A[g], h, delta, delta_slope, x, B, i, s, g, c)[1:])
                for own, trace in zip((*Q, *taps), (*traces, *traces[1:]), strict=True):
                    own[i, c, row] = trace.get()


def decayed(traces: list[Variable], reset: Array, i: Value, s: Value, lam: Array) -> list[Value]:
    """Return R of a step: what came before, decayed, and nothing of another sequence."""
    keeps = keeping(reset, i, s, lam)
    return [trace.get() * keeps for trace in traces]


def keeping(reset: Array, i: Value, s: Value, lam: Array) -> Value:
    """Return what a step leaves of the traces before it."""
    return select(begins_at(reset, i, s), 0, lam[()])


def took(traces: list[Variable], R: list[Value], posts: list[Value]) -> None:
    """Let the traces take in the posts of a step."""
    for trace, before, post in zip(traces, R, posts, strict=True):
        trace.set(before + post)


def posts(
    A: Value,
    h: Array,
    delta: Array,
    delta_slope: Array,
    x: Array,
    B: Array,
    i: Value,
    s: Value,
    g: Value,
    c: Value,
) -> list[Value]:
    """Return how A_log, dt, x and B push on the states of a channel, each (n,): see `blocks.mamba2.Mamba2.drives`."""
    n = fixed(h.shape[3])
    row = span(0, n)
    drive, step, own = B[i, s, row], delta[i, s, g], x[i, s, c]
    decay_term = (h[i, s, c, row] - drive * (step * own)) * A  # A a h_prev
    d_delta_raw = (decay_term + drive * own) * delta_slope[i, s, g]
    return [decay_term * step, d_delta_raw, drive * step, h.zero(n) + step * own]
