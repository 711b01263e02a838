"""One Mamba-2 block of a stack, all the way back through the chunk.

Letters: b streams, t steps, d width, e channels in g heads, n states, k conv taps.
"""

from typing import NamedTuple

from . import product
from .kernel import Part, pointer
from .language import Array, Value, fill, fixed, integer, loop, select
from .mamba2_chunk import mamba2_output_adjoint, mamba2_states_adjoint
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
    causal: list[Array]  # what meets traces of inputs, and these: see `mamba2_decaying`

    @classmethod
    def of(cls, part: Part, kept: list[Array], k: int, decaying: Value) -> "Room":
        """Return the room for chunks like those kept; decaying: for traces of inputs too."""
        (_, b, t, e, n), d = kept[4].shape, kept[0].shape[3]
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
            causal=[new(select(decaying, integer(b), 0), rows, width) for width in (integer(e) + fixed(n), g, d)],
        )


def back(
    own: Weights,
    to: Weights,
    found: Kept,
    ssm: Array,
    reset: Array,
    through: Array,
    grad_x: Array,
    signal: Array,
    room: Room,
) -> None:
    """Write the gradients inside the chunk into the room, and add those of a layer's inputs to grad_x.

    through: those from a state to the one before it too.
    """
    (b, t, d), e, k = grad_x.shape, found.y.shape[2], fixed(own.conv.shape[1])
    rows = flattened(grad_x, d)
    fill(room.activated)
    product.to_inputs(flattened(room.activated, e), rows, own.out_proj)
    product.to_weight(to.out_proj, rows, flattened(found.activated, e))
    read = found.h, found.C, found.x_in, found.gate, own.D, own.norm, found.y, found.scale, room.activated
    mamba2_output_adjoint.within(*read, room.h, room.C, room.x_in, room.gate, room.D, room.norm)
    mamba2_states_adjoint.within(
        *(found.projected, own.conv, own.A_log, ssm, reset, through, found.h),
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


def add_inside(to: Weights, found: Kept, room: Room) -> None:
    """Write the gradients inside the chunk from the room to those of a layer's weights."""
    b, d = room.conv.shape[0], found.inputs.shape[2]
    of_streams = (to.conv, room.conv), (to.conv_bias, room.conv_bias), (to.D, room.D), (to.norm, room.norm)
    for whole, parts in (*of_streams, (to.dt_bias, room.dt_bias), (to.A_log, room.A_log)):
        for i in loop(b):
            add(whole, parts[i])
    product.to_weight(to.in_proj, flattened(room.projected, room.projected.shape[2]), flattened(found.inputs, d))


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
