"""A stack of Mamba blocks with its head, by one kernel from the encoder to the logits and one all the way back.

    mamba_forward   x_{l+1} = x_l + out_proj(block_l(norm(x_l))),   out = head(norm_f(x_L)) of the last u steps
    mamba_learn     dL/dtheta |_(h0 held) + dL/dh0 . Z of every weight behind the encoder, state and traces moved on
    mamba_advance   state and traces moved on; of signals that are given, what they learn through the traces added

They are `mamba2_stack`'s, of another block: `mamba_layer` has its inside, `mamba_traces` its traces. Weights, their
gradients and traces of all layers are given as tables of addresses, which the caller keeps alive. Letters: l layers,
b streams, t steps, u of them new, d width, e channels, n states, k conv taps, r rank of the step sizes, v outputs,
q numbers of all weights, m traces of a layer.
"""

from . import product
from .kernel import Argument, Part, given, kernel, trace
from .language import Array, constant, either, fill, fixed, integer, is_finite, loop, select, total, when
from .mamba2 import there
from .mamba_layer import KEPT as KEPT_OF_LAYERS
from .mamba_layer import Room, RoomBack, back, kept_of, make, weights_of
from .mamba_traces import Scratch, add_past, move
from .stack import (
    add,
    advance_arguments,
    copy,
    flattened,
    forward_arguments,
    learn_arguments,
    move_state,
    read_in,
    read_out,
    read_out_adjoint,
    size,
)
from .stack_scan import many_updates

KEPT = KEPT_OF_LAYERS | {"normed": "b t d", "taps": "k e"}  # the latter is room
PAST = {"traces": Argument(("l", "m"), "index", optional=True), "precision": trace("z")}


@kernel("n k", **forward_arguments(9, KEPT))
def mamba_forward(
    part: Part,
    head: Array,
    norm_f: Array,
    weights: Array,
    encoded: Array,
    conv: Array,
    ssm: Array,
    reset: Array,
    *rest: Array,
) -> None:
    """Write the logits of the last steps, and all that is to be known of the chunk later."""
    *kept, normed, taps, out = rest
    (layers, _, _, e, n), d, k, x = kept[4].shape, head.shape[1], fixed(conv.shape[2]) + 1, kept[0]
    room = Room(part.empty(e, n), taps)
    copy(x[0], encoded)
    for layer in loop(layers):
        own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
        room.prepare(own)
        read_in(found.inputs, found.norms, found.x, conv[layer])
        make(own, found, ssm[layer], reset, room)
        product.forward(flattened(x[layer + 1], d), flattened(found.activated, e), own.out_proj)
        add(x[layer + 1], x[layer])
    read_out(out, normed, kept[1][layers], x[layers], norm_f, head)


@kernel("n k", **learn_arguments(9, KEPT, PAST))
def mamba_learn(
    part: Part,
    head: Array,
    norm_f: Array,
    weights: Array,
    conv: Array,
    ssm: Array,
    reset: Array,
    *rest: Array,
) -> None:
    """Write the gradients of all behind the encoder and that of its output; where all is finite, move state and traces.

    gradient is all of them in one piece, into which `gradients`, grad_head and grad_norm_f point. go: outputs and loss
    are finite; facts[0] is 1 where the signals are too. through: gradients go from a state to the one before it. moves:
    all that decides whether traces may move is known here.
    """
    kept, (normed, taps, grad_out, steps, traces, precision), more = rest[:17], rest[17:23], rest[23:]
    through, moves, go, gradients, gradient, grad_head, grad_norm_f, grad_x, signals, *after, facts = more
    (layers, b, t, e, n), d, k, r = kept[4].shape, head.shape[1], fixed(conv.shape[2]) + 1, kept[12].shape[3]
    fill(gradient)
    fill(grad_x)
    of_top = normed, kept[1][layers], kept[0][layers], norm_f, head
    read_out_adjoint(part, grad_out, *of_top, grad_x, grad_norm_f, grad_head)
    room, on_way = Room(part.empty(e, n), taps), RoomBack.of(part, b, t, e, fixed(n), d, k, r)
    scratch = Scratch.of(part, t, e, fixed(n), d, k, r)
    for down in loop(layers):
        layer = integer(layers) - 1 - down
        own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
        room.prepare(own)
        to, of_layer = weights_of(gradients, layer, kept, k), (found, ssm[layer], reset, through)
        back(own, to, *of_layer, grad_x, signals[layer], room, on_way)
    every = Array(signals.pointer, (size(signals),))
    all_finite = go[()] & is_finite(total(every, every.shape[0]))
    facts[0] = select(all_finite, constant(gradient.number, 1), 0)
    with when(all_finite & moves[()] & there(traces)):
        for layer in loop(layers):
            own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
            room.prepare(own)
            move(own, found, steps[()], signals[layer], reset, traces[layer], precision.stored, room, scratch)
            add_past(own, weights_of(gradients, layer, kept, k), traces.shape[1], scratch)
    move_state(all_finite, steps[()], kept[2], kept[4], conv, ssm, reset, *after)


@kernel("n k", **advance_arguments(9, KEPT, PAST))
def mamba_advance(
    part: Part,
    weights: Array,
    conv: Array,
    ssm: Array,
    reset: Array,
    *rest: Array,
) -> None:
    """Move state and traces on where go; with signals, add the gradients through the traces to those of the chunk."""
    kept, (_, taps, steps, traces, precision, go, signals, gradients, *after) = rest[:17], rest[17:]
    (layers, b, t, e, n), d, k, r = kept[4].shape, conv.shape[3], fixed(conv.shape[2]) + 1, kept[12].shape[3]
    room, scratch, none = Room(part.empty(e, n), taps), Scratch.of(part, t, e, fixed(n), d, k, r), part.empty(b, e, n)
    fill(none)
    with when(go[()] & there(traces)):
        for layer in loop(layers):
            own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
            signal = either(there(signals), signals[layer], none)
            room.prepare(own)
            move(own, found, steps[()], signal, reset, traces[layer], precision.stored, room, scratch)
            with when(there(gradients)):
                add_past(own, weights_of(gradients, layer, kept, k), traces.shape[1], scratch)
    move_state(go[()], steps[()], kept[2], kept[4], conv, ssm, reset, *after)


mamba_scan = many_updates(
    "mamba_scan",
    mamba_forward,
    mamba_learn,
    mamba_advance,
    KEPT,
    {"low": given("e r"), "convolved": given("e k")},
)
