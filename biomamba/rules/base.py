"""A learning rule stands where `loss.backward()` stood: trace = rule.backward(loss, tapes, trace).

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z

The first term is autograd's. `past` gives the second, `carry` moves Z = dh0/dtheta on to where the next chunk
begins: pure arithmetic on tensors, which `credit` brings to `.grad` and `online` may compile.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..blocks.base import Block, Tape
from ..state import Tree


class Signal(NamedTuple):
    """The learning signal of one block: how the loss of a chunk depends on its states."""

    h0: Tensor  # (b, e, n) dL/dh0, to all before the chunk
    h: Tensor | None  # (b, t, e, n) dL/dh_t with h_(t+1) held; None where the rule does not read it


class LearningRule(ABC):
    """How the past of a stream gets its share of the gradient."""

    reads_h: ClassVar[bool] = False  # whether `past` wants the signal of every step

    def __init__(self, blocks: Iterable[Block]) -> None:
        """Take the blocks of a model, in order."""
        self.blocks = list(blocks)

    @abstractmethod
    def init(self, batch: int) -> Tree:
        """Return the trace of `batch` streams that have seen nothing: one tree per block."""

    @abstractmethod
    def past(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> dict[str, Tensor]:
        """Return the gradient of the block's effective parameters that comes through the past, by name.

        trace is the block's own; `new` is how many of the last steps have not been learned from before.
        """

    @abstractmethod
    def carry(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None) -> Tree:
        """Return the trace `advance` steps after the tapes' start (default: at their end).

        The memory of the trace given is used again: keep the one returned.
        """

    def credit(self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, new: int | None = None) -> None:
        """Add the gradient inside the chunk, and that through the past, to `.grad` of the parameters.

        `new` is how many of the last steps have not been learned from before (default: all of them).
        Raises ValueError where a tape's state is no leaf: begin chunks from `biomamba.cut(state)`.
        """
        for tape in tapes:
            if not (tape.h0.is_leaf and tape.h0.requires_grad):
                raise ValueError(
                    "the state a chunk begins from must be a leaf with a gradient: call model(x, biomamba.cut(state))"
                )
            if self.reads_h:
                tape.h.retain_grad()
        loss.backward()
        signals = [
            None if tape.h0.grad is None else Signal(tape.h0.grad, tape.h.grad if self.reads_h else None)
            for tape in tapes
        ]
        effective, past = self._through(tapes, signals, trace, new)
        if effective:
            torch.autograd.backward(effective, past)

    def gradients(
        self, loss: Tensor, parameters: Sequence[Tensor], tapes: Sequence[Tape], trace: Tree, new: int | None = None
    ) -> list[Tensor]:
        """Return what `credit` adds to `.grad`, as values, and touch nothing; zero for a parameter not reached."""
        h0s, hs = [tape.h0 for tape in tapes], [tape.h for tape in tapes] if self.reads_h else []
        inside = torch.autograd.grad(
            loss, [*parameters, *h0s, *hs], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        own, signal0, signal = inside[: len(parameters)], inside[len(parameters) :][: len(h0s)], inside[-len(h0s) :]
        signals = [Signal(h0, h if self.reads_h else None) for h0, h in zip(signal0, signal, strict=True)]
        effective, past = self._through(tapes, signals, trace, new)
        if not effective:
            return list(own)
        outside = torch.autograd.grad(effective, parameters, past, allow_unused=True)
        return [a if b is None else a + b for a, b in zip(own, outside, strict=True)]

    def backward(
        self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, new: int | None = None
    ) -> Tree:
        """Fill `.grad` and return the next trace: `credit`, then `carry`."""
        self.credit(loss, tapes, trace, new)
        return self.carry(tapes, trace, advance)

    def _through(
        self, tapes: Sequence[Tape], signals: Sequence[Signal | None], trace: Tree, new: int | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return effective parameters on the autograd graph, and their gradients: autograd goes on to the true ones."""
        reached: list[Tensor] = []
        pasts: list[Tensor] = []
        for block, tape, signal, own in zip(self.blocks, tapes, signals, trace, strict=True):
            if signal is None:  # the loss does not reach this block
                continue
            with torch.no_grad():
                past = self.past(block, tape, signal, own, new or tape.h.shape[1])
            effective = block.effective() if past else {}
            for name, gradient in past.items():
                if effective[name].requires_grad:
                    reached.append(effective[name])
                    pasts.append(gradient)
        return reached, pasts
