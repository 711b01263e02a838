"""Backpropagation through time inside the chunk, and nothing across its edge: Z = 0.

A chunk of the whole sequence is full BPTT, a chunk of K steps TBPTT(K), a chunk of one the immediate gradient.
"""

from collections.abc import Sequence

from torch import Tensor

from ..blocks.base import Block, Tape
from ..state import Tree
from .base import LearningRule, Signal


class BPTT(LearningRule):
    """Truncated backpropagation through time; exact within the chunk (and the window), blind beyond it."""

    def init(self, batch: int) -> Tree:
        """Return empty traces: nothing is remembered."""
        return [None for _ in self.blocks]

    def credit(self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, new: int | None = None) -> None:
        """Add the gradient inside the chunk to `.grad`."""
        loss.backward()

    def past(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> dict[str, Tensor]:
        """Return nothing: no gradient comes through the past."""
        return {}

    def carry(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None) -> Tree:
        """Return the empty traces."""
        return trace
