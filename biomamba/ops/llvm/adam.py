"""Adam (Kingma and Ba 2015) on all weights in one pass, from a gradient that lies in one piece, clipped on the way.

    m = m + (1 - b1) (g - m),   v = b2 v + (1 - b2) g^2,   w = w - rate_0 m / (sqrt(v) rate_1 + eps)

As `pure.Formula` has it. Letters: q numbers of all weights, m weights, r groups of the optimiser.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .kernel import Part, flags, given, index, kernel, pointer, result
from .language import BIT, LANES, Array, Value, Variable, constant, dot, fma, is_finite, lanes, loop, select, sqrt, when


@kernel(
    "",
    gradient=given("q"),
    weights=index("m 6"),  # addresses of w, m and v, where the gradient begins, how many numbers, which group
    rates=given("r 2"),
    options=given("r 5"),  # 1 - b1, b2, 1 - b2, eps, weight decay
    clip=given(""),  # largest norm of the gradient
    bounded=flags(""),  # no step can leave a weight that is not finite
    facts=result("3"),
)
def adam(
    part: Part,
    gradient: Array,
    weights: Array,
    rates: Array,
    options: Array,
    clip: Array,
    bounded: Array,
    facts: Array,
) -> None:
    """Take the step where facts[0] is 1 and all is finite; write the norm to facts[1], to facts[2] 1 where it was."""
    one = constant(gradient.number, 1)
    norm = sqrt(dot(gradient, gradient, gradient.shape[0]))
    share = clip[()] // (norm + 1e-6)
    scale, goes = select(share < 1, share, one), Variable((facts[0] > 0) & is_finite(norm))
    with when(goes.get() & (bounded[()] ^ constant(BIT, 1))):
        sums = Variable(constant(gradient.number, 0))
        for own, count in each(gradient, weights, rates, options):
            for c in loop(count):
                sums.set(sums.get() + stepped(own, scale, c)[0])
        goes.set(is_finite(sums.get()))
    with when(goes.get()):
        for own, count in each(gradient, weights, rates, options):
            for c in lanes(0, count, LANES):
                own.weight[c], own.first[c], own.second[c] = stepped(own, scale, c)
    facts[1] = norm
    facts[2] = select(goes.get(), one, 0)


class Own(NamedTuple):
    """What belongs to one weight."""

    weight: Array
    first: Array  # averages of the gradient and of its square
    second: Array
    gradient: Array
    rates: Array
    options: Array


def each(gradient: Array, weights: Array, rates: Array, options: Array) -> Iterator[tuple[Own, Value]]:
    """Write a loop over the weights: yield what belongs to one, and how many numbers it has."""
    for at in loop(weights.shape[0]):
        count, group = weights[at, 4], weights[at, 5]
        weight, first, second = (Array(pointer(weights[at, i], gradient.stored), (count,)) for i in range(3))
        own = Array(gradient.address(weights[at, 3]), (count,))
        yield Own(weight, first, second, own, rates[group], options[group]), count


def stepped(own: Own, scale: Value, c: Value) -> tuple[Value, Value, Value]:
    """Return weights and averages after the step."""
    less, keep, new, eps, decay = (own.options[i] for i in range(5))
    weight, first, second = own.weight[c], own.first[c], own.second[c]
    g = fma(decay, weight, own.gradient[c] * scale)
    first, second = fma(less, g - first, first), fma(new * g, g, second * keep)
    return weight - first * own.rates[0] // (sqrt(second) * own.rates[1] + eps), first, second
