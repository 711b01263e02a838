"""What the steps of a chunk push through a Mamba-2 block's parameters, as it arrives at the chunk's end.

The decay P that lies ahead is one number per channel, and most drives are products of a channel's part and a state's.
So this needs fewer and smaller pieces than `influence.arrive`, which takes any block's drives: only m, which reads the
states, and the two folded projections are written out for every channel and state.
Shapes: b streams, t steps, e channels, n states, k taps.
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
    x: Tensor  # (b, k-1+t, e, n) delta P B, folded over the taps of x
    B: Tensor  # (b, k-1+t, n, e) delta x P, folded over the taps of B


def arrived(
    h: Tensor,
    delta: Tensor,
    slope: Tensor,
    x: Tensor,
    B: Tensor,
    ahead: Tensor,
    A: Tensor,
    taps_x: Tensor,
    taps_B: Tensor,
) -> Arrived:
    """Return the parts, by numba's kernels.

    h (b, t, e, n); delta, its slope (softplus'), x and the decay ahead (b, t, e); B (b, t, n); A (e,), negative;
    taps_x (b, t, e, k) and taps_B (b, t, n, k), each with silu' in it, zero beyond a reset.
    """
    return Arrived(*torch.ops.biomamba.mamba2_arrived(h, delta, slope, x, B, ahead, A, taps_x, taps_B))


def _arrived(*given: Tensor) -> tuple[Tensor, ...]:
    h, delta, slope, x, B, ahead, A, taps_x, taps_B = (tensor.contiguous() for tensor in given)
    kernels, out, by_x = module("numba"), _empty(*given), delta * ahead
    of_A, of_dt, to_dt, to_x, to_B = (tensor.numpy() for tensor in out)
    read = [tensor.numpy() for tensor in (h, delta, slope, x, B, ahead, A)]
    kernels.mamba2_of_h(kernels.threads(), *read, of_A, of_dt, to_dt)
    read = [tensor.numpy() for tensor in (by_x, by_x * x, B, taps_x, taps_B)]
    kernels.mamba2_folded(kernels.threads(), *read, to_x, to_B)
    return out


def _empty(*given: Tensor) -> tuple[Tensor, ...]:
    """Return what `Arrived` holds, not yet written."""
    (b, t, e, n), k = given[0].shape, given[-1].shape[-1]
    sizes = (b, e, n), (b, e, n), (b, t, e, n), (b, k - 1 + t, e, n), (b, k - 1 + t, n, e)
    return tuple(given[0].new_empty(size) for size in sizes)


LIBRARY.define(
    "mamba2_arrived(Tensor h, Tensor delta, Tensor slope, Tensor x, Tensor B, Tensor ahead, Tensor A, Tensor taps_x, "
    "Tensor taps_B) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.impl("mamba2_arrived", _arrived, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::mamba2_arrived", _empty)
