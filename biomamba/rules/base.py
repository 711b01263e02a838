"""A learning rule stands where `loss.backward()` stood: trace = rule.backward(loss, tapes, trace).

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z

The first term is autograd's. `meet` gives the second, and moves Z = dh0/dtheta on to where the next chunk begins:
both in one pass over the trace, which is by far the largest thing an online learner holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..blocks.base import Block, Tape
from ..checks import Form, check_tree, counted, form
from ..ops.spike import psi
from ..state import Tree

Gradients = dict[str, Tensor]


class Signal(NamedTuple):
    """The learning signal of one block: how the loss of a chunk depends on its states."""

    h0: Tensor  # (b, e, n) dL/dh0, to all before the chunk
    h: Tensor | None  # (b, t, e, n) dL/dh_t with h_(t+1) held; None where the rule does not read it
    bare: Tensor | None  # the same without the surrogate derivative of a spike; h itself where the block does not spike


class LearningRule(ABC):
    """How the past of a stream gets its share of the gradient."""

    reads_h: ClassVar[bool] = False  # whether `meet` wants the signal of every step
    local: ClassVar[bool] = False  # whether chunks are to be read with no gradient from a state to the one before

    def __init__(self, blocks: Iterable[Block]) -> None:
        """Take the blocks of a model, in order.

        Raises ValueError for no blocks, and for a rule that reads the signal of every step and blocks with the kernels
        mamba_ssm; TypeError for what is no block.
        """
        self.blocks = list(blocks)
        self._form: tuple[torch.dtype, torch.device, Form] | None = None
        if not self.blocks:
            raise ValueError("blocks: got none, expected those of a model: give model.blocks")
        for block in self.blocks:
            if not isinstance(block, Block):
                raise TypeError(f"blocks: got {type(block).__name__}, expected blocks: give model.blocks")
        if self.reads_h and any(block.kernels == "mamba_ssm" for block in self.blocks):
            raise ValueError(
                "kernels: mamba_ssm gives no learning signal of single steps, which this rule reads: give auto"
            )

    @abstractmethod
    def init(self, batch: int) -> Tree:
        """Return the trace of `batch` streams that have seen nothing: one tree per block."""

    @abstractmethod
    def meet(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int, advance: int, go: Tensor
    ) -> tuple[Gradients, Tree]:
        """Return the gradient of the block's effective parameters through the past, and the trace `advance` steps on.

        trace is the block's own, and its memory is used again; `new` is how many of the last steps have not been
        learned from before. Where go, () bool, is false, the trace is left as it was.
        """

    def backward(
        self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, new: int | None = None
    ) -> Tree:
        """Add the whole gradient to `.grad`, and return the trace `advance` steps after the tapes' start.

        advance: default, at the tapes' end. new: how many of the last steps have not been learned from before
        (default: all). The memory of the trace given is used again: keep the one returned.
        Raises ValueError where a tape's state is no leaf: begin chunks from `biomamba.cut(state)`; and, as `past` and
        `carry` do, where tapes or trace are not of these blocks and of the same streams, or steps are not in the tapes.
        """
        self._check(tapes, trace, advance, new)
        for tape in tapes:
            if not (tape.h0.is_leaf and tape.h0.requires_grad):
                raise ValueError(
                    "the state a chunk begins from must be a leaf with a gradient: call model(x, biomamba.cut(state))"
                )
            if self.reads_h:
                tape.h.retain_grad()
                tape.potential.retain_grad()
        loss.backward(retain_graph=self.reads_h)
        signals = [
            self._signal(
                block, tape, tape.h0.grad, *((tape.h.grad, tape.potential.grad) if self.reads_h else (None, None))
            )
            for block, tape in zip(self.blocks, tapes, strict=True)
        ]
        reached, past, trace = self._through(tapes, signals, trace, advance, new)
        if reached:
            torch.autograd.backward(reached, past)
        return trace

    def signals(
        self, loss: Tensor, parameters: Sequence[Tensor], tapes: Sequence[Tape]
    ) -> tuple[list[Tensor], list[Signal]]:
        """Return the gradient inside the chunk, and each block's signal; zero for what the loss does not reach."""
        many = len(tapes)
        wanted = [*parameters, *(tape.h0 for tape in tapes)]
        if self.reads_h:
            wanted += [*(tape.h for tape in tapes), *(tape.potential for tape in tapes)]
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
        reached, past, trace = self._through(tapes, signals, trace, advance, new, go)
        if not reached:
            return [None] * len(parameters), trace
        return list(torch.autograd.grad(reached, parameters, past, allow_unused=True)), trace

    def carry(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, go: Tensor | None = None) -> Tree:
        """Return the trace `advance` steps after the tapes' start (default: at their end), nothing learned."""
        self._check(tapes, trace, advance)
        return self._through(tapes, [self._silence(tape) for tape in tapes], trace, advance, go=go)[2]

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

    def _through(
        self,
        tapes: Sequence[Tape],
        signals: Sequence[Signal],
        trace: Tree,
        advance: int | None = None,
        new: int | None = None,
        go: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor], Tree]:
        """Return effective parameters on the graph, their gradients (autograd goes on to the true ones), and the trace.

        go: default, true.
        """
        go = torch.ones((), dtype=torch.bool, device=tapes[0].h.device) if go is None else go
        reached: list[Tensor] = []
        pasts: list[Tensor] = []
        moved = []
        for block, tape, signal, own in zip(self.blocks, tapes, signals, trace, strict=True):
            t = tape.h.shape[1]
            with torch.no_grad():
                past, after = self.meet(block, tape, signal, own, new or t, t if advance is None else advance, go)
            moved.append(after)
            effective = block.effective() if past else {}
            for name, gradient in past.items():
                if effective[name].requires_grad:
                    reached.append(effective[name])
                    pasts.append(gradient)
        return reached, pasts, moved

    def _signal(
        self, block: Block, tape: Tape, h0: Tensor | None, h: Tensor | None, potential: Tensor | None
    ) -> Signal:
        """Return the signal of a block from the gradients to its states and potential; zero where none reached them."""
        silence = self._silence(tape)
        h0 = silence.h0 if h0 is None else h0
        if h is None:
            return silence._replace(h0=h0)
        if potential is None or block.threshold is None:
            return Signal(h0, h, h)
        without = potential / psi(tape.potential.detach(), block.threshold, block.steepness)
        (bare,) = torch.autograd.grad(tape.potential, tape.h, without, retain_graph=True)
        return Signal(h0, h, bare)

    def _silence(self, tape: Tape) -> Signal:
        """Return the signal of a loss that does not reach the block."""
        zero = torch.zeros_like(tape.h) if self.reads_h else None
        return Signal(torch.zeros_like(tape.h0), zero, zero)
