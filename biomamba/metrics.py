"""Streaming meters: update() with each prediction before it is learned from, get() at any time."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .stream import Chunk


def labelled_cross_entropy(out: Tensor, chunk: Chunk) -> Tensor:
    """Return the cross entropy (nats) of `out` (b, t, d_out), summed over the labelled steps: a loss to learn from."""
    nothing = -100  # a target that F.cross_entropy leaves out, so that shapes do not depend on how many are labelled
    y = chunk.y.masked_fill(~chunk.mask, nothing)
    return F.cross_entropy(out.flatten(0, 1), y.flatten(), ignore_index=nothing, reduction="sum")


class Mean:
    """A running mean over the labelled steps: the base of the meters here."""

    def __init__(self) -> None:
        """Start with nothing taken in."""
        self.total, self.count = 0.0, 0.0

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the values of the labelled steps of `out` (b, t, d_out)."""
        if bool(chunk.mask.all()):  # nothing need be picked out
            self._add(self.values(out.flatten(0, 1), chunk.y.flatten(0, 1)))
        elif bool(chunk.mask.any()):
            self._add(self.values(out[chunk.mask], chunk.y[chunk.mask]))

    def _add(self, values: Tensor) -> None:
        self.total += float(values.sum(dtype=torch.float64))
        self.count += values.numel()

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return one value per labelled step from `out` (m, d_out) and `y` (m,)."""
        raise NotImplementedError

    def get(self) -> float:
        """Return the mean so far; nan where nothing was labelled."""
        return self.total / self.count if self.count else math.nan

    def state_dict(self) -> dict[str, float]:
        """Return the sum and the count."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved sum and count."""
        self.total, self.count = state["total"], state["count"]


class Accuracy(Mean):
    """Share of labelled steps whose largest output is the target."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return 1 where right, 0 where wrong."""
        return (out.argmax(-1) == y).to(out.dtype)


class CrossEntropy(Mean):
    """Mean cross entropy of the labelled steps, nats."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the cross entropy of each step, nats."""
        return F.cross_entropy(out, y, reduction="none")


class Bits:
    """Mean cross entropy in bits (bits per byte where the targets are bytes), of what a meter in nats has seen."""

    def __init__(self, nats: CrossEntropy) -> None:
        """Take the meter, which must be updated beside this one."""
        self.nats = nats

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Do nothing: the meter in nats has counted."""

    def get(self) -> float:
        """Return the mean so far, bits."""
        return self.nats.get() / math.log(2)

    def state_dict(self) -> dict[str, float]:
        """Return nothing: the meter in nats has it."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Do nothing."""
