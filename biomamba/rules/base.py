"""A learning rule stands where `loss.backward()` stood: trace = rule.backward(loss, tapes, trace).

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z

The first term is autograd's. `gradient` gives the second, `advance` moves Z = dh0/dtheta on to where the next chunk
begins, and `gradient_and_advance` does both: in one pass over the trace where that is large, as it is by far the
largest thing an online learner holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..blocks.base import Block, Tape
from ..checks import Form, check_tree, counted, form
from ..ops.spike import surrogate_grad
from ..state import Tree

Gradients = dict[str, Tensor]


class Signal(NamedTuple):
    """The learning signal of one block: how the loss of a chunk depends on its states."""

    h0: Tensor  # (b, e, n) dL/dh0, to all before the chunk
    h: Tensor | None  # (b, t, e, n) dL/dh_t with h_(t+1) held; None where the rule does not read it
    raw_signal: (
        Tensor | None
    )  # the same without the surrogate derivative of a spike; h itself where the block does not spike


class Span(NamedTuple):
    """Which steps of a tape count."""

    new: int  # the last ones, not learned from before
    steps: int  # from the tape's start to where the trace is moved
    go: Tensor  # () bool: false leaves the trace as it was


class LearningRule(ABC):
    """How the past of a stream gets its share of the gradient."""

    reads_h: ClassVar[bool] = False  # whether `gradient` wants the signal of every step
    local: ClassVar[bool] = False  # whether chunks are to be read with no gradient from a state to the one before
    keeps_traces: ClassVar[bool] = True  # whether it reads the drives of blocks, which diagonal ones alone have
    counts_streams: ClassVar[bool] = False  # whether what it does for a stream depends on the stream's number

    def __init__(self, blocks: Iterable[Block]) -> None:
        """Take the blocks of a model, in order.

        Raises ValueError for no blocks, for a rule that keeps traces and a block that has none, and for a rule that
        reads the signal of every step and blocks with the backend mamba_ssm; TypeError for what is no block.
        """
        self.blocks = list(blocks)
        self._form: tuple[torch.dtype, torch.device, Form] | None = None
        if not self.blocks:
            raise ValueError("blocks: got none, expected those of a model: give model.blocks")
        for block in self.blocks:
            if not isinstance(block, Block):
                raise TypeError(f"blocks: got {type(block).__name__}, expected blocks: give model.blocks")
            if self.keeps_traces and not block.diagonal:
                raise ValueError(
                    f"rule: {type(self).__name__} keeps traces, which {type(block).__name__} does not have, as its "
                    "recurrence is not diagonal: give bptt, with a window for credit beyond the chunk"
                )
        if self.reads_h and any(block.backend == "mamba_ssm" for block in self.blocks):
            raise ValueError(
                "backend: mamba_ssm gives no learning signal of single steps, which this rule reads: give auto"
            )

    @abstractmethod
    def init(self, batch: int) -> Tree:
        """Return the trace of `batch` streams that have seen nothing: one tree per block."""

    @abstractmethod
    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return dL/dh0 . Z: the gradient of the block's effective parameters through the past.

        trace is the block's own, at the tape's start; new: how many of the last steps have not been learned from
        before, for rules whose trace acts inside the chunk too.
        """

    @abstractmethod
    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return Z_t = a_t Z_{t-1} + d_t: the block's trace `steps` steps after the tape's start.

        The memory of the trace given may be used again. Where go, () bool, is false, the trace stays as it was.
        """

    def gradient_and_advance(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, span: Span
    ) -> tuple[Gradients, Tree]:
        """Return both. A rule whose two halves share work does it once here."""
        gradients = self.gradient(block, tape, signal, trace, span.new)
        return gradients, self.advance(block, tape, trace, span.steps, span.go)

    def backward(
        self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, new: int | None = None
    ) -> Tree:
        """Add the whole gradient to `.grad`, and return the trace `advance` steps after the tapes' start.

        advance: default, at the tapes' end. new: how many of the last steps have not been learned from before
        (default: all). The memory of the trace given is used again: keep the one returned.
        Raises ValueError where a tape's state is no leaf: begin chunks from `biomamba.cut(state)`; and, as `past` and
        `advance_traces` do, where tapes or trace are not of these blocks and of the same streams, or steps are not in
        the tapes.
        """
        self._check(tapes, trace, advance, new)
        for tape in tapes:
            if not (tape.h0.is_leaf and tape.h0.requires_grad):
                raise ValueError(
                    "the state a chunk begins from must be a leaf with a gradient: call model(x, biomamba.cut(state))"
                )
        own = (parameter for block in self.blocks for parameter in block.parameters() if parameter.requires_grad)
        found = {id(leaf): leaf for leaf in [*_leaves(loss), *own]}
        parameters = [leaf for leaf in found.values() if all(leaf is not tape.h0 for tape in tapes)]
        inside, signals = self.signals(loss, parameters, tapes)
        through, trace = self.past(parameters, tapes, signals, trace, advance, new)
        for parameter, a, b in zip(parameters, inside, through, strict=True):
            gradient = a if b is None else a + b
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return trace

    def signals(
        self, loss: Tensor, parameters: Sequence[Tensor], tapes: Sequence[Tape]
    ) -> tuple[list[Tensor], list[Signal]]:
        """Return the gradient inside the chunk, and each block's signal; zero for what the loss does not reach."""
        many = len(tapes)
        wanted = [*parameters, *(tape.h0 for tape in tapes)]
        if self.reads_h:
            wanted += [*(tape.h for tape in tapes), *(tape.pre_activation for tape in tapes)]
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        inside, rest = list(found[: len(parameters)]), found[len(parameters) :]
        h0s, hs, potentials = rest[:many], rest[many : 2 * many], rest[2 * many :]
        none = [None] * many
        each = zip(self.blocks, tapes, h0s, hs or none, potentials or none, strict=True)
        return inside, [self._signal(*own) for own in each]

    def past(
        self,
        parameters: Sequence[Tensor],
        tapes: Sequence[Tape],
        signals: Sequence[Signal],
        trace: Tree,
        advance: int | None = None,
        new: int | None = None,
        go: Tensor | None = None,
    ) -> tuple[list[Tensor | None], Tree]:
        """Return each parameter's gradient through the past (None where there is none), and the trace moved on."""
        self._check(tapes, trace, advance, new)
        reached: list[tuple[Tensor, Tensor]] = []
        after = []
        for block, tape, signal, own in zip(self.blocks, tapes, signals, trace, strict=True):
            with torch.no_grad():
                found, moved = self.gradient_and_advance(block, tape, signal, own, _span(tape, advance, new, go))
            after.append(moved)
            reached += [pair for pair in block.pull_back(found) if pair[0].requires_grad] if found else []
        return _gradients(parameters, reached), after

    def advance_traces(
        self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, go: Tensor | None = None
    ) -> Tree:
        """Return the trace `advance` steps after the tapes' start (default: at their end), nothing learned."""
        self._check(tapes, trace, advance)
        each = zip(self.blocks, tapes, trace, strict=True)
        return [self.advance(block, tape, own, *_span(tape, advance, None, go)[1:]) for block, tape, own in each]

    def check_trace(self, trace: Tree, streams: int) -> None:
        """Raise ValueError or TypeError unless a trace is of the form that `init(streams)` gives."""
        like = next(self.blocks[0].parameters())
        if self._form is None or self._form[:2] != (like.dtype, like.device):  # the first time, or moved since
            self._form = like.dtype, like.device, form(self.init(1))
        check_tree("trace", trace, self._form[2], len(self.blocks), streams, "rule.init({})")

    def _check(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, new: int | None = None) -> None:
        """Raise unless tapes and trace belong to the blocks and to each other."""
        if len(tapes) != len(self.blocks):
            raise ValueError(
                f"tapes: of {counted(len(tapes), 'block')}, expected {len(self.blocks)}: "
                "give those of the model whose blocks the rule has"
            )
        streams, t = tapes[0].h.shape[:2]
        for i, (block, tape) in enumerate(zip(self.blocks, tapes, strict=True)):
            sizes = (streams, t, *block.shape), (streams, block.taps - 1 + t, block.d_model)
            if (tape.h.shape, tape.inputs.shape) != sizes:
                raise ValueError(
                    f"tapes: block {i} has states {tuple(tape.h.shape)} and inputs {tuple(tape.inputs.shape)}, "
                    f"expected {sizes[0]} and {sizes[1]}: give those of the model whose blocks the rule has"
                )
        if advance is not None and not 0 <= advance <= t:
            raise ValueError(f"advance: got {advance} steps, expected 0 to {t}, the steps of the tapes: give {t}")
        if new is not None and not 1 <= new <= t:
            raise ValueError(f"new: got {new} steps, expected 1 to {t}, the steps of the tapes: give {t}")
        self.check_trace(trace, streams)

    def _signal(self, block: Block, tape: Tape, h0: Tensor, h: Tensor | None, pre_activation: Tensor | None) -> Signal:
        """Return the signal of a block from the gradients to its states and pre-activation."""
        if h is None or pre_activation is None or block.threshold is None:
            return Signal(h0, h, h)
        without = pre_activation / surrogate_grad(tape.pre_activation.detach(), block.threshold, block.steepness)
        (raw_signal,) = torch.autograd.grad(tape.pre_activation, tape.h, without, retain_graph=True)
        return Signal(h0, h, raw_signal)


