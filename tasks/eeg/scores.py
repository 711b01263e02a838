"""Meters of a running decision: what was said at the end of a window or of a trial, and how soon it was right for good.

    said = argmax of the sum of log p over the labelled steps since the last decision

Shapes: b streams, t steps, k classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from biomamba.metrics import Confusion
from biomamba.stream import Chunk

from .files import RATE


class Evidence:
    """The log probabilities summed, on each row, since the last decision; `info[ends]` asks for one."""

    def __init__(self, ends: str) -> None:
        """Start with no evidence."""
        self.ends, self.held = ends, torch.zeros(0)

    def take(self, out: Tensor, chunk: Chunk) -> list[tuple[int, int, int, int]]:
        """Return what was decided in a chunk: row, step, class said, true class, in the order of time."""
        logs = out.detach().cpu().double().log_softmax(-1) * chunk.mask.cpu()[..., None]
        total, y = logs.cumsum(1), chunk.y.cpu()
        ends = chunk.info[self.ends].cpu()
        if len(self.held) != len(total):
            self.held = torch.zeros(len(total), total.shape[-1], dtype=torch.float64)
        made = []
        for step, row in ends.T.nonzero().tolist():
            made.append((row, step, int((self.held[row] + total[row, step]).argmax()), int(y[row, step])))
            self.held[row] = -total[row, step]
        self.held = self.held + total[:, -1]
        return made

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"held": self.held.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        self.held = torch.tensor(state["held"], dtype=torch.float64)


class Decisions(Confusion):
    """Which class was said of which at the ends of windows, or of blocks and trials."""

    def __init__(self, classes: Sequence[str], ends: str) -> None:
        """Start with nothing counted; `info[ends]` is 1 where a decision is asked for."""
        self.evidence = Evidence(ends)
        super().__init__(classes, self._decide)

    def _decide(self, out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        made = self.evidence.take(out, chunk)
        return torch.tensor([m[2] for m in made], dtype=torch.int64), torch.tensor([m[3] for m in made]).long()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the evidence."""
        return super().state_dict() | self.evidence.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts and evidence."""
        super().load_state_dict(state)
        self.evidence.load_state_dict(state)


class Latency:
    """Seconds from an onset to the end of the first window from which on all decisions of the block or trial are right.

    Its score is the median over the blocks or trials that got there; `never` is the share of those that did not.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self.evidence = Evidence("window")
        self.right: dict[str, int] = {}  # by row: samples after the onset since when it has been right; -1 if it is not
        self.times: list[float] = []
        self.missed = 0

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Follow the windows of a chunk."""
        for row, step, said, true in self.evidence.take(out, chunk):
            since, ends = int(chunk.info["since"][row, step]), bool(chunk.info["unit"][row, step])
            before = self.right.pop(str(row), -1)
            now = -1 if said != true else before if before >= 0 else since
            if not ends:
                self.right[str(row)] = now
            elif now < 0:
                self.missed += 1
            else:
                self.times.append(now / RATE)

    def get(self) -> float:
        """Return the median, seconds; nan where none got there."""
        if not self.times:
            return math.nan
        return float(torch.tensor(self.times, dtype=torch.float64).quantile(0.5))

    def never(self) -> float:
        """Return the share of blocks or trials that were not right at their end; nan where none has ended."""
        ended = self.missed + len(self.times)
        return self.missed / ended if ended else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured and what is on its way."""
        own = {"right": dict(self.right), "times": list(self.times), "missed": self.missed}
        return own | self.evidence.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.right, self.times, self.missed = dict(state["right"]), list(state["times"]), state["missed"]
        self.evidence.load_state_dict(state)
