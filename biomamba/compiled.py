"""The whole update, the optimiser's step too, as one graph of fused kernels: the numbers of `update.update`.

    trace learn and the optimiser's formula once for a kind of chunk  ->  `compile_graph`  ->  call it with tensors

The graph takes weights, moments, state, trace and chunk; it writes weights, moments and trace in place.
It is made anew for each kind of chunk (its shapes, whether a sequence begins in it, whether it is labelled), and kept
on disk.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .graphs import check_compiler, compile_graph
from .model import Model
from .moments import Moments
from .pure import Formula, Update, graph
from .rules.base import LearningRule
from .state import Tree, flat, tree_map
from .step import Step
from .stream import Task
from .update import UpdateInput, UpdateOutput, check_labels, finite, stepped_by, update

THIN = 4  # rows of a product of matrices, or numbers that it sums over, at most, to be taken apart


class Kind(NamedTuple):
    """What a graph is made for."""

    x: tuple[torch.Size, torch.dtype]
    y: tuple[torch.Size, torch.dtype]
    info: tuple[tuple[str, torch.Size, torch.dtype], ...]
    advance: int
    resets: bool
    labelled: bool
    formulas: tuple[Formula, ...]  # of each group of the optimiser, where it steps inside
    threads: int  # which our kernels take as the number of parts
    bounded: bool  # no step can leave a weight that is not finite, so none needs to be looked at


class Graph(NamedTuple):
    """A compiled update."""

    call: Callable[..., Sequence[Tensor]]
    kept: list[bool]  # of each tensor of the trace: it is moved in place


class Compiled:
    """`update.update` of one model as graphs, one for each kind of chunk.

    Adam and SGD step inside the graph, which leaves no `.grad`; other optimisers and rarer options of these step after
    it.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        rule: LearningRule,
        step: Step,
        clip: float | None,
        first: Callable[..., UpdateOutput] | None = None,
    ) -> None:
        """Take what an update needs, and what makes those before the optimiser has its averages (default: `update`).

        Raises ValueError where this machine has no compiler.
        """
        check_compiler()
        self.whole, self.step = Update(model, task, rule, clip), step
        self.first = first or partial(update, model, task, rule, step, clip)
        self.parameters = [*model.parameters()]
        self.trainable = step.parameters
        self.moments = Moments(step.optimizer, self.trainable, clip)
        self.graphs: dict[Kind, Graph] = {}
        self.past: list[Tensor] = []  # state and trace as the last update left them: known to be of the right form

    def __call__(self, inputs: UpdateInput, advance: int, labelled: bool) -> UpdateOutput:
        """Return what `update.update` returns; see there."""
        inside = labelled and self.moments.known
        if inside and not self.moments.find():  # torch makes an optimiser's averages at its first step
            return self.first(inputs, advance, labelled)
        past = flat([inputs.state, inputs.trace])
        if [*map(id, past)] != [*map(id, self.past)]:
            inputs = self._checked(inputs)
            past = flat([inputs.state, inputs.trace])
        formulas = self.moments.formulas if inside else ()
        x, y = inputs.x, inputs.chunk.y
        threads = torch.get_num_threads()
        info = tuple((name, own.shape, own.dtype) for name, own in inputs.chunk.info.items())
        of, resets = ((x.shape, x.dtype), (y.shape, y.dtype), info), inputs.reset is not None
        bounded = inside and self.moments.bounded
        kind = Kind(*of, advance, resets, labelled, formulas, threads, bounded)
        made = self.graphs.get(kind)
        if made is None:
            made = self.graphs[kind] = self._make(kind, inputs)
        own = self.moments
        given = [*own.tensors, *own.counts, own.paced()] if inside else []
        if x.device.type == "cpu":  # a look at a GPU's numbers would wait for it
            self.whole.model.check_tokens(x)
        try:
            result = made.call(
                *self.parameters, *given, *flat([inputs.x, inputs.reset, inputs.chunk]), *past, *flat(inputs.reading)
            )
        except RuntimeError:  # of a graph's own check of every index
            if not y.is_floating_point():
                check_labels(inputs.chunk, self.whole.model.head.out_features)
            raise
        out, loss, spikes, forward_finite, *others = result
        rest, kept = iter(others), iter(made.kept)
        norm, gradient_finite = (next(rest), next(rest)) if labelled else (None, None)
        state = tree_map(lambda _: next(rest), inputs.state)
        trace = (
            inputs.trace if all(made.kept) else tree_map(lambda old: old if next(kept) else next(rest), inputs.trace)
        )
        self.past = flat([state, trace])
        read = [next(rest), next(rest)] if labelled and inputs.reading else []
        output = UpdateOutput(out, loss, spikes, forward_finite, state, trace, norm, gradient_finite, list(rest), read)
        return output if inside else stepped_by(self.step, output)

    def _checked(self, inputs: UpdateInput) -> UpdateInput:
        """Return what an update reads, state and trace in one piece: a graph looks at no size. Raises for others."""
        self.whole.model.check_state(inputs.state, len(inputs.x))
        self.whole.rule.check_trace(inputs.trace, len(inputs.x))
        state, trace = (tree_map(Tensor.contiguous, tree) for tree in (inputs.state, inputs.trace))
        return inputs._replace(state=state, trace=trace)

    def _make(self, kind: Kind, inputs: UpdateInput) -> Graph:
        """Return the graph of a kind of chunk; nothing is changed."""
        kept: list[bool] = []
        weights = [parameter.detach() for parameter in self.parameters]
        held = self.moments
        each = len(held.tensors) // len(self.trainable)
        moments = [held.tensors[i * each : (i + 1) * each] for i in range(len(self.trainable))] if kind.formulas else []
        template = [weights, moments, [*held.counts, held.rates] if kind.formulas else [], inputs]

        def whole(weights: list[Tensor], moments: list[list[Tensor]], pace: list[Tensor], inputs: UpdateInput) -> Tree:
            output = self.whole.with_weights(weights, inputs, kind.advance, kind.labelled)
            gradients = output.gradients
            if kind.formulas:
                assert output.gradient_finite is not None
                learning = [w for w, parameter in zip(weights, self.parameters, strict=True) if parameter.requires_grad]
                *counts, rates = pace
                old, new = [*counts], [count + 1 for count in counts]
                for number, weight, gradient, own in zip(held.group_of, learning, gradients, moments, strict=True):
                    old += [weight, *own]
                    new += kind.formulas[number].stepped(rates[number].unbind(), weight, gradient, own)
                gradient_finite = output.gradient_finite
                if not kind.bounded:  # a second pass over weights and averages
                    gradient_finite = gradient_finite & finite(new[len(counts) :: 1 + each])
                    output = output._replace(gradient_finite=gradient_finite)
                for before, now in zip(old, new, strict=True):
                    before.copy_(torch.where(gradient_finite, now, before))
                gradients = ()
            after = flat(output.trace)
            kept[:] = [old is new for old, new in zip(flat(inputs.trace), after, strict=True)]
            moved = [tensor for tensor, same in zip(after, kept, strict=True) if not same]
            norm = (
                [] if output.norm is None or output.gradient_finite is None else [output.norm, output.gradient_finite]
            )
            first = [output.out, output.loss, output.spikes, output.forward_finite, *norm]
            return [*first, output.state, moved, [*output.read], [*gradients]]

        products = {torch.ops.aten.mm.default: thin}
        made = graph(whole, *template, table=products)
        return Graph(compile_graph(made, flat(template)), kept)


def thin(a: Tensor, b: Tensor) -> Tensor:
    """Return a b; where one side is thin, as products that become part of the kernels around it.

    A single step multiplies a few rows: that is done before a library's product has begun. And the gradient of a
    weight, then the outer product of two vectors, need not be written.
    """
    if a.shape[0] <= THIN < a.shape[1]:
        return (a[:, :, None] * b).sum(1)
    if a.shape[1] > THIN or 1 in (a.shape[0], b.shape[1]):
        return NotImplemented  # type: ignore[no-any-return] # which leaves it to torch
    total = a[:, :1] * b[0]
    for i in range(1, a.shape[1]):
        total = total + a[:, i, None] * b[i]
    return total
