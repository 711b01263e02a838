"""A record as steps of a stream: the signal, and the labels of the beats at the steps that decide them.

    R peak at sample r   ->   decided at the first step whose signal reaches r + decision

y is the class to learn, -1 where there is none; info has the class to `score` (-1: none), and of what the quality gate
cut out just before this step the samples, `skipped`, and the beats, `lost`; `unused` counts flutter waves, which have
no class, and `at` is the sample of the R peak where a beat is decided.

With delayed labels the stream runs twice, a live row and a late one:

    live   | signal, scored, never learned from                              |
    late   | lag steps of nothing | the same signal, learned from, not scored  |

The weights are shared, so the live row always predicts with the newest weights of a learner that runs behind and has
every label at hand when the signal arrives. The lag is the longest stretch of n beats of the record, so that
a label is learned from n beats after its own at the earliest. Shapes: s samples, c leads, t steps, m beats.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.packing import Segment
from .files import Record
from .rhythm import Rhythm
from .signal import Filters, RunningNorm, augment, usable


@dataclass(frozen=True)
class Beats:
    """A record, live, late or both at once: what packing.Recording asks for.

    every: samples per step. decision: samples from the R peak to the decision. rhythm: with the channels of Rhythm.
    scale: divide by the running size. columns: of the channels; none: all. vary: seeds of the gains, which are varied
    from block to block; None: they are not. learn, score: whether beats are learned from and scored. labelled: samples
    after which no beat is learned from. score_from: samples before which none is scored. short: steps left out at the
    end.
    """

    record: Record
    every: int
    decision: int
    rhythm: bool = False
    scale: bool = False
    columns: tuple[int, ...] = ()
    vary: tuple[int, ...] | None = None
    learn: bool = True
    score: bool = True
    labelled: float = math.inf
    score_from: float = 0.0
    short: int = 0

    @property
    def steps(self) -> int:
        """Return how many steps the record has, cut out or not."""
        return max(0, self.record.samples // self.every - self.short)

    def lag(self, beats: int) -> int:
        """Return the steps of the longest stretch of `beats` beats; the whole record where it has no more."""
        at = self.record.beats
        longest = self.record.samples if len(at) <= beats else int((at[beats:] - at[:-beats]).max())
        return min(math.ceil(longest / self.every), self.steps)

    def late(self, beats: int) -> "tuple[Silence, Beats]":
        """Return what a learner that runs `beats` beats behind hears: nothing for a while, then the record."""
        lag = self.lag(beats)
        return Silence(lag), replace(self, learn=True, score=False, short=lag)

    def read(self) -> Iterator[Segment]:
        """Yield the record, block by block; what was cut out of it is filled up at its end."""
        decided = np.minimum(self.record.beats + self.decision, self.record.samples - 1)
        alive = np.ones(len(decided), dtype=bool)
        preprocess, at, done = Preprocessor(self), 0, 0
        skipped = lost = unused = 0
        for block in self.record.blocks():
            kept, end = usable(block), at + len(block)
            peaks = (self.record.beats >= at) & (self.record.beats < end)
            alive[peaks] &= kept[self.record.beats[peaks] - at]
            now = (decided >= at) & (decided < end)
            alive[now] &= kept[decided[now] - at]
            x = preprocess(block[kept])
            places = (np.cumsum(kept) - 1)[decided[now] - at] // self.every
            labels = self._labels(np.flatnonzero(now & alive), places[alive[now]], len(x))
            skipped, lost = skipped + int((~kept).sum()), lost + int((now & ~alive).sum())
            unused += int(((self.record.unused >= at) & (self.record.unused < end)).sum())
            at, done = end, done + len(x)
            if len(x):
                yield self._segment(x, labels, skipped, lost, unused)
                skipped = lost = unused = 0
        rest = self.record.samples // self.every - done
        if rest:
            none = np.empty(0, dtype=np.int64)
            yield self._segment(torch.zeros(rest, x.shape[1]), self._labels(none, none, rest), skipped, lost, unused)

    def _labels(self, which: NDArray[np.int64], places: NDArray[np.int64], steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classes to learn and to score and the R peaks (t,), of some beats at their steps."""
        y, score = torch.full((2, steps), -1)
        at = torch.zeros(steps, dtype=torch.int64)
        if steps:
            places, kinds = places.clip(max=steps - 1), self.record.kinds[which]
            known = self.record.beats[which] < self.labelled
            counted = self.record.beats[which] >= self.score_from
            at[places] = torch.from_numpy(self.record.beats[which])
            if self.learn:
                y[places[known]] = torch.from_numpy(kinds[known])
            if self.score:
                score[places[counted]] = torch.from_numpy(kinds[counted])
        return y, score, at

    def _segment(
        self, x: Tensor, labels: tuple[Tensor, Tensor, Tensor], skipped: int, lost: int, unused: int
    ) -> Segment:
        """Return a segment; steps with a class to learn have a loss. What a late row skips is counted live alone."""
        y, score, at = labels
        gone = torch.zeros(3, len(y), dtype=torch.int64)
        if self.score:
            gone[:, 0] = torch.tensor([skipped, lost, unused])
        info = {"score": score, "at": at, "skipped": gone[0], "lost": gone[1], "unused": gone[2]}
        return Segment(x, y, y >= 0, info)


class Preprocessor:
    """From samples to the input of the model; its state is that of one reading of a record."""

    def __init__(self, beats: Beats) -> None:
        """Take what is wanted."""
        self.filters = Filters(beats.every)
        self.norm = RunningNorm(beats.every) if beats.scale else None
        self.rhythm = Rhythm(beats.every) if beats.rhythm else None
        self.columns = list(beats.columns)
        self.rng = None if beats.vary is None else np.random.default_rng(beats.vary)

    def __call__(self, block: NDArray[np.float64]) -> Tensor:
        """Return the steps (t, channels) of the next samples (s, c) that passed the gate."""
        x = self.filters(block)
        if self.norm and len(x):
            x = self.norm(x)
        if self.rng:
            x = augment(x, self.rng)
        x = torch.cat([x, self.rhythm(block)], dim=1) if self.rhythm else x
        return x[:, self.columns] if self.columns else x


@dataclass(frozen=True)
class Silence:
    """So many steps of nothing, before a late row begins."""

    steps: int

    def read(self) -> Iterator[Segment]:
        """Yield nothing: it is filled up."""
        return iter(())


def padding(channels: int) -> Segment:
    """Return a step of silence."""
    none, zero = torch.tensor([-1]), torch.tensor([0])
    info = {"score": none, **dict.fromkeys(("at", "skipped", "lost", "unused"), zero)}
    return Segment(torch.zeros(1, channels), none, torch.zeros(1, dtype=torch.bool), info)
