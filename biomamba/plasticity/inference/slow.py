"""Slow rate terms: what the spikes of the last seconds to minutes say of the rate now, beside the fast history.

    x(t) = log(1 + q(t))        tau dq/dt = -q, q jumps by 1 at each spike; of post and of pre, for each tau

Rates drift, come in bursts and are driven by what both neurons hear; a model without such terms takes their correlation
for plasticity. The logarithm keeps a burst from running away. x is held for STEP seconds and knows the spikes before.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ...ops.scan import scan
from .bases import Array, Bases

Index = NDArray[np.int64]
STEP = 0.1  # s


def slow_steps(n: int, bases: Bases) -> Index:
    """Return the step of each of n bins; without slow terms all are one."""
    width = max(1, round(STEP / bases.bin)) if bases.slow else n
    steps: Index = np.arange(n) // width
    return steps


def slow_terms(trains: list[Index], n: int, bases: Bases) -> Array:
    """Return x (steps, trains taus) from the bins of the spikes of each train."""
    step = slow_steps(n, bases)
    steps, columns = int(step[-1]) + 1, []
    for train in trains if bases.slow else []:
        counts = torch.as_tensor(np.bincount(step[train], minlength=steps).astype(float))
        b = torch.cat([counts.new_zeros(1), counts[:-1]]).view(1, -1, 1, 1)
        for tau in bases.slow:
            decays = torch.full((1, steps, 1, 1), float(np.exp(-STEP / tau)), dtype=b.dtype)
            columns.append(np.log1p(scan(decays, b, b.new_zeros(1, 1, 1)).numpy().reshape(-1)))
    return np.array(columns).reshape(len(columns), steps).T
