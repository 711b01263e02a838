"""The adaptive point-process filter (Eden et al. 2004): w(t) as a random walk, followed spike by spike.

    predict   w- = w,                                  V- = V + noise dt
    update    1/V = 1/V- + c^2 lambda dt,              w = w- + V c (y - lambda dt)         c = X_c beta

with lambda and c = d log lambda / dw at w-, and y the spikes of the bin. Where c is 0 only V moves. Nothing is assumed
of what changes w: dw is read from the changes afterwards. alpha_0, alpha, beta are those of the static fit, so that w
is in units of about its mean over the recording.

That takes the static fit and the noise as known and w as smooth, so its interval is too narrow. The parametric
bootstrap simulates post anew from what was found, given pre, and does all of it again: coupling, noise, filter and
regression. What that errs by is a second covariance, and the interval that of the larger of the two in every direction:
the bootstrap alone is sure of a dw that the prior has drawn to 0, the regression alone of its w.

Sizes: n bins with coupling; k as in `recording`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...ops.backend import call, resolve
from ...ops.scan import scan
from .bases import Array, Bases
from .inferred import Inferred
from .likelihood import BLOCK, evidence_ridge, score, static
from .recording import Recording, length, record, seconds
from .redraw import redraw
from .slow import Index

START = (1.0, 1.0)  # w and its variance before the first spike
MOST = 5.0  # mean of w that a simulation may have, in units of w at rest
NOISES = 10.0 ** np.arange(-5, -1.9, 0.5)  # variance per second


class Drive(NamedTuple):
    """The bins where pre drives post, all (n,): rows, spikes, those expected at w = 0, c, seconds since the last."""

    rows: Index
    bins: Index
    y: Array
    base: Array
    slope: Array
    since: Array


class Course(NamedTuple):
    """How the filter went, all (n,): w before and after each bin, V after it, and the spikes it expected."""

    before: Array
    w: Array
    variance: Array
    expected: Array

    def gain(self, drive: Drive, first: int = 0) -> float:
        """Return how much likelier (nats) the filter's w makes the spikes from bin `first` on than w = 1 does."""
        at = drive.bins >= first
        followed = drive.y * drive.slope * self.before - self.expected
        static = drive.y * drive.slope - drive.base * np.exp(drive.slope)
        return float((followed - static)[at].sum())


@dataclass(frozen=True)
class FilteredFit(Inferred):
    """What the filter found. theta (p,): the static fit's. noise: of the random walk, per second. bins (n,): where."""

    theta: Array
    noise: float
    bins: Index
    w: Array  # (n,) from the spikes before and of the bin
    smoothed: Array  # (n,) from all spikes

    def weight(self, t: ArrayLike) -> Array:
        """Return w at the times t (s), any shape, as all spikes tell it (fixed-interval smoother)."""
        return np.interp(np.asarray(t, dtype=float) / self.bases.bin, self.bins + 0.5, self.smoothed)

    def filtered(self, t: ArrayLike) -> Array:
        """Return w at the times t (s), any shape, as the spikes before t tell it."""
        row = np.searchsorted(self.bins, (np.asarray(t, dtype=float) / self.bases.bin).astype(np.int64))
        return np.append(START[0], self.w)[row]

    def log_likelihood(self, pre: Any, post: Any, duration: float, start: float = 0.0) -> float:
        """Return the log likelihood of spike trains from `start` to `duration`, every bin as predicted before it."""
        drive = driven(record(pre, post, duration, self.bases)[0], self.theta, self.bases)
        gain = follow(drive, self.noise).gain(drive, round(start / self.bases.bin))
        return score(record(pre, post, duration, self.bases, start)[0], self.theta).value + gain


