"""Post drawn anew from a fit, given pre: what a recording would be if the fit were true."""

import numpy as np

from .bases import Array, Bases
from .simulate import Window, simulate
from .slow import slow_steps, slow_terms


def redraw(
    theta: Array, pre: Array, post: Array, duration: float, bases: Bases, seed: int, window: Window = np.zeros_like
) -> tuple[Array, Array]:
    """Return the spikes of post (s) drawn by the static fit theta (p,), and w in every bin.

    window: dw, none by default. Slow rate terms stay those of the recording. Raises ValueError where post runs away.
    """
    n, s, slow = round(duration / bases.bin), bases.history, 2 * len(bases.slow)
    trains = [(train[train < duration] / bases.bin).astype(np.int64) for train in (post, pre)]
    terms = slow_terms([bins.clip(max=n - 1) for bins in trains], n, bases)[slow_steps(n, bases)]
    weights = theta[1:]
    _, drawn, w = simulate(
        window,
        duration=duration,
        seed=seed,
        pre=pre[pre < duration],
        baseline=np.exp(theta[0] + terms @ weights[s : s + slow]),
        history=weights[:s],
        coupling=weights[s + slow : s + slow + bases.coupling],
        bases=bases,
    )
    return drawn, w
