"""What stacks of blocks share, whatever lies inside a layer: norms, residual sums, the head, and how state moves on.

    x_{l+1} = x_l + block_l(norm(x_l)),   out = head(norm_f(x_L)) of the last u steps

Letters: l layers, b streams, t steps, u of them new, d width, e channels, n states, k conv taps, v outputs.
"""

from collections.abc import Callable, Mapping

from . import product
from .kernel import Argument, Part, flags, given, index, result
from .language import (
    BIT,
    BYTE,
    LANES,
    Array,
    Size,
    Value,
    choose,
    constant,
    dot,
    fixed,
    fma,
    integer,
    lanes,
    loop,
    real,
    select,
    sqrt,
)
from .mamba2 import seen

STATE = {"conv": given("l b k-1 d"), "ssm": given("l b e n"), "reset": flags("b t", optional=True)}
AFTER = {"conv_after": result("l b k-1 d"), "ssm_after": result("l b e n")}
EPS = 1e-5  # of the norms, as in the official models


def forward_arguments(weights: int, kept: Mapping[str, str]) -> dict[str, Argument]:
    """Return what a forward kernel is called with; weights: of a layer, kept: shapes of what a chunk leaves."""
    top = {"head": given("v d"), "norm_f": given("d"), "weights": index(f"l {weights}"), "encoded": given("b t d")}
    return top | STATE | {name: result(shape) for name, shape in kept.items()} | {"out": result("b u v")}


def learn_arguments(weights: int, kept: Mapping[str, str], past: Mapping[str, Argument]) -> dict[str, Argument]:
    """Return what a kernel all the way back is called with; past: what is given of traces."""
    top = {"head": given("v d"), "norm_f": given("d"), "weights": index(f"l {weights}")}
    chunk = {name: result(shape) for name, shape in kept.items()} | {"grad_out": given("b u v"), "steps": index("")}
    go = {"through": flags(""), "moves": flags(""), "go": flags("")}
    to = {
        "gradients": index(f"l {weights}"),
        "gradient": result("q"),
        "grad_head": result("v d"),
        "grad_norm_f": result("d"),
        "grad_encoded": result("b t d"),
        "signals": result("l b e n"),
    }
    return top | STATE | chunk | dict(past) | go | to | AFTER | {"facts": result("3")}


def advance_arguments(weights: int, kept: Mapping[str, str], past: Mapping[str, Argument]) -> dict[str, Argument]:
    """Return what a kernel that moves on is called with."""
    chunk = {name: result(shape) for name, shape in kept.items()} | {"steps": index("")}
    learned = {
        "signals": Argument(("l", "b", "e", "n"), optional=True),
        "gradients": Argument(("l", str(weights)), "index", optional=True),
    }
    return {"weights": index(f"l {weights}")} | STATE | chunk | dict(past) | {"go": flags("")} | learned | AFTER


def read_in(inputs: Array, norms: Array, x: Array, conv: Array) -> None:
    """Write what a layer reads (b, k-1+t, d), the conv state and then x normed, and 1 over the root mean square."""
    (b, t, d), (_, before, _) = x.shape, conv.shape
    for i in loop(b):
        copy(Array(inputs.address(i), (before, d)), conv[i])
        for s in loop(t):
            norms[i, s] = normalised(inputs[i, s + fixed(before)], x[i, s])


def read_out(out: Array, normed: Array, norms: Array, x: Array, norm_f: Array, head: Array) -> None:
    """Write the logits of the last steps, norm_f(x) and 1 over the root mean square of x."""
    b, t, d = x.shape
    for i in loop(b):
        for s in loop(t):
            norms[i, s] = normalised(normed[i, s], x[i, s])
            for c in lanes(0, d, LANES):
                normed[i, s, c] = normed[i, s, c] * norm_f[c]
    new_rows(lambda of_out, of_normed: product.forward(of_out, of_normed, head), out, normed)


