"""One Mamba block of a stack, on the way through a chunk and all the way back.

    u, gate = silu(conv(x)), silu(z)      low, B, C = x_proj(u)      delta = softplus(dt_proj(low) + bias)
    h_t = a_t h_{t-1} + delta_t u_t B_t, a_t = exp(-delta_t exp(A_log));   y_t = C_t . h_t + D u_t;   y gate

Letters: b streams, t steps, d width, e channels, n states, k conv taps, r rank of the step sizes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from . import product
from .kernel import Part, pointer
from .language import (
    LANES,
    Array,
    Size,
    Value,
    Variable,
    either,
    exp,
    fill,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    reduce_sum,
    select,
    sigmoid,
    softplus_series,
    span,
)
from .mamba2 import seen
from .mamba2_chunk import begins_at, silu
from .stack import add_norm_adjoint, each_rows, flattened, size

KEPT = {  # what a chunk leaves of each layer for the way back
    "x": "l+1 b t d",
    "norms": "l+1 b t",  # 1 over the root mean square of each row of x
    "inputs": "l b k-1+t d",
    "projected": "l b k-1+t e+e",  # x and z
    "h": "l b t e n",
    "decay": "l b t e n",  # a, zero where a sequence begins
    "delta": "l b t e",
    "delta_slope": "l b t e",  # softplus'
    "u": "l b t e",
    "slope": "l b t e",  # silu' of u
    "gate": "l b t e",
    "slope_out": "l b t e",  # silu' of the gate
    "low": "l b t r",
    "B": "l b t n",
    "C": "l b t n",
    "y": "l b t e",
    "activated": "l b t e",
}


class Weights(NamedTuple):
    """What a layer learns, or the gradients of it."""

    in_proj: Array
    conv: Array
    conv_bias: Array
    x_proj: Array
    dt_proj: Array
    dt_bias: Array
    A_log: Array
    D: Array
    out_proj: Array


class Kept(NamedTuple):
    """What a chunk left of a layer: see KEPT."""

    x: Array
    norms: Array
    inputs: Array
    projected: Array
    h: Array
    decay: Array
    delta: Array
    delta_slope: Array
    u: Array
    slope: Array
    gate: Array
    slope_out: Array
    low: Array
    B: Array
    C: Array
    y: Array
    activated: Array


class Room(NamedTuple):
    """Memory for what is on the way through a layer."""

    rates: Array  # (e, n) -exp(A_log)
    taps: Array  # (k, e) of the convolution

    def prepare(self, own: Weights) -> None:
        """Work out what depends on a layer's weights alone."""
        e, k = own.conv.shape
        count = size(self.rates)
        flat, logs = Array(self.rates.pointer, (count,)), Array(own.A_log.pointer, (count,))
        for x in lanes(0, count, LANES):
            flat[x] = -exp(logs[x])
        for c in loop(e):
            for tap in range(fixed(k)):
                self.taps[tap, c] = own.conv[c, tap]


class RoomBack(NamedTuple):
    """Memory for what is on the way back through a layer: gradients of what has these names."""

    activated: Array
    u: Array
    raw: Array  # of delta before the softplus
    low: Array
    B: Array
    C: Array
    projected: Array
    inputs: Array
    y: Array  # (e,) of one step
    taps: Array  # (k, e)

    @classmethod
    def of(cls, part: Part, b: Size, t: Size, e: Size, n: int, d: Size, k: int, r: Size) -> "RoomBack":
        """Return the room for chunks of these sizes."""
        new, rows = part.empty, integer(t) + (k - 1)
        return cls(
            activated=new(b, t, e),
            u=new(b, t, e),
            raw=new(b, t, e),
            low=new(b, t, r),
            B=new(b, t, n),
            C=new(b, t, n),
            projected=new(b, rows, integer(e) * 2),
            inputs=new(b, t, d),
            y=new(e),
            taps=new(k, e),
        )


