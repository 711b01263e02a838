"""Scores of values, and the predictors that anyone would try first.

Shapes: b streams, t steps, k targets; y is (b, t, k) values, or (b, t) classes for `Last` and `Average`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.metrics import Mean, Total
from biomamba.stream import Chunk

SAID = 5  # columns that are named


class AbsoluteError(Mean):
    """Mean absolute error of the labelled steps."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the error of each step, over its targets."""
        return (out - y).abs().mean(-1)


class InUnits(Mean):
    """The mean absolute error of one target in the units of the table, or the root of its mean squared error."""

    def __init__(self, target: int, squared: bool) -> None:
        """Take the number of the target."""
        super().__init__()
        self.target, self.squared = target, squared

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the errors of the labelled steps; `info["unit"]` (b, t, k) is what 1 of `out` and y is in the table."""
        own, unit = slice(self.target, self.target + 1), chunk.info["unit"]
        super().update((out.detach() * unit)[..., own], chunk._replace(y=(chunk.y * unit)[..., own]))

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the error of each step."""
        return (out - y).square()[:, 0] if self.squared else (out - y).abs()[:, 0]

    def get(self) -> float:
        """Return the score so far; nan where nothing was labelled."""
        return math.sqrt(super().get()) if self.squared else super().get()


class SkippedRows(Total):
    """How many rows were skipped, and by which input: `info["skipped"]` (b, t) is its number from 1, or 0."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of the inputs."""
        super().__init__("skipped")
        self.names, self.counts = names, dict[str, int]()  # by number of the input, from 1
        self.unlabelled = 0  # rows that were good and not learned from

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Count the rows of a chunk."""
        self.unlabelled += int((~chunk.mask & (chunk.info["skipped"] == 0)).sum())
        found, counts = chunk.info["skipped"][chunk.info["skipped"] > 0].unique(return_counts=True)
        for which, count in zip(found.tolist(), counts.tolist(), strict=True):
            self.counts[str(which)] = self.counts.get(str(which), 0) + count

    def get(self) -> float:
        """Return the number of rows so far."""
        return float(sum(self.counts.values()))

    def told(self) -> str:
        """Return the columns with how many rows each has cost, most first."""
        most = sorted(self.counts.items(), key=lambda item: -item[1])
        own = [f"{self.names[int(which) - 1]} in {count:,}" for which, count in most[:SAID]]
        return ", ".join([*own, *(["..."] if len(most) > SAID else [])])

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"counts": dict(self.counts), "unlabelled": self.unlabelled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts."""
        self.counts, self.unlabelled = dict(state["counts"]), state["unlabelled"]


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
