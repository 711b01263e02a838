"""The jitter test: does it matter to the coupling's changes when, within 25 ms, the spikes of a pair come?

    T = g' I^-1 g,  the score statistic of gamma = 0      p = (1 + surrogates with T as large) / (1 + surrogates)

In a surrogate every pre spike is moved by up to `width` either way, only where pairs are counted: rates, bursts, slow
changes of either and the coupling itself stay as they are. So T is compared with what all that makes of it, not with a
chi-square that holds where the model is true (jittered spikes: Amarasingham et al. 2012).

Moved spikes miss one thing: pairs that the coupling makes. Each is a chance spike of post that stays in w for `tau_f`,
and a slow sum of past chance meets the later chance too often in a recording that has few tau_f (persistent regressors:
Elliott and Stock 1994). So where p is small post is also drawn anew, as often as spikes were moved, and T of each such
recording is worked out; p is the larger of the two shares. The first is right where the model is not, the second where
it is. Post is drawn at the rate that the static fit has after the *recorded* spikes: after drawn ones the fits of most
real neurons run away (Gerhard, Deger and Truccolo 2017). T of a drawn recording is worked out at the fit that it was
drawn from: as the other parameters are projected out, a fit of its own would change little (Neyman's C(alpha)).

Sizes: as in `recording`; x parameters beside gamma.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ...ops.scan import scan
from .bases import Array, Bases
from .likelihood import Scored, profiled, static, statistic
from .recording import Pairs, Recording, pair, record
from .slow import Index

ENOUGH = 10  # surrogates with a statistic as large: p is no less than 0.1


class JitterTest(NamedTuple):
    """A jitter test: p, the statistic, that of every surrogate, and of every post drawn anew.

    simulated: empty where surrogates alone tell (p above 0.1).
    held_out: by how many nats plasticity makes the last third of the recording likelier; None where p is above 0.05.
    """

    p: float
    statistic: float
    surrogates: Array
    simulated: Array
    held_out: float | None = None


def jitter_test(
    pre: Array, post: Array, duration: float, bases: Bases, start: float, surrogates: int, width: float, seed: int
) -> JitterTest:
    """Return the test of spikes (s) from `start` to `duration`; held_out is left out."""
    pre, post = pre[pre < duration], post[post < duration]
    recording, _ = record(pre, post, duration, bases, start)
    fit = static(recording)
    told, random = Told(recording, *fit), np.random.default_rng(seed)
    real = told(pair(pre, post, bases))

    def moved() -> float:
        jittered = np.sort(pre + random.uniform(-width, width, len(pre))).clip(0, duration - bases.bin)
        return told(pair(jittered, post, bases))

    p, others = _share(real, moved, surrogates)
    if p > 1 / ENOUGH:
        return JitterTest(p, real, others, np.empty(0))
    drawn = Drawn(recording, told.expected, round(start / bases.bin), bases.bin)

    def anew() -> float:
        spikes, y = drawn(random)
        return told(pair(pre, np.append(post[post < start], spikes), bases), told.rest(y))

    larger, simulated = _share(real, anew, len(others))
    return JitterTest(max(p, larger), real, others, simulated)


def _share(real: float, draw: Callable[[], float], number: int) -> tuple[float, Array]:
    """Return p of a statistic among up to so many others, and those.

    It stops where ENOUGH are as large: p is then ENOUGH / how many there were (Besag and Clifford 1991).
    """
    others = np.empty(0)
    while len(others) < number and np.sum(others >= real) < ENOUGH:
        others = np.append(others, draw())
    larger = int(np.sum(others >= real))
    return (larger / len(others) if larger == ENOUGH else (1 + larger) / (1 + len(others))), others


class Told:
    """The score statistic of any pairs under one static fit: what does not depend on the pairs is computed once.

    From one pair to the next P is one level that decays. What decays from a bin on adds up, over all rows to the end,
    to A_i = v_i + decay^(bins between) A_(i+1); the rows between two pairs are A after the one, less what A after the
    other has decayed to. So a surrogate costs its pairs, not the recording's bins.
    """

    def __init__(self, recording: Recording, theta: Array, scored: Scored) -> None:
        """Take the static fit theta (p,) and its score."""
        self.x = len(theta) - recording.levels.shape[1]
        self.design, self.log_decay = recording.design, recording.log_decay
        self.information = scored.information[: self.x, : self.x]
        self.expected = recording.exposure * np.exp(recording.design @ theta[: self.x])
        self.rows = np.flatnonzero(recording.coupling.any(1))  # the pairs matter nowhere else
        self.bins, X = recording.bins[self.rows], recording.design.T[:, self.rows]
        self.slope, expected = theta[self.x - recording.c : self.x] @ X[-recording.c :], self.expected[self.rows]
        self.after = remains(self.bins, self.slope * expected * X, self.log_decay)
        self.squares = remains(self.bins, (expected * self.slope**2)[None], 2 * self.log_decay)
        self.real = self.rest(recording.y)

    def rest(self, y: Array) -> tuple[Array, Array]:
        """Return the gradient (x,) of spikes y (n,), and A (rows + 1, 1) of what they are beyond the expected."""
        rest = y - self.expected
        return rest @ self.design, remains(self.bins, (self.slope * rest[self.rows])[None], self.log_decay)

    def __call__(self, pairs: Pairs, rest: tuple[Array, Array] | None = None) -> float:
        """Return the statistic of these pairs; rest: of other spikes than the recording's."""
        if not len(pairs.bins) or not len(self.bins):
            return 0.0
        gradient, left = self.real if rest is None else rest
        first = np.searchsorted(self.bins, pairs.bins, side="right")  # the first row after each pair
        to_row = np.exp(self.log_decay * (np.append(self.bins, 0)[first] - pairs.bins))[:, None]
        to_pair = np.exp(self.log_decay * np.diff(pairs.bins))[:, None]
        left, after, squares = left[first] * to_row, self.after[first] * to_row, self.squares[first] * to_row**2
        left[:-1] -= left[1:] * to_pair
        after[:-1] -= after[1:] * to_pair
        squares[:-1] -= squares[1:] * to_pair**2
        level = pairs.levels[1:]
        cross = after.T @ level
        information = np.block([[self.information, cross], [cross.T, level.T @ (squares * level)]])
        return statistic(*profiled(np.append(gradient, level.T @ left[:, 0]), information, self.x))[0]


