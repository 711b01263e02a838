"""A stack of Mamba-2 blocks with its head, by one kernel from the encoder to the logits and one all the way back.

    mamba2_forward   x_{l+1} = x_l + out_proj(block_l(norm(x_l))),   out = head(norm_f(x_L)) of the last u steps
    mamba2_learn     dL/dtheta |_(h0 held) + dL/dh0 . Z of every weight behind the encoder, state and traces moved on
    mamba2_advance   state and traces moved on; of signals that are given, what they learn through the traces added

`steps` says by how many steps state and traces move.

They call the kernels of a block's inside and of its traces, which `mamba2_chunk` and `mamba2` have, and the products
with weights of `product`. Weights, their gradients and traces of all layers are given as tables of addresses, which the
caller keeps alive. Letters: l layers, b streams, t steps, u of them new, d width, e channels in g heads, n states,
k conv taps, v outputs, q numbers of all weights.
"""

from functools import partial

from . import product
from .kernel import Part, given, kernel
from .language import (
    INT,
    Array,
    Value,
    constant,
    either,
    fill,
    fixed,
    integer,
    is_finite,
    loop,
    select,
    total,
    when,
)
from .mamba2 import there
from .mamba2_chunk import CONVOLVED, GATES, PROJECTED, mamba2_output, mamba2_states
from .mamba2_layer import (
    Room,
    add_inside,
    back,
    kept_of,
    weights_of,
)
from .mamba2_past import PAST, Past, add_local, add_past, move
from .stack import (
    add,
    advance_arguments,
    copy,
    each_rows,
    flattened,
    forward_arguments,
    is_true,
    learn_arguments,
    move_state,
    read_in,
    read_out,
    read_out_adjoint,
    size,
)
from .stack_scan import many_updates

KEPT = {  # what a chunk leaves for the way back
    "x": "l+1 b t d",
    "norms": "l+1 b t",  # 1 over the root mean square of each row of x
    "inputs": "l b k-1+t d",
    "projected": f"l b k-1+t {PROJECTED}",
    "h": "l b t e n",
    **{f"gates_{name}": f"l {shape}" for name, shape in GATES.items()},
    "y": "l b t e",
    "scale": "l b t",
    "activated": "l b t e",
    "normed": "b t d",
    "taps": "k e+n",  # room
}


@kernel("n k", **forward_arguments(8, KEPT))
def mamba2_forward(
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
    *kept, normed, _, out = rest
    (layers, b, t, e, n), d, k = kept[4].shape, head.shape[1], fixed(conv.shape[2]) + 1
    x, many = kept[0], integer(e) + 2 * fixed(n)
    copy(x[0], encoded)
    for layer in loop(layers):
        own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
        inputs, projected = found.inputs, found.projected
        read_in(inputs, found.norms, found.x, conv[layer])
        for i in loop(b):
            if k > 1:  # of what came before, the convolution alone has a use
                before = Array(projected.address(i, 0, e), (k - 1, many), projected.strides[1:])
                product.forward(before, inputs[i], Array(own.in_proj.address(e), (many, d)))
        each_rows(
            lambda rows, own=own, inputs=inputs, projected=projected: product.forward(
                rows(projected, k - 1), rows(inputs, k - 1), own.in_proj
            ),
            b,
            t,
        )
        of_states = own.conv, own.conv_bias, own.dt_bias, own.A_log, ssm[layer], reset
        mamba2_states.within(projected, *of_states, found.h, *found[5:14])
        mamba2_output.within(found.h, found.C, found.x_in, found.gate, own.D, own.norm, *found[14:])
        after = flattened(x[layer + 1], d)
        product.forward(after, flattened(found.activated, e), own.out_proj)
        add(x[layer + 1], x[layer])
    read_out(out, normed, kept[1][layers], x[layers], norm_f, head)


@kernel("n k", **learn_arguments(8, KEPT, PAST))
def mamba2_learn(
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
    kept, (normed, taps, grad_out, steps), past = [*rest[:17]], rest[17:21], Past.of(*rest[21:26])
    through, moves, go, gradients, gradient, grad_head, grad_norm_f, grad_x, signals, *after, facts = rest[26:]
    (layers, _, t, *_), k = kept[4].shape, fixed(conv.shape[2]) + 1
    first = Array(part.scratch.array(INT, 1).pointer, ())
    first[()] = integer(t) - grad_out.shape[1]
    true = is_true(part)
    fill(gradient)
    fill(grad_x)
    of_top = normed, kept[1][layers], kept[0][layers], norm_f, head
    read_out_adjoint(part, grad_out, *of_top, grad_x, grad_norm_f, grad_head)
    room = Room.of(part, kept, k, there(past.decaying))
    for down in loop(layers):
        layer = integer(layers) - 1 - down
        own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
        to = weights_of(gradients, layer, kept, k)
        back(own, to, found, ssm[layer], reset, through, grad_x, signals[layer], room)
        add_local(own, to, found, reset, past, layer, first, room)
        add_inside(to, found, room)
    every = Array(signals.pointer, (size(signals),))
    all_finite = go[()] & is_finite(total(every, every.shape[0]))
    facts[0] = select(all_finite, constant(gradient.number, 1), 0)
    with when(all_finite & moves[()]):
        for layer in loop(layers):
            own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
            to = weights_of(gradients, layer, kept, k)
            learn = partial(add_past, to, room)
            move(own, found, steps, signals[layer], reset, true, past, layer, taps, room, learn)
    move_state(all_finite, steps[()], kept[2], kept[4], conv, ssm, reset, *after)


@kernel("n k", **advance_arguments(8, KEPT, PAST))
def mamba2_advance(
    part: Part,
    weights: Array,
    conv: Array,
    ssm: Array,
    reset: Array,
    *rest: Array,
) -> None:
    """Move state and traces on where go; with signals, add the gradients through the traces to those of the chunk."""
    kept, (_, taps, steps), past = [*rest[:17]], rest[17:20], Past.of(*rest[20:25])
    go, signals, gradients, conv_after, ssm_after = rest[25:]
    (layers, b, _, e, n), k = kept[4].shape, fixed(conv.shape[2]) + 1
    room, none = Room.of(part, kept, k, there(past.decaying)), part.empty(b, e, n)
    fill(none)
    true = is_true(part)
    with when(go[()]):
        for layer in loop(layers):
            own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
            signal = either(there(signals), signals[layer], none)

            def learn(layer: Value = layer) -> None:
                with when(there(gradients)):
                    add_past(weights_of(gradients, layer, kept, k), room)

            move(own, found, steps, signal, reset, true, past, layer, taps, room, learn)
    move_state(go[()], steps[()], kept[2], kept[4], conv, ssm, reset, conv_after, ssm_after)


mamba2_scan = many_updates(
    "mamba2_scan",
    mamba2_forward,
    mamba2_learn,
    mamba2_advance,
    KEPT,
    {"heads": given("g"), "convolved": given(f"{CONVOLVED} k")},
)
