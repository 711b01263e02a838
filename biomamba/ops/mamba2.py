"""How the traces of a Mamba-2 block cross a chunk by numba: from what the block computed, with no tensor of drives."""

from typing import NamedTuple

import torch
from torch import Tensor

from .kernels import LIBRARY, module


class Given(NamedTuple):
    """What a chunk leaves of itself, all contiguous.

    b streams, t steps, e channels in g heads, n states, j inputs, k taps.
    """

    h: Tensor  # (b, t, e, n)
    signal: Tensor  # (b, e, n) to the states before the chunk
    log_a: Tensor  # (b, t, g) log of each step's decay, resets left out
    delta: Tensor  # (b, t, g) after the softplus
    delta_slope: Tensor  # (b, t, g) the softplus's derivative
    x: Tensor  # (b, t, e) what enters the SSM
    B: Tensor  # (b, t, n)
    raw: Tensor  # (b, k-1+t, e + n) the projections x, B before the convolution
    slope: Tensor  # (b, t, e + n) silu'(conv) of x, B
    inputs: Tensor  # (b, k-1+t, j) of the projections
    weight: Tensor  # (k, e + n) the taps
    A: Tensor  # (g,) negative
    reset: Tensor | None  # (b, t) bool; None where no sequence begins


def cross_mamba2(Z: list[Tensor], gradient: Tensor, given: Given, go: Tensor) -> None:
    """Do what `influence.cross` does, Z in the order A_log, dt_bias, in_proj.dt, .x, .B, conv1d.x, .B.

    Up to influence.FOLDED taps. gradient holds the numbers of all, one after the other.
    """
    torch.ops.biomamba.cross_mamba2(Z, gradient, [tensor for tensor in given if tensor is not None], go)


def _cross(Z: list[Tensor], gradient: Tensor, given: list[Tensor], go: Tensor) -> None:
    if bool(go):
        module("numba", "mamba2").cross_all(Z, gradient, given)


LIBRARY.define("cross_mamba2(Tensor(a!)[] Z, Tensor(b!) gradient, Tensor[] given, Tensor go) -> ()")
LIBRARY.impl("cross_mamba2", _cross, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::cross_mamba2", lambda *given: None)
