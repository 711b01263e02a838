"""How well a learner takes a change of its stream: scores just before and after it, and how long until it is as before.

    error per block of steps  ->  a change, marked or found  ->  before, after, recovery

A change is found by ADWIN (Bifet and Gavalda 2007; river's), run over the blocks' errors, and dated where the blocks
before and after it differ most (least squares, Hinkley 1970). Both are done anew each time the score is asked for, from
the blocks alone: those are plain numbers that a checkpoint holds, which river's detector is not.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.stream import Chunk

from ..common.files import package

BLOCKS = 16_384  # a block is one step, and twice as many each time there are more blocks than these
STEPS, LEAST = 256, 32  # what "just before", "just after" and "running" mean: so many steps, but no fewer blocks
SLACK, FLOOR = 1.2, 0.01  # as before: the running error is at most SLACK times the error before, plus FLOOR
DELTA = 0.002  # of ADWIN: the share of false alarms


class Change(NamedTuple):
    """One change of a stream; nan where it is not known."""

    before: float = math.nan  # mean error just before it
    after: float = math.nan  # mean error just after it
    recovery: float = math.nan  # steps until the running error was as before


class Errors:
    """A meter of the error over time. Its own score is that before the change.

    error: of the labelled steps (m,), from `out` (m, d_out) and y (m, ...); `info["row"]` tells the time.
    marked: the time when the stream is known to change, steps; without it, the first change that is found counts.
    accuracy: the scores are 1 - error.
    """

    def __init__(
        self, error: Callable[[Tensor, Tensor], Tensor], marked: int | None = None, accuracy: bool = False
    ) -> None:
        """Start with nothing seen."""
        self.error, self.marked, self.accuracy = error, marked, accuracy
        self.size, self.blocks = 1, dict[int, list[float]]()  # sum and count by number, from the marked row

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the errors of the labelled steps."""
        out, y, row = (tensor[chunk.mask] for tensor in (out, chunk.y, chunk.info["row"]))
        numbers = torch.div(row - (self.marked or 0), self.size, rounding_mode="floor")
        distinct, where = numbers.unique(return_inverse=True)
        sums = torch.zeros(len(distinct), dtype=torch.float64, device=out.device)
        sums.index_add_(0, where, self.error(out, y).double())
        for number, total, count in zip(distinct.tolist(), sums.tolist(), where.bincount().tolist(), strict=True):
            self._add(number, total, count)
        while len(self.blocks) > BLOCKS:
            before, self.blocks, self.size = self.blocks, {}, 2 * self.size
            for number, (total, count) in before.items():
                self._add(number // 2, total, count)

    def _add(self, number: int, total: float, count: float) -> None:
        own = self.blocks.setdefault(number, [0.0, 0.0])
        own[0], own[1] = own[0] + total, own[1] + count

    def get(self) -> float:
        """Return the score just before the change; nan where there is none."""
        before = self.change().before
        return 1 - before if self.accuracy else before

    def after(self) -> float:
        """Return the score just after the change; nan where there is none."""
        after = self.change().after
        return 1 - after if self.accuracy else after

    def recovery(self) -> float:
        """Return how many steps after the change the running error was as before; nan where it never was."""
        return self.change().recovery

    def changes(self) -> list[int]:
        """Return the first block of each change to the worse that ADWIN finds."""
        numbers, errors, _ = self._sorted()
        return [int(numbers[at]) for at in _changes(errors)]

    def count(self) -> float:
        """Return how many changes to the worse there are; nan where nothing was scored."""
        return float(len(self.changes())) if self.blocks else math.nan

    def change(self) -> Change:
        """Return the marked change, else the first that is found."""
        numbers, errors, counts = self._sorted()
        first = 0 if self.marked is not None else next(iter(self.changes()), None)
        if first is None or not (numbers < first).any():  # all of it lies after the change
            return Change()
        at, window = int(np.searchsorted(numbers, first)), max(LEAST, STEPS // self.size)
        before, after = (
            float(np.average(errors[own], weights=counts[own])) if len(errors[own]) else math.nan
            for own in (slice(max(0, at - window), at), slice(at, at + window))
        )
        if len(numbers) < at + window:
            return Change(before, after)
        sums, steps = (np.convolve(part[at:], np.ones(window), "valid") for part in (errors * counts, counts))
        as_before = np.flatnonzero(sums / steps <= SLACK * before + FLOOR)
        end = int(numbers[at + window - 1 + as_before[0]]) + 1 if len(as_before) else math.nan
        return Change(before, after, (end - first) * self.size)

    def state_dict(self) -> dict[str, Any]:
        """Return the blocks."""
        return {"size": self.size, "blocks": [[number, *own] for number, own in self.blocks.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved blocks."""
        self.size, self.blocks = state["size"], {number: [total, count] for number, total, count in state["blocks"]}

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return number, mean error and count of the blocks in their order."""
        rows = np.array([(number, *own) for number, own in sorted(self.blocks.items())]).reshape(-1, 3)
        return rows[:, 0].astype(np.int64), rows[:, 1] / rows[:, 2], rows[:, 2]


def _changes(errors: NDArray[np.float64]) -> list[int]:
    """Return where the errors rise for good, by ADWIN. Raises ImportError without river."""
    adwin = package("river.drift", "drift", "finding changes").ADWIN
    usual = float(np.median(errors)) if len(errors) else 0.0
    bounded = errors / (errors + usual) if usual > 0 else np.minimum(errors, 1)  # ADWIN asks for numbers from 0 to 1
    found, since, detector = list[int](), 0, adwin(delta=DELTA, clock=1)
    for now, error in enumerate(bounded.tolist()):
        detector.update(error)
        if detector.drift_detected:
            at = since + _split(errors[since : now + 1])
            if errors[at : now + 1].mean() > errors[since:at].mean():
                found.append(at)
            since, detector = now + 1, adwin(delta=DELTA, clock=1)
    return found


def _split(errors: NDArray[np.float64]) -> int:
    """Return where the errors (m,), m >= 2, fall into two parts whose means differ most (least squares)."""
    first = np.arange(1, len(errors))
    sums = np.cumsum(errors)
    gap = sums[:-1] / first - (sums[-1] - sums[:-1]) / (len(errors) - first)
    return int(np.argmax(gap**2 * first * (len(errors) - first))) + 1
