"""The rhythm, signal from the signal alone: how unlike the last beat is to the usual one, held from beat to beat.

    the channels: log of wait / mean of about 10 waits, wait / its long ones, wait / the wait before,
                  top / usual top, width / usual width; 1 - correlation with the usual shape, log of the size beside it;
                  the running mean of |log(wait / the wait before)|

They change when the detector notices a beat. Every step depends on the samples up to its own alone.
Shapes: s samples, c leads, t = s // k steps.
"""

import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .detector import AFTER, EVERY, FIRST_WAIT, Detector
from .files import RATE

CHANNELS = ("wait_mean", "wait_long", "wait_last", "height", "width", "unlike", "size", "irregular")
BROAD = (1.0, 25.0)  # Hz, the whole shape of a beat
LONG, SHORT = (
    0.1,
    0.02,
)  # weights of a wait above the running mean of long ones and of one below: early beats may be most
SCALE = 4.0  # of the channels, which are small beside the leads: what is told there would be learned last
LARGEST = 4.0  # of a channel, so that no beat is beyond all that was learned from
USUAL = 0.1  # weight of a new beat in the usual shape, width and irregularity
BEFORE = 10  # looks before the top that, with AFTER behind it, make up the shape of a beat: 0.3 s
SHIFT = 2  # looks by which a beat may be aligned with the usual one
RECENT = 60  # looks that are remembered, 1 s: as long as a beat can be noticed after its top, and more


class Rhythm:
    """The channels of one record; all they know goes from block to block."""

    def __init__(self, every: int) -> None:
        """Take which samples become steps: every k-th."""
        self.every, self.detector = every, Detector()
        self.signal = self.detector.signal
        self.broad = self.signal.butter(2, BROAD, "bandpass", fs=RATE, output="sos")
        self.broad_state: NDArray[np.float64] | None = None
        self.seen = 0  # samples
        self.recent: deque[float] = deque([0.0] * RECENT, RECENT)  # energy at the last looks
        self.recent_signal: deque[float] = deque([0.0] * RECENT, RECENT)  # the signal there, mV
        self.usual: NDArray[np.float64] | None = None  # the shape of the usual beat
        self.width, self.irregular = 0.12 * RATE / EVERY, 0.0
        self.long_wait = self.last_wait = FIRST_WAIT
        self.channels = np.zeros(len(CHANNELS))

    def __call__(self, block: NDArray[np.float64]) -> Tensor:
        """Return the channels (t, CHANNELS) of the next samples (s, c), float32."""
        if not len(block):
            return torch.zeros(0, len(CHANNELS))
        energy, signal = self.detector.filter(block[:, :1])[1], self._broad(block[:, 0])
        channels = np.empty((len(block) // self.every, len(CHANNELS)))
        begin = 0
        for place in range(EVERY - 1, len(block), EVERY):
            self.recent.append(float(energy[place]))
            self.recent_signal.append(float(signal[place]))
            if self.detector.look(float(energy[place]), self.seen + place):
                end = max(0, -(-(place + 1) // self.every) - 1)  # the first step that has signal of this sample
                channels[begin:end], begin = self.channels, end
                self._take(self.seen + place)
        channels[begin:] = self.channels
        self.seen += len(block)
        return torch.from_numpy(channels.astype(np.float32))

    def _broad(self, lead: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next samples of a lead (s,) without drift and noise."""
        if self.broad_state is None:
            self.broad_state = self.signal.sosfilt_zi(self.broad) * lead[0]
        filtered, self.broad_state = self.signal.sosfilt(self.broad, lead, zi=self.broad_state)
        signal: NDArray[np.float64] = filtered
        return signal

    def _take(self, now: int) -> None:
        """Take in the beat that the detector notices now."""
        top, height = self.detector.top, self.detector.height
        since = min((now - self.detector.top_at) // EVERY, RECENT - 1 - BEFORE - SHIFT)  # looks since the top
        energy = list(self.recent)
        width = sum(1 for e in energy[-1 - since - RECENT // 4 :] if e > top / 2)
        shape = [math.log(top / (height or top)), math.log(max(width, 1) / self.width)]
        shape += self._unlike(RECENT - 1 - since)
        rhythm, wait = [0.0] * 3, self.detector.wait()
        if wait is not None:
            rhythm = [math.log(wait / other) for other in (self.detector.mean_wait, self.long_wait, self.last_wait)]
            self.long_wait += (LONG if wait > self.long_wait else SHORT) * (wait - self.long_wait)
            self.last_wait = wait
        self.channels = np.clip(SCALE * np.array([*rhythm, *shape, self.irregular]), -LARGEST, LARGEST)
        self.irregular += USUAL * (abs(rhythm[-1]) - self.irregular)
        self.width += USUAL * (width - self.width)
        self.detector.accept()

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
