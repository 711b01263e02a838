"""A record as one step a beat: the channels of each beat, and its label.

    annotated R peaks   a step for each beat that passed the quality gate
    detected ones       a step for each; the nearest annotated beat within 0.15 s (EC57) is its label

A detected beat that no annotation is near is extra: it is scored as NONE and never learned from. An annotated beat that
no detection is near is missed: it is counted in `missed` of the step after it. What is detected near a wave of
ventricular flutter is neither scored nor learned from, as in EC57. A last step, without a beat, closes the record. The
input of a beat depends on the samples up to 0.25 s after its R peak, or up to where it was noticed.

info: `score`, `skipped`, `lost` and `unused` as in the sample steps, `missed` by class, and `at`, the sample of the R
peak. Shapes: s samples of a block, c leads, m beats, t = m + 1 steps, k channels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.packing import Segment
from .detector import Peaks
from .features import AFTER, Features
from .files import CLASSES, RATE, Record
from .signal import WINDOW, usable
from .stream import Silence

NONE = len(CLASSES)  # the class of what was detected and is no beat, and what is said of one that was missed
NEAR = round(0.15 * RATE)  # samples between a detection and the beat that it is of, at most
Ints = NDArray[np.int64]


class Table(NamedTuple):
    """All beats of a record, in order."""

    x: NDArray[np.float32]  # (m, k) channels
    kinds: Ints  # (m,) classes, NONE of extra ones, -1 of flutter waves
    at: Ints  # (m,) samples of the R peaks in the record, as annotated, or as detected where they are extra
    noticed: Ints  # (m,) samples that had passed the gate when the step was taken
    peaks: Ints  # (m,) samples of the R peaks among those that had passed the gate
    missed: Ints  # annotated beats that passed the gate and were not detected
    skipped: int  # samples that did not pass it
    lost: int  # annotated beats that did not


def tabulate(record: Record, gate: float, detected: bool) -> Table:
    """Return the beats of a record, read once, block by block. Raises ValueError for a signal that cannot be read.

    gate: as `Features` takes it. detected: at R peaks that are detected, not at those annotated.
    """
    decided = np.minimum(record.beats + AFTER, record.samples - 1)
    alive, places = np.ones(len(decided), dtype=bool), np.zeros(len(decided), dtype=np.int64)
    flutter = []  # places of its waves, as of the beats: among the samples that passed the gate
    features, detector = Features(gate), Peaks()
    rows, peaks, noticed, windows = [], [], [], []
    waiting = np.empty((2, 0), dtype=np.int64)  # R peaks that were noticed, and when, whose windows are not yet in
    at = heard = 0  # samples read, and those that passed the gate
    for block in record.blocks():
        kept, end = usable(block), at + len(block)
        windows.append(at + np.flatnonzero(kept[::WINDOW]) * WINDOW)
        own = (record.beats >= at) & (record.beats < end)
        alive[own] &= kept[record.beats[own] - at]
        places[own] = heard + (np.cumsum(kept) - 1)[record.beats[own] - at]
        waves = record.unused[(record.unused >= at) & (record.unused < end)] - at
        flutter.append(heard + (np.cumsum(kept) - 1)[waves[kept[waves]]])
        now = (decided >= at) & (decided < end)
        alive[now] &= kept[decided[now] - at]
        signal = block[kept]
        heard += len(signal)
        if detected:
            waiting = np.concatenate([waiting, np.stack(detector(signal))], axis=1)
            ready = (waiting[0] + AFTER < heard) | (end >= record.samples)
            found, waiting = waiting[:, ready], waiting[:, ~ready]
        else:
            found = np.stack([places[now & alive], places[now & alive] + AFTER])
        rows.append(features(signal, found[0]))
        peaks.append(found[0])
        noticed.append(np.maximum(found[1], found[0] + AFTER))
        at = end
    peak, starts = np.concatenate(peaks), np.concatenate(windows)
    beats = np.flatnonzero(alive)
    which = match(peak, places[beats]) if detected else np.arange(len(beats))
    extra, own_beats = which < 0, np.append(beats, -1)[which]
    told = starts[peak // WINDOW] + peak % WINDOW
    kinds = np.where(extra, NONE, record.kinds[own_beats])
    if detected:
        kinds[np.flatnonzero(extra)[match(peak[extra], np.concatenate(flutter)) >= 0]] = -1
    return Table(
        np.concatenate(rows),
        kinds,
        np.where(extra, told, record.beats[own_beats]),
        np.concatenate(noticed),
        peak,
        np.setdiff1d(beats, own_beats[~extra]),
        record.samples - heard,
        int((~alive).sum()),
    )


def match(peaks: Ints, beats: Ints) -> Ints:
    """Return which of the beats each detected peak is of (m,); -1 where it is of none. Both are samples, in order.

    Each beat takes the nearest peak within NEAR that no beat before it has taken, as EC57 compares them.
    """
    which = np.full(len(peaks), -1)
    for beat, sample in enumerate(beats):
        first, after = np.searchsorted(peaks, [sample - NEAR, sample + NEAR + 1])
        free = [peak for peak in range(first, after) if which[peak] < 0]
        if free:
            which[min(free, key=lambda peak: abs(peaks[peak] - sample))] = beat
    return which


@dataclass(frozen=True)
class BeatSteps:
    """A record a beat a step, live, late or both at once: what packing.Recording asks for.

    table: returns its beats. known: their number, where that takes no reading. columns: of the channels, -1 for a lead
    that the record lacks. learn, score, labelled, score_from, short: as in stream.Beats.
    """

    record: Record
    table: Callable[[], Table]
    known: int | None
    columns: tuple[int, ...]
    learn: bool = True
    score: bool = True
    labelled: float = math.inf
    score_from: float = 0.0
    short: int = 0

    @property
    def steps(self) -> int:
        """Return how many steps the record has."""
        count = len(self.table().kinds) if self.known is None else self.known
        return max(0, count + 1 - self.short)

    def late(self, beats: int) -> "tuple[Silence, BeatSteps]":
        """Return what a learner that runs `beats` beats behind hears: nothing for a while, then the record."""
        lag = min(beats, self.steps)
        return Silence(lag), replace(self, learn=True, score=False, short=lag)

    def read(self) -> Iterator[Segment]:
        """Yield the record as one segment."""
        own = self.table()
        beat, steps = (own.kinds >= 0) & (own.kinds < NONE), len(own.kinds) + 1
        x = torch.zeros(steps, len(self.columns))
        x[:-1] = torch.from_numpy(np.pad(own.x, ((0, 0), (0, 1)))[:, self.columns])
        y, score = torch.full((2, steps), -1)
        if self.learn:
            known = beat & (own.at < self.labelled)
            y[:-1][known] = torch.from_numpy(own.kinds[known])
        at, gone = torch.zeros(steps, dtype=torch.int64), torch.zeros(3, steps, dtype=torch.int64)
        missed = torch.zeros(steps, len(CLASSES), dtype=torch.int64)
        at[:-1] = torch.from_numpy(own.at)
        if self.score:
            counted = own.at >= self.score_from
            score[:-1][counted] = torch.from_numpy(own.kinds[counted])
            gone[:, -1] = torch.tensor([own.skipped, own.lost, len(self.record.unused)])
            for beat_missed in own.missed[self.record.beats[own.missed] >= self.score_from]:
                step = int(np.searchsorted(own.at, self.record.beats[beat_missed]))
                missed[step, self.record.kinds[beat_missed]] += 1
        info = {"score": score, "at": at, "skipped": gone[0], "lost": gone[1], "unused": gone[2], "missed": missed}
        yield Segment(x, y, y >= 0, info)


def padding(channels: int) -> Segment:
    """Return a step without a beat."""
    none, zero = torch.tensor([-1]), torch.tensor([0])
    gone = dict.fromkeys(("at", "skipped", "lost", "unused"), zero)
    missed: Tensor = torch.zeros(1, len(CLASSES), dtype=torch.int64)
    info = {"score": none, **gone, "missed": missed}
    return Segment(torch.zeros(1, channels), none, torch.zeros(1, dtype=torch.bool), info)
