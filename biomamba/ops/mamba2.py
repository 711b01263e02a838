"""The traces of a Mamba-2 block across a chunk, from what the block computed: our kernel writes no tensor of drives."""

from typing import NamedTuple

from torch import Tensor

from .backend import call


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


def contract_and_advance_mamba2(Z: list[Tensor], given: Given, go: Tensor) -> list[Tensor]:
    """Return the gradients and move every Z where `go`: what `influence.contract_and_advance` does.

    Z is in the order A_log, dt_bias, in_proj.dt, .x, .B, conv1d.x, .B.
    """
    reset = go.new_empty(0) if given.reset is None else given.reset
    (e, n), j, k = given.h.shape[2:], given.inputs.shape[2], given.weight.shape[0]
    sizes = (e, n), (e, n), (e, j), (e, j), (n, j), (k + 1, e), (n, k + 1)
    gradients = [given.h.new_empty(size) for size in sizes]
    call("mamba2.contract_and_advance_mamba2", *Z, *gradients, *given[:-1], reset, go)
    of_A, of_bias, dt, x, B, taps_x, taps_B = gradients
    return [of_A.sum(-1), of_bias.sum(-1), dt, x, B, taps_x.T, taps_B]
