"""SIMULATED records, for where MIT-BIH is not to be had: beats of neurokit2 laid end to end, some early, some wide.

    N   on time             S   the same beat, early             V   early, wide, upside down, a pause after it

Every record has a rhythm and a size of its own, which its name draws. Shapes: s samples of a block, c leads, m beats.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..common.files import package
from .files import BLOCK, CLASSES, RATE, Record

RECORDS = 3  # of each split
SAMPLES = 10 * 60 * RATE  # of each record
N, S, V = (CLASSES.index(name) for name in "NSV")
SHARES = {N: 0.8, S: 0.1, V: 0.1}
EARLY = {N: 1.0, S: 0.65, V: 0.7}  # time since the beat before, in that of the record's rhythm
WIDE = 2.5  # how many times wider a V is
NOISE = 0.01  # mV, standard deviation
SIZES = (1.0, 0.6)  # of the leads


def names(split: str) -> tuple[str, ...]:
    """Return the names of a split's records."""
    return tuple(f"simulated-{split}-{i}" for i in range(RECORDS))


def simulate(name: str, leads: int) -> Record:
    """Return the record that its name draws. Raises ImportError without neurokit2."""
    draw = np.random.default_rng(list(name.encode()))
    rhythm, size = draw.uniform(0.7, 1.0) * RATE, draw.uniform(0.7, 1.3)
    kinds = draw.choice(list(SHARES), p=list(SHARES.values()), size=SAMPLES // RATE * 2)
    wait = np.array([EARLY[kind] for kind in kinds]) * rhythm
    wait[1:] += np.where(kinds[:-1] == V, 0.3 * rhythm, 0.0)
    beats = np.cumsum(wait * draw.normal(1.0, 0.02, size=len(wait))).astype(np.int64)
    inside = (beats > RATE) & (beats < SAMPLES - RATE)
    beats, kinds = beats[inside], kinds[inside].astype(np.int64)
    shapes = {kind: size * _beat(wide=kind == V) for kind in SHARES}
    signal = np.zeros(SAMPLES)
    for beat, kind in zip(beats, kinds, strict=True):
        signal[beat - RATE // 2 : beat + RATE // 2] += shapes[kind]
    both = signal[:, None] * np.array(SIZES[:leads]) + draw.normal(0.0, NOISE, size=(SAMPLES, leads))
    return Record(name, SAMPLES, leads, beats, kinds, beats[:0], lambda: _blocks(both))


def _blocks(signal: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield a signal (SAMPLES, c), block by block."""
    for at in range(0, len(signal), BLOCK):
        yield signal[at : at + BLOCK]


@cache
def _beat(wide: bool) -> NDArray[np.float64]:
    """Return one beat (RATE,), its R peak, 1 mV, in the middle."""
    neurokit2 = package("neurokit2", "ecg", "simulating ECG")
    options = {"sampling_rate": RATE, "heart_rate": 60, "heart_rate_std": 0, "noise": 0, "random_state": 0}
    heard = np.asarray(neurokit2.ecg_simulate(duration=6, method="ecgsyn", **options), dtype=np.float64)
    peak = 2 * RATE + int(heard[2 * RATE : 4 * RATE].argmax())
    beat = heard[peak - RATE // 2 : peak + RATE // 2]
    beat = (beat - np.median(beat)) / (beat.max() - np.median(beat))
    time, faded = np.arange(RATE) - RATE // 2, np.hanning(RATE)
    shape: NDArray[np.float64] = faded * (-np.interp(time / WIDE, time, beat) if wide else beat)
    return shape
