"""The cross entropy of labelled steps and its gradient, without a graph.

    loss = sum_s (log sum_v e^out_sv - out_sy) / c,   dL/dout_sv = (softmax(out_s)_v - [v = y]) / c

c is the number of labelled steps, at least 1, or the number of streams. Letters: b streams, u steps, v classes.
"""

from .kernel import Part, flags, given, index, kernel, result
from .language import (
    LANES,
    Array,
    Variable,
    choose,
    constant,
    exp,
    fill,
    integer,
    lanes,
    larger,
    log,
    loop,
    maximum,
    real,
    select,
    total,
)


@kernel(
    "",
    out=given("b u v"),
    y=index("b u"),
    mask=flags("b u"),
    mean=flags(""),  # over labelled steps, else over streams
    grad=result("b u v"),
    loss=result(""),
)
def cross_entropy(part: Part, out: Array, y: Array, mask: Array, mean: Array, grad: Array, loss: Array) -> None:
    """Write the loss and its gradient; where a labelled step's label is no class, the loss is not a number."""
    b, u, v = out.shape
    count, sums = Variable(integer(0)), Variable(constant(out.number, 0))
    for i in loop(b):
        for s in loop(u):
            count.set(count.get() + select(mask[i, s], integer(1), 0))
    share = 1 // real(select(mean[()], larger(count.get(), 1), integer(b)), out.number)
    for i in loop(b):
        for s in loop(u):
            row, to, label = out[i, s], grad[i, s], y[i, s]
            with choose(mask[i, s]) as (labelled, not_labelled):
                with labelled:
                    top = Variable(row[0])
                    for c in loop(1, v):
                        top.set(maximum(top.get(), row[c]))
                    for c in lanes(0, v, LANES):
                        to[c] = exp(row[c] - top.get())
                    whole = total(to, v)
                    for c in lanes(0, v, LANES):
                        to[c] = to[c] * (share // whole)
                    with choose((label >= 0) & (label < v)) as (known, unknown):
                        with known:
                            to[label] = to[label] - share
                            sums.set(sums.get() + (log(whole) + top.get() - row[label]))
                        with unknown:
                            sums.set(sums.get() * constant(out.number, float("nan")))
                with not_labelled:
                    fill(to)
    loss[()] = sums.get() * share
