"""One Mamba-2 block of a stack, all the way back: through the chunk, and through the traces.

Letters: b streams, t steps, d width, e channels in g heads, n states, k conv taps.
"""

from typing import NamedTuple

from . import product
from .kernel import Part, pointer
from .language import LANES, Array, Size, Value, exp, fill, fixed, integer, lanes, loop
from .mamba2 import contract_and_advance_mamba2
from .mamba2_chunk import mamba2_output_adjoint, mamba2_states_adjoint
from .mamba2_half import mamba2_half, mamba2_half_advance
from .stack import add, add_norm_adjoint, each_rows, flattened


class Weights(NamedTuple):
    """What a layer learns, or the gradients of it."""

    in_proj: Array
    conv: Array
    conv_bias: Array
    dt_bias: Array
    A_log: Array
    D: Array
    norm: Array
    out_proj: Array


class Kept(NamedTuple):
    """What a chunk left of a layer."""

    x: Array
    norms: Array
    inputs: Array
    projected: Array
    h: Array
    delta: Array
    delta_slope: Array
    log_a: Array
    x_in: Array
    B: Array
    slope: Array
    C: Array
    gate: Array
    slope_out: Array
    y: Array
    scale: Array
    activated: Array


class Room(NamedTuple):
    """Memory for what is on the way back through a layer."""

    activated: Array  # gradients of what has these names
    h: Array
    C: Array
    x_in: Array
    gate: Array
    projected: Array
    inputs: Array
    D: Array  # (b, ...) of each stream
    norm: Array
    conv: Array
    conv_bias: Array
    dt_bias: Array
    A_log: Array
    raw: Array  # (b, k-1+t, e + n) the projections x, B
    A: Array  # (g,)
    past: list[Array]  # the gradients through the traces

    @classmethod
    def of(cls, part: Part, b: Size, t: Size, e: Size, n: Size, d: Size, k: int, kept: list[Array]) -> "Room":
        """Return the room for chunks like those kept."""
        new, g, rows, many = part.empty, kept[5].shape[3], integer(t) + (k - 1), integer(e) + 2 * fixed(n)
        sizes = (e, n), (e, n), (e, d), (e, d), (n, d), (k + 1, e), (n, k + 1)
        return cls(
            activated=new(b, t, e),
            h=new(b, t, e, n),
            C=new(b, t, n),
            x_in=new(b, t, e),
            gate=new(b, t, e),
            projected=new(b, rows, kept[3].shape[3]),
            inputs=new(b, t, d),
            D=new(b, g),
            norm=new(b, e),
            conv=new(b, many, k),
            conv_bias=new(b, many),
            dt_bias=new(b, g),
            A_log=new(b, g),
            raw=new(b, rows, integer(e) + fixed(n)),
            A=new(g),
            past=[new(*size) for size in sizes],
        )


class Half(NamedTuple):
    """What STDP's half of a layer needs."""

    traces: list[Array]  # Q of what dt, x, B and the taps of x and B push, (b, e, n) each
    a_post: Array
    lam: Array
    first: Array  # step that is learned from


def back(
    own: Weights,
    to: Weights,
    found: Kept,
    ssm: Array,
    reset: Array,
    true: Array,
    grad_x: Array,
    signal: Array,
    room: Room,
) -> None:
    """Write the gradients inside the chunk into the room, and add those of a layer's inputs to grad_x."""
    (b, t, d), e, k = grad_x.shape, found.y.shape[2], fixed(own.conv.shape[1])
    rows = flattened(grad_x, d)
    fill(room.activated)
    product.to_inputs(flattened(room.activated, e), rows, own.out_proj)
    product.to_weight(to.out_proj, rows, flattened(found.activated, e))
    read = found.h, found.C, found.x_in, found.gate, own.D, own.norm, found.y, found.scale, room.activated
    mamba2_output_adjoint.within(*read, room.h, room.C, room.x_in, room.gate, room.D, room.norm)
    mamba2_states_adjoint.within(
        *(found.projected, own.conv, own.A_log, ssm, reset, true, found.h),
        *(found.delta, found.delta_slope, found.log_a, found.x_in, found.B, found.slope, found.slope_out),
        *(room.h, room.x_in, room.C, room.gate),
        *(room.projected, room.conv, room.conv_bias, room.dt_bias, room.A_log, signal),
    )
    fill(room.inputs)
    each_rows(
        lambda rows: product.to_inputs(rows(room.inputs, 0), rows(room.projected, k - 1), own.in_proj),
        b,
        t,
    )
    for i in loop(b):
        for s in loop(t):
            add_norm_adjoint(grad_x[i, s], room.inputs[i, s], found.x[i, s], found.norms[i, s])


