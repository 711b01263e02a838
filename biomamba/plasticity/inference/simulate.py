"""Two neurons with a plastic synapse: the generative model of Stevenson and Koerding (NIPS 2011).

    lambda(t) = exp(alpha_0 + X_s(t) alpha + w(t) X_c(t) beta)       post spikes are Poisson at this rate
    tau_f dw/dt = 1 - w, and w jumps by dw(t_pre - t_post) at each pair, after the second of its spikes

X_s and X_c are the spikes of post and pre, filtered by raised cosines. Here, as in the paper, dt is t_pre - t_post in
seconds; the windows of `stdp` take t_post - t_pre in milliseconds, and `paper` stands between.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import stdp
from .bases import Array, Bases

Window = Callable[[Array], Array]

HISTORY = (-3.0, -1.0, 0.0, 0.0, 0.0)  # refractory for some milliseconds
COUPLING = (1.0, -0.5, -0.5, -1.5, 1.5)  # excitation, suppression, rebound; why not excitation alone: docs/inference.md

MANY = 20  # spikes expected in a bin: some pre spikes at once may bring one or two, a runaway soon brings any number

RUNAWAY = "post runs away, as its spikes strengthen w and w brings spikes: give a smaller window"


def paper(window: Callable[..., Tensor], **constants: Any) -> Window:
    """Return a window of `stdp` with these constants as a function of dt = t_pre - t_post in seconds."""
    return lambda dt: window(torch.as_tensor(dt) * -1000.0, **constants).numpy()


def per_pair(window: Window, sigma: float, seed: int) -> Window:
    """Return a window that sees the time between the spikes of each pair with an error of its own, N(0, sigma^2), in s.

    Its mean is what `stdp.jittered` is for the double exponential. Every call draws anew.
    """
    rng = np.random.default_rng(seed)
    return lambda dt: window(dt + rng.normal(0, sigma, np.shape(dt)))


def difference_of_gaussians(A_plus: float, A_minus: float, sigma_plus: float, sigma_minus: float) -> Window:
    """Return A_plus exp(-dt^2 / 2 sigma_plus^2) - A_minus exp(-dt^2 / 2 sigma_minus^2), dt and sigmas in seconds."""
    return lambda dt: A_plus * np.exp(-((dt / sigma_plus) ** 2) / 2) - A_minus * np.exp(-((dt / sigma_minus) ** 2) / 2)


def alpha(height: float, delay: float, width: float) -> Window:
    """Return the alpha function of the time t (s) since a pre spike: height x exp(1 - x), x = (t - delay) / width.

    0 before the delay; largest, height, one width after it.
    """

    def coupling(t: Array) -> Array:
        x = (t - delay).clip(min=0) / width
        return height * x * np.exp(1 - x)

    return coupling


WINDOWS: dict[str, Window] = {
    "double exponential": paper(stdp.double_exponential, A_plus=0.05, A_minus=0.05),
    "Mexican hat": paper(stdp.mexican_hat, A=0.05, sigma=16.0),
    "jittered": paper(stdp.jittered, A_plus=0.06, A_minus=0.06, sigma=5.0),
}


def simulate(
    window: Window,
    *,
    duration: float,
    seed: int,
    rate: float = 5.0,
    baseline: float | Array = 5.0,
    pre: Array | None = None,
    history: Sequence[float] | Array = HISTORY,
    coupling: Sequence[float] | Array | Window = COUPLING,
    bases: Bases | None = None,
) -> tuple[Array, Array, Array]:
    """Return the spike times of pre and post (s), and w in every bin: w[k] from k bin to (k + 1) bin.

    window: dw of dt = t_pre - t_post (s), 0 beyond the bases' window_span. rate: of pre, Hz, unless its spikes `pre`
    (s) are given. baseline: of post without a spike in sight, Hz, a number or one for each bin. coupling: in the bases,
    or a function of the time since a pre spike (s), at lags of 1, 2, ... bins up to the bases' coupling_span. Raises
    ValueError where post runs away, to more than `MANY` spikes in a bin.
    """
    bases = bases or Bases()
    rng, n, step = np.random.default_rng(seed), round(duration / bases.bin), bases.bin
    if pre is None:
        pre = np.sort(rng.uniform(0, n * step, rng.poisson(rate * duration)))
    stops = np.append((pre / step).astype(int), n - 1) + 1
    by_post = bases.history_table() @ np.array(history)
    lags = np.arange(1, len(bases.coupling_table()) + 1) * bases.bin
    by_pre = coupling(lags) if callable(coupling) else bases.coupling_table() @ np.array(coupling)
    coupled, drive = np.zeros(n + len(by_pre)), np.zeros(n + len(by_post))
    drive[:n] = np.log(baseline)
    for stop in stops[:-1]:
        coupled[stop : stop + len(by_pre)] += by_pre
    w, decay = np.ones(n), np.exp(-step / bases.tau_f) ** np.arange(n + 1)
    k, change, wait = 0, 0.0, rng.exponential()  # change: w - 1 in the bin before k, its pairs counted
    spikes, recent = [], np.empty(0)
    while k < n:
        stop = stops[np.searchsorted(stops, k, side="right")]  # as far as w can be told: the bin of the next pre spike
        w[k:stop] = 1 + change * decay[1 : stop - k + 1]
        m, parts, wait = _next_spikes(np.exp(drive[k:stop] + w[k:stop] * coupled[k:stop]) * step, wait, rng)
        change, k = change * decay[m + 1], k + m
        drive[k + 1 : k + 1 + len(by_post)] += len(parts) * by_post
        spikes.append((k + parts) * step)
        recent = np.append(recent[recent > k * step - bases.window_span], spikes[-1])
        change += _jump(window, pre, recent, k, bases)
        k += 1
    return pre, np.concatenate(spikes), w


def _next_spikes(expected: Array, wait: float, rng: np.random.Generator) -> tuple[int, Array, float]:
    """Return the first bin with spikes, where in it they are (0 to 1) and the wait left; the last bin if there is none.

    expected: spikes per bin. wait: how many are to be expected until the next spike (time rescaling).
    """
    total = expected.cumsum()
    k = int(np.searchsorted(total, wait))
    if k == len(total):
        return k - 1, np.empty(0), wait - total[-1]
    if expected[k] > MANY:
        raise ValueError(RUNAWAY)
    parts, wait = [], wait - (total[k] - expected[k])
    while wait <= expected[k]:
        parts.append(wait / expected[k])
        wait += rng.exponential()
    return k, np.clip(parts, 1e-6, 1 - 1e-6), wait - expected[k]  # clipped: rounding must not move it to another bin


def _jump(window: Window, pre: Array, post: Array, k: int, bases: Bases) -> float:
    """Return dw summed over the pairs whose second spike is in bin k."""
    low, high = np.searchsorted(pre, [k * bases.bin - bases.window_span, (k + 1) * bases.bin])
    dt = (pre[low:high, None] - post)[np.maximum(pre[low:high, None], post) >= k * bases.bin]
    return float(window(dt[abs(dt) <= bases.window_span]).sum())
