"""Streaming meters: update() with each prediction before it is learned from, get() at any time."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .stream import Chunk

CAPACITY = 1 << 14  # numbers of predictions that wait at most


LOWER = {"loss", "bits", "cer", "wer", "mse", "mae", "rmse", "latency", "recovery"}  # words in the names of scores
HIGHER = {"accuracy", "f1", "kappa", "j", "jk", "r2", "sensitivity", "predictivity", "running"}


def direction(score: str) -> int:
    """Return 1 where more of a score is better, -1 where less is, 0 where its name does not tell."""
    words = set(score.partition("[")[0].split("_"))  # mae[price]: of the column price
    return -1 if words & LOWER else 1 if words & HIGHER else 0


def labelled_cross_entropy(out: Tensor, chunk: Chunk) -> Tensor:
    """Return the cross entropy (nats) of `out` (b, t, d_out) to `y` (b, t), summed over the masked steps: a loss."""
    nothing = -100  # a target that F.cross_entropy leaves out, so that shapes do not depend on how many are labelled
    y = chunk.y.masked_fill(~chunk.mask, nothing)
    return F.cross_entropy(out.flatten(0, 1), y.flatten(), ignore_index=nothing, reduction="sum")


def labelled_squared_error(out: Tensor, chunk: Chunk) -> Tensor:
    """Return the squared error of `out` to `y`, both (b, t, k), a mean over k, summed over the masked steps: a loss."""
    y = chunk.y.masked_fill(~chunk.mask[..., None], 0)
    return ((out - y.to(out.dtype)).square().mean(-1) * chunk.mask).sum()


class Mean:
    """A running mean over the labelled steps: the base of the meters here.

    Predictions wait until there are enough of them to be scored at once, or until somebody asks.
    """

    def __init__(self) -> None:
        """Start with nothing taken in."""
        self.total, self.count = 0.0, 0
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # out, y, mask of chunks
        self.capacity = CAPACITY

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the values of the labelled steps of `out` (b, t, d_out), which nobody changes afterwards."""
        # copies, because a stream may fill its own memory anew
        self.waiting.append((out.detach(), chunk.y.clone(), chunk.mask.clone()))
        self.capacity -= out.numel()
        if self.capacity <= 0:
            self._score()

    def _score(self) -> None:
        """Score what waits."""
        if self.waiting:
            every = ([part.flatten(0, 1) for part in parts] for parts in zip(*self.waiting, strict=True))
            out, y, mask = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in every)
            self.waiting, self.capacity = [], CAPACITY
            if not bool(mask.all()):
                out, y = out[mask], y[mask]
            if len(y):
                self._add(self.values(out, y))

    def _add(self, values: Tensor) -> None:
        """Add values one by one, so that the sum does not depend on how many came at once."""
        self.total = float(np.cumsum([self.total, *values.tolist()])[-1])
        self.count += len(values)

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return one value per labelled step from `out` (m, d_out) and `y` (m,)."""
        raise NotImplementedError

    def get(self) -> float:
        """Return the mean so far; nan where nothing was labelled."""
        self._score()
        return self.total / self.count if self.count else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the count."""
        self._score()
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved sum and count."""
        self.waiting, self.capacity = [], CAPACITY
        self.total, self.count = state["total"], state["count"]


class Accuracy(Mean):
    """Share of labelled steps whose largest output is the target."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return 1 where right, 0 where wrong."""
        return (out.argmax(-1) == y).to(out.dtype)


class SquaredError(Mean):
    """Mean squared error of the labelled steps."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the error of each step, over its targets."""
        return (out - y).square().mean(-1)


class CrossEntropy(Mean):
    """Mean cross entropy of the labelled steps, nats."""

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the cross entropy of each step, nats."""
        return F.cross_entropy(out, y, reduction="none")


class Derived:
    """A score computed from what another meter, updated beside this one, has seen."""

    def __init__(self, score: Callable[[], float]) -> None:
        """Take the function that returns the score."""
        self.get = score

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Do nothing: the other meter has counted."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the other meter has it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class Total:
    """The sum of whole numbers (b, t) in `chunk.info`, divided by `unit`: what was left out, say, in seconds."""

    def __init__(self, name: str, unit: float = 1.0) -> None:
        """Start at 0."""
        self.name, self.unit, self.total = name, unit, 0

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the numbers of a chunk."""
        self.total += int(chunk.info[self.name].sum())

    def get(self) -> float:
        """Return the sum so far."""
        return self.total / self.unit

    def state_dict(self) -> dict[str, Any]:
        """Return the sum."""
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved sum."""
        self.total = state["total"]


def bits(nats: CrossEntropy) -> Derived:
    """Return the meter's mean in bits (bits per byte where the targets are bytes)."""
    return Derived(lambda: nats.get() / math.log(2))


class Confusion:
    """Which class was predicted of which: counts (true, predicted). Its own score is the accuracy.

    classes: their names. decisions: returns the classes predicted (m,) and the true ones (m,) of the predictions for a
    chunk and the chunk.
    """

    def __init__(self, classes: Sequence[str], decisions: Callable[[Tensor, Chunk], tuple[Tensor, Tensor]]) -> None:
        """Start with nothing counted."""
        self.classes, self.decisions = classes, decisions
        self.matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Count the decisions of a chunk."""
        predicted, true = self.decisions(out, chunk)
        size = len(self.matrix)
        self.matrix += torch.bincount(true.cpu() * size + predicted.cpu(), minlength=size**2).view(size, size)

    def get(self) -> float:
        """Return the accuracy so far; nan where nothing was decided."""
        return _ratio(self.matrix.trace(), self.matrix.sum())

    def sensitivity(self, true: int) -> float:
        """Return the share of a class that was predicted to be it (recall); nan where there was none of it."""
        return _ratio(self.matrix[true, true], self.matrix[true].sum())

    def predictivity(self, predicted: int) -> float:
        """Return the share of what was predicted to be a class that was it (precision); nan where it never was."""
        return _ratio(self.matrix[predicted, predicted], self.matrix[:, predicted].sum())

    def f1(self, which: int) -> float:
        """Return 2 TP / (2 TP + FP + FN); nan where there is none of the class, true or predicted."""
        return _ratio(2 * self.matrix[which, which], self.matrix[which].sum() + self.matrix[:, which].sum())

    def macro_f1(self, classes: Iterable[int] | None = None) -> float:
        """Return the mean F1 of the classes (all, without them), 0 for a nan; nan where nothing was decided at all."""
        scores = [self.f1(c) for c in (range(len(self.matrix)) if classes is None else classes)]
        whole = sum(0.0 if math.isnan(score) else score for score in scores)
        return whole / len(scores) if self.matrix.any() else math.nan

    def balanced_accuracy(self) -> float:
        """Return the mean sensitivity of the classes that there were; nan where nothing was decided."""
        there = [s for c in range(len(self.matrix)) if not math.isnan(s := self.sensitivity(c))]
        return sum(there) / len(there) if there else math.nan

    def kappa(self) -> float:
        """Return Cohen's kappa (1960): agreement beyond chance, (p_o - p_e) / (1 - p_e); nan where p_e is 1."""
        total = self.matrix.sum()
        chance = _ratio((self.matrix.sum(0) * self.matrix.sum(1)).sum(), total**2)
        return _ratio(self.get() - chance, 1 - chance)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"matrix": self.matrix.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts."""
        self.matrix = torch.tensor(state["matrix"])


def _ratio(part: Tensor | float, whole: Tensor | float) -> float:
    """Return part / whole; nan where the whole is 0."""
    return float(part) / float(whole) if whole else math.nan
