"""What a block is: a map of a stream that remembers, and that can say how its parameters push on its memory.

    h_t = a_t h_{t-1} + b_t        a_t = exp(log_a_t), diagonal, a function of the block's input alone

A block whose recurrence is none of this kind has no trace, and says so: `Block.diagonal`, see `recurrent`.
Shapes: b streams, t steps, d model width, e channels, n states, k conv taps, j inputs of a weight matrix.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.backend import FUNCTIONAL, resolve
from ..ops.conv import tap_mask
from ..ops.influence import (
    DecayProducts,
    Drive,
    contract_and_advance,
    contract_and_advance_functional,
    decay_products,
    discount_to_end,
)
from ..ops.scan import scan
from ..ops.spike import spike
from ..ops.ssm import by_channel, drive, selective_scan
from ..state import BlockState, tree_map


class Tape(NamedTuple):
    """What one chunk leaves behind for a learning rule."""

    h0: Tensor  # (b, e, n) the leaf the chunk began from; its .grad is the signal to all before it
    h: Tensor  # (b, t, e, n) every state
    # (b, t, e, n or 1) log of each step's decay, resets left out; complex (b, t, e, n/2) where h rotates; empty where
    # the recurrence is not diagonal
    log_a: Tensor
    reset: Tensor | None  # (b, t) bool; None where no sequence begins inside the chunk
    inputs: Tensor  # (b, k-1+t, d) what the block saw, the conv state first
    own: Any  # whatever else the block needs to answer `drives`
    pre_activation: Tensor  # (b, t, e) what out_proj receives, or a spiking block's threshold, on the graph


class Block(nn.Module, ABC):
    """One layer: x (b, t, d) -> y (b, t, d), with a `BlockState`.

    `influences` names what reaches the state, as `effective` returns it, with the axes of each: a first
    letter e or n (channel or state), then n for a second state axis, j for the inputs of a weight matrix, or k for
    inputs of the channel's or state's own. `ops.influence` tells more. `backend` names what does the work.
    """

    influences: dict[str, str]
    taps: int  # k; the conv state holds k - 1 inputs
    shape: tuple[int, int]  # (e, n)
    fan_in: dict[str, int]  # j of each influence that has one
    reach: dict[str, slice] = {}  # noqa: RUF012 - the channels e that an influence reaches; one not named, all: shared
    d_model: int
    backend: str = "auto"
    diagonal: bool = True  # whether the recurrence is, so that rules can keep traces
    adaptable: bool = False  # it asks `lowrank` for what in_proj's rows are and see
    graphs: bool = True  # whether torch makes graphs of it, as compiling and exporting ask
    threshold: float | None = None  # where the block spikes: out_proj then receives 0 or 1; None: real values
    steepness: float = 10.0  # of the surrogate derivative of a spike

    def init_state(self, batch: int) -> BlockState:
        """Return the state of `batch` streams that have seen nothing."""
        like = next(self.parameters())
        return BlockState(
            conv=like.new_zeros(batch, self.taps - 1, self.d_model),
            ssm=like.new_zeros(batch, *self.shape),
        )

    @abstractmethod
    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d): the definition of the block."""

    @abstractmethod
    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape; equal to t calls of `step`.

        local: no gradient goes from a state to the one before it, so that each step has its own alone.
        """

    @abstractmethod
    def effective(self) -> dict[str, Tensor]:
        """Return what the parameters make up before they reach the state, on the autograd graph.

        A rule finds the gradient of these; autograd carries it on to the true parameters, so that
        low-rank products and shared values need no trace of their own.
        """

    def pull_back(self, gradients: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return tensors that parameters reach, and the gradient of each, from gradients of what `effective` returns.

        A block may go on by itself to its parameters, where that is faster than autograd.
        """
        effective = self.effective()
        return [(effective[name], gradient) for name, gradient in gradients.items()]

    @abstractmethod
    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return the drive of each influence on the state, no graph attached."""

    def contract_and_advance(
        self, tape: Tape, trace: dict[str, Tensor], signal: Tensor, go: Tensor
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the gradient of each influence at the tape's start, and its trace moved to the tape's end.

        trace: of all influences, or of some. signal (b, e, n) is that to the states at the start; go () bool: where it
        is false nothing moves. The memory of the trace given is used again, except by the backend functional. See
        `ops.influence.contract_and_advance`.
        """
        ahead, drives = decay_products(tape.log_a, tape.reset), self.drives(tape)
        found, moved = dict[str, Tensor](), dict[str, Tensor]()
        for channels, names in self._by_reach(trace):
            own = DecayProducts(ahead.step[:, :, channels], ahead.start[:, channels])
            axes, Z = [self.influences[name] for name in names], [trace[name] for name in names]
            parts = [drives[name]._replace(post=drives[name].post[:, :, channels]) for name in names]
            arrived = [discount_to_end(part, own, a) for part, a in zip(parts, axes, strict=True)]
            given = Z, axes, arrived, own.start, signal[:, channels], go
            if own.start.is_complex() or resolve(self.backend, signal.device.type) in FUNCTIONAL:
                gradients, Z = contract_and_advance_functional(*given)
            else:
                gradients = contract_and_advance(*given, self.backend)
            found |= zip(names, gradients, strict=True)
            moved |= zip(names, Z, strict=True)
        return [found[name] for name in trace], {name: moved[name] for name in trace}

    def _by_reach(self, influences: Iterable[str]) -> list[tuple[slice, list[str]]]:
        """Return the influences that reach the same channels, together."""
        together: dict[tuple[int, int], list[str]] = {}
        for name in influences:
            channels = self.reach.get(name, slice(0, self.shape[0]))
            together.setdefault((channels.start, channels.stop), []).append(name)
        return [(slice(*bounds), names) for bounds, names in together.items()]

    def states(self, a: Tensor, b: Tensor, h0: Tensor, local: bool) -> Tensor:
        """Return every h_t = a_t h_{t-1} + b_t (b, t, e, n), with h_{t-1} held for the gradient where local."""
        if not local:
            return scan(a, b, h0, self.backend)
        with torch.no_grad():
            h = scan(a, b, h0, self.backend)
        return a * torch.cat([h0.detach().unsqueeze(1), h[:, :-1]], dim=1) + b

    def _selective_states(self, a: Tensor, delta: Tensor, u: Tensor, B: Tensor, h0: Tensor, local: bool) -> Tensor:
        """Return the same of a selective block, whose drive b_t (e, n) is delta_t u_t (b, t, e) times B_t (b, t, n).

        a is (b, t, g, n or 1) and delta (b, t, g), the same for all channels of a head; B may differ from channel to
        channel, (b, t, e, n).
        """
        if local:
            return self.states(by_channel(a, u.shape[2]), drive(delta, u, B), h0, local)
        return selective_scan(a, delta, u, B, h0, self.backend)

    def pre_activation(self, y: Tensor) -> Tensor:
        """Return y (..., e), of a spiking block scaled to a mean square of 1: a threshold means the same everywhere."""
        return y if self.threshold is None else F.rms_norm(y, y.shape[-1:], eps=1e-5)

    def activate(self, pre_activation: Tensor) -> Tensor:
        """Return what out_proj receives: the pre-activation, or of a spiking block 1 where it is above threshold."""
        return pre_activation if self.threshold is None else spike(pre_activation, self.threshold, self.steepness)

    def state_at(self, tape: Tape, advance: int) -> BlockState:
        """Return the state `advance` steps after the tape's start, on the tape's graph."""
        if advance == 0:
            return BlockState(conv=tape.inputs[:, : self.taps - 1], ssm=tape.h0)
        rows = tape.inputs[:, advance : advance + self.taps - 1]
        if tape.reset is not None:
            # the next step's history is what the last step's taps saw, less the oldest
            mask = tap_mask(tape.reset[:, :advance], self.taps)
            assert mask is not None
            rows = rows * mask[:, -1, 1:, None]
        return BlockState(conv=rows, ssm=tape.h[:, advance - 1])


def head(tape: Tape, steps: int) -> Tape:
    """Return the tape of the chunk's first `steps` steps."""
    drop = tape.h.shape[1] - steps
    h0, *rows = tape
    return Tape(h0, *tree_map(lambda tensor: tensor[:, : tensor.shape[1] - drop], rows))