def add_half(own: Weights, found: Kept, reset: Array, half: Half, room: Room) -> None:
    """Add STDP's half to the gradients in the room: of weights alone, nothing of it goes to the inputs."""
    write_rates(room.A, own.A_log)
    of_steps = found.h, found.delta, found.delta_slope, found.x_in, found.B, found.slope, found.projected, own.conv
    given = *half.traces[:3], half.a_post, half.lam, half.first
    mamba2_half.within(room.A, reset, *of_steps, room.h, *given, room.projected, room.conv, room.conv_bias)


def add_inside(to: Weights, found: Kept, room: Room) -> None:
    """Write the gradients inside the chunk from the room to those of a layer's weights."""
    b, d = room.conv.shape[0], found.inputs.shape[2]
    of_streams = (to.conv, room.conv), (to.conv_bias, room.conv_bias), (to.D, room.D), (to.norm, room.norm)
    for whole, parts in (*of_streams, (to.dt_bias, room.dt_bias), (to.A_log, room.A_log)):
        for i in loop(b):
            add(whole, parts[i])
    product.to_weight(to.in_proj, flattened(room.projected, room.projected.shape[2]), flattened(found.inputs, d))


def move_half(own: Weights, found: Kept, steps: Array, reset: Array, half: Half, room: Room) -> None:
    """Move the traces of STDP's half by the first steps of the chunk."""
    write_rates(room.A, own.A_log)
    of_steps = found.h, found.delta, found.delta_slope, found.x_in, found.B
    mamba2_half_advance.within(room.A, reset, *of_steps, *half.traces, half.lam, steps)


def half_of(table: Array, layer: Value, like: Array, a_post: Array, lam: Array, first: Array) -> Half:
    """Return what STDP's half of a layer needs; like: its states (b, t, e, n)."""
    b, _, e, n = like.shape
    traces = [Array(pointer(table[layer, i], like.stored), (b, e, n)) for i in range(5)]
    return Half(traces, a_post, lam, first)


def write_rates(to: Array, A_log: Array) -> None:
    """Write A = -exp(A_log)."""
    for g in loop(to.shape[0]):
        to[g] = -exp(A_log[g])


def move(
    own: Weights,
    found: Kept,
    steps: Value,
    signal: Array,
    reset: Array,
    true: Array,
    addresses: list[Value],
    stored: object,
    taps: Array,
    room: Room,
) -> None:
    """Move a layer's traces by the first steps of the chunk, and write the gradients through them into the room."""
    (b, _, e, n), d, k = found.h.shape, found.inputs.shape[2], fixed(own.conv.shape[1])
    write_rates(room.A, own.A_log)
    for c in loop(integer(e) + fixed(n)):
        for tap in range(k):
            taps[tap, c] = own.conv[c, tap]
    for i in loop(b):
        for s in loop(steps + (k - 1)):
            for c in lanes(0, integer(e) + fixed(n), LANES):
                room.raw[i, s, c] = found.projected[i, s, c + e]
    sizes = (e, n), (e, n), (e, n, d), (e, n, d), (n, e, d), (n, k + 1, e), (n, k + 1, e)
    traces = [Array(pointer(at, stored), (b, *size)) for at, size in zip(addresses, sizes, strict=True)]
    of_steps = [first(own, steps) for own in (found.log_a, found.delta, found.delta_slope, found.x_in, found.B)]
    raw, inputs = first(room.raw, steps + (k - 1)), first(found.inputs, steps + (k - 1))
    given = first(found.h, steps), signal, *of_steps, raw, first(found.slope, steps), inputs, taps, room.A
    contract_and_advance_mamba2.within(*traces, *room.past, *given, first(reset, steps), true)


def first(of: Array, steps: Value) -> Array:
    """Return the first steps of an array (b, t, ...); of fewer than all there must be one stream."""
    found = Array(of.pointer, (of.shape[0], steps, *of.shape[2:]))
    found.there = of.there
    return found


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


def weights_of(table: Array, layer: Value, kept: list[Array], k: int) -> Weights:
    """Return the weights of a layer, or their gradients."""
    e, d, g, n = kept[4].shape[3], kept[0].shape[3], kept[5].shape[3], fixed(kept[4].shape[4])
    many = integer(e) + 2 * n
    sizes = (kept[3].shape[3], d), (many, k), (many,), (g,), (g,), (g,), (e,), (d, e)
    kind = kept[0].stored
    return Weights(*(Array(pointer(table[layer, i], kind), size) for i, size in enumerate(sizes)))


def kept_of(kept: list[Array], layer: Value) -> Kept:
    """Return what a chunk left of a layer."""
    return Kept(*(own[layer] for own in kept))