def make(own: Weights, found: Kept, h0: Array, reset: Array, room: Room) -> None:
    """Write what is to be known of the chunk, from a layer's inputs to what out_proj receives."""
    (b, t, e, n), d, k = found.h.shape, found.inputs.shape[2], fixed(own.conv.shape[1])
    if k > 1:  # of what came before, the convolution alone has a use
        for i in loop(b):
            before = Array(found.projected.address(i), (k - 1, e), found.projected.strides[1:])
            product.forward(before, found.inputs[i], Array(own.in_proj.pointer, (e, d)))
    each_rows(lambda rows: product.forward(rows(found.projected, k - 1), rows(found.inputs, k - 1), own.in_proj), b, t)
    for i in loop(b):
        for s in loop(t):
            sees = seen(reset, i, s, k)
            for c in lanes(0, e, LANES):
                total = own.conv_bias[c]
                for tap, visible in enumerate(sees):
                    total = total + room.taps[tap, c] * select(visible, found.projected[i, s + tap, c], 0)
                found.u[i, s, c], found.slope[i, s, c] = silu(total)
                found.gate[i, s, c], found.slope_out[i, s, c] = silu(found.projected[i, s + (k - 1), c + e])
    for rows, selected in _selected(own.x_proj, found.low, found.B, found.C):
        product.forward(selected, flattened(found.u, e), rows)
    product.forward(flattened(found.delta, e), flattened(found.low, found.low.shape[2]), own.dt_proj)
    row = span(0, fixed(n))
    for i in loop(b):
        for s in loop(t):
            for c in lanes(0, e, LANES):
                raw = found.delta[i, s, c] + own.dt_bias[c]
                found.delta[i, s, c], found.delta_slope[i, s, c] = softplus_series(raw), sigmoid(raw)
            for c in loop(e):
                found.decay[i, s, c, row] = room.rates[c, row] * found.delta[i, s, c]
            begins, flat = begins_at(reset, i, s), Array(found.decay.address(i, s), (integer(e) * n,))
            for x in lanes(0, flat.shape[0], LANES):
                flat[x] = select(begins, 0, exp(flat[x]))
            before, B, C = either(s > 0, found.h[i, s - 1], h0[i]), found.B[i, s, row], found.C[i, s, row]
            for c in loop(e):
                u = found.u[i, s, c]
                h = fma(B, found.delta[i, s, c] * u, found.decay[i, s, c, row] * before[c, row])
                found.h[i, s, c, row] = h
                found.y[i, s, c] = fma(own.D[c], u, reduce_sum(C * h))
            for c in lanes(0, e, LANES):
                found.activated[i, s, c] = found.y[i, s, c] * found.gate[i, s, c]


