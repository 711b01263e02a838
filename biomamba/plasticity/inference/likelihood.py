"""The likelihood of the bilinear model, and how it is climbed.

    log lambda = alpha_0 + X_s alpha + w X_c beta        w = 1 + P gamma
    log L = sum over the post spikes of log lambda - int lambda dt

Bilinear in beta and gamma: -log L is convex in (alpha_0, alpha, beta) given gamma, in (alpha_0, alpha, gamma) given
beta.

Sizes: as in `recording`; theta (p = 1 + s + c + k,) is alpha_0, alpha, beta, gamma.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bases import Array
from .recording import Recording

BLOCK = 1 << 13  # rows at a time, so that they stay in the cache
FLAT = 0.1  # of what Fisher's information says: a direction that bends less is taken to bend as much
RISE = 0.25  # of what the slope alone promises a step has to gain (Armijo 1966)
WEAK = 1e-2  # precision of alpha and beta: finite where a neuron never fires within its refractory time


class Scored(NamedTuple):
    """The log likelihood (nats), its gradient (p,), the expected (Fisher) and the observed information (p, p).

    They differ in beta by gamma alone, by (y - lambda) d^2 eta / dbeta dgamma: 0 on average where the model is true.
    """

    value: float
    gradient: Array
    information: Array
    observed: Array


def score(recording: Recording, theta: Array, changes: bool = True) -> Scored:
    """Return log likelihood, gradient and information at theta; what depends on the data alone is left out.

    changes: whether gamma's part of gradient and information is wanted; without, it is 0.
    """
    x, p = recording.design.shape[1], len(theta)
    beta, change = theta[x - recording.c : x], recording.levels @ theta[x:]
    value, gradient, information, bent = 0.0, np.zeros(p), np.zeros((p, p)), np.zeros((recording.c, p - x))
    for i in range(0, len(recording.y), BLOCK):
        at = slice(i, i + BLOCK)
        row, y, decay, X = recording.row[at], recording.y[at], recording.decay[at], recording.design.T[:, at]
        if theta[x:].any():
            X = np.vstack([X[: -recording.c], (1 + decay * change[row]) * X[-recording.c :]])
        eta = theta[:x] @ X
        expected = recording.exposure[at] * np.exp(eta)
        weighted = expected * X
        value += float(y @ eta - expected.sum())
        gradient[:x] += X @ (y - expected)
        information[:x, :x] += X @ weighted.T
        if changes:
            coupled = decay * recording.design.T[-recording.c :, at]
            slope, rest = beta @ coupled, (y - expected) * coupled
            begin = np.flatnonzero(np.diff(row, prepend=-1))  # between two pairs P is one level that decays
            sums = np.add.reduceat(np.vstack([rest, expected * slope**2, slope * weighted]), begin, axis=1)
            level = recording.levels[row[begin]]
            bent += sums[: recording.c] @ level
            information[x:, x:] += level.T @ (sums[recording.c][:, None] * level)
            information[:x, x:] += sums[recording.c + 1 :] @ level
    gradient[x:] = beta @ bent
    information[x:, :x] = information[:x, x:].T
    observed = information.copy()
    observed[x - recording.c : x, x:] -= bent
    observed[x:, x - recording.c : x] -= bent.T
    return Scored(value, gradient, information, observed)


def climb(
    recording: Recording, theta: Array, ridge: Array, free: NDArray[np.bool_], gain: float = 1e-6
) -> tuple[Array, Scored]:
    """Return the theta (p,) of the largest penalised likelihood over the free parameters, and its score.

    By Newton's steps, without regard to the sign of a bend (Dauphin et al. 2014), each halved until it gains RISE of
    what its slope promises. Fisher's would jump from side to side of a top where the model is wrong: the likelihood may
    bend by more or less than they expect. ridge: (p,), the precision of each parameter's prior N(0, 1 / ridge). gain:
    stop where a step promises less (nats). Where gamma is not free, its part of the score is 0. RuntimeError: after 100
    steps it still rises.
    """
    changes, freed = bool(free[recording.design.shape[1] :].any()), np.ix_(free, free)
    here = score(recording, theta, changes)
    for _ in range(100):
        step = np.zeros_like(theta)
        slope, prior = (here.gradient - ridge * theta)[free], np.diag(ridge[free])
        root = np.linalg.inv(np.linalg.cholesky(here.information[freed] + prior))
        bends, directions = np.linalg.eigh(root @ (here.observed[freed] + prior) @ root.T)  # 1 where the model is true
        step[free] = root.T @ directions @ (directions.T @ root @ slope / np.abs(bends).clip(min=FLAT))
        if slope @ step[free] / 2 < gain:
            return theta, here
        height = here.value - ridge @ theta**2 / 2
        while True:
            with np.errstate(over="ignore", invalid="ignore"):  # much too far: there the likelihood is 0
                there = score(recording, theta + step, changes)
            if there.value - ridge @ (theta + step) ** 2 / 2 >= height + RISE * slope @ step[free]:
                break
            step /= 2
        theta, here = theta + step, there
    raise RuntimeError("the likelihood still rises after 100 steps: are there spikes enough?")


def profiled(gradient: Array, information: Array, x: int) -> tuple[Array, Array]:
    """Return gradient (k,) and information (k, k) of gamma, with the other x parameters free to follow.

    Those that nothing is told of, as of a coupling without a pre spike, stay.
    """
    untold = np.diagonal(information)[:x] == 0
    follow = np.linalg.solve(information[:x, :x] + np.diag(untold.astype(float)), information[:x, x:])
    return (
        gradient[x:] - follow.T @ gradient[:x],
        information[x:, x:] - information[x:, :x] @ follow,
    )


def statistic(gradient: Array, information: Array) -> tuple[float, int]:
    """Return gradient' information^-1 gradient of gamma, and in how many directions there is information."""
    values, vectors = np.linalg.eigh(information)
    seen = values > 1e-9 * values.max()  # no pair may have met some basis
    return float(((vectors.T @ gradient)[seen] ** 2 / values[seen]).sum()), int(seen.sum())


def evidence_ridge(gradient: Array, information: Array) -> float:
    """Return the precision r of gamma ~ N(0, 1 / r) under which the data are likeliest (MacKay 1992).

    gradient (k,) at gamma = 0, information (k, k): a quadratic log likelihood. From 0.01 to 1e8, in tenths of decades.
    """
    values, vectors = np.linalg.eigh(information)
    squares, ridges = (vectors.T @ gradient) ** 2, 10.0 ** np.arange(-2, 8.05, 0.1)[:, None]
    evidence = (np.log(ridges / (ridges + values.clip(min=0))) + squares / (ridges + values.clip(min=0))).sum(1) / 2
    return float(ridges[evidence.argmax(), 0])


def static(recording: Recording, start: Array | None = None) -> tuple[Array, Scored]:
    """Return the theta (p,) of the fit with gamma = 0, and the score there.

    start: where to climb from, gamma 0; it changes how long that takes. Raises ValueError where post never spikes.
    """
    theta = static_top(recording, start)
    return theta, score(recording, theta)


def static_top(recording: Recording, start: Array | None = None) -> Array:
    """Return what `static` does, without the score."""
    if not recording.y.any():
        raise ValueError("post has no spike in this stretch: nothing to fit")
    x, k = recording.design.shape[1], recording.levels.shape[1]
    if start is None:
        start = np.zeros(x + k)
        start[0] = np.log(recording.y.sum() / recording.exposure.sum())
    return climb(recording, start, np.full(len(start), WEAK), np.arange(len(start)) < x)[0]
