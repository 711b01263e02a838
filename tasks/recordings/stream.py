"""A recording, or a part of one, as steps with labels.

    label        start ... warm ................ end        event ........ decision
    y            -1        class  class  class   -1         -1             class      -1
    unit         0         0      0      1       0          0              1          0

`info["unit"]` is 1 at the last step of a label, where the decision on it is scored; `info["skipped"]` where a sample of
the step was missing or not finite, which the model sees as the last good one and nobody learns from.
Shapes: s steps, f features.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.packing import Segment
from .signal import View
from .source import Samples, Source


class Timing(NamedTuple):
    """When the steps of a label begin and when an event is decided, seconds after its onset."""

    warm: float
    decision: float


class Targets(NamedTuple):
    """The labels of a recording."""

    y: NDArray[np.int64]  # (s,) -1 where there is none
    unit: NDArray[np.int64]  # (s,)
    outside: int  # labels that begin before the recording or are decided after it
    hidden: int  # labels all of whose steps are those of later ones


@dataclass(frozen=True)
class Recording:
    """The samples from `first` to before `last` of a source, read when the stream gets there."""

    source: Source
    view: View
    timing: Timing
    codes: Mapping[str, int]  # by text of a label, the number of its class
    first: int
    last: int

    @cached_property
    def steps(self) -> int:
        """Return how many steps it takes."""
        return self.view.steps(self.last - self.first, self.source.rate)

    def targets(self) -> Targets:
        """Return the classes at the steps."""
        rate, whole = self.source.rate, [label for label in self.source.labels if label.text in self.codes]
        times, begin, end = self.view.times(self.last - self.first, rate), self.first / rate, self.last / rate
        inside = [label for label in whole if begin <= label.start < end]
        outside = sum(label.start < 0 for label in whole) if self.first == 0 else 0
        outside += sum(label.start >= end for label in whole) if self.last == self.source.samples else 0
        owner, late = np.full(len(times), -1), 0
        for number, label in enumerate(inside):
            at, stop = self._steps_of(times, label.start - begin, label.end - begin)
            late += at >= len(times)
            owner[at:stop] = number
        seen = np.flatnonzero(owner >= 0)
        unit = np.zeros(len(times), dtype=np.int64)
        unit[seen[np.flatnonzero(np.diff(owner[seen], append=-1))]] = 1
        kinds = np.array([self.codes[label.text] for label in inside] or [-1])
        hidden = len(inside) - late - len(np.unique(owner[seen]))
        return Targets(np.where(owner >= 0, kinds[owner], -1), unit, outside + late, hidden)

    def read(self) -> Iterator[Segment]:
        """Yield it block by block."""
        targets, at = self.targets(), 0

        def samples(first: int, last: int) -> Samples:
            return self.source.read(self.first + first, self.first + last)

        for x, good in self.view.blocks(samples, self.last - self.first, self.source.rate):
            y, unit = (torch.from_numpy(own[at : at + len(x)]) for own in targets[:2])
            fine = torch.from_numpy(good)
            info = {"unit": unit, "skipped": (~fine).long()}
            yield Segment(torch.from_numpy(x.astype(np.float32)), y, (y >= 0) & fine, info)
            at += len(x)

    def _steps_of(self, times: Samples, start: float, end: float) -> tuple[int, int]:
        """Return the first step of a label and the one behind its last; an event and a short one have one step."""
        if end <= start:
            at = int(np.searchsorted(times, start + self.timing.decision - 1e-9))
            return at, at + 1
        stop = int(np.searchsorted(times, end + 1e-9, side="right"))
        at = int(np.searchsorted(times, start + self.timing.warm + 1e-9, side="right"))
        if at < stop:
            return at, stop
        at = min(int(np.searchsorted(times, start - 1e-9)), len(times) - 1)
        return max(at, stop - 1), max(at, stop - 1) + 1


def padding(size: int) -> Segment:
    """Return one step of f = `size` features without a label."""
    zero = torch.tensor([0])
    return Segment(
        torch.zeros(1, size), torch.tensor([-1]), torch.zeros(1, dtype=torch.bool), {"unit": zero, "skipped": zero}
    )
