"""A small stream of our own that changes in its middle, for those who have no file at hand yet.

x0_t = sin(phi_t) + noise,   phi grows by 0.2 before the change and by 0.35 after it
x1_t = 0.9 x1_(t-1) + noise
y_t  = [x1_(t-3) > 0] before the change, [x1_(t-3) < 0] after it: the past decides, and in another way
"""

import numpy as np

from .table import Array

STEPS = 12_000
CHANGE = STEPS // 2
LAG = 3


def simulated() -> Array:
    """Return the stream, always the same."""
    rng = np.random.default_rng(0)
    late = np.arange(STEPS) >= CHANGE
    x0 = np.sin(np.cumsum(np.where(late, 0.35, 0.2))) + 0.1 * rng.normal(size=STEPS)
    x1, noise = np.zeros(STEPS), rng.normal(size=STEPS)
    for t in range(1, STEPS):
        x1[t] = 0.9 * x1[t - 1] + noise[t]
    past = np.concatenate([np.zeros(LAG), x1[:-LAG]])
    y = np.where(late, past < 0, past > 0).astype(np.float64)
    name = f"SIMULATED stream of two signals that changes at row {CHANGE:,}"
    return Array(name, {"x": np.stack([x0, x1], axis=1), "y": y}, {"label": "y"})
