"""The inside of a Mamba-2 chunk by mamba_ssm's kernel, which needs CUDA (pip install "biomamba[mamba]").

    y_t = C_t . h_t + D x_t,   h_t = a_t h_{t-1} + delta_t B_t x_t,   a = exp(delta A)

It works in blocks of matrix products. It takes the state before the chunk and gives its gradient, but not the states of
each step. Shapes: b streams, t steps, h heads of p channels, n states.
"""

from typing import cast

import torch
from torch import Tensor

BLOCK = 256  # steps at once: mamba_ssm's own default


def ssd(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor, reset: Tensor | None = None
) -> Tensor:
    """Return y (b, t, h, p).

    x (b, t, h, p), delta (b, t, h) after the softplus, A (h,) negative, B and C (b, t, groups, n), D (h,),
    h0 (b, h, p, n), reset (b, t) bool. Raises ImportError where mamba_ssm is missing.
    """
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        raise ImportError('backend: mamba_ssm is not installed: pip install "biomamba[mamba]", or give auto') from error
    # sequences are numbered from the one that h0 belongs to
    number = None if reset is None else reset.cumsum(1, dtype=torch.int32)
    y = mamba_chunk_scan_combined(x, delta, A, B, C, BLOCK, D=D, initial_states=h0, seq_idx=number)
    return cast(Tensor, y)
