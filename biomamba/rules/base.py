"""A learning rule stands where `loss.backward()` stood: trace = rule.backward(loss, tapes, trace).

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z

`credit` adds both terms to `.grad`; `carry` moves Z = dh0/dtheta on to where the next chunk begins.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from torch import Tensor

from ..blocks.base import Block, Tape
from ..state import Tree


class LearningRule(ABC):
    """How the past of a stream gets its share of the gradient."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        """Take the blocks of a model, in order."""
        self.blocks = list(blocks)

    @abstractmethod
    def init(self, batch: int) -> Tree:
        """Return the trace of `batch` streams that have seen nothing."""

    @abstractmethod
    def credit(self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, new: int | None = None) -> None:
        """Add the gradient of the loss to `.grad` of the parameters.

        `new` is how many of the last steps have not been learned from before (default: all of them).
        """

    @abstractmethod
    def carry(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None) -> Tree:
        """Return the trace `advance` steps after the tapes' start (default: at their end).

        The memory of the trace given is used again: keep the one returned.
        """

    def backward(
        self, loss: Tensor, tapes: Sequence[Tape], trace: Tree, advance: int | None = None, new: int | None = None
    ) -> Tree:
        """Fill `.grad` and return the next trace: `credit`, then `carry`."""
        self.credit(loss, tapes, trace, new)
        return self.carry(tapes, trace, advance)