class Drawn:
    """Post drawn anew at the rate that a static fit has after the recorded spikes."""

    def __init__(self, recording: Recording, expected: Array, first: int, step: float) -> None:
        """Take the spikes that the fit expects of each row (n,), the first bin and the size of bins (s)."""
        self.step, self.sums = step, np.cumsum(expected)
        quiet = int(np.sum(recording.bins < 0))  # rows of many bins without a spike in sight
        size = np.where(recording.bins < 0, np.rint(recording.exposure / step), 1).astype(np.int64)
        seen = np.zeros(int(size.sum()), dtype=bool)
        seen[recording.bins[quiet:] - first] = True
        self.bins = first + np.append(np.flatnonzero(~seen), np.flatnonzero(seen))  # in the order of the rows
        self.size, self.begin = size, size.cumsum() - size

    def __call__(self, random: np.random.Generator) -> tuple[Array, Array]:
        """Return the times of spikes (s), and how many each row has (n,)."""
        number = random.poisson(self.sums[-1])
        rows = np.searchsorted(self.sums, random.uniform(0, self.sums[-1], number), side="right")
        bins = self.bins[self.begin[rows] + random.integers(self.size[rows])]
        times = np.sort((bins + random.random(number)) * self.step)
        return times, np.bincount(rows, minlength=len(self.sums)).astype(float)


def remains(bins: Index, values: Array, rate: float) -> Array:
    """Return A (n + 1, q) of values (q, n), with A_i = v_i + exp(rate (bins_(i+1) - bins_i)) A_(i+1), the last 0."""
    a = torch.as_tensor(np.exp(rate * np.diff(bins, append=bins[-1:]))[::-1].copy())[None, :, None, None]
    b = torch.as_tensor(values.T[::-1].copy())[None, :, None]
    out: Array = np.zeros((len(bins) + 1, len(values)))
    out[:-1] = scan(a, b, b.new_zeros(1, 1, len(values)))[0, :, 0].numpy()[::-1]
    return out
