"""Kernels of one trace: it meets its learning signal, decays and takes in the drives of a chunk, in one pass, in place.

    gradient = sum over streams of signal Z;   Z = decay Z + sum_s post_s pre_s

Parts share the rows of the gradient. A kernel for each way in which `ops.influence` lays a trace out; where `go` is
false, nothing is written. Letters: b streams, t steps, c rows of a parameter, r what is summed over, j inputs, k taps
or inputs of a channel's or state's own, n states, e channels. A trace may be kept in bfloat16.
"""

from .kernel import Part, flags, given, kernel, result, trace
from .language import LANES, Array, Size, Variable, fill, integer, lanes, larger, loop, reduce_sum, smaller, span, when
from .tile import contract_and_advance, mix, pack, packed

PACKED = 4096  # numbers of posts that are packed at once: they stay in the nearest cache


@kernel(Z=trace("b m"), decay=given("b m"), signal=given("b m"), post=given("b m"), go=flags(""), gradient=result("m"))
def alone(part: Part, Z: Array, decay: Array, signal: Array, post: Array, go: Array, gradient: Array) -> None:
    """Do a trace of no inputs."""
    b, m = Z.shape
    lo, hi = part.range(m, LANES)
    with when(go[()]):
        for x in lanes(lo, hi, LANES):
            gradient[x] = 0
        for i in loop(b):
            for x in lanes(lo, hi, LANES):
                z = Z[i, x]
                gradient[x] = gradient[x] + signal[i, x] * z
                Z[i, x] = decay[i, x] * z + post[i, x]


@kernel(
    Z=trace("b c r j"),
    decay=given("b c r"),
    signal=given("b c r"),
    post=given("b t c r"),
    pre=given("b t j"),
    go=flags(""),
    gradient=result("c j"),
)
def dense(
    part: Part, Z: Array, decay: Array, signal: Array, post: Array, pre: Array, go: Array, gradient: Array
) -> None:
    """Do a trace of the inputs of a weight matrix."""
    b, t, c, r = post.shape
    lo, hi = part.range(c)
    group = larger(1, PACKED // (integer(t) * r))  # rows side by side, whose posts of a step lie in one piece
    p = packed(part, group, t, r)
    with when(go[()]):
        fill(rows(gradient, lo, hi - lo))
        for i in loop(b):
            for step in loop((hi - lo + group - 1) // group):
                first = lo + step * group
                many = smaller(hi - first, group)
                pack(p, Array(post.address(i, 0, first), (t, many, r), post.strides[1:]))
                of = (rows(array[i], first, many) for array in (Z, decay, signal))
                contract_and_advance(*of, p, pre[i], rows(gradient, first, many))


@kernel(
    "k",
    Z=trace("b c r j"),
    decay=given("b c r"),
    signal=given("b c r"),
    post=given("b 1 c r"),
    pre=given("b k j"),
    taps=given("b 1 c k"),
    go=flags(""),
    gradient=result("c j"),
)
def tapped(
    part: Part,
    Z: Array,
    decay: Array,
    signal: Array,
    post: Array,
    pre: Array,
    taps: Array,
    go: Array,
    gradient: Array,
) -> None:
    """Do the same for a single step, whose input is what taps make of the last k."""
    b, _, c, r = post.shape
    p, mixed = packed(part, 1, 1, r), part.empty(1, pre.shape[2])
    lo, hi = part.range(c)
    with when(go[()]):
        fill(rows(gradient, lo, hi - lo))
        for i in loop(b):
            for row in loop(lo, hi):
                mix(taps[i, 0, row], pre[i], mixed)
                pack(p, Array(post.address(i, 0, row), (1, 1, r)))
                of = (rows(array[i], row, 1) for array in (Z, decay, signal))
                contract_and_advance(*of, p, mixed, rows(gradient, row, 1))


@kernel(
    Z=trace("b n k e"),
    decay=given("b n e"),
    signal=given("b n e"),
    post=given("b t n e"),
    pre=given("b t k e"),
    go=flags(""),
    gradient=result("k e"),
)
def of_channel(
    part: Part, Z: Array, decay: Array, signal: Array, post: Array, pre: Array, go: Array, gradient: Array
) -> None:
    """Do a trace of a channel's own inputs."""
    b, n, k, e = Z.shape
    lo, hi = part.range(e, LANES)
    with when(go[()]):
        for tap in loop(k):
            for c in lanes(lo, hi, LANES):
                gradient[tap, c] = 0
        for i in loop(b):
            for y in loop(n):
                for tap in loop(k):
                    for c in lanes(lo, hi, LANES):
                        z = Z[i, y, tap, c]
                        gradient[tap, c] = gradient[tap, c] + signal[i, y, c] * z
                        now = Variable(decay[i, y, c] * z)
                        for s in loop(post.shape[1]):
                            now.set(now.get() + post[i, s, y, c] * pre[i, s, tap, c])
                        Z[i, y, tap, c] = now.get()


@kernel(
    Z=trace("b n k e"),
    decay=given("b n e"),
    signal=given("b n e"),
    post=given("b t n e"),
    pre=given("b t n k"),
    go=flags(""),
    gradient=result("n k"),
)
def of_state(
    part: Part, Z: Array, decay: Array, signal: Array, post: Array, pre: Array, go: Array, gradient: Array
) -> None:
    """Do a trace of a state's own inputs."""
    b, n, k, e = Z.shape
    lo, hi = part.range(n)
    sums = part.empty(LANES)
    with when(go[()]):
        fill(rows(gradient, lo, hi - lo))
        for i in loop(b):
            for y in loop(lo, hi):
                for tap in loop(k):
                    fill(sums)
                    for c in lanes(0, e, LANES):
                        z = Z[i, y, tap, c]
                        place = span(0, c.width)
                        sums[place] = sums[place] + signal[i, y, c] * z
                        now = Variable(decay[i, y, c] * z)
                        for s in loop(post.shape[1]):
                            now.set(now.get() + post[i, s, y, c] * pre[i, s, y, tap])
                        Z[i, y, tap, c] = now.get()
                    gradient[y, tap] = gradient[y, tap] + reduce_sum(sums[span(0, LANES)])


def rows(array: Array, first: Size, many: Size) -> Array:
    """Return `many` of an array's rows, from `first` on."""
    return Array(array.address(first), (many, *array.shape[1:]), array.strides)
