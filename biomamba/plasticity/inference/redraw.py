"""Post drawn anew from a fit, given pre: what a recording would be if the fit were true.

As `simulate` says, with the same random numbers: by itself, or by a kernel that knows the bases' modification function.
"""

import numpy as np
import torch

from ...ops.backend import call, resolve
from .bases import OFFSET, Array, Bases
from .simulate import MANY, RUNAWAY, simulate
from .slow import slow_steps, slow_terms


def redraw(
    theta: Array, pre: Array, post: Array, duration: float, bases: Bases, seed: int, backend: str = "auto"
) -> tuple[Array, Array]:
    """Return the spikes of post (s) drawn by theta (p,), its gamma among it, and w in every bin.

    Slow rate terms stay those of the recording. Raises ValueError where post runs away.
    """
    n, s, slow = round(duration / bases.bin), bases.history, 2 * len(bases.slow)
    trains = [(train[train < duration] / bases.bin).astype(np.int64) for train in (post, pre)]
    terms = slow_terms([bins.clip(max=n - 1) for bins in trains], n, bases)
    baseline = np.exp(theta[0] + terms @ theta[1 + s : 1 + s + slow])[slow_steps(n, bases)]
    history, rest = theta[1 : 1 + s], theta[1 + s + slow :]
    coupling, gamma = rest[: bases.coupling], rest[bases.coupling :]
    if resolve(backend) == "llvm":
        return drawn(pre[pre < duration], n, bases, seed, baseline, history, coupling, gamma)
    _, spikes, w = simulate(
        (lambda dt: bases.modification(dt) @ gamma) if gamma.any() else np.zeros_like,
        duration=duration,
        seed=seed,
        pre=pre[pre < duration],
        baseline=baseline,
        history=history,
        coupling=coupling,
        bases=bases,
    )
    return spikes, w


def drawn(
    pre: Array, n: int, bases: Bases, seed: int, baseline: Array, history: Array, coupling: Array, gamma: Array
) -> tuple[Array, Array]:
    """Return the spikes of post (s) and w (n,) by the kernel; baseline (n,) in Hz."""
    by_pre, by_post = bases.coupling_table() @ coupling, bases.history_table() @ history
    bins, coupled = (pre / bases.bin).astype(int), np.zeros(n + len(by_pre) + 1)
    for k in bins.tolist():
        coupled[k + 1 : k + 1 + len(by_pre)] += by_pre
    arrives = np.zeros(n + 1, dtype=bool)
    arrives[bins] = True
    drive, w, told = np.log(baseline), np.empty(n), np.zeros(2, dtype=np.int64)
    facts = bases.bin, np.exp(-bases.bin / bases.tau_f), bases.window_span, OFFSET, MANY
    number = 1000 + int(2 * baseline.sum() * bases.bin)
    while True:
        waits, spikes = np.random.default_rng(seed).exponential(size=number), np.empty(number)
        given = drive.copy(), coupled[:n], arrives[:n], by_post, waits, pre, gamma if gamma.any() else gamma[:0]
        call("point_process.draw", *map(torch.as_tensor, (*given, np.array(facts, dtype=float), spikes, w, told)))
        if told[1] == 2:
            raise ValueError(RUNAWAY)
        if not told[1]:
            return spikes[: told[0]], w
        number *= 4
