"""Many updates of a stack of blocks by cross entropy and Adam in one call, where the data lies ready.

    for each of s updates:  encode, forward, cross entropy, back, state and traces on, Adam's step

Each reads the weights that the one before it left. The letters of a stack's kernels; s updates, c tokens, i values.
"""

from collections.abc import Mapping

from . import product
from .adam import adam
from .cross_entropy import cross_entropy
from .kernel import Argument, Kernel, Part, evaluated, flags, given, index, result
from .language import (
    BIT,
    BYTE,
    INT,
    Array,
    Size,
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
from .stack import add, copy, flattened, is_true, size

DATA = {
    "encoder": given("o p"),  # (c, d) rows of an embedding, or (d, i) of a linear layer
    "bias": Argument(("d",), optional=True),  # of a linear layer
    "tokens": Argument(("s", "b", "t"), "index", optional=True),
    "values": Argument(("s", "b", "t", "p"), optional=True),
    "labels": index("s b t"),
    "mask": flags("s b t"),
    "reset": flags("s b t", optional=True),
}
TO = {
    "gradient": result("q"),
    "grad_head": result("v d"),
    "grad_norm_f": result("d"),
    "grad_encoder": result("o p"),
    "grad_bias": Argument(("d",), written=True, optional=True),
    "signals": result("l b e n"),
}
STEP = {
    "table": index("w 6"),
    "rates": given("s j 2"),  # of each step that may be taken, in turn
    "options": given("j 5"),
    "clip": given(""),
    "bounded": flags(""),
}


def many_updates(
    name: str, forward: Kernel, learn: Kernel, advance: Kernel, kept: Mapping[str, str], like: Mapping[str, Argument]
) -> Kernel:
    """Return the kernel of many updates by a stack's kernels.

    It writes what is said and lost at each update, and facts as `learn` and `adam` do; state and weights in place.
    kept: what a chunk leaves; its sizes are those of state and head, and of `like`: any weights that have the others.
    """
    names = [*learn.arguments]
    past = {own: learn.arguments[own] for own in names[names.index("steps") + 1 : names.index("through")]}
    arguments = {
        **{own: learn.arguments[own] for own in ("head", "norm_f", "weights")},
        **DATA,
        "conv": result("l b k-1 d"),
        "ssm": result("l b e n"),
        **like,
        **past,
        "through": flags(""),
        "mean": flags(""),
        "gradients": learn.arguments["gradients"],
        **TO,
        **STEP,
        "out": result("s b t v"),
        "losses": result("s"),
        "facts": result("s 3"),
    }

    def write(part: Part, *arrays: Array) -> None:
        of = dict(zip(arguments, arrays, strict=True))
        top, weights = (of["head"], of["norm_f"], of["weights"]), of["weights"]
        conv, ssm, tokens, mask, reset = of["conv"], of["ssm"], of["tokens"], of["mask"], of["reset"]
        out, losses, facts = of["out"], of["losses"], of["facts"]
        (many, b, t, v), (layers, _, e, n), d = out.shape, ssm.shape, of["norm_f"].shape[0]
        sizes: dict[str, Size] = {"l": layers, "b": b, "t": t, "d": d, "e": e, "n": n}
        for own, argument in like.items():
            sizes |= {word: size for word, size in zip(argument.shape, of[own].shape, strict=True) if word.isalpha()}
        found = [part.empty(*(evaluated(word, sizes) for word in shape.split())) for shape in kept.values()]
        after = part.empty(*conv.shape), part.empty(*ssm.shape)
        encoded, grad_encoded, grad_out = part.empty(b, t, d), part.empty(b, t, d), part.empty(b, t, v)
        go, taken = Array(part.scratch.array(BYTE, 1).pointer, ()), Variable(integer(0))
        none, none_of = Array(of["signals"].pointer, of["signals"].shape), Array(weights.pointer, weights.shape)
        none.there = none_of.there = constant(BIT, 0)  # nothing is learned
        moves, all_steps = is_true(part), Array(part.scratch.array(INT, 1).pointer, ())
        all_steps[()] = integer(t)
        remembered = [of[own] for own in past]
        for s in loop(many):
            begins, x = reset[s], (tokens[s], of["values"][s])
            begins.there, x[0].there = reset.there, tokens.there
            encode(encoded, *x, of["encoder"], of["bias"])
            forward.within(*top, encoded, conv, ssm, begins, *found, out[s])
            chunk = conv, ssm, begins, *found
            with choose(any_of(mask[s])) as (labelled, not_labelled):
                with labelled:
                    cross_entropy.within(
                        out[s], of["labels"][s], mask[s], of["mean"], grad_out, Array(losses.address(s), ())
                    )
                    go[()] = is_finite(sum_of(out[s]) + losses[s])
                    moved = *remembered, of["through"], moves, go, of["gradients"]
                    to = of["gradient"], of["grad_head"], of["grad_norm_f"], grad_encoded, of["signals"]
                    learn.within(*top, *chunk, grad_out, all_steps, *moved, *to, *after, facts[s])
                    learn_encoder(of["grad_encoder"], of["grad_bias"], grad_encoded, *x)
                    step = of["rates"][taken.get()], of["options"], of["clip"], of["bounded"]
                    adam.within(of["gradient"], of["table"], *step, facts[s])
                    taken.set(taken.get() + select(facts[s, 2] > 0, integer(1), 0))
                with not_labelled:
                    finite = is_finite(sum_of(out[s]))
                    go[()] = finite
                    losses[s], facts[s, 1], facts[s, 2] = 0, 0, 0
                    facts[s, 0] = select(finite, constant(facts.number, 1), 0)
                    advance.within(weights, *chunk, all_steps, *remembered, go, none, none_of, *after)
            copy(conv, after[0])
            copy(ssm, after[1])

    write.__name__ = name
    return Kernel(write, learn.constants, arguments)


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
