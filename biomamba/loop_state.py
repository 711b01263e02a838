"""All that goes from one update to the next beside weights and optimiser.

Steps that were predicted one by one and may still be answered are held as a window is: state and trace stand before
the oldest of them. Shapes: b streams, s steps held.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from .checks import check_mask
from .model import Model
from .rules.base import LearningRule
from .state import Tree, nbytes, tree_map
from .stream import Chunk, Meter, Task


@dataclass
class LoopState:
    """All that goes from one update to the next beside weights and optimiser; save it, and the loop goes on."""

    model_state: Tree  # at the start of the window
    trace: Tree  # at the start of the window
    x: Tensor  # (b, s, ...) the inputs from there to now, to be replayed; s = 0 without a window or open steps
    reset: Tensor  # (b, s)
    meters: dict[str, Meter]
    context: Tensor | None = None  # (b, K-1) the tokens before x, for n-grams
    steps: int = 0  # time steps of each stream
    updates: int = 0  # optimiser steps
    skipped: int = 0  # updates left out because something was not finite
    base: int = 0  # steps before x
    waiting: dict[Hashable, int] = field(default_factory=dict)  # steps that may be answered, by ticket: steps before it
    live: Tree = None  # the state behind x; None where it is to be replayed

    @classmethod
    def begin(cls, chunk: Chunk, task: Task, model: Model, rule: LearningRule | None = None) -> "LoopState":
        """Return the state of zero-initialised streams; `chunk` tells how many and of what."""
        batch = chunk.x.shape[0]
        trace = rule.init(batch) if rule else []
        return cls(model.init_state(batch), trace, chunk.x[:, :0], chunk.reset[:, :0], task.meters())

    def check(self, model: Model, rule: LearningRule | None = None) -> None:
        """Lay all tensors in one piece. Raises ValueError or TypeError where they are not of this model and rule."""
        b, s = self.x.shape[:2]
        check_mask("state.reset", self.reset, b, s)
        model.check_state(self.model_state, b)
        if self.live is not None:
            model.check_state(self.live, b)
        if rule is not None:
            rule.check_trace(self.trace, b)
        model.check_context(self.context, b)
        self.model_state, self.trace = (tree_map(Tensor.contiguous, tree) for tree in (self.model_state, self.trace))

    def nbytes(self, steps: int) -> int:
        """Return the bytes that an update of so many steps goes over in one block: its trace, and the states."""
        states = [nbytes(state) * steps for state in self.model_state]
        traces = [nbytes(trace) for trace in self.trace] or [0] * len(states)
        return max(state + trace for state, trace in zip(states, traces, strict=True))
