"""Real-time recurrent learning (Williams and Zipser 1989) with diagonal traces, one block at a time.

    dL/dtheta  =  dL/dtheta |_(h0 held)   +   dL/dh0 . Z          Z_t = a_t Z_{t-1} + d_t

With weights held, the gradient summed over a stream does not depend on the chunk length, and equals that
of backpropagation through the whole stream for one block: every parameter of `Mamba2` and `Diagonal`, and
of `Mamba` all but in_proj's x half. What a lower block did to a higher block's state before the chunk (or
the window) is dropped: depth is approximate.

Weights move while Z remembers older ones: inherent in RTRL.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..blocks.base import Block, Tape, head
from ..ops.influence import contract_naive, shape
from ..state import Tree
from .base import Gradients, LearningRule, Signal, Span


class RTRL(LearningRule):
    """Exact online gradients: the eligibility traces Z of every parameter that reaches a block's state.

    The trace of a block is {name: Z} for each of its influences, laid out as `ops.influence` says.
    """

    def __init__(
        self, blocks: Iterable[Block], trace_dtype: str | None = None, influences: Sequence[str] | None = None
    ) -> None:
        """Take the blocks, and the precision the traces are kept in: bfloat16, or None for that of the weights.

        bfloat16 halves memory and traffic and rounds at each update; all arithmetic stays in the weights' precision.
        influences: of these alone, by the blocks' names, a trace is kept (None: of all); what else learns gets the
        share of the chunk.
        Raises ValueError for another precision, and for an influence that no block has.
        """
        super().__init__(blocks)
        known = {name: None for block in self.blocks for name in block.influences}
        strange = [name for name in influences or () if name not in known]
        if strange:
            raise ValueError(f"influences: got {strange[0]!r}, expected some of {', '.join(known)}")
        self.influences = None if influences is None else list(influences)
        if trace_dtype not in (None, "bfloat16"):
            raise ValueError(f"trace_dtype: got {trace_dtype!r}, expected bfloat16, or null for that of the weights")
        self.trace_dtype = torch.bfloat16 if trace_dtype else None

    def init(self, batch: int) -> Tree:
        """Return zero traces."""
        kept = (
            [name for block in self.blocks for name in block.influences] if self.influences is None else self.influences
        )
        return [
            {name: self._zeros(block, name, batch) for name in block.influences if name in kept}
            for block in self.blocks
        ]

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return signal . Z for all before the chunk."""
        gradients = {}
        for name, Z in trace.items():
            reached = signal.h0[:, block.reach.get(name, slice(None))]
            gradients[name] = contract_naive(reached, Z.to(tape.h.dtype), block.influences[name])
        return gradients

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return Z at the chunk's step `steps`."""
        return (
            block.contract_and_advance(head(tape, steps), trace, torch.zeros_like(tape.h0), go)[1] if steps else trace
        )

    def gradient_and_advance(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, span: Span
    ) -> tuple[Gradients, Tree]:
        """Return both, of one pass over Z."""
        if span.steps == 0:
            return RTRL.gradient(self, block, tape, signal, trace, span.new), trace  # of Z alone, in a subclass too
        gradients, moved = block.contract_and_advance(head(tape, span.steps), trace, signal.h0, span.go)
        return dict(zip(trace, gradients, strict=True)), moved

    def _zeros(self, block: Block, name: str, batch: int) -> Tensor:
        """Return the zero influence of one effective parameter."""
        e, n = block.shape
        reached = len(range(e)[block.reach.get(name, slice(None))])
        size = shape(block.influences[name], batch, reached, n, block.fan_in.get(name, 0))
        return next(block.parameters()).new_zeros(size, dtype=self.trace_dtype)