class PointProcessFilter:
    """Follows w(t) without assuming what changes it, then reads dw from the changes."""

    def __init__(
        self, bases: Bases | None = None, noise: float | None = None, *, bootstrap: int = 0, seed: int = 0
    ) -> None:
        """Take the bases (those of `Bases()` without) and the variance that the random walk gains per second.

        Without noise, the one of `NOISES` that predicts the spikes best. bootstrap: of how many simulations
        the errors widen the interval of dw, 20 tell it well; 0: it is that of the last regression alone, too narrow.
        Raises ValueError where noise is not above 0, or bootstrap is below 5 and not 0.
        """
        if noise is not None and noise <= 0:
            raise ValueError(f"noise is a variance per second: got {noise}, expected more than 0, or None to choose it")
        if 0 < bootstrap < 5 or bootstrap < 0:
            raise ValueError(
                f"bootstrap: got {bootstrap} simulations, expected 5 and more (20 tell an interval well), or 0 for none"
            )
        self.bases, self.noise, self.bootstrap, self.seed = bases or Bases(), noise, bootstrap, seed

    def fit(self, pre: Any, post: Any, duration: float | None = None, start: float = 0.0) -> FilteredFit:
        """Return w(t) and dw from the spikes from `start` to `duration` (s); spikes before `start` are context."""
        duration = length(pre, post, duration)
        fit = self._fit(pre, post, duration, start)
        if self.bootstrap:
            fit = replace(fit, covariance=larger(fit.covariance, self._resampled(fit, pre, post)))
        return fit

    def _fit(self, pre: Any, post: Any, duration: float, start: float) -> FilteredFit:
        """Return the fit with the interval of the last regression."""
        recording, _ = record(pre, post, duration, self.bases, start)
        theta, _ = static(recording)
        drive = driven(recording, theta, self.bases)
        noise = self.noise or likeliest(drive)
        course = follow(drive, noise)
        gradient, information = changes(recording, drive, course)
        covariance = np.linalg.inv(information + evidence_ridge(gradient, information) * np.eye(len(gradient)))
        w = course.w, smooth(drive, course, noise)
        return FilteredFit(self.bases, duration, covariance @ gradient, covariance, theta, noise, drive.bins, *w)

    def _resampled(self, fit: FilteredFit, pre: Any, post: Any) -> Array:
        """Return the covariance (k, k) of gamma's error around what each simulation was made with, bias included.

        Wider by n / (n - 2), Student's variance: n simulations know it that well.
        """
        pre, post, errors = seconds(pre), seconds(post), []
        theta = at_rest(fit, record(pre, post, fit.duration, self.bases)[0])
        for k in range(self.bootstrap):
            drawn, w = redraw(theta, pre, post, fit.duration, self.bases, self.seed + k)
            errors.append(self._fit(pre, drawn, fit.duration, 0.0).gamma - theta[-len(fit.gamma) :] / w.mean())
        found = np.array(errors)
        covariance: Array = found.T @ found / (len(found) - 2)
        return covariance


def at_rest(fit: FilteredFit, recording: Recording) -> Array:
    """Return the model (p,) that the fit speaks of, with the coupling at w = 1 in place of that at the mean of w.

    The static fit's coupling is beta w_m, and gamma in units of w_m, the mean of w where pre drives post. Since w is
    1 + P gamma w_m, w_m = 1 / (1 - P_m gamma). Drawn from the fit as it is, w would leave its mean once more.
    """
    rows = np.flatnonzero(recording.coupling.any(1))
    levels = np.bincount(recording.row[rows], recording.decay[rows], len(recording.levels)) / len(rows)
    mean = 1 / max(1 - float(levels @ recording.levels @ fit.gamma), 1 / MOST)
    theta, x = fit.theta.copy(), recording.design.shape[1]
    theta[x - recording.c : x] /= mean
    theta[x:] = fit.gamma * mean
    return theta


def larger(a: Array, b: Array) -> Array:
    """Return the least covariance (k, k) of this form that is as large as a and as b in every direction.

    In the directions where neither depends on another (their common eigenvectors), the larger of the two variances.
    """
    root = np.linalg.cholesky(a)
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ b @ inverse.T)
    scaled = root @ vectors
    covariance: Array = (scaled * values.clip(min=1)) @ scaled.T
    return covariance


def driven(recording: Recording, theta: Array, bases: Bases) -> Drive:
    """Return the bins where the coupling of theta is not 0. Raises ValueError where there are none."""
    s, c = recording.history.shape[1], recording.coupling.shape[1]
    slope = recording.coupling @ theta[1 + s : 1 + s + c]
    rows = np.flatnonzero(slope)
    if not len(rows):
        raise ValueError("pre has no spike in this stretch: there is no coupling to follow")
    bins = recording.bins[rows]
    base = recording.exposure[rows] * np.exp(theta[0] + recording.history[rows] @ theta[1 : 1 + s])
    return Drive(rows, bins, recording.y[rows], base, slope[rows], np.diff(bins, prepend=bins[0]) * bases.bin)


