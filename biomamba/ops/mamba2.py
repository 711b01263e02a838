"""What the steps of a chunk push through a Mamba-2 block's dt, as it arrives at the chunk's end.

The decay P that lies ahead is one number per channel, and the drives of x and B are products of a channel's part and a
state's, which the pass over a trace multiplies out itself. Only m, which reads the states, is written for every channel
and state. Shapes: b streams, t steps, e channels, n states.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .kernels import LIBRARY, module


class Arrived(NamedTuple):
    """What `mamba2_arrived` returns."""

    A_log: Tensor  # (b, e, n) summed over the steps
    dt_bias: Tensor  # (b, e, n) likewise
    dt: Tensor  # (b, t, e, n) m = (A a h_prev + B x) softplus' P


def arrived(h: Tensor, delta: Tensor, slope: Tensor, x: Tensor, B: Tensor, ahead: Tensor, A: Tensor) -> Arrived:
    """Return the parts, by numba's kernel.

    h (b, t, e, n); delta, its slope (softplus'), x and the decay ahead (b, t, e); B (b, t, n); A (e,), negative.
    """
    return Arrived(*torch.ops.biomamba.mamba2_arrived(h, delta, slope, x, B, ahead, A))


def _arrived(*given: Tensor) -> tuple[Tensor, ...]:
    out = _empty(*given)
    read = [tensor.contiguous().numpy() for tensor in given]
    module("numba", "ssm").mamba2_of_h((0,) * given[0].shape[-1], *read, *(tensor.numpy() for tensor in out))
    return out


def _empty(h: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return what `Arrived` holds, not yet written."""
    return h.new_empty(h[:, 0].shape), h.new_empty(h[:, 0].shape), h.new_empty(h.shape)


LIBRARY.define(
    "mamba2_arrived(Tensor h, Tensor delta, Tensor slope, Tensor x, Tensor B, Tensor ahead, Tensor A) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.impl("mamba2_arrived", _arrived, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::mamba2_arrived", _empty)
