"""Recordings for those who have none at hand yet: two channels of noise, in which a slow or a fast wave comes and goes.

channel = noise + sin(2 pi f t),   f 4 Hz in stretches called slow, 9 Hz in those called fast, no wave between
"""

import numpy as np

from .source import Found, Label, Samples, Source

RATE, SECONDS, COUNT = 64, 30, 12
WAVES = {"slow": 4.0, "fast": 9.0}
REST, LENGTH = 1.0, 2.0  # seconds without a wave, and with one


def simulated() -> Found:
    """Return the recordings, always the same."""
    return Found([_source(number) for number in range(COUNT)], [])


def _source(number: int) -> Source:
    """Return one recording."""
    random = np.random.default_rng(number)
    starts = np.arange(REST, SECONDS - LENGTH, REST + LENGTH)
    labels = [Label(s, s + LENGTH, str(random.choice(list(WAVES)))) for s in starts.tolist()]
    time = np.arange(RATE * SECONDS) / RATE
    signal = random.normal(0, 0.7, (len(time), 2))
    for label in labels:
        own = (time >= label.start) & (time < label.end)
        signal[own] += np.sin(2 * np.pi * WAVES[label.text] * time[own] + random.uniform(0, 2 * np.pi))[:, None]

    def read(first: int, last: int) -> Samples:
        return signal[first:last]

    name = f"recording {number:02d}"
    return Source(name, name, name, float(RATE), len(time), ["one", "two"], labels, read)
