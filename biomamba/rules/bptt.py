"""Backpropagation through time inside the chunk, and nothing across its edge: Z = 0.

A chunk of the whole sequence is full BPTT, a chunk of K steps TBPTT(K), a chunk of one the immediate gradient.
"""

from torch import Tensor

from ..blocks.base import Block, Tape
from ..state import Tree
from .base import Gradients, LearningRule, Signal


class BPTT(LearningRule):
    """Truncated backpropagation through time; exact within the chunk (and the window), blind beyond it."""

    keeps_traces = False

    def init(self, batch: int) -> Tree:
        """Return empty traces: nothing is remembered."""
        return [None for _ in self.blocks]

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return nothing: the gradient ends at the chunk's edge."""
        return {}

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return the empty trace."""
        return trace
