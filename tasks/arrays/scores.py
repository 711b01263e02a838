"""Scores of values, and the predictors that anyone would try first.

Shapes: b streams, t steps, k targets; y is (b, t, k) values, or (b, t) classes for `Last` and `Average`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.metrics import Mean
from biomamba.stream import Chunk


class SquaredError(Mean):
    """Mean squared error of the labelled steps."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the error of each step, over its targets."""
        return (out - y).square().mean(-1)


class AbsoluteError(Mean):
    """Mean absolute error of the labelled steps."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the error of each step, over its targets."""
        return (out - y).abs().mean(-1)


class R2:
    """1 - squared error / squared deviation from each target's own mean, both summed over the targets."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.count, self.error = 0, 0.0
        self.mean, self.deviation = list[float](), list[float]()

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Take in the labelled steps (Chan, Golub and LeVeque 1979: means and deviations of two parts joined)."""
        y = chunk.y[chunk.mask]
        if not len(y):
            return
        self.error += float((out[chunk.mask] - y).square().sum(dtype=torch.float64))
        mean = y.mean(0)
        before, self.count = self.count, self.count + len(y)
        gap = mean.cpu() - torch.tensor(self.mean or [0.0] * len(mean), dtype=y.dtype)
        own = (y - mean).square().sum(0).cpu() + gap.square() * (before * len(y) / self.count)
        self.deviation = (torch.tensor(self.deviation or [0.0] * len(mean), dtype=y.dtype) + own).tolist()
        self.mean = (mean.cpu() - gap * (before / self.count)).tolist()

    def get(self) -> float:
        """Return the score; nan where the targets never changed."""
        whole = sum(self.deviation)
        return 1 - self.error / whole if whole else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        vars(self).update(state)


class Last:
    """The last target that was known: persistence; 0 before there is one.

    classes: how many; None for values.
    """

    def __init__(self, classes: int | None) -> None:
        """Start with nothing seen."""
        self.classes, self.last = classes, torch.empty(0)

    def predict(self, chunk: Chunk) -> Tensor:
        """Return the last target before each step; of a class, 1 for it and 0 for the others."""
        value, known = _known(chunk, self.classes)
        if not len(self.last):
            self.last = torch.zeros_like(value[:, :1])
        value = torch.cat([self.last, value], dim=1)
        at = torch.arange(1, value.shape[1]).expand(known.shape) * known
        at = F.pad(at.cummax(1).values, (1, 0))[..., None].expand(-1, -1, value.shape[2])
        filled = value.gather(1, at)
        self.last = filled[:, -1:]
        return filled[:, :-1]


class Average:
    """The mean of all targets that were known; of classes, the log of how often each was, counted from 1.

    classes: how many; None for values.
    """

    def __init__(self, classes: int | None) -> None:
        """Start with nothing seen."""
        self.classes, self.sum, self.count = classes, torch.zeros(1), torch.zeros(1)

    def predict(self, chunk: Chunk) -> Tensor:
        """Return the mean before each step, or the log share of each class."""
        value, known = _known(chunk, self.classes)
        value = value * known[..., None]
        sums, counts = self.sum + value.cumsum(1), self.count + known[..., None].cumsum(1)
        self.sum, self.count, before = sums[:, -1:], counts[:, -1:], sums - value
        count = counts - known[..., None].long()
        if self.classes is None:
            return before / count.clamp(min=1)
        return ((before + 1) / (count + self.classes)).log()


def _known(chunk: Chunk, classes: int | None) -> tuple[Tensor, Tensor]:
    """Return the targets (b, t, k), classes as 1 among 0s, and which were known (b, t)."""
    if classes is None:
        return chunk.y.nan_to_num(0), ~chunk.y.isnan().any(-1)
    return F.one_hot(chunk.y.clamp(min=0), classes).double(), chunk.y >= 0