def read_out_adjoint(
    part: Part,
    grad_out: Array,
    normed: Array,
    norms: Array,
    x: Array,
    norm_f: Array,
    head: Array,
    grad_x: Array,
    grad_norm_f: Array,
    grad_head: Array,
) -> None:
    """Add the gradients of `read_out` to grad_x, grad_norm_f and grad_head, which hold zeros."""
    b, t, d = x.shape
    weighted = part.empty(d)
    new_rows(lambda of_out, of_x: product.to_inputs(of_x, of_out, head), grad_out, grad_x)
    new_rows(lambda of_out, of_normed: product.to_weight(grad_head, of_out, of_normed), grad_out, normed)
    for i in loop(b):
        for s in loop(t):
            row, of, r = grad_x[i, s], x[i, s], norms[i, s]
            for c in lanes(0, d, LANES):
                grad_norm_f[c] = fma(row[c], of[c] * r, grad_norm_f[c])
                weighted[c] = row[c] * norm_f[c]
                row[c] = 0
            add_norm_adjoint(row, weighted, of, r)


def move_state(
    go: Value,
    steps: Value,
    inputs: Array,
    h: Array,
    conv: Array,
    ssm: Array,
    reset: Array,
    conv_after: Array,
    ssm_after: Array,
) -> None:
    """Write the state of all layers `steps` steps on where go, else that before them."""
    (layers, b, *_), k = h.shape, fixed(conv.shape[2]) + 1
    with choose(go & (steps > 0)) as (moves, stays):
        with moves:
            for layer in loop(layers):
                for i in loop(b):
                    copy(ssm_after[layer, i], h[layer, i, steps - 1])
                    # the next step's taps see what the last step's saw, less the oldest
                    for tap, sees in enumerate(seen(reset, i, steps - 1, k)[1:]):
                        for c in lanes(0, conv.shape[3], LANES):
                            row = inputs[layer, i, steps + tap, c]
                            conv_after[layer, i, tap, c] = select(sees, row, 0)
        with stays:
            copy(ssm_after, ssm)
            copy(conv_after, conv)


def is_true(part: Part) -> Array:
    """Return a flag that is set."""
    flag = Array(part.scratch.array(BYTE, 1).pointer, ())
    flag[()] = constant(BIT, 1)
    return flag


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


def each_rows(work: Callable[..., None], b: Size, t: Size) -> None:
    """Have the work done on the rows of all streams and steps, as many at once as lie at equal distances.

    It is given a function that returns the rows (rows, c) of an array (b, first + t, c), the first ones left out.
    """
    with choose(integer(b) > integer(t)) as (streams, steps):
        with streams:
            for s in loop(t):
                work(lambda of, first, s=s: Array(of.address(0, s + first), (b, of.shape[2]), (of.strides[0], 1)))
        with steps:
            for i in loop(b):
                work(lambda of, first, i=i: Array(of.address(i, first), (t, of.shape[2]), (of.strides[1], 1)))


def add_norm_adjoint(to: Array, grad: Array, x: Array, r: Value) -> None:
    """Add the gradient of x, of which x r is what the gradient is of."""
    d = x.shape[0]
    along = dot(grad, x, d) * r * r // real(d, x.number)
    for c in lanes(0, d, LANES):
        to[c] = fma(r, grad[c] - x[c] * along, to[c])


def copy(to: Array, of: Array) -> None:
    """Write an array's numbers to another, both in one piece."""
    flat, source = Array(to.pointer, (size(to),)), Array(of.pointer, (size(to),))
    for c in lanes(0, flat.shape[0], LANES):
        flat[c] = source[c]


def add(to: Array, of: Array) -> None:
    """Add an array's numbers to another's, both in one piece."""
    flat, source = Array(to.pointer, (size(to),)), Array(of.pointer, (size(to),))
    for c in lanes(0, flat.shape[0], LANES):
        flat[c] = flat[c] + source[c]


def flattened(array: Array, columns: Size) -> Array:
    """Return an array as rows of so many columns."""
    return Array(array.pointer, (integer(size(array)) // columns, columns))


def size(array: Array) -> Value:
    """Return how many numbers an array holds."""
    count = integer(1)
    for own in array.shape:
        count = count * own
    return count
