"""Real-time recurrent learning (Williams and Zipser 1989) with diagonal traces, one block at a time.

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z          Z_t = a_t Z_{t-1} + d_t

With weights held, the gradient summed over a stream does not depend on the chunk length, and equals that
of backpropagation through the whole stream for one block: every parameter of `Mamba2` and `Diagonal`, and
of `Mamba` all but in_proj's x half. What a lower block did to a higher block's state before the chunk (or
the window) is dropped: depth is approximate.

Weights move while Z remembers older ones: inherent in RTRL.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..blocks.base import Block, Drive, Tape, first
from ..ops.influence import contract, decay_ahead, influence
from ..state import Tree
from .base import LearningRule, Signal


class RTRL(LearningRule):
    """Exact online gradients: the eligibility traces Z of every parameter that reaches a block's state."""

    def init(self, batch: int) -> Tree:
        """Return zero traces: for each block and influence Z (b, c, r) or (b, c, r, j)."""
        return [{name: _zeros(block, name, batch) for name in block.influences} for block in self.blocks]

    def past(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> dict[str, Tensor]:
        """Return signal . Z for all before the chunk."""
        return {name: contract(signal.h0, trace[name], axes) for name, axes in block.influences.items()}

    @torch.no_grad()
    def carry(self, tapes: Sequence[Tape], trace: Tree, advance: int | None = None) -> Tree:
        """Return Z `advance` steps after the tapes' start; the memory of the trace given is used again."""
        if advance == 0:
            return trace
        moved = []
        for block, whole, Z in zip(self.blocks, tapes, trace, strict=True):
            tape = whole if advance is None else first(whole, advance)
            moved.append(self.move(block, tape, block.drives(tape), Z))
        return moved

    def move(self, block: Block, tape: Tape, drives: dict[str, Drive], Z: Tree) -> Tree:
        """Return one block's Z at the end of the tape."""
        ahead = decay_ahead(tape.log_a, tape.reset)
        return {name: influence(Z[name], ahead, axes, *drives[name]) for name, axes in block.influences.items()}


def _zeros(block: Block, name: str, batch: int) -> Tensor:
    """Return the zero influence of one effective parameter."""
    c, r = block.shape if block.influences[name][0] == "e" else block.shape[::-1]
    j = [block.fan_in[name]] if name in block.fan_in else []
    return next(block.parameters()).new_zeros(batch, c, r, *j)
