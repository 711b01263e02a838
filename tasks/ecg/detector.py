"""Where the R peaks are, as the signal comes in.

    band-pass, square, sum over the leads, mean over 0.1 s  ->  a hump per beat  ->  its top, once it has fallen to half

A beat is noticed 0.2 s or so after its R peak. No annotation is read, and what is noticed at a sample depends on the
samples up to it alone. Shapes: s samples, c leads, m beats.
"""

import numpy as np
from numpy.typing import NDArray

from ..common.files import package
from .files import RATE

BAND = (5.0, 20.0)  # Hz, where QRS complexes are and little else is
EVERY = 6  # samples per look for a beat: 60 Hz
BLIND = round(0.25 * RATE / EVERY)  # looks after a beat in which there is none
SPREAD = 0.1  # seconds over which the energy is averaged
SHARE = 0.3  # of the usual height that a beat must reach
FADE = 0.5 ** (EVERY / RATE / 1.0)  # of the usual height per look, once a beat is overdue: half in a second
OVERDUE = 1.5  # mean waits
MEAN = 0.1  # weight of a new wait in the running mean
USUAL = 0.1  # weight of a new beat in the usual height
AFTER = 9  # looks after the top before a beat is noticed
WAITS = (0.25 * RATE, 3.0 * RATE)  # samples, the shortest and the longest that count as one wait
FIRST_WAIT = 0.8 * RATE  # samples, the mean wait before anything was noticed
SEARCHED = 50  # samples before the top in which the deflection of the R peak lies
DELAY = 15  # samples by which the band-pass moves it: the median over the normal beats of DS1
SIDE = 0.1  # weight of a new beat in the usual size of either side
CLEARLY = 1.2  # times larger a side must be to become the usual one
RECENT = RATE  # samples by which a beat may be noticed after its top, and its R peak still be found


class Detector:
    """The detector of beats of one record; all it knows goes from block to block."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        self.band = self.signal.butter(2, BAND, "bandpass", fs=RATE, output="sos")
        self.mean = self.signal.butter(2, 1 / SPREAD / 2, fs=RATE, output="sos")
        self.band_state: NDArray[np.float64] | None = None
        self.mean_state = np.zeros((len(self.mean), 2))
        self.height, self.top, self.top_at = 0.0, 0.0, 0  # of a usual beat, and of what may be one now
        self.last: int | None = None  # the sample of the last top
        self.mean_wait = FIRST_WAIT

    def filter(self, leads: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the deflection (s,) of QRS complexes in the first of the leads (s, c), and the energy (s,) of all."""
        if self.band_state is None:
            self.band_state = self.signal.sosfilt_zi(self.band)[:, :, None] * leads[0]
        band, self.band_state = self.signal.sosfilt(self.band, leads, axis=0, zi=self.band_state)
        energy, self.mean_state = self.signal.sosfilt(self.mean, np.square(band).sum(1), zi=self.mean_state)
        return band[:, 0], energy

    def look(self, energy: float, at: int) -> bool:
        """Return whether a beat is noticed at a sample with this energy; its top was at `top_at`."""
        if self.last is not None and at - self.last > OVERDUE * self.mean_wait:
            self.height *= FADE
        if self.last is None or at - self.last > BLIND * EVERY:
            if energy > max(self.top, SHARE * self.height):
                self.top, self.top_at = energy, at
            elif self.top > 0 and energy < self.top / 2 and at >= self.top_at + AFTER * EVERY:
                return True
        return False

    def wait(self) -> float | None:
        """Return the samples from the last beat to the one noticed now; None where it is the first."""
        return None if self.last is None else min(max(self.top_at - self.last, WAITS[0]), WAITS[1])

    def accept(self) -> None:
        """Take in the beat that was noticed."""
        wait = self.wait()
        if wait is not None:
            self.mean_wait += MEAN * (wait - self.mean_wait)
        self.height += USUAL * (self.top - self.height) if self.height else self.top
        self.last, self.top = self.top_at, 0.0


class Peaks:
    """The R peaks that the detector notices, each moved to the largest deflection of its hump, on its usual side.

    The two sides of a beat may be alike: one taken by size alone, beat by beat, jumps to and fro by 30 ms.
    """

    def __init__(self) -> None:
        """Start with nothing heard."""
        self.detector, self.seen = Detector(), 0
        self.sizes: NDArray[np.float64] | None = None  # running means of the largest deflection up and down
        self.side = 0  # the one that R peaks are found by, up or down
        self.recent = np.zeros(RECENT + SEARCHED)  # the deflection at the last samples

    def __call__(self, leads: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the R peaks (m,) noticed in the next samples of the leads (s, c), and when each was noticed (m,)."""
        if not len(leads):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        band, energy = self.detector.filter(leads)
        heard, begin = np.concatenate([self.recent, band]), self.seen - len(self.recent)
        found = []
        for place in range(EVERY - 1 - self.seen % EVERY, len(leads), EVERY):
            if self.detector.look(float(energy[place]), self.seen + place):
                now = self.seen + place
                start = max(self.detector.top_at, now - RECENT) - SEARCHED - begin
                peak = begin + start + self._largest(heard[start : start + SEARCHED + 1]) - DELAY
                found.append((max(peak, 0), now))
                self.detector.accept()
        self.recent = np.concatenate([self.recent, band])[-len(self.recent) :]
        self.seen += len(leads)
        peaks, noticed = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return peaks, noticed

    def _largest(self, hump: NDArray[np.float64]) -> int:
        """Return where the deflection of a hump is largest, on the side that is usual by now."""
        sides = np.stack([hump, -hump])
        sizes = sides.max(1)
        self.sizes = sizes if self.sizes is None else self.sizes + SIDE * (sizes - self.sizes)
        if self.sizes[1 - self.side] > CLEARLY * self.sizes[self.side]:
            self.side = 1 - self.side
        return int(sides[self.side].argmax())
