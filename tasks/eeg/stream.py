"""A stretch of signal with its blocks or trials, made into steps with labels.

    sample    0 ............... onset ....... warm ............................. end
    y, mask   no label          no label      class ... window ... window ...... window, unit

y is the class, -1 where there is no label. info has 1 where a `window` or a block or trial (`unit`) ends, the samples
`since` its onset, and, at the first step of a recording alone, the samples that the gate has cut out (`skipped`).
Each stretch that the gate leaves without a break is filtered by itself; what the gate cuts out is no step.
Shapes: n samples, c channels, s steps, f features.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.packing import Segment
from . import signal as eeg_signal
from .files import Run


class Span(NamedTuple):
    """A block or a trial: its first sample, the one behind its last, its class."""

    start: int
    end: int
    label: int


class Recording(NamedTuple):
    """A block or a run, ready to be played."""

    segment: Segment

    @property
    def steps(self) -> int:
        """Return how many steps it takes."""
        return len(self.segment.mask)

    def read(self) -> Iterator[Segment]:
        """Yield it whole: a minute or two of some channels."""
        yield self.segment


class Grid(NamedTuple):
    """Which samples become steps, and which steps have labels."""

    every: int  # samples to a step
    warm: int  # samples after an onset without a label
    window: int  # samples from one decision to the next


def blocks(
    signal: NDArray[np.float64], label: int, count: int
) -> dict[int, tuple[NDArray[np.float64], Sequence[Span]]]:
    """Return a signal (n, ...) in contiguous blocks of one length, by number, each a span of the class `label`."""
    size = len(signal) // count
    return {i: (signal[i * size : (i + 1) * size], [Span(0, size, label)]) for i in range(count)}


def trials(run: Run) -> Sequence[Span]:
    """Return the trials of a run of imagery: 0 for T1 (left), 1 for T2 (right)."""
    return [Span(e.start, e.end, int(e.text == "T2")) for e in run.events if e.text in ("T1", "T2")]


def recording(signal: NDArray[np.float64], spans: Sequence[Span], grid: Grid, form: eeg_signal.Form) -> Recording:
    """Return the recording of a signal (n, c or more, see `Form`).

    Where padding of it passes the gate, one step without a label remains, which counts what was cut out.
    """
    kept = eeg_signal.good(signal)
    at = np.arange(grid.every - 1, len(signal), grid.every)
    at = at[kept[at]]
    if len(at):
        x = torch.from_numpy(_stretches(signal, kept, form)[at].astype(np.float32))
        segment = _labelled(x, spans, kept, at, grid)
    else:
        segment = padding(form.size)
    segment.info["skipped"][0] = int((~kept).sum())
    return Recording(segment)


def padding(size: int) -> Segment:
    """Return one step of f = `size` features without a label."""
    info = {name: torch.tensor([0]) for name in ("window", "unit", "since", "skipped")}
    return Segment(torch.zeros(1, size), torch.tensor([-1]), torch.zeros(1, dtype=torch.bool), info)


def _stretches(signal: NDArray[np.float64], kept: NDArray[np.bool_], form: eeg_signal.Form) -> NDArray[np.float64]:
    """Return the features (n, f), each stretch without a break by itself; 0 where padding is kept."""
    x = np.zeros((len(signal), form.size))
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        x[start:end] = eeg_signal.features(signal[start:end], form)
    return x


def _labelled(x: Tensor, spans: Sequence[Span], kept: NDArray[np.bool_], at: NDArray[np.int64], grid: Grid) -> Segment:
    """Return x (s, f), the samples `at`, with labels; the last window of a trial takes in what is left of it."""
    label, since, unit, window = (np.full(len(kept), value) for value in (-1, 0, -1, 0))
    for number, (start, end, which) in enumerate(spans):
        own = slice(start, min(end, len(kept)))
        label[own], unit[own] = which, number
        since[own] = np.arange(1, own.stop - start + 1)
        last = max(0, (own.stop - start - grid.warm) // grid.window - 1)
        window[own] = np.clip((since[own] - 1 - grid.warm) // grid.window, 0, last)
    mask = (eeg_signal.steady(kept) & (label >= 0) & (since > grid.warm))[at]
    info = {
        "window": _ends((unit * len(kept) + window)[at], mask),
        "unit": _ends(unit[at], mask),
        "since": torch.from_numpy(since[at]),
        "skipped": torch.zeros(len(at), dtype=torch.int64),
    }
    return Segment(x, torch.from_numpy(np.where(mask, label[at], -1)), torch.from_numpy(mask), info)


def _ends(key: NDArray[np.int64], mask: NDArray[np.bool_]) -> Tensor:
    """Return 1 at the last labelled step of every key (s,), else 0."""
    labelled = np.flatnonzero(mask)
    own, ends = key[labelled], np.zeros(len(key), dtype=np.int64)
    ends[labelled[np.flatnonzero(np.diff(own, append=-1))]] = 1
    return torch.from_numpy(ends)
