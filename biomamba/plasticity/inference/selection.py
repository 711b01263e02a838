"""Which slow rate terms a recording needs: those under which the static model makes held-out spikes likeliest."""

from dataclasses import replace
from typing import Any

from .bases import Array, Bases
from .likelihood import score, static_top
from .recording import inside, length, record

CANDIDATES: tuple[tuple[float, ...], ...] = ((), (1.0,), (1.0, 10.0), (0.3, 1.0, 3.0, 10.0, 30.0))  # taus (s)
GAIN = 3.0  # nats that more terms must bring


def choose(pre: Any, post: Any, duration: float | None = None, bases: Bases | None = None, start: float = 0.0) -> Bases:
    """Return the bases with the slow terms of `CANDIDATES` that foresee the last third of the recording best.

    Fitted to the first two thirds of what comes from `start` (s) on; more terms are taken only where they gain `GAIN`
    nats on fewer. Raises ValueError as `first_two_thirds`.
    """
    duration, bases = length(pre, post, duration), bases or Bases()
    early, split = first_two_thirds(pre, post, start, duration)
    best, highest = bases, float("-inf")
    for taus in CANDIDATES:
        candidate = replace(bases, slow=taus)
        theta = static_top(record(*early, split, candidate, start)[0])
        value = score(record(pre, post, duration, candidate, split)[0], theta, changes=False).value
        if value > highest + GAIN:
            best, highest = candidate, value
    return best


def first_two_thirds(pre: Any, post: Any, start: float, duration: float) -> tuple[tuple[Array, Array], float]:
    """Return the spikes (s) of the first two thirds after `start`, to which models are fitted, and where those end.

    Raises ValueError where post does not spike there, and as `inside`.
    """
    pre, post = inside(pre, post, duration)
    split = start + (duration - start) * 2 / 3
    early = pre[pre < split], post[post < split]
    if not (early[1] >= start).any():
        raise ValueError(
            f"post has no spike from {start:g} to {split:g} s, the first two thirds, to which models are fitted that "
            "the rest then tests: give a stretch in which it spikes"
        )
    return early, split
