"""From samples to what the model is given, at the rate of the steps; nothing later than a step's own time is looked at.

signal   x = lowpass(samples), at the last sample of each step          s_j = ceil((j + 1) r / q) - 1
mel      log power in 40 bands of 25 ms every 10 ms, two frames a step

Both are standardised by their running mean and deviation, which begin anew with each recording (see `Prior`).
Shapes: n samples, c channels, s steps, f features. r samples and q steps a second.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays.stream import OnlineStandardScaler
from ..common.files import package
from ..speech import signal as audio
from .source import Samples

BLOCK = 4096  # steps that are made at once
STACK = 2  # frames of sound to a step
ORDER, EDGE = 4, 0.8  # of the Butterworth filter against aliases, and of half the rate of the steps


class Prior(NamedTuple):
    """What the running mean and deviation begin with: so many rows of a mean and a deviation."""

    rows: int
    mean: Samples  # (f,)
    deviation: Samples  # (f,)


class View(NamedTuple):
    """How samples become steps."""

    features: Literal["signal", "mel"]
    rate: float  # steps a second
    size: int  # f
    prior: Prior | None = None

    def steps(self, samples: int, rate: float) -> int:
        """Return how many steps so many samples give."""
        if self.features == "mel":
            return audio.steps(samples, round(rate), STACK)
        return max(0, math.floor(samples * self.rate / rate + 1e-9))

    def times(self, samples: int, rate: float) -> Samples:
        """Return when each step is known (s,), seconds from the first sample."""
        steps = np.arange(self.steps(samples, rate))
        if self.features == "mel":
            return np.asarray((STACK * steps + STACK - 1) * audio.HOP + audio.WIN)
        return np.asarray((self._last_sample(steps, rate) + 1) / rate)

    def blocks(
        self, read: Callable[[int, int], Samples], samples: int, rate: float
    ) -> Iterator[tuple[Samples, NDArray[np.bool_]]]:
        """Yield the features (s, f) in blocks, and which steps (s,) hold finite numbers alone."""
        scaler = OnlineStandardScaler(self.size, scale=True)
        if self.prior is not None:
            rows, mean, deviation = self.prior
            scaler.count, scaler.shift, scaler.sums = rows, mean, np.stack([np.zeros_like(mean), rows * deviation**2])
        make = self._mel if self.features == "mel" else self._signal
        for features, good in make(read, samples, rate):
            yield scaler.take(features)[0], good

    def _mel(
        self, read: Callable[[int, int], Samples], samples: int, rate: float
    ) -> Iterator[tuple[Samples, NDArray[np.bool_]]]:
        whole, own = self.steps(samples, rate), round(rate)
        hop, win = round(audio.HOP * own), round(audio.WIN * own)
        for at in range(0, whole, BLOCK):
            end = min(at + BLOCK, whole)
            first, last = at * STACK * hop, min(samples, (end * STACK - 1) * hop + win)
            wave = read(first, last)[:, 0]
            finite = np.isfinite(wave)
            frames = audio.log_mel(torch.from_numpy(np.where(finite, wave, 0.0).astype(np.float32)), own)
            features = audio.stacked(frames, STACK).double().numpy()
            yield features, np.full(len(features), finite.all())

    def _signal(
        self, read: Callable[[int, int], Samples], samples: int, rate: float
    ) -> Iterator[tuple[Samples, NDArray[np.bool_]]]:
        whole, begin = self.steps(samples, rate), 0
        clean, filtered = OnlineStandardScaler(self.size, scale=False), _Lowpass(self.rate, rate)
        for at in range(0, whole, BLOCK):
            last = self._last_sample(np.arange(at, min(at + BLOCK, whole)), rate)
            values, good = clean.take(read(begin, int(last[-1]) + 1))
            starts = np.concatenate([[begin], last[:-1] + 1]) - begin
            yield filtered(values)[last - begin], np.logical_and.reduceat(good, starts)
            begin = int(last[-1]) + 1

    def _last_sample(self, steps: NDArray[np.int64], rate: float) -> NDArray[np.int64]:
        """Return the last sample that each step sees."""
        return np.asarray(np.ceil((steps + 1) * (rate / self.rate) - 1e-9).astype(np.int64) - 1)


class _Lowpass:
    """The filter against aliases, where there are fewer steps than samples; its state goes from block to block."""

    def __init__(self, steps: float, samples: float) -> None:
        """Take both rates."""
        self.sections, self.state = None, None
        if steps < samples:
            self.scipy = package("scipy.signal", "eeg", "filtering recordings")
            self.sections = self.scipy.butter(ORDER, EDGE * steps / 2, fs=samples, output="sos")

    def __call__(self, values: Samples) -> Samples:
        """Return the next samples (n, c), filtered."""
        if self.sections is None:
            return values
        if self.state is None:
            self.state = self.scipy.sosfilt_zi(self.sections)[:, :, None] * values[0]
        filtered, self.state = self.scipy.sosfilt(self.sections, values, axis=0, zi=self.state)
        return np.asarray(filtered)


def sound_prior() -> Prior:
    """Return what the bands of speech usually are, as in the task of that name."""
    size = STACK * audio.BANDS
    return Prior(round(audio.PRIOR), np.full(size, audio.USUAL), np.full(size, audio.SPREAD))
