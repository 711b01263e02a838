"""The jitter test: does it matter to the coupling's changes when, within 25 ms, the spikes of a pair come?

    T = g' I^-1 g,  the score statistic of gamma = 0      p = (1 + surrogates with T as large) / (1 + surrogates)

In a surrogate every pre spike is moved by up to `width` either way, only where pairs are counted: rates, bursts, slow
changes of either and the coupling itself stay as they are. So T is compared with what all that makes of it, not with a
chi-square that holds where the model is true (jittered spikes: Amarasingham et al. 2012).

Sizes: as in `recording`; x parameters beside gamma.
"""

from typing import NamedTuple

import numpy as np

from .bases import Array, Bases
from .likelihood import Scored, profiled, static, statistic
from .recording import Pairs, Recording, pair, record

ENOUGH = 10  # surrogates with a statistic as large: p is no less than 0.1


class JitterTest(NamedTuple):
    """A jitter test: p, the statistic and that of every surrogate.

    held_out: by how many nats plasticity makes the last third of the recording likelier; None where p is above 0.05.
    """

    p: float
    statistic: float
    surrogates: Array
    held_out: float | None = None


def jitter_test(
    pre: Array, post: Array, duration: float, bases: Bases, start: float, surrogates: int, width: float, seed: int
) -> JitterTest:
    """Return the test of spikes (s) from `start` to `duration`; held_out is left out.

    It stops where ENOUGH surrogates are as large: p is then ENOUGH / how many there were (Besag and Clifford 1991).
    """
    pre, post = pre[pre < duration], post[post < duration]
    recording, _ = record(pre, post, duration, bases, start)
    told = Told(recording, *static(recording))
    real, random, others = told(pair(pre, post, bases)), np.random.default_rng(seed), np.empty(0)
    while len(others) < surrogates and np.sum(others >= real) < ENOUGH:
        moved = np.sort(pre + random.uniform(-width, width, len(pre))).clip(0, duration - bases.bin)
        others = np.append(others, told(pair(moved, post, bases)))
    larger = int(np.sum(others >= real))
    p = larger / len(others) if larger == ENOUGH else (1 + larger) / (1 + len(others))
    return JitterTest(p, real, others)


class Told:
    """The score statistic of any pairs under one static fit: what does not depend on the pairs is computed once."""

    def __init__(self, recording: Recording, theta: Array, scored: Scored) -> None:
        """Take the static fit theta (p,) and its score."""
        self.x = len(theta) - recording.levels.shape[1]
        self.gradient, self.information = scored.gradient[: self.x], scored.information[: self.x, : self.x]
        rows = np.flatnonzero(recording.coupling.any(1))  # the pairs matter nowhere else
        self.bins, coupling = recording.bins[rows], recording.coupling[rows]
        X = np.column_stack([np.ones(len(rows)), recording.history[rows], coupling])
        slope = coupling @ theta[self.x - coupling.shape[1] : self.x]
        expected = recording.exposure[rows] * np.exp(X @ theta[: self.x])
        self.by_decay = slope[:, None] * np.column_stack([recording.y[rows] - expected, expected[:, None] * X])
        self.by_square = expected * slope**2

    def __call__(self, pairs: Pairs) -> float:
        """Return the statistic of these pairs."""
        row, decay = pairs.at(self.bins)
        begin = np.flatnonzero(np.diff(row, prepend=-1))  # between two pairs P is one level that decays
        level = pairs.levels[row[begin]]
        sums = np.add.reduceat(decay[:, None] * self.by_decay, begin)
        squares = np.add.reduceat(decay**2 * self.by_square, begin)
        cross = sums[:, 1:].T @ level
        information = np.block([[self.information, cross], [cross.T, level.T @ (squares[:, None] * level)]])
        return statistic(*profiled(Scored(0.0, np.append(self.gradient, level.T @ sums[:, 0]), information), self.x))[0]
