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

from collections.abc import Callable
from functools import partial

from . import product
from .kernel import Argument, Part, flags, given, index, kernel, result
from .language import (
    INT,
    LANES,
    Array,
    Value,
    choose,
    constant,
    dot,
    either,
    fill,
    fixed,
    fma,
    integer,
    is_finite,
    lanes,
    loop,
    real,
    select,
    sqrt,
    total,
    when,
)
from .mamba2 import seen, there
from .mamba2_chunk import EPS, GATES, PROJECTED, mamba2_output, mamba2_states
from .mamba2_layer import (
    Room,
    add,
    add_inside,
    add_norm_adjoint,
    back,
    copy,
    each_rows,
    flattened,
    kept_of,
    size,
    weights_of,
)
from .mamba2_past import PAST, Past, add_local, add_past, move

STATE = {"conv": given("l b k-1 d"), "ssm": given("l b e n"), "reset": flags("b t", optional=True)}
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
AFTER = {"conv_after": result("l b k-1 d"), "ssm_after": result("l b e n")}


@kernel(
    "n k",
    head=given("v d"),
    norm_f=given("d"),
    weights=index("l 8"),
    encoded=given("b t d"),
    **STATE,
    **{name: result(shape) for name, shape in KEPT.items()},
    out=result("b u v"),
)
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
        for i in loop(b):
            copy(Array(inputs.address(i), (k - 1, d)), conv[layer, i])
            for s in loop(t):
                found.norms[i, s] = normalised(inputs[i, s + (k - 1)], found.x[i, s])
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
    for i in loop(b):
        for s in loop(t):
            kept[1][layers, i, s] = normalised(normed[i, s], x[layers, i, s])
            for c in lanes(0, d, LANES):
                normed[i, s, c] = normed[i, s, c] * norm_f[c]
    new_rows(lambda of_out, of_normed: product.forward(of_out, of_normed, head), out, normed)


@kernel(
    "n k",
    head=given("v d"),
    norm_f=given("d"),
    weights=index("l 8"),
    **STATE,
    **{name: result(shape) for name, shape in KEPT.items()},
    grad_out=given("b u v"),
    steps=index(""),
    **PAST,
    through=flags(""),
    moves=flags(""),
    true=flags(""),
    go=flags(""),
    gradients=index("l 8"),
    gradient=result("q"),
    grad_head=result("v d"),
    grad_norm_f=result("d"),
    grad_encoded=result("b t d"),
    signals=result("l b e n"),
    **AFTER,
    facts=result("3"),
)
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
    through, moves, true, go, gradients, gradient, grad_head, grad_norm_f, grad_x, signals, *after, facts = rest[26:]
    (layers, b, t, *_), d, k = kept[4].shape, head.shape[1], fixed(conv.shape[2]) + 1
    first = Array(part.scratch.array(INT, 1).pointer, ())
    first[()] = integer(t) - grad_out.shape[1]
    fill(gradient)
    fill(grad_x)
    weighted = part.empty(d)
    new_rows(lambda of_out, of_x: product.to_inputs(of_x, of_out, head), grad_out, grad_x)
    new_rows(lambda of_out, of_normed: product.to_weight(grad_head, of_out, of_normed), grad_out, normed)
    for i in loop(b):
        for s in loop(t):
            row, x, r = grad_x[i, s], kept[0][layers, i, s], kept[1][layers, i, s]
            for c in lanes(0, d, LANES):
                grad_norm_f[c] = fma(row[c], x[c] * r, grad_norm_f[c])
                weighted[c] = row[c] * norm_f[c]
                row[c] = 0
            add_norm_adjoint(row, weighted, x, r)
    room = Room.of(part, kept, k, there(past.sums))
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
    move_state(all_finite, steps[()], kept, conv, ssm, reset, *after)


@kernel(
    "n k",
    weights=index("l 8"),
    **STATE,
    **{name: result(shape) for name, shape in KEPT.items()},
    steps=index(""),
    **PAST,
    true=flags(""),
    go=flags(""),
    signals=Argument(("l", "b", "e", "n"), optional=True),
    gradients=Argument(("l", "8"), "index", optional=True),
    **AFTER,
)
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
    true, go, signals, gradients, conv_after, ssm_after = rest[25:]
    (layers, b, _, e, n), k = kept[4].shape, fixed(conv.shape[2]) + 1
    room, none = Room.of(part, kept, k, there(past.sums)), part.empty(b, e, n)
    fill(none)
    with when(go[()]):
        for layer in loop(layers):
            own, found = weights_of(weights, layer, kept, k), kept_of(kept, layer)
            signal = either(there(signals), signals[layer], none)

            def learn(layer: Value = layer) -> None:
                with when(there(gradients)):
                    add_past(weights_of(gradients, layer, kept, k), room)

            move(own, found, steps, signal, reset, true, past, layer, taps, room, learn)
    move_state(go[()], steps[()], kept, conv, ssm, reset, conv_after, ssm_after)


def move_state(
    go: Value,
    steps: Value,
    kept: list[Array],
    conv: Array,
    ssm: Array,
    reset: Array,
    conv_after: Array,
    ssm_after: Array,
) -> None:
    """Write the state `steps` steps on where go, else that before them."""
    (layers, b, *_), inputs, k = kept[4].shape, kept[2], fixed(conv.shape[2]) + 1
    with choose(go & (steps > 0)) as (moves, stays):
        with moves:
            for layer in loop(layers):
                for i in loop(b):
                    copy(ssm_after[layer, i], kept[4][layer, i, steps - 1])
                    # the next step's taps see what the last step's saw, less the oldest
                    for tap, sees in enumerate(seen(reset, i, steps - 1, k)[1:]):
                        for c in lanes(0, conv.shape[3], LANES):
                            row = inputs[layer, i, steps + tap, c]
                            conv_after[layer, i, tap, c] = select(sees, row, 0)
        with stays:
            copy(ssm_after, ssm)
            copy(conv_after, conv)


def new_rows(work: Callable[[Array, Array], None], out: Array, x: Array) -> None:
    """Have the work done on the rows of out (b, u, v), and those of the last u steps of x (b, t, d)."""
    (b, u, v), (_, t, d) = out.shape, x.shape
    with choose(integer(u) >= integer(t)) as (all_of_them, last):
        with all_of_them:
            work(flattened(out, v), flattened(x, d))
        with last:
            for i in loop(b):
                work(out[i], Array(x.address(i, integer(t) - u), (u, d)))


def normalised(to: Array, x: Array) -> Value:
    """Write x over its root mean square; return 1 over that."""
    d = x.shape[0]
    r = 1 // sqrt(dot(x, x, d) // real(d, x.number) + EPS)
    for c in lanes(0, d, LANES):
        to[c] = x[c] * r
    return r
