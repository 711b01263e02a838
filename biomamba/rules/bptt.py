"""Backpropagation through time inside the chunk, and nothing across its edge: Z = 0.

A chunk of the whole sequence is full BPTT, a chunk of K steps TBPTT(K), a chunk of one the immediate gradient.
"""

from torch import Tensor

from ..blocks.base import Block, Tape
from ..state import Tree
from .base import Gradients, LearningRule, Signal


class BPTT(LearningRule):
    """Truncated backpropagation through time; exact within the chunk (and the window), blind beyond it."""

    def init(self, batch: int) -> Tree:
        """Return empty traces: nothing is remembered."""
        return [None for _ in self.blocks]

    def meet(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int, advance: int, go: Tensor
    ) -> tuple[Gradients, Tree]:
        """Return no gradient through the past, and the empty trace."""
        return {}, trace
