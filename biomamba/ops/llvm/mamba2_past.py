"""What a rule remembers of a Mamba-2 block: its share of the gradient, and how it moves on.

    influences  Z = dh/dtheta of RTRL, on whose way the gradients through them come
    posts       Q of STDP's post-before-pre half (`mamba2_half`)
    decaying    traces of a fixed decay (`mamba2_decaying`)

Letters: b streams, t steps, d width, e channels in g heads, n states, k conv taps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import product
from .kernel import Argument, given, pointer, trace
from .language import LANES, Array, Size, Value, choose, exp, fixed, integer, lanes, loop, when
from .mamba2 import contract_and_advance_mamba2, there
from .mamba2_decaying import mamba2_decaying, mamba2_decaying_advance
from .mamba2_half import mamba2_half, mamba2_half_advance
from .mamba2_layer import Kept, Room, Weights
from .stack import add, flattened

TABLES = {"influences": 7, "posts": 5, "decaying": 7}  # addresses of a layer
PAST = {
    **{name: Argument(("l", str(many)), "index", optional=True) for name, many in TABLES.items()},
    "precision": trace("z"),
    "weighed": given("4"),  # a_post, lam_post, a_pre, lam_pre
}


class Past(NamedTuple):
    """Where what a rule remembers lies, and how it is weighed."""

    influences: Array
    posts: Array
    decaying: Array
    precision: Array
    a_post: Array
    lam_post: Array
    a_pre: Array
    lam_pre: Array

    @classmethod
    def of(cls, influences: Array, posts: Array, decaying: Array, precision: Array, weighed: Array) -> "Past":
        """Return it of the arguments of a kernel."""
        return cls(influences, posts, decaying, precision, *(Array(weighed.address(i), ()) for i in range(4)))


def add_local(
    own: Weights, to: Weights, found: Kept, reset: Array, past: Past, layer: Value, first: Array, room: Room
) -> None:
    """Change the gradients in the room by what traces of posts and of inputs make of each step's signal.

    first: the first step that is learned from by posts. Nothing of it goes to the layer's inputs.
    """
    k = fixed(own.conv.shape[1])
    with when(there(past.decaying) | there(past.posts)):
        write_rates(room.A, own.A_log)
    with when(there(past.decaying)):
        S_A, S_bias, S_inputs, _, _, S_x, S_B = decaying_of(past, layer, found, k)
        traces = S_A, S_bias, S_inputs, S_x, S_B, past.a_pre, past.lam_pre
        changed = room.projected, room.conv, room.conv_bias, room.dt_bias, room.A_log
        mamba2_decaying.within(*steps_of(found, reset, room), own.conv, room.h, *traces, *changed, *room.causal)
        (_, _, many), (_, _, heads), (_, _, d) = (array.shape for array in room.causal)
        causal, causal_dt, rows = (flattened(array, array.shape[2]) for array in room.causal)
        at = integer(found.y.shape[2])
        product.to_weight(Array(to.in_proj.address(at), (many, d)), causal, rows)
        product.to_weight(Array(to.in_proj.address(at + at + 2 * found.h.shape[3]), (heads, d)), causal_dt, rows)
    with when(there(past.posts)):
        of_steps = found.h, found.delta, found.delta_slope, found.x_in, found.B, found.slope, found.projected, own.conv
        weighed = *posts_of(past, layer, found)[:3], past.a_post, past.lam_post, first
        mamba2_half.within(room.A, reset, *of_steps, room.h, *weighed, room.projected, room.conv, room.conv_bias)


def move(
    own: Weights,
    found: Kept,
    steps: Array,
    signal: Array,
    reset: Array,
    true: Array,
    past: Past,
    layer: Value,
    taps: Array,
    room: Room,
    learn: Callable[[], None],
) -> None:
    """Move all that is remembered of a layer by the first steps of the chunk.

    learn: called wherever gradients through the influences of some streams lie in the room.
    """
    write_rates(room.A, own.A_log)
    with when(there(past.influences)):
        move_influences(own, found, steps[()], signal, reset, true, past, layer, taps, room, learn)
    with when(there(past.posts)):
        of_steps = found.h, found.delta, found.delta_slope, found.x_in, found.B
        mamba2_half_advance.within(room.A, reset, *of_steps, *posts_of(past, layer, found), past.lam_post, steps)
    with when(there(past.decaying) & (steps[()] > 0)):
        mamba2_decaying_advance.within(
            *steps_of(found, reset, room),
            *decaying_of(past, layer, found, fixed(own.conv.shape[1])),
            past.lam_pre,
            steps,
        )


def move_influences(
    own: Weights,
    found: Kept,
    steps: Value,
    signal: Array,
    reset: Array,
    true: Array,
    past: Past,
    layer: Value,
    taps: Array,
    room: Room,
    learn: Callable[[], None],
) -> None:
    """Move a layer's influences by the first steps of the chunk, and have what was met on the way be learned."""
    (b, _, e, n), d, k = found.h.shape, found.inputs.shape[2], fixed(own.conv.shape[1])
    for c in loop(integer(e) + fixed(n)):
        for tap in range(k):
            taps[tap, c] = own.conv[c, tap]
    for i in loop(b):
        for s in loop(steps + (k - 1)):
            for c in lanes(0, integer(e) + fixed(n), LANES):
                room.raw[i, s, c] = found.projected[i, s, c + e]
    sizes = (e, n), (e, n), (e, n, d), (e, n, d), (n, e, d), (n, k + 1, e), (n, k + 1, e)
    traces = read_table(past.influences, layer, past.precision.stored, [(b, *size) for size in sizes])
    of_steps = found.log_a, found.delta, found.delta_slope, found.x_in, found.B
    with choose(steps >= found.h.shape[1]) as (all_of_them, some):
        with all_of_them:
            given = found.h, signal, *of_steps, room.raw, found.slope, found.inputs, taps, room.A, reset
            contract_and_advance_mamba2.within(*traces, *room.past, *given, true)
            learn()
        with some:  # of every stream by itself, as those of several do not lie in one piece
            for i in loop(b):
                h, *gates = (first(array, i, steps) for array in (found.h, *of_steps))
                raw, inputs = (first(array, i, steps + (k - 1)) for array in (room.raw, found.inputs))
                its = h, row(signal, i), *gates, raw, first(found.slope, i, steps), inputs, taps, room.A
                of_it = [row(trace, i) for trace in traces]
                contract_and_advance_mamba2.within(*of_it, *room.past, *its, first(reset, i, steps), true)
                learn()


