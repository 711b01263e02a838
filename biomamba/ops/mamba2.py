"""How the traces of a Mamba-2 block cross a chunk by numba: from what the block computed, with no tensor of drives."""

from typing import NamedTuple

from torch import Tensor

from .kernels import call


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


TRACES = "A_log", "dt_bias", "dt", "x", "B", "taps_x", "taps_B"
ARGUMENTS = "Tensor(gradient!) gradient, Tensor go, "
ARGUMENTS += ", ".join(
    [*(f"Tensor({name}!) {name}" for name in TRACES), *(f"Tensor of_{name}" for name in Given._fields)]
)


def cross_mamba2(Z: list[Tensor], gradient: Tensor, given: Given, go: Tensor) -> None:
    """Do what `influence.cross` does, Z in the order A_log, dt_bias, in_proj.dt, .x, .B, conv1d.x, .B.

    Up to influence.FOLDED taps. gradient holds the numbers of all, one after the other.
    """
    reset = go.new_empty(0) if given.reset is None else given.reset
    tensors = gradient, go, *Z, *given[:-1], reset
    call("mamba2", "cross_mamba2", ARGUMENTS, given.h.shape[-1], *tensors, kept=Z[0].dtype)
