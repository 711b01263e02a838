"""The rhythm, signal from the signal alone: how unlike the last beat is to the usual one, held from beat to beat.

    band-pass, square, mean over 0.1 s  ->  a hump per beat  ->  its top, once it has fallen to half
    the channels: log of wait / mean of about 10 waits, wait / its long ones, wait / the wait before,
                  top / usual top, width / usual width; 1 - correlation with the usual shape, log of the size beside it;
                  the running mean of |log(wait / the wait before)|

A beat is noticed 0.2 s or so after its R peak. Nothing is looked up: no annotation is read, and every step depends on
the samples up to its own alone. Shapes: s samples, c leads, t = s // k steps.
"""

import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.files import package
from .files import RATE

CHANNELS = 8
BAND = (5.0, 20.0)  # Hz, where QRS complexes are and little else is
BROAD = (1.0, 25.0)  # Hz, the whole shape of a beat
EVERY = 6  # samples per look for a beat: 60 Hz
BLIND = round(0.25 * RATE / EVERY)  # looks after a beat in which there is none
SPREAD = 0.1  # seconds over which the energy is averaged
SHARE = 0.3  # of the usual height that a beat must reach
FADE = 0.5 ** (EVERY / RATE / 1.0)  # of the usual height per look, once a beat is overdue: half in a second
OVERDUE = 1.5  # mean waits
MEAN = 0.1  # weight of a new wait in the running mean
LONG, SHORT = 0.1, 0.02  # of one above and of one below in that of the long waits: early beats may be most beats
SCALE = 4.0  # of the channels, which are small beside the leads: what is told there would be learned last
LARGEST = 4.0  # of a channel, so that no beat is beyond all that was learned from
USUAL = 0.1  # weight of a new beat in the usual top, width and irregularity
BEFORE, AFTER = 10, 9  # looks around the top that make up the shape of a beat: 0.3 s
SHIFT = 2  # looks by which a beat may be aligned with the usual one
RECENT = 60  # looks that are remembered, 1 s: as long as a beat can be noticed after its top, and more
WAITS = (0.25 * RATE, 3.0 * RATE)  # samples, the shortest and the longest that count as one wait


