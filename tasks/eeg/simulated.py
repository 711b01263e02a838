"""A simulated person, for machines without data and without a network; whatever it scores says nothing about brains.

    signal = background + rhythm(10 Hz) * gain(electrode, what the person does) * slow random envelope

With eyes closed the rhythm is strong at the back of the head (alpha); while a fist is imagined it is weaker over the
opposite motor cortex (mu). Backgrounds are random walks that are pulled back to 0, alike at neighbouring electrodes.
Shapes: n samples, c channels.
"""

import numpy as np
from numpy.typing import NDArray

from .files import MONTAGE, RATE, Event, Run

REST, TRIAL, TRIALS = 4.2, 4.1, 15  # seconds of rest and of a trial, and trials in a run, as in EEGMMI
BACK = ("O1", "OZ", "O2", "POZ", "PO3", "PO4", "PZ")
LEFT, RIGHT = ("C3", "FC3", "CP3", "C1", "C5"), ("C4", "FC4", "CP4", "C2", "C6")


def simulate(number: int) -> Run:
    """Return a run of the simulated person: 1, 2 (60 s) or 4, 8, 12 (125 s, 15 trials); always the same."""
    random = np.random.default_rng(number)
    events = [Event(0, 60 * RATE, "T0")] if number in (1, 2) else _trials(random)
    n = 60 * RATE if number in (1, 2) else 125 * RATE
    gains = np.full((n, len(MONTAGE)), 4.0)
    gains[:, _at(BACK)] = 24.0 if number == 2 else 8.0
    gains[:, _at(LEFT + RIGHT)] = 14.0
    for event in events:
        if event.text != "T0":
            gains[event.start : event.end, _at(RIGHT if event.text == "T1" else LEFT)] = 6.0
    envelope = 1 + 0.5 * _walk(random, (n, 1), 1.0)
    phase = 2 * np.pi * 10 * np.arange(n)[:, None] / RATE + 0.5 * _walk(random, (n, 1), 1.0)
    noise = 18 * _walk(random, (n, 1), 0.1) + 12 * _walk(random, (n, len(MONTAGE)), 0.05)
    return Run(noise + gains * envelope * np.sin(phase) + random.normal(0, 4, noise.shape), MONTAGE, events)


def _trials(random: np.random.Generator) -> list[Event]:
    """Return rest and trials in turn, seven or eight of each fist."""
    fists = random.permutation([f"T{1 + i % 2}" for i in range(TRIALS)])
    events, at = [], 0.0
    for fist in fists:
        for text, seconds in (("T0", REST), (str(fist), TRIAL)):
            events.append(Event(round(at * RATE), round((at + seconds) * RATE), text))
            at += seconds
    return events


def _walk(random: np.random.Generator, shape: tuple[int, int], seconds: float) -> NDArray[np.float64]:
    """Return random walks along the first axis that forget in `seconds`, of standard deviation 1."""
    keep = np.exp(-1 / (seconds * RATE))
    steps = random.normal(0, np.sqrt(1 - keep**2), shape)
    steps[0] = random.normal(0, 1, shape[1:])
    for i in range(1, len(steps)):
        steps[i] += keep * steps[i - 1]
    return steps


def _at(names: tuple[str, ...]) -> list[int]:
    """Return where electrodes are in the montage."""
    return [MONTAGE.index(name) for name in names]
