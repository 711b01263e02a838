"""From microvolts to what the model is given: a gate, a reference, causal filters, a scale that never looks ahead.

    y = butterworth(x)     p_t = (1 - a) p_{t-1} + a y_t^2     scale_t^2 = (PRIOR^2 r + sum_{i<=t} w_i^2) / (r + t)
    signal = y / scale     power = log(p / scale^2 + FLOOR)    w = x from 1 to 40 Hz, r = samples of a second

Every value at a step depends on that step and earlier ones alone: filters run forward once (scipy's sosfilt), from the
steady state of their first sample. Shapes: n samples, c channels, f features = c times bands times (1 or 2).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.files import package
from .files import RATE

Array = NDArray[np.float64]
Features = Literal["signal", "power", "both"]
ORDER = 4
PRIOR = 20.0  # microvolts, what a channel's strength is taken to be before it has been heard
LARGEST, FLAT = 1000.0, 1.0  # microvolts: beyond is no EEG; nor is what moves by less within STILL samples
STILL = RATE // 4
WIDE = (1.0, 40.0)  # Hz
FLOOR = 1e-3


class Form(NamedTuple):
    """How a signal becomes features."""

    channels: int
    bands: Sequence[tuple[float, float]]  # Hz
    kind: Features
    seconds: float  # over which the power forgets
    running: bool  # divide by each channel's strength so far, instead of by PRIOR

    @property
    def size(self) -> int:
        """Return f."""
        return self.channels * len(self.bands) * (2 if self.kind == "both" else 1)


def edges(text: str, highest: float) -> tuple[float, float]:
    """Return the two frequencies, Hz, of a band such as 8-13. Raises ValueError for what cannot be one."""
    low, _, high = text.partition("-")
    try:
        band = float(low), float(high)
    except ValueError:
        raise ValueError(f"bands: got {text!r}, expected two frequencies in Hz such as 8-13") from None
    if not 0.1 <= band[0] < band[1] < highest:
        raise ValueError(
            f"bands: got {text!r}, expected two rising frequencies from 0.1 Hz to below {highest:g} Hz, half the rate "
            "of the steps: lower decimate or the band"
        )
    return band


def good(signal: Array) -> NDArray[np.bool_]:
    """Return where (n,) the second up to a sample is finite, in range and nowhere flat, on every channel (n, c).

    It looks back alone, so it knows that a channel is flat when that has lasted for a quarter of a second.
    """
    return np.asarray(np.convolve(faults(signal).any(axis=1), np.ones(RATE))[: len(signal)] < 0.5)


def faults(signal: Array) -> NDArray[np.bool_]:
    """Return where (n, c) a channel (n, c) is not finite, beyond LARGEST, or has been flat."""
    ndimage = package("scipy.ndimage", "eeg", "the gate before the filters of task eeg")
    bad = ~(np.abs(signal) <= LARGEST)
    values = np.where(np.isfinite(signal), signal, 0.0)
    back = {"size": STILL, "axis": 0, "origin": STILL // 2 - 1, "mode": "nearest"}
    flat = ndimage.maximum_filter1d(values, **back) - ndimage.minimum_filter1d(values, **back) < FLAT
    flat[: STILL - 1] = False
    return np.asarray(bad | flat)


def steady(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where (n,) the whole second up to a sample has been kept."""
    return np.convolve(kept, np.ones(RATE))[: len(kept)] > RATE - 0.5


def features(signal: Array, form: Form) -> Array:
    """Return the features (n, f) of a stretch without a break (n, c), or (n, c + r): the last r are the reference's."""
    own, others = signal[:, : form.channels], signal[:, form.channels :]
    if others.shape[1]:
        own = own - others.mean(axis=1, keepdims=True)
    scale = _strength(own) if form.running else np.full_like(own, PRIOR)
    out = []
    for low, high in form.bands:
        filtered = band(own, low, high)
        if form.kind != "power":
            out.append(filtered / scale)
        if form.kind != "signal":
            out.append(np.log(_smooth(filtered**2, form.seconds) / scale**2 + FLOOR))
    return np.concatenate(out, axis=1)


def _strength(signal: Array) -> Array:
    """Return each channel's root mean square so far (n, c), microvolts, as if a second of PRIOR had gone before."""
    energy = np.cumsum(band(signal, *WIDE) ** 2, axis=0)
    return np.sqrt((PRIOR**2 * RATE + energy) / (RATE + 1.0 + np.arange(len(signal)))[:, None])


def band(signal: Array, low: float, high: float) -> Array:
    """Return (n, c) between two frequencies, Hz, by a causal Butterworth filter of order 4."""
    scipy = package("scipy.signal", "eeg", "the filters of task eeg")
    sos = scipy.butter(ORDER, [low, high], "bandpass", fs=RATE, output="sos")
    begin = scipy.sosfilt_zi(sos)[:, :, None] * signal[0]
    return np.asarray(scipy.sosfilt(sos, signal, axis=0, zi=begin)[0])


def _smooth(values: Array, seconds: float) -> Array:
    """Return the running mean (n, c) that forgets in `seconds`, beginning at 0."""
    a = 1 - np.exp(-1 / (seconds * RATE))
    return np.asarray(
        package("scipy.signal", "eeg", "the filters of task eeg").lfilter([a], [1, a - 1], values, axis=0)
    )