def _span(tape: Tape, advance: int | None, new: int | None, go: Tensor | None) -> Span:
    """Return the span of a tape: by default all of it, and everything goes."""
    t = tape.h.shape[1]
    go = torch.ones((), dtype=torch.bool, device=tape.h.device) if go is None else go
    return Span(new or t, t if advance is None else advance, go)


def _gradients(parameters: Sequence[Tensor], reached: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor | None]:
    """Return the gradient of each parameter (None where there is none) from those of tensors that they reach."""
    found: dict[int, Tensor] = {}
    further = [pair for pair in reached if not pair[0].is_leaf]  # autograd goes on to the true parameters
    if further:
        tensors, gradients = zip(*further, strict=True)
        through = torch.autograd.grad(tensors, parameters, gradients, allow_unused=True)
        found = {id(p): g for p, g in zip(parameters, through, strict=True) if g is not None}
    for leaf, gradient in reached:
        if leaf.is_leaf:
            found[id(leaf)] = found[id(leaf)] + gradient if id(leaf) in found else gradient
    return [found.get(id(parameter)) for parameter in parameters]


def _leaves(loss: Tensor) -> list[Tensor]:
    """Return the leaves of autograd's graph that want a gradient."""
    found, nodes, known = [], [loss.grad_fn], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return found
