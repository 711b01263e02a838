"""What inference hands back: the modification function with its interval, w(t), the likelihood of other spikes, a plot.

dw(dt) = B(dt) gamma,  gamma ~ N(estimate, covariance)        interval: 1.96 standard deviations either way (95 %)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .bases import Array, Bases
from .simulate import Window


@dataclass(frozen=True)
class Inferred(ABC):
    """A modification function and a weight over time, inferred from `duration` seconds of two spike trains."""

    bases: Bases
    duration: float
    gamma: Array  # (k,)
    covariance: Array  # (k, k) of gamma

    def window(self, dt: ArrayLike) -> tuple[Array, Array, Array]:
        """Return dw and the ends of its 95 % interval at dt = t_pre - t_post (s), any shape."""
        basis = self.bases.modification(dt)
        estimate = basis @ self.gamma
        half = 1.96 * np.sqrt(np.einsum("...i,ij,...j->...", basis, self.covariance, basis))
        return estimate, estimate - half, estimate + half

    @abstractmethod
    def weight(self, t: ArrayLike) -> Array:
        """Return w at the times t (s) of the recording, any shape."""

    @abstractmethod
    def log_likelihood(self, pre: Any, post: Any, duration: float, start: float = 0.0) -> float:
        """Return sum of log lambda over the post spikes - int lambda, from `start` to `duration` (s), in nats.

        Parameters stay as they were fitted; w starts at 1 at 0 s and follows these spikes. Spikes before `start` are
        context: fitted on the first half of a recording, this is the held-out likelihood of the second.
        """

    def plot(self, path: Path | str, truth: Window | None = None, weight: Array | None = None) -> None:
        """Draw the modification function and w(t) into a file, over the true ones if given (weight: w per bin).

        Raises ImportError, with what to install, where matplotlib is missing.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('the plot needs matplotlib: pip install "biomamba[plot]"') from error
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        self.draw_window(left, truth)
        self.draw_weight(right, weight)
        figure.savefig(path, dpi=120)

    def draw_window(self, axes: Any, truth: Window | None = None) -> None:
        """Draw the modification function into matplotlib axes."""
        half = np.arange(0.5, self.bases.window_span * 1000) / 1000  # not 0, where it may jump
        for dt in (-half[::-1], half):
            estimate, low, high = self.window(dt)
            label = "inferred, 95 % interval" if dt[0] > 0 else None
            axes.plot(dt * 1000, estimate, color="C0", label=label)
            axes.fill_between(dt * 1000, low, high, color="C0", alpha=0.25, linewidth=0)
            if truth is not None:
                axes.plot(dt * 1000, truth(dt), color="black", linestyle="--", label="truth" if dt[0] > 0 else None)
        axes.axhline(0, color="gray", linewidth=0.5)
        axes.set(xlabel="t_pre - t_post (ms)", ylabel="change of w per pair")
        axes.legend()

    def draw_weight(self, axes: Any, truth: Array | None = None) -> None:
        """Draw w(t) into matplotlib axes; truth: w per bin."""
        t = np.linspace(0, self.duration, 2000, endpoint=False)
        axes.plot(t / 60, self.weight(t), color="C0", label="inferred")
        if truth is not None:
            at = (t / self.bases.bin).astype(int)
            axes.plot(t / 60, truth[at], color="black", linestyle="--", linewidth=0.8, label="truth")
        axes.set(xlabel="time (min)", ylabel="w")
        axes.legend()
