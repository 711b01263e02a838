"""Which slow rate terms a recording needs: those under which the static model makes held-out spikes likeliest."""

from dataclasses import replace
from typing import Any

from .bases import Bases
from .likelihood import score, static_top
from .recording import length, record

CANDIDATES: tuple[tuple[float, ...], ...] = ((), (1.0,), (1.0, 10.0), (0.3, 1.0, 3.0, 10.0, 30.0))  # taus (s)
GAIN = 3.0  # nats that more terms must bring


def choose(pre: Any, post: Any, duration: float | None = None, bases: Bases | None = None) -> Bases:
    """Return the bases with the slow terms of `CANDIDATES` that foresee the last third of the recording best.

    Fitted to the first two thirds; more terms are taken only where they gain `GAIN` nats on fewer.
    """
    duration, bases = length(pre, post, duration), bases or Bases()
    split, best, highest = duration * 2 / 3, bases, float("-inf")
    for taus in CANDIDATES:
        candidate = replace(bases, slow=taus)
        theta = static_top(record(pre, post, split, candidate)[0])
        value = score(record(pre, post, duration, candidate, split)[0], theta, changes=False).value
        if value > highest + GAIN:
            best, highest = candidate, value
    return best
