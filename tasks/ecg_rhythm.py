"""The rhythm, heard from the signal alone: how unlike the last beat is to the usual one, held from beat to beat.

    band-pass, square, mean over 0.1 s -> a hump per beat -> its top, and its width where it has fallen to half
    log of: wait / the mean of about 10 waits, wait / the mean of about 100, wait / the wait before,
            top / the usual top, width / the usual width;   and the running mean of |log(wait / the wait before)|

A beat is noticed about 0.1 s after its R peak. Nothing is looked up: no annotation is read, and every step depends on
the samples up to its own alone. Shapes: s samples, c leads, t = s // k steps.
"""

import math
from collections import deque
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ecg_files import RATE
from .files import package

CHANNELS = 6
BAND = (5.0, 20.0)  # Hz, where QRS complexes are and little else is
EVERY = 6  # samples per look for a beat: 60 Hz
BLIND = round(0.25 * RATE / EVERY)  # looks after a beat in which there is none
SPREAD = 0.1  # seconds over which the energy is averaged
SHARE = 0.3  # of the usual height that a beat must reach
FADE = 0.5 ** (EVERY / RATE / 1.0)  # of the usual height per look, once a beat is overdue: half in a second
OVERDUE = 1.5  # mean waits
MEANS = (0.1, 0.01)  # weight of a new wait in the running means
LARGEST = 3.0  # of a channel, so that no beat is beyond all that was learned from
USUAL = 0.1  # weight of a new beat in the usual top, width and irregularity
RECENT = 30  # looks that a hump may last, 0.5 s
WAITS = (0.25 * RATE, 3.0 * RATE)  # samples, the shortest and the longest that count as one wait


class Rhythm:
    """The detector of beats of one record; all it knows goes from block to block."""

    def __init__(self, every: int) -> None:
        """Take which samples become steps: every k-th."""
        self.every = every
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        self.band = self.signal.butter(2, BAND, "bandpass", fs=RATE, output="sos")
        self.mean = self.signal.butter(2, 1 / SPREAD / 2, fs=RATE, output="sos")
        self.band_state: NDArray[np.float64] | None = None
        self.mean_state = np.zeros((len(self.mean), 2))
        self.seen = 0  # samples
        self.height, self.top, self.top_at = 0.0, 0.0, 0  # of a usual beat, and of what may be one now
        self.recent: deque[float] = deque(maxlen=RECENT)  # energy at the last looks
        self.width, self.irregular = 0.12 * RATE / EVERY, 0.0
        self.last: int | None = None
        self.waits = [0.8 * RATE] * 3  # two running means, and the last
        self.said = np.zeros(CHANNELS)

    def __call__(self, block: NDArray[np.float64]) -> Tensor:
        """Return the channels (t, 3) of the next samples (s, c), float32."""
        if not len(block):
            return torch.zeros(0, CHANNELS)
        energy = self._energy(block)
        said = np.empty((len(block) // self.every, CHANNELS))
        begin = 0
        for place in range(EVERY - 1, len(block), EVERY):
            if self._look(float(energy[place]), self.seen + place):
                end = max(0, -(-(place + 1) // self.every) - 1)  # the first step that has heard of this sample
                said[begin:end], begin = self.said, end
                self._take()
        said[begin:] = self.said
        self.seen += len(block)
        return torch.from_numpy(said.astype(np.float32))

    def _energy(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the energy (s,) of QRS complexes in the first lead."""
        lead = block[:, 0]
        if self.band_state is None:
            self.band_state = self.signal.sosfilt_zi(self.band) * lead[0]
        band, self.band_state = self.signal.sosfilt(self.band, lead, zi=self.band_state)
        energy, self.mean_state = self.signal.sosfilt(self.mean, band**2, zi=self.mean_state)
        return np.asarray(energy)

    def _look(self, energy: float, at: int) -> bool:
        """Return whether a beat is noticed now; its top was at `top_at`."""
        self.recent.append(energy)
        if self.last is not None and at - self.last > OVERDUE * self.waits[0]:
            self.height *= FADE
        if self.last is None or at - self.last > BLIND * EVERY:
            if energy > max(self.top, SHARE * self.height):
                self.top, self.top_at = energy, at
            elif self.top > 0 and energy < self.top / 2:
                return True
        return False

    def _take(self) -> None:
        """Take in the beat at `top_at`."""
        width = 1 + sum(1 for _ in takewhile(lambda energy: energy > self.top / 2, list(self.recent)[-2::-1]))
        shape = [math.log(self.top / (self.height or self.top)), math.log(width / self.width)]
        rhythm = [0.0] * len(self.waits)
        if self.last is not None:
            wait = min(max(self.top_at - self.last, WAITS[0]), WAITS[1])
            rhythm = [math.log(wait / other) for other in self.waits]
            means = [mean + weight * (wait - mean) for mean, weight in zip(self.waits, MEANS, strict=False)]
            self.waits = [*means, wait]
        self.said = np.clip([*rhythm, *shape, self.irregular], -LARGEST, LARGEST)
        self.irregular += USUAL * (abs(rhythm[-1]) - self.irregular)
        self.height += USUAL * (self.top - self.height) if self.height else self.top
        self.width += USUAL * (width - self.width)
        self.last, self.top = self.top_at, 0.0
