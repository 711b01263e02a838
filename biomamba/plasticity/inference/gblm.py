"""The generalised bilinear model: dw in a basis, fitted together with the coupling that it changes.

    log lambda = alpha_0 + X_s alpha + w X_c beta        w = 1 + P gamma        gamma ~ N(0, 1 / ridge)

The two convex fits, of the coupling given gamma and of gamma given the coupling, take turns until a turn gains less
than 1 nat; then all parameters move together, because the scale of beta against that of gamma would take hundreds of
turns. `ridge` is the one of largest evidence unless given. The intervals are Laplace's: the inverse of the Fisher
information and the priors.

Sizes: as in `likelihood`.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from .bases import Array, Bases
from .inferred import Inferred
from .jitter import JitterTest, jitter_test
from .likelihood import WEAK, Scored, climb, evidence_ridge, profiled, score, static, static_top, statistic
from .recording import Pairs, length, record, seconds
from .selection import choose, first_two_thirds

WORTH = 1.0  # nats that plasticity should gain on the last third


class ScoreTest(NamedTuple):
    """A score test: its statistic is chi-square of dof where the hypothesis holds; p is the chance of a larger one."""

    statistic: float
    dof: int
    p: float


@dataclass(frozen=True)
class BilinearFit(Inferred):
    """A fitted GBLM, or GLM (gamma 0). theta (p,): all parameters. ridge: the precision that gamma's prior had."""

    theta: Array
    ridge: float
    pairs: Pairs

    def weight(self, t: ArrayLike) -> Array:
        """Return w = 1 + P gamma at the times t (s), any shape, from the pairs before the bin of t."""
        row, decay = self.pairs.at((np.asarray(t, dtype=float) / self.bases.bin).astype(np.int64))
        return 1 + decay * (self.pairs.levels @ self.gamma)[row]

    def log_likelihood(self, pre: Any, post: Any, duration: float, start: float = 0.0) -> float:
        """Return the log likelihood of spike trains from `start` to `duration`, nats: see `Inferred`."""
        return score(record(pre, post, duration, self.bases, start)[0], self.theta, changes=False).value


class GLM:
    """The baseline: coupling that stays as it is, w = 1."""

    def __init__(self, bases: Bases | None = None) -> None:
        """Take the bases (those of `Bases()` without)."""
        self.bases = bases

    def fit(self, pre: Any, post: Any, duration: float | None = None, start: float = 0.0) -> BilinearFit:
        """Return the fit to the spikes from `start` to `duration` (s); spikes before `start` are context."""
        duration, bases = length(pre, post, duration), self.bases or Bases()
        recording, pairs = record(pre, post, duration, bases, start)
        theta, k = static_top(recording), recording.levels.shape[1]
        return BilinearFit(bases, duration, np.zeros(k), np.zeros((k, k)), theta, np.inf, pairs)


class GBLM:
    """The generalised bilinear model: coupling that pairs of spikes change."""

    def __init__(self, bases: Bases | None = None, ridge: float | None = None) -> None:
        """Take the bases (those of `Bases()` without) and the precision of gamma's prior (by evidence without).

        Raises ValueError where ridge is not above 0.
        """
        if ridge is not None and ridge <= 0:
            raise ValueError(
                f"ridge is a precision: got {ridge}, expected more than 0, or None to choose it by evidence"
            )
        self.bases, self.ridge = bases, ridge

    def fit(self, pre: Any, post: Any, duration: float | None = None, start: float = 0.0) -> BilinearFit:
        """Return the fit to the spikes from `start` to `duration` (s); spikes before `start` are context."""
        duration, bases = length(pre, post, duration), self.bases or Bases()
        recording, pairs = record(pre, post, duration, bases, start)
        theta, scored = static(recording)
        x = len(theta) - recording.levels.shape[1]
        s, gamma = recording.history.shape[1], np.arange(len(theta)) >= x
        beta = (np.arange(len(theta)) > s) & ~gamma
        ridge = self._ridge(theta, scored, x)
        before = -np.inf
        while scored.value > before + 1:  # nats
            before = scored.value
            theta, scored = climb(recording, theta, ridge, ~beta, gain=1e-3)
            theta, scored = climb(recording, theta, ridge, ~gamma, gain=1e-3)
        for _ in range(10):
            theta, scored = climb(recording, theta, ridge, beta | ~beta, gain=1e-3)
            last, ridge = ridge, self._ridge(theta, scored, x)
            if ridge[-1] == last[-1]:
                break
        theta, scored = climb(recording, theta, ridge, beta | ~beta)
        covariance = np.linalg.inv(scored.information + np.diag(ridge))[x:, x:]
        return BilinearFit(bases, duration, theta[x:], covariance, theta, float(ridge[-1]), pairs)

    def test(
        self,
        pre: Any,
        post: Any,
        duration: float | None = None,
        start: float = 0.0,
        *,
        surrogates: int = 99,
        width: float = 0.025,
        seed: int = 0,
    ) -> JitterTest:
        """Test whether the times of spikes, within `width` (s), matter to changes of the coupling: see `jitter`.

        Without bases, slow rate terms are chosen by held-out likelihood (`choose`). Coupling must be there: without it
        nothing can be said of its changes. Warns where p is 0.05 and less and plasticity does not make held-out spikes
        likelier by `WORTH` nats: then what the test found is not what this model says. Raises ValueError where post
        does not spike in the first two thirds.
        """
        duration = length(pre, post, duration)
        early, split = first_two_thirds(pre, post, start, duration)
        bases = choose(pre, post, duration, start=start) if self.bases is None else self.bases
        found = jitter_test(seconds(pre), seconds(post), duration, bases, start, surrogates, width, seed)
        if found.p > 0.05:
            return found
        fits = [model.fit(*early, split, start) for model in (GLM(bases), GBLM(bases, self.ridge))]
        static_value, value = (fit.log_likelihood(pre, post, duration, split) for fit in fits)
        if value < static_value + WORTH:
            warnings.warn(
                f"p is {found.p:.2g}, but plasticity makes the last third likelier by {value - static_value:.1f} nats: "
                "do not take it for plasticity",
                stacklevel=2,
            )
        return found._replace(held_out=value - static_value)

    def score_test(self, pre: Any, post: Any, duration: float | None = None, start: float = 0.0) -> ScoreTest:
        """Test whether coupling is static by the score test of gamma = 0, from the fit of the GLM alone.

        gradient' information^-1 gradient at gamma = 0, with the other parameters projected out (Rao 1948; Neyman's
        C(alpha), which their weak prior does not disturb), is chi-square **where the model is true**: it is wrong by
        any number of decades for real recordings, whose rates change and burst. `test` is for those.
        """
        recording, _ = record(pre, post, length(pre, post, duration), self.bases or Bases(), start)
        theta, scored = static(recording)
        value, dof = statistic(*profiled(scored.gradient, scored.information, len(theta) - recording.levels.shape[1]))
        p = torch.special.gammaincc(torch.tensor(dof / 2.0).double(), torch.tensor(value / 2).double())
        return ScoreTest(value, dof, float(p) if dof else 1.0)

    def _ridge(self, theta: Array, scored: Scored, x: int) -> Array:
        """Return the precisions (p,) of the priors, gamma's as given or by the evidence around theta."""
        ridge = self.ridge
        if ridge is None:
            gradient, information = profiled(scored.gradient, scored.information, x)
            ridge = evidence_ridge(gradient + information @ theta[x:], information)
        return np.where(np.arange(len(theta)) < x, WEAK, ridge)
