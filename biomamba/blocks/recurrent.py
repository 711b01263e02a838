"""Blocks whose next state mixes all of the last one: h_t = f(h_{t-1}, u_t), with no diagonal to it.

dh_t/dh_{t-1} is a full matrix, so that an exact trace would hold e n numbers for each parameter, and moving it on would
cost e n times as many products: none is kept. Credit reaches the past by backpropagation through the chunk or the
window alone (TBPTT). Shapes: b streams, t steps, d model width, e channels, n states, k conv taps.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.influence import Drive
from ..state import BlockState
from .base import Block, Tape


class Recurrent(Block):
    """A block that is stepped through, one step after another; it serves rules that keep no trace."""

    diagonal = False
    influences: dict[str, str] = {}  # noqa: RUF012 - nothing that a trace is kept of
    fan_in: dict[str, int] = {}  # noqa: RUF012

    @abstractmethod
    def driven(self, inputs: Tensor, reset: Tensor | None) -> tuple[Tensor, ...]:
        """Return what the steps take, each (b, t, ...), of inputs (b, k-1+t, d), the conv state first."""

    @abstractmethod
    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t (b, e, n) of h_{t-1} and what step t takes, each (b, ...)."""

    @abstractmethod
    def read(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return what the output is made of (b, t, e), of states (b, t, e, n) and what `driven` gives."""

    @abstractmethod
    def project(self, activated: Tensor) -> Tensor:
        """Return y (b, t, d) of what is read (b, t, e), or of its spikes."""

    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d)."""
        inputs = torch.cat([state.conv, x_t.unsqueeze(1)], dim=1)
        given = self.driven(inputs, None)
        h = self.cell([own[:, 0] for own in given], state.ssm)
        y = self.project(self.activate(self.pre_activation(self.read(given, h.unsqueeze(1)))))
        return y[:, 0], BlockState(inputs[:, 1:], h)

    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape."""
        inputs, h, states = torch.cat([state.conv, x], dim=1), state.ssm, list[Tensor]()
        given = self.driven(inputs, reset)
        for s in range(x.shape[1]):
            h = h.detach() if local else h
            if reset is not None:
                h = h.masked_fill(reset[:, s, None, None], 0)
            h = self.cell([own[:, s] for own in given], h)
            states.append(h)
        hs = torch.stack(states, dim=1)
        pre_activation = self.pre_activation(self.read(given, hs))
        log_a = hs.new_empty(*hs.shape[:2], 0, 1)  # there is no decay
        tape = Tape(state.ssm, hs, log_a, reset, inputs, None, pre_activation)
        return self.project(self.activate(pre_activation)), self.state_at(tape, x.shape[1]), tape

    def effective(self) -> dict[str, Tensor]:
        """Return nothing: no trace is kept of what reaches the state."""
        return {}

    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return nothing."""
        return {}