def first(of: Array, i: Value, steps: Value) -> Array:
    """Return the first steps of a stream of an array (b, t, ...), as one of one stream."""
    found = Array(of.address(i), (1, steps, *of.shape[2:]))
    found.there = of.there
    return found


def row(of: Array, i: Value) -> Array:
    """Return a stream of an array (b, ...), as one of one stream."""
    return Array(of.address(i), (1, *of.shape[1:]))


def add_past(to: Weights, room: Room) -> None:
    """Add what came through the traces to the gradients of a layer's weights, where each has its rows."""
    of_A, of_bias, of_dt, of_x, of_B, of_taps_x, of_taps_B = room.past
    (e, n), k, heads = of_A.shape, fixed(to.conv.shape[1]), room.A.shape[0]
    n, width = fixed(n), integer(e) // heads
    for g in loop(heads):
        for c in loop(g * width, (g + 1) * width):
            for y in loop(n):
                to.A_log[g] = to.A_log[g] + of_A[c, y]
                to.dt_bias[g] = to.dt_bias[g] + of_bias[c, y]
            add(to.in_proj[g + (integer(e) * 2 + 2 * n)], of_dt[c])
    add(Array(to.in_proj.address(e), of_x.shape), of_x)
    add(Array(to.in_proj.address(integer(e) * 2), of_B.shape), of_B)
    for c in loop(e):
        for tap in range(k):
            to.conv[c, tap] = to.conv[c, tap] + of_taps_x[tap, c]
        to.conv_bias[c] = to.conv_bias[c] + of_taps_x[k, c]
    for y in loop(n):
        for tap in range(k):
            to.conv[y + e, tap] = to.conv[y + e, tap] + of_taps_B[y, tap]
        to.conv_bias[y + e] = to.conv_bias[y + e] + of_taps_B[y, k]


def steps_of(found: Kept, reset: Array, room: Room) -> tuple[Array, ...]:
    """Return what kernels of traces with a fixed decay read of a chunk."""
    first = room.A, reset, found.h, found.delta, found.delta_slope, found.x_in, found.B
    return *first, found.slope, found.projected, found.inputs


def posts_of(past: Past, layer: Value, found: Kept) -> list[Array]:
    """Return Q of what dt, x, B and the taps of x and B push, (b, e, n) each."""
    b, _, e, n = found.h.shape
    return read_table(past.posts, layer, found.h.stored, [(b, e, n)] * TABLES["posts"])


def decaying_of(past: Past, layer: Value, found: Kept, k: int) -> list[Array]:
    """Return the traces of A_log, dt_bias, of the inputs that dt, x and B see, and of what the taps of x and B do."""
    (b, _, e, n), d = found.h.shape, found.inputs.shape[2]
    sizes = (b, e, n), (b, e, n), (b, k, d), (b, k, d), (b, k, d), (b, e, k + 1), (b, n, k + 1)
    return read_table(past.decaying, layer, found.h.stored, sizes)


def read_table(table: Array, layer: Value, stored: object, sizes: Sequence[tuple[Size, ...]]) -> list[Array]:
    """Return the arrays of a layer whose addresses a table has."""
    return [Array(pointer(table[layer, i], stored), size) for i, size in enumerate(sizes)]


def write_rates(to: Array, A_log: Array) -> None:
    """Write A = -exp(A_log)."""
    for g in loop(to.shape[0]):
        to[g] = -exp(A_log[g])
