"""Standard scaling of a stream, each column by its own past.

    scaled_t = (v_t - mean_(i <= t) v_i) / std_(i <= t) v_i        over the known values; 0 while std is 0

Shapes: d columns.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]
HUGE = 1e18  # beyond it a number counts as missing: its square would not be in float32


class StandardScaler:
    """Scale the columns of one stream as they come. A missing value repeats its column's last; 0 before the first."""

    def __init__(self, columns: int, scale: bool = True) -> None:
        """Start with nothing seen. scale: false leaves numbers as they are, and fills up what is missing."""
        self.scale, self.count, self.shift = scale, np.zeros(columns), np.zeros(columns)
        self.sums, self.last = np.zeros((2, columns)), np.zeros(columns)

    def take(self, values: Numbers) -> Numbers:
        """Return a row (d,) scaled, after taking it in."""
        known = np.abs(values) < HUGE
        values = np.where(known, values, 0.0)
        if self.scale:
            # sums of what is near 0 keep their digits
            self.shift = np.where(known & (self.count == 0), values, self.shift)
            near = np.where(known, values - self.shift, 0.0)
            self.count, self.sums = self.count + known, self.sums + np.stack([near, near**2])
            values = self.scaled(values)
        self.last = np.where(known, values, self.last)
        return self.last

    def scaled(self, values: Numbers) -> Numbers:
        """Return a row (d,) scaled by what was taken in so far."""
        if not self.scale:
            return values
        deviation = self._deviation()
        near = values - self.shift - self.sums[0] / np.maximum(self.count, 1)
        scaled: Numbers = np.where(deviation > 0, near / np.where(deviation > 0, deviation, 1), 0.0)
        return scaled

    def unscaled(self, values: Numbers) -> Numbers:
        """Return a scaled row (d,) in the units of what was taken in."""
        if not self.scale:
            return values
        own: Numbers = self.shift + self.sums[0] / np.maximum(self.count, 1) + values * self._deviation()
        return own

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that was taken in, float64."""
        parts = {"count": self.count, "shift": self.shift, "sums": self.sums, "last": self.last}
        return {name: torch.from_numpy(part.copy()) for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved state. Raises ValueError where it is of another number of columns."""
        for name, own in self.state_dict().items():
            if name not in state or state[name].shape != own.shape:
                raise ValueError(f"scaler: {name} does not fit {len(self.shift)} columns: give the state saved with it")
            setattr(self, name, state[name].double().numpy().copy())

    def _deviation(self) -> Numbers:
        """Return the deviation of each column (d,)."""
        count = np.maximum(self.count, 1)
        deviation: Numbers = np.sqrt(np.maximum(self.sums[1] / count - (self.sums[0] / count) ** 2, 0))
        return deviation