def back(
    own: Weights,
    to: Weights,
    found: Kept,
    h0: Array,
    reset: Array,
    through: Array,
    grad_x: Array,
    signal: Array,
    room: Room,
    on_way: RoomBack,
) -> None:
    """Add the gradients of a layer's weights inside the chunk, and its inputs' to grad_x; signal is dL/dh0.

    through: gradients go from a state to the one before it. On the way signal holds a_{t+1} dL/dh_{t+1}, of all later
    steps.
    """
    (b, t, e, n), d, k = found.h.shape, grad_x.shape[2], fixed(own.conv.shape[1])
    row, rows = span(0, fixed(n)), flattened(grad_x, d)
    none = found.h.zero(fixed(n))
    fill(on_way.activated)
    product.to_inputs(flattened(on_way.activated, e), rows, own.out_proj)
    product.to_weight(to.out_proj, rows, flattened(found.activated, e))
    for of in (signal, on_way.projected, on_way.low, on_way.inputs, on_way.taps):
        fill(of)
    for i in loop(b):
        for s in loop(integer(t) - 1, -1, -1):
            for c in lanes(0, e, LANES):
                grad = on_way.activated[i, s, c]
                on_way.projected[i, s + (k - 1), c + e] = grad * found.y[i, s, c] * found.slope_out[i, s, c]
                grad_y = grad * found.gate[i, s, c]
                to.D[c] = fma(grad_y, found.u[i, s, c], to.D[c])
                on_way.u[i, s, c] = grad_y * own.D[c]
                on_way.y[c] = grad_y
            before, B, C = either(s > 0, found.h[i, s - 1], h0[i]), found.B[i, s, row], found.C[i, s, row]
            grad_B, grad_C = Variable(none), Variable(none)
            for c in loop(e):
                u, delta, a, grad_y = found.u[i, s, c], found.delta[i, s, c], found.decay[i, s, c, row], on_way.y[c]
                v = fma(C, grad_y, signal[i, c, row])
                grad_C.set(fma(found.h[i, s, c, row], grad_y, grad_C.get()))
                grad_B.set(fma(v, delta * u, grad_B.get()))
                grad_push, kept = reduce_sum(v * B), v * a
                grad_rate = kept * before[c, row] * room.rates[c, row]  # of log a, over delta
                signal[i, c, row] = select(through[()], kept, 0)
                on_way.u[i, s, c] = fma(delta, grad_push, on_way.u[i, s, c])
                on_way.raw[i, s, c] = fma(u, grad_push, reduce_sum(grad_rate))
                to.A_log[c, row] = fma(grad_rate, delta, to.A_log[c, row])
            on_way.B[i, s, row], on_way.C[i, s, row] = grad_B.get(), grad_C.get()
            for c in lanes(0, e, LANES):
                grad = on_way.raw[i, s, c] * found.delta_slope[i, s, c]
                on_way.raw[i, s, c] = grad
                to.dt_bias[c] = to.dt_bias[c] + grad
    u, low, raw = flattened(found.u, e), found.low.shape[2], flattened(on_way.raw, e)
    product.to_weight(to.dt_proj, raw, flattened(found.low, low))
    product.to_inputs(flattened(on_way.low, low), raw, own.dt_proj)
    selected = _selected(own.x_proj, on_way.low, on_way.B, on_way.C)
    for (weight, grad), (to_weight, _) in zip(selected, _selected(to.x_proj, *on_way[3:6]), strict=True):
        product.to_inputs(flattened(on_way.u, e), grad, weight)
        product.to_weight(to_weight, grad, u)
    for i in loop(b):
        for s in loop(t):
            sees = seen(reset, i, s, k)
            for c in lanes(0, e, LANES):
                grad = on_way.u[i, s, c] * found.slope[i, s, c]
                to.conv_bias[c] = to.conv_bias[c] + grad
                for tap, visible in enumerate(sees):
                    here = select(visible, grad, 0)
                    on_way.projected[i, s + tap, c] = fma(room.taps[tap, c], here, on_way.projected[i, s + tap, c])
                    x = select(visible, found.projected[i, s + tap, c], 0)
                    on_way.taps[tap, c] = fma(x, here, on_way.taps[tap, c])
    for c in loop(e):
        for tap in range(k):
            to.conv[c, tap] = to.conv[c, tap] + on_way.taps[tap, c]
    product.to_weight(to.in_proj, flattened(on_way.projected, integer(e) * 2), flattened(found.inputs, d))
    each_rows(lambda rows: product.to_inputs(rows(on_way.inputs, 0), rows(on_way.projected, k - 1), own.in_proj), b, t)
    for i in loop(b):
        for s in loop(t):
            add_norm_adjoint(grad_x[i, s], on_way.inputs[i, s], found.x[i, s], found.norms[i, s])


def weights_of(table: Array, layer: Value, kept: Sequence[Array], k: int) -> Weights:
    """Return the weights of a layer, or their gradients."""
    (_, _, _, e, n), d, r = kept[4].shape, kept[0].shape[3], kept[12].shape[3]
    sizes = (integer(e) * 2, d), (e, k), (e,), (integer(r) + 2 * fixed(n), e), (e, r), (e,), (e, n), (e,), (d, e)
    return Weights(*(Array(pointer(table[layer, i], kept[0].stored), shape) for i, shape in enumerate(sizes)))


def kept_of(kept: Sequence[Array], layer: Value) -> Kept:
    """Return what a chunk left of a layer."""
    return Kept(*(own[layer] for own in kept))


def _selected(x_proj: Array, *selected: Array) -> list[tuple[Array, Array]]:
    """Return the rows of x_proj that make low, B and C, each with those, as rows."""
    found, first, e = list[tuple[Array, Array]](), integer(0), x_proj.shape[1]
    for own in selected:
        many = own.shape[2]
        found.append((Array(x_proj.address(first), (many, e)), flattened(own, many)))
        first = first + many
    return found