class Rhythm:
    """The detector of beats of one record; all it knows goes from block to block."""

    def __init__(self, every: int) -> None:
        """Take which samples become steps: every k-th."""
        self.every = every
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        self.band = self.signal.butter(2, BAND, "bandpass", fs=RATE, output="sos")
        self.mean = self.signal.butter(2, 1 / SPREAD / 2, fs=RATE, output="sos")
        self.broad = self.signal.butter(2, BROAD, "bandpass", fs=RATE, output="sos")
        self.band_state: NDArray[np.float64] | None = None
        self.broad_state: NDArray[np.float64] | None = None
        self.mean_state = np.zeros((len(self.mean), 2))
        self.seen = 0  # samples
        self.height, self.top, self.top_at = 0.0, 0.0, 0  # of a usual beat, and of what may be one now
        self.recent: deque[float] = deque([0.0] * RECENT, RECENT)  # energy at the last looks
        self.recent_signal: deque[float] = deque([0.0] * RECENT, RECENT)  # the signal there, mV
        self.usual: NDArray[np.float64] | None = None  # the shape of the usual beat
        self.width, self.irregular = 0.12 * RATE / EVERY, 0.0
        self.last: int | None = None
        self.waits = [0.8 * RATE] * 3  # the running mean of all and of the long ones, and the last
        self.channels = np.zeros(CHANNELS)

    def __call__(self, block: NDArray[np.float64]) -> Tensor:
        """Return the channels (t, CHANNELS) of the next samples (s, c), float32."""
        if not len(block):
            return torch.zeros(0, CHANNELS)
        energy, signal = self._energy(block)
        channels = np.empty((len(block) // self.every, CHANNELS))
        begin = 0
        for place in range(EVERY - 1, len(block), EVERY):
            self.recent.append(float(energy[place]))
            self.recent_signal.append(float(signal[place]))
            if self._look(float(energy[place]), self.seen + place):
                end = max(0, -(-(place + 1) // self.every) - 1)  # the first step that has signal of this sample
                channels[begin:end], begin = self.channels, end
                self._take(self.seen + place)
        channels[begin:] = self.channels
        self.seen += len(block)
        return torch.from_numpy(channels.astype(np.float32))

    def _energy(self, block: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the energy (s,) of QRS complexes in the first lead, and its signal (s,) without drift and noise."""
        lead = block[:, 0]
        if self.band_state is None:
            self.band_state = self.signal.sosfilt_zi(self.band) * lead[0]
            self.broad_state = self.signal.sosfilt_zi(self.broad) * lead[0]
        signal, self.broad_state = self.signal.sosfilt(self.broad, lead, zi=self.broad_state)
        band, self.band_state = self.signal.sosfilt(self.band, lead, zi=self.band_state)
        energy, self.mean_state = self.signal.sosfilt(self.mean, band**2, zi=self.mean_state)
        return energy, signal

    def _look(self, energy: float, at: int) -> bool:
        """Return whether a beat is noticed now; its top was at `top_at`."""
        if self.last is not None and at - self.last > OVERDUE * self.waits[0]:
            self.height *= FADE
        if self.last is None or at - self.last > BLIND * EVERY:
            if energy > max(self.top, SHARE * self.height):
                self.top, self.top_at = energy, at
            elif self.top > 0 and energy < self.top / 2 and at >= self.top_at + AFTER * EVERY:
                return True
        return False

    def _take(self, now: int) -> None:
        """Take in the beat at `top_at`."""
        since = min((now - self.top_at) // EVERY, RECENT - 1 - BEFORE - SHIFT)  # looks since the top
        energy = list(self.recent)
        width = sum(1 for e in energy[-1 - since - RECENT // 4 :] if e > self.top / 2)
        shape = [math.log(self.top / (self.height or self.top)), math.log(max(width, 1) / self.width)]
        shape += self._unlike(RECENT - 1 - since)
        rhythm = [0.0] * len(self.waits)
        if self.last is not None:
            wait = min(max(self.top_at - self.last, WAITS[0]), WAITS[1])
            rhythm = [math.log(wait / other) for other in self.waits]
            mean, long, _ = self.waits
            self.waits = [mean + MEAN * (wait - mean), long + (LONG if wait > long else SHORT) * (wait - long), wait]
        self.channels = np.clip(SCALE * np.array([*rhythm, *shape, self.irregular]), -LARGEST, LARGEST)
        self.irregular += USUAL * (abs(rhythm[-1]) - self.irregular)
        self.height += USUAL * (self.top - self.height) if self.height else self.top
        self.width += USUAL * (width - self.width)
        self.last, self.top = self.top_at, 0.0

    def _unlike(self, top: int) -> list[float]:
        """Return 1 - the correlation with the usual beat, and the log of the size beside it, of the beat at a look."""
        signal = np.array(self.recent_signal)
        shifts = [signal[max(0, top + k - BEFORE) : top + k + AFTER + 1] for k in range(-SHIFT, SHIFT + 1)]
        shapes = [s - s.mean() for s in shifts if len(s) == BEFORE + AFTER + 1]
        own = shapes[len(shapes) // 2]
        if self.usual is None:
            self.usual = own
        size = max(float(np.linalg.norm(self.usual)), 1e-9)
        alike = [float(s @ self.usual) / max(float(np.linalg.norm(s)), 1e-9) / size for s in shapes]
        best = int(np.argmax(alike))
        ratio = math.log(max(float(np.linalg.norm(shapes[best])), 1e-9) / size)
        self.usual = self.usual + USUAL * max(alike[best], 0.1) * (shapes[best] - self.usual)
        return [1 - alike[best], ratio]
