"""Many updates of a stack of Mamba-2 blocks by cross entropy and Adam in one call, where the data lies ready.

    for each of s updates:  encode, forward, cross entropy, back, state and traces on, Adam's step

Each reads the weights that the one before it left. The letters of `mamba2_stack`; s updates, c tokens, i values.
"""

from . import product
from .adam import adam
from .cross_entropy import cross_entropy
from .kernel import Argument, Part, evaluated, flags, given, index, kernel, result
from .language import (
    BIT,
    BYTE,
    INT,
    Array,
    Value,
    Variable,
    choose,
    constant,
    integer,
    is_finite,
    loop,
    select,
    total,
)
from .mamba2 import there
from .mamba2_chunk import CONVOLVED
from .mamba2_past import PAST
from .mamba2_stack import KEPT, mamba2_advance, mamba2_forward, mamba2_learn
from .stack import add, copy, flattened, size


@kernel(
    "n k",
    head=given("v d"),
    norm_f=given("d"),
    weights=index("l 8"),
    encoder=given("o p"),  # (c, d) rows of an embedding, or (d, i) of a linear layer
    bias=Argument(("d",), optional=True),  # of a linear layer
    tokens=Argument(("s", "b", "t"), "index", optional=True),
    values=Argument(("s", "b", "t", "p"), optional=True),
    labels=index("s b t"),
    mask=flags("s b t"),
    reset=flags("s b t", optional=True),
    conv=result("l b k-1 d"),
    ssm=result("l b e n"),
    heads=given("g"),  # any weights of these sizes
    taps=given(f"{CONVOLVED} k"),
    **PAST,
    through=flags(""),
    true=flags(""),
    mean=flags(""),
    gradients=index("l 8"),
    gradient=result("q"),
    grad_head=result("v d"),
    grad_norm_f=result("d"),
    grad_encoder=result("o p"),
    grad_bias=Argument(("d",), written=True, optional=True),
    signals=result("l b e n"),
    table=index("m 6"),
    rates=given("s r 2"),  # of each step that may be taken, in turn
    options=given("r 5"),
    clip=given(""),
    bounded=flags(""),
    out=result("s b t v"),
    losses=result("s"),
    facts=result("s 3"),
)
def mamba2_scan(part: Part, *arrays: Array) -> None:
    """Write what is said and lost at each update, facts as `mamba2_learn` and `adam` do; state and weights in place."""
    head, norm_f, weights, encoder, bias, tokens, values, labels, mask, reset, conv, ssm, heads, taps, *rest = arrays
    past, (through, true, mean, gradients, gradient, grad_head, grad_norm_f, grad_encoder) = rest[:5], rest[5:13]
    grad_bias, signals, table, rates, options, clip, bounded, out, losses, facts = rest[13:]
    (many, b, t, v), (layers, _, e, n), d = out.shape, ssm.shape, norm_f.shape[0]
    sizes = {"l": layers, "b": b, "t": t, "d": d, "k": taps.shape[1], "e": e, "n": n, "g": heads.shape[0]}
    kept = [part.empty(*(evaluated(word, sizes) for word in shape.split())) for shape in KEPT.values()]
    conv_after, ssm_after = part.empty(*conv.shape), part.empty(*ssm.shape)
    encoded, grad_encoded, grad_out = part.empty(b, t, d), part.empty(b, t, d), part.empty(b, t, v)
    go, taken = Array(part.scratch.array(BYTE, 1).pointer, ()), Variable(integer(0))
    none, none_of = Array(signals.pointer, signals.shape), Array(gradients.pointer, gradients.shape)
    none.there = none_of.there = constant(BIT, 0)  # nothing is learned
    all_steps = Array(part.scratch.array(INT, 1).pointer, ())
    all_steps[()] = integer(t)
    for s in loop(many):
        begins, x = reset[s], (tokens[s], values[s])
        begins.there, x[0].there = reset.there, tokens.there
        encode(encoded, *x, encoder, bias)
        mamba2_forward.within(head, norm_f, weights, encoded, conv, ssm, begins, *kept, out[s])
        with choose(any_of(mask[s])) as (labelled, not_labelled):
            with labelled:
                cross_entropy.within(out[s], labels[s], mask[s], mean, grad_out, Array(losses.address(s), ()))
                go[()] = is_finite(sum_of(out[s]) + losses[s])
                of_chunk = conv, ssm, begins, *kept, grad_out, all_steps, *past, through, true, true, go
                to = gradients, gradient, grad_head, grad_norm_f, grad_encoded, signals, conv_after, ssm_after, facts[s]
                mamba2_learn.within(head, norm_f, weights, *of_chunk, *to)
                learn_encoder(grad_encoder, grad_bias, grad_encoded, *x)
                adam.within(gradient, table, rates[taken.get()], options, clip, bounded, facts[s])
                taken.set(taken.get() + select(facts[s, 2] > 0, integer(1), 0))
            with not_labelled:
                finite = is_finite(sum_of(out[s]))
                go[()] = finite
                losses[s], facts[s, 1], facts[s, 2] = 0, 0, 0
                facts[s, 0] = select(finite, constant(facts.number, 1), 0)
                of_chunk = conv, ssm, begins, *kept, all_steps, *past, true, go
                mamba2_advance.within(weights, *of_chunk, none, none_of, conv_after, ssm_after)
        copy(conv, conv_after)
        copy(ssm, ssm_after)


def encode(encoded: Array, tokens: Array, values: Array, encoder: Array, bias: Array) -> None:
    """Write what the encoder says: rows of an embedding, or a linear layer of values."""
    b, t, d = encoded.shape
    with choose(there(tokens)) as (of_tokens, of_values):
        with of_tokens:
            for i in loop(b):
                for s in loop(t):
                    copy(encoded[i, s], encoder[tokens[i, s]])
        with of_values:
            product.forward(flattened(encoded, d), flattened(values, values.shape[2]), encoder)
            for i in loop(b):
                for s in loop(t):
                    add(encoded[i, s], bias)


def learn_encoder(grad_encoder: Array, grad_bias: Array, grad_encoded: Array, tokens: Array, values: Array) -> None:
    """Add the gradient of the encoder."""
    b, t, d = grad_encoded.shape
    with choose(there(tokens)) as (of_tokens, of_values):
        with of_tokens:
            for i in loop(b):
                for s in loop(t):
                    add(grad_encoder[tokens[i, s]], grad_encoded[i, s])
        with of_values:
            product.to_weight(grad_encoder, flattened(grad_encoded, d), flattened(values, values.shape[2]))
            for i in loop(b):
                for s in loop(t):
                    add(grad_bias, grad_encoded[i, s])


def any_of(mask: Array) -> Value:
    """Say whether a flag is set."""
    found = Variable(constant(BIT, 0))
    for i in loop(mask.shape[0]):
        for s in loop(mask.shape[1]):
            found.set(found.get() | mask[i, s])
    return found.get()


def sum_of(array: Array) -> Value:
    """Return the sum of an array's numbers, which lie in one piece."""
    return total(Array(array.pointer, (size(array),)), size(array))
