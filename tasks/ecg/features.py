"""The channels of a beat, from the signal up to 0.25 s after its R peak: what a cardiologist compares.

    wait_long, wait_mean, wait_last   4 log(wait / running mean of the long waits, of about 10, the wait before)
    irregular                         4 times the running mean of |log(wait / the wait before)|
    qrs_unlike,   p_unlike            2 (1 - correlation with the template)           of the QRS complex, of the P wave
    qrs_size,     p_size              2 log(norm / norm of the template)
    qrs_distance, p_distance          norm of the difference / norm of the template
    qrs_width                         samples with a slope above 0.3 of the largest

An R peak is where its QRS complex is most like the template, all leads together, within 50 ms of the place given: an
annotation or a detection may be off. The waits and the leads compared are those of de Chazal et al. (2004) and of
Llamedo and Martinez (2011), the template is a running mean of the patient's own beats. Each channel is 0 where a beat
is as usual, and all channels of a lead that a record lacks are. Shapes: s samples of a block, c leads, m beats, w
samples of a window, k channels.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..common.files import package
from .files import RATE

WAITS = ("wait_long", "wait_mean", "wait_last", "irregular")  # from the R peaks alone
SHAPES = ("qrs_unlike", "qrs_size", "qrs_distance", "qrs_width", "p_unlike", "p_size", "p_distance")  # of each lead
CHANNELS = WAITS + SHAPES
PASS = (0.5, 35.0)  # Hz, between the breath and the muscles
EVERY = 6  # samples from one of a window to the next: 60 Hz
QRS, P, SLOPES = (np.arange(a, b, EVERY) for a, b in ((-36, 43), (-108, -29), (-54, 73)))  # samples round the R peak
SHIFTS = np.arange(-18, 19, 3)  # samples by which a beat is moved to lie as the template does: 50 ms either way
SHIFT_COST = 0.1  # correlation with the template that the largest of them must gain
AFTER = int(SLOPES[-1] + SHIFTS[-1])  # samples after the R peak that a channel may need: 0.25 s
KEPT = 2 * RATE  # samples that are remembered: a window may begin as long before a beat is told of
LEVEL_SECONDS, LEVEL = 10.0, 0.3  # over which the running size of a lead is averaged, and mV before anything was heard
STEEP = 0.3  # of the largest slope
USUAL_WIDTH = 7  # of a narrow QRS complex, in samples of a window
MEAN, SHORT = 0.1, 0.02  # weight of a wait in its running mean, and of one below in that of the long ones
FIRST_WAIT, SHORTEST, LONGEST = 0.8, 0.2, 3.0  # seconds
USUAL, START = 0.05, 20  # weight of a beat in the template, and beats of a plain mean before it
LEAST = 0.1  # of that weight, which is the correlation with the template, and of beats that are gated
LARGEST = 4.0  # of a channel, so that no beat is beyond all that was learned from
Array = NDArray[np.float64]


class Features:
    """The channels of one record's beats; all they know goes from block to block."""

    def __init__(self, gate: float = 0.0) -> None:
        """Take the share of the long wait below which a beat counts a tenth in the templates; 0: none does."""
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        high, low = PASS
        self.sections = np.concatenate(
            [
                self.signal.butter(2, high, "highpass", fs=RATE, output="sos"),
                self.signal.butter(4, low, fs=RATE, output="sos"),
            ]
        )
        self.filter_state: Array | None = None
        self.level_state: Array | None = None
        self.begin, self.filtered, self.level = (
            0,
            np.empty((0, 0)),
            np.empty((0, 0)),
        )  # the last KEPT samples, from begin on
        self.waits = Waits()
        self.templates = Templates(gate)

    def __call__(self, block: Array, peaks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the channels (m, 4 + 7 c), waits first, of beats (m,) in order, when the next samples (s, c) are in.

        peaks: samples of the R peaks since the record's beginning; what a window lacks at the ends is filled up.
        """
        if len(block):
            self._hear(block)
        own = np.empty((len(peaks), len(WAITS) + len(SHAPES) * block.shape[1]), dtype=np.float32)
        if len(peaks):
            for i, peak in enumerate(peaks):
                own[i] = self._beat(peak)
        return own

    def _beat(self, peak: np.int64) -> list[float]:
        """Return the channels of a beat, and take it in."""
        level = self.level[np.clip(peak - self.begin, 0, len(self.level) - 1)] + 1e-3
        likeness = self.templates.likeness(self._windows(peak + SHIFTS, QRS) / level)
        peak += SHIFTS[np.argmax(likeness - SHIFT_COST * (SHIFTS / SHIFTS[-1]) ** 2)]
        at = np.array([peak])
        qrs, p, slopes = (self._windows(at, offsets) / level for offsets in (QRS, P, SLOPES))
        waits, share = self.waits(float(peak) / RATE)
        shapes = self.templates(qrs[0], p[0], share)
        return [*waits, *shapes[:3].flat, *_width(slopes)[0], *shapes[3:].flat]

    def _hear(self, block: Array) -> None:
        """Take in the next samples (s, c), filtered, and the running size of each lead there."""
        new = 1 / RATE / LEVEL_SECONDS
        if self.filter_state is None:
            self.filter_state = self.signal.sosfilt_zi(self.sections)[:, :, None] * block[0]
            self.level_state = np.full((1, block.shape[1]), (1 - new) * LEVEL**2)
            self.filtered = self.level = np.empty((0, block.shape[1]))
        filtered, self.filter_state = self.signal.sosfilt(self.sections, block, axis=0, zi=self.filter_state)
        power, self.level_state = self.signal.lfilter([new], [1, new - 1], filtered**2, axis=0, zi=self.level_state)
        left = max(0, len(self.filtered) - KEPT)
        self.begin += left
        self.filtered = np.concatenate([self.filtered[left:], filtered])
        self.level = np.concatenate([self.level[left:], np.sqrt(power)])

    def _windows(self, peaks: NDArray[np.int64], offsets: NDArray[np.int64]) -> Array:
        """Return the filtered signal (m, w, c) round R peaks."""
        places = peaks[:, None] + offsets - self.begin
        windows: Array = self.filtered[np.clip(places, 0, len(self.filtered) - 1)]
        return windows


class Waits:
    """The running means of the waits from R peak to R peak."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        self.last_at: float | None = None
        self.long = self.mean = self.last = FIRST_WAIT
        self.irregular = 0.0

    def __call__(self, at: float) -> tuple[list[float], float]:
        """Return the channels WAITS of a beat at so many seconds, and its share of the long wait."""
        wait = FIRST_WAIT if self.last_at is None else min(max(at - self.last_at, SHORTEST), LONGEST)
        logs = [math.log(wait / other) for other in (self.long, self.mean, self.last)]
        channels, share = [_bounded(4 * log) for log in logs] + [_bounded(4 * self.irregular)], wait / self.long
        self.irregular += MEAN * (abs(logs[2]) - self.irregular)
        self.long += (MEAN if wait > self.long else SHORT) * (wait - self.long)
        self.mean += MEAN * (wait - self.mean)
        self.last, self.last_at = wait, at
        return channels, share


class Templates:
    """The usual QRS complex and P wave of each lead: running means that weigh a beat by its likeness to them."""

    def __init__(self, gate: float) -> None:
        """Take the gate, as `Features` does."""
        self.gate, self.count = gate, 1.0
        self.usual: Array | None = None

    def __call__(self, qrs: Array, p: Array, share: float) -> Array:
        """Return unlike, size and distance of the QRS complex and of the P wave (6, c), and take the beat in.

        qrs, p: their windows (w, c). share: of the long wait.
        """
        parts = np.stack([qrs, p])  # (2, w, c)
        parts = parts - parts.mean(1, keepdims=True)
        if self.usual is None:
            self.usual = parts
        norm, usual = np.sqrt(np.square(parts).sum(1)), np.sqrt(np.square(self.usual).sum(1)) + 1e-6
        alike = (parts * self.usual).sum(1) / (norm * usual + 1e-6)
        size = np.log((norm + 1e-3) / (usual + 1e-3))
        distance = np.sqrt(np.square(parts - self.usual).sum(1)) / (usual + 1e-3)
        channels = [2 * np.clip(1 - alike, 0, 2), np.clip(2 * size, -LARGEST, LARGEST), np.clip(distance, 0, LARGEST)]
        counted = LEAST if share < self.gate else 1.0
        weight = max(USUAL, 1 / (self.count + 1)) if self.count < START else USUAL
        weights = counted * weight * np.maximum(alike.mean(1), LEAST)
        self.usual = self.usual + weights[:, None, None] * (parts - self.usual)
        self.count += counted
        return np.stack(channels, axis=1).reshape(6, -1)

    def likeness(self, qrs: Array) -> Array:
        """Return the correlations (m,) of QRS complexes (m, w, c), all leads together, with the template; 0 of none."""
        if self.usual is None:
            return np.zeros(len(qrs))
        own = qrs - qrs.mean(1, keepdims=True)
        norms = np.sqrt(np.square(own).sum((1, 2)) * np.square(self.usual[0]).sum())
        likeness: Array = (own * self.usual[0]).sum((1, 2)) / (norms + 1e-6)
        return likeness


def columns(channels: tuple[str, ...], leads: int, there: int) -> list[int]:
    """Return which columns of `Features` these channels are, in this order; those of a shape for each lead in turn.

    leads: wanted. there: in the record; the columns of one that is not are -1.
    """
    own = {name: [i] for i, name in enumerate(WAITS)}
    for i, name in enumerate(SHAPES):
        own[name] = [len(WAITS) + i * there + lead if lead < there else -1 for lead in range(leads)]
    return [column for name in channels for column in own[name]]


def _width(slopes: Array) -> Array:
    """Return how wide QRS complexes (m, w, c) are, (m, c), 0 for a narrow one."""
    steep = np.abs(np.diff(slopes, axis=1))
    widths: Array = ((steep > STEEP * steep.max(1, keepdims=True)).sum(1) - USUAL_WIDTH) / 3
    return widths


def _bounded(value: float) -> float:
    """Return a channel within LARGEST."""
    return min(max(value, -LARGEST), LARGEST)
