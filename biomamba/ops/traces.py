"""Traces of single factors: a decaying sum of what came in, or of what it pushed on, one number per neuron.

    q_t = decay_t q_{t-1} + v_t

Where an influence (see `influence`) is an outer product post x pre, rules that do not keep the product keep these.
Shapes: b streams, t steps, K rows of past inputs, as many as a convolution has taps.
"""

import torch
from torch import Tensor

from .influence import Drive
from .scan import scan


def fixed(decay: float, like: Tensor, reset: Tensor | None) -> Tensor:
    """Return the same decay at every step of `like` (b, t, ...) as (b, t), zero where a new sequence begins."""
    decays = like.new_full(like.shape[:2], decay)
    return decays if reset is None else decays.masked_fill(reset, 0)


def decaying_sum(values: Tensor, decay: Tensor, before: Tensor, backend: str = "auto") -> Tensor:
    """Return every q_t (b, t, ...) of values (b, t, ...), for decay (b, t) and q_0 before (b, ...)."""
    b, t = values.shape[:2]
    flat, start = values.reshape(b, t, 1, -1).contiguous(), before.reshape(b, 1, -1)
    return scan(decay[..., None, None], flat, start, backend).view(values.shape)


def pre_rows(drive: Drive, decay: Tensor, before: Tensor, backend: str = "auto") -> Tensor:
    """Return the traces of a drive's inputs, the K - 1 before the chunk first: (b, K-1+t, j) or (b, K-1+t, c, k).

    before (b, K, ...) holds the last K traces. With taps, the trace of what a channel receives is the taps' sum over
    these rows, as of the inputs themselves; without, it is the last t rows.
    """
    assert drive.pre is not None
    new = drive.pre[:, -decay.shape[1] :]
    return torch.cat([before[:, 1:], decaying_sum(new, decay, before[:, -1], backend)], dim=1)


def last_rows(rows: Tensor, reset: Tensor | None, advance: int, count: int) -> Tensor:
    """Return the last `count` of the rows of `pre_rows` at step `advance` of the chunk, none of an earlier sequence.

    As a convolution's state: where a sequence begins, what came before is zero for the chunks that follow.
    """
    kept = slice(advance - 1, advance - 1 + count)
    if reset is None:
        return rows[:, kept]
    since = reset[:, :advance].flip(1).cumsum(1).flip(1)  # resets from each step on, the step included
    after = torch.cat([since[:, :1].expand(-1, count - 1), since[:, 1:], torch.zeros_like(since[:, :1])], dim=1)
    return rows[:, kept].masked_fill(after[:, kept].view(-1, count, *[1] * (rows.ndim - 2)) > 0, 0)


def at_steps(rows: Tensor, drive: Drive) -> Tensor:
    """Return the rows of `pre_rows` that lie as the drive's own inputs do."""
    assert drive.pre is not None
    return rows[:, -drive.pre.shape[1] :]