def follow(drive: Drive, noise: float, backend: str = "auto") -> Course:
    """Return the filter's course through the bins: by our kernel where there is one, the same as `follow_naive`."""
    if resolve(backend) != "llvm":
        return follow_naive(drive, noise)
    course = torch.empty(4, len(drive.y), dtype=torch.float64)
    given = (*drive[2:], np.array([*START, noise]))
    call("point_process.follow", *(torch.as_tensor(np.ascontiguousarray(x, dtype=float)) for x in given), *course)
    return Course(*course.numpy())


def follow_naive(drive: Drive, noise: float) -> Course:
    """Return the filter's course through the bins: the definition."""
    (w, variance), course = START, []
    for y, base, slope, since in zip(*(column.tolist() for column in drive[2:]), strict=True):
        before, variance = w, variance + noise * since
        expected = base * math.exp(slope * w)
        variance /= 1 + variance * slope * slope * expected
        w += variance * slope * (y - expected)
        course.append((before, w, variance, expected))
    return Course(*np.array(course).T)


def likeliest(drive: Drive) -> float:
    """Return the noise of `NOISES` under which the filter predicts the spikes best, climbing from their middle."""
    at = len(NOISES) // 2
    best = follow(drive, NOISES[at]).gain(drive)
    for step in (1, -1):
        while 0 <= at + step < len(NOISES) and (gain := follow(drive, NOISES[at + step]).gain(drive)) > best:
            at, best = at + step, gain
    return float(NOISES[at])


def smooth(drive: Drive, course: Course, noise: float) -> Array:
    """Return w (n,) given all spikes: back from the end, w_i + V_i / V-_(i+1) (smoothed_(i+1) - w_i)."""
    follows = course.variance[:-1] / (course.variance[:-1] + noise * drive.since[1:])
    given = np.append(1.0, follows[::-1]), np.append(0.0, ((1 - follows) * course.w[:-1])[::-1])
    a, b = (torch.as_tensor(x)[None, :, None, None] for x in given)
    last = torch.full((1, 1, 1), course.w[-1], dtype=torch.float64)
    smoothed: Array = scan(a, b, last)[0, :, 0, 0].numpy()[::-1].copy()
    return smoothed


def changes(recording: Recording, drive: Drive, course: Course) -> tuple[Array, Array]:
    """Return what the changes of the filter's w say of gamma: gradient (k,) at 0 and information (k, k).

    A change is V c (y - lambda dt), and V c^2 lambda dt (w - w-) is to be expected of it. If w is 1 + P gamma, w- is,
    to first order, 1 + Q gamma with Q what the same filter makes of P: Q_i = (1 - f_i) Q_(i-1) + f_i P_i, where
    f = V c^2 lambda dt. So the changes are regressed on f (P - Q-), by the inverse of their variance V^2 c^2 lambda dt.
    """
    k = recording.levels.shape[1]
    gradient, information, Q = np.zeros(k), np.zeros((k, k)), torch.zeros(1, 1, k, dtype=torch.float64)
    for i in range(0, len(drive.y), BLOCK):
        rows, y, slope = drive.rows[i : i + BLOCK], drive.y[i : i + BLOCK], drive.slope[i : i + BLOCK]
        expected = course.expected[i : i + BLOCK]
        P = recording.decay[rows, None] * recording.levels[recording.row[rows]]
        part = (course.variance[i : i + BLOCK] * slope**2 * expected)[:, None]
        after = scan(torch.as_tensor(1 - part)[None, :, None], torch.as_tensor(part * P)[None, :, None], Q)
        lag = P - torch.cat([Q, after[0, :-1]]).numpy()[:, 0]
        gradient += lag.T @ (slope * (y - expected))
        information += lag.T @ ((slope**2 * expected)[:, None] * lag)
        Q = after[:, -1]
    return gradient, information
