"""The bases that inference expands its functions in: raised cosines over the logarithm of time (Pillow et al. 2008).

    b_j(t) = (1 + cos(clip(pi/2 (phi(t) - j), -pi, pi))) / 2        phi(t) = log((t + offset) / offset) / step

The first is 1 at t = 0, the last ends at `span`: fine where the past is near, coarse where it is far. Times in seconds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
OFFSET = 0.005  # s


def raised_cosines(t: ArrayLike, number: int, span: float, offset: float = OFFSET) -> Array:
    """Return the bases (..., number) at times t (...), 0 outside of [0, span]."""
    t = np.asarray(t, dtype=float)
    step = np.log((span + offset) / offset) / (number + 1)
    phi = np.log((t.clip(min=0) + offset) / offset) / step
    bases = (1 + np.cos(np.pi / 2 * (phi[..., None] - np.arange(number)).clip(-2, 2))) / 2
    return np.where(((t >= 0) & (t <= span))[..., None], bases, 0.0)


@dataclass(frozen=True)
class Bases:
    """How many raised cosines there are and how far they reach, with the two times the model is built on (s).

    history, coupling: of what a post and a pre spike do to the rate after them. window: of the modification function,
    on either side of dt = 0, which it may jump at. tau_f: how fast w relaxes to 1. bin: the rate is constant for so
    long and takes in no spike of its own bin. slow: time constants of slow rate terms (see `slow`), none by default.
    """

    history: int = 5
    history_span: float = 0.1
    coupling: int = 5
    coupling_span: float = 0.15
    window: int = 7
    window_span: float = 0.15
    tau_f: float = 60.0
    bin: float = 0.001
    slow: tuple[float, ...] = ()

    def history_table(self) -> Array:
        """Return the bases (lags, history) at lags of 1, 2, ... bins."""
        return raised_cosines(self._lags(self.history_span), self.history, self.history_span)

    def coupling_table(self) -> Array:
        """Return the bases (lags, coupling) at lags of 1, 2, ... bins."""
        return raised_cosines(self._lags(self.coupling_span), self.coupling, self.coupling_span)

    def modification(self, dt: ArrayLike) -> Array:
        """Return the bases (..., 2 window) at dt = t_pre - t_post (...): pre first, post first; at 0, half of both."""
        dt = np.asarray(dt, dtype=float)
        side = raised_cosines(abs(dt), self.window, self.window_span)
        shares = (1 - np.sign(dt)) / 2, (1 + np.sign(dt)) / 2  # of the two sides: all of one, or half of both
        return np.concatenate([share[..., None] * side for share in shares], axis=-1)

    def _lags(self, span: float) -> Array:
        return np.arange(1, round(span / self.bin) + 1) * self.bin
