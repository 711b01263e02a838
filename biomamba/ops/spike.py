"""A threshold with a surrogate derivative: s = 1 where u > theta, else 0, and ds/du = surrogate_grad(u) by agreement.

    surrogate_grad(u) = 1 / (steepness |u - theta| + 1)^2        (SuperSpike, Zenke and Ganguli 2018)

It is above zero everywhere, so that a silent channel can learn to speak.
"""

from typing import Any

import torch
from torch import Tensor


def surrogate_grad(u: Tensor, threshold: float, steepness: float) -> Tensor:
    """Return the surrogate derivative of a spike to the pre_activation u, of any shape."""
    return (steepness * (u - threshold).abs() + 1).pow(-2)


def spike(u: Tensor, threshold: float, steepness: float) -> Tensor:
    """Return 1 where u is above the threshold, else 0, of the shape and precision of u."""
    out: Tensor = _Spike.apply(u, threshold, steepness)  # type: ignore[no-untyped-call]
    return out


class _Spike(torch.autograd.Function):
    """The step of `spike`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: float, steepness: float) -> Tensor:
        """Return the spikes."""
        ctx.save_for_backward(u)
        ctx.threshold, ctx.steepness = threshold, steepness
        return (u > threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient to u."""
        (u,) = ctx.saved_tensors
        return g * surrogate_grad(u, ctx.threshold, ctx.steepness), None, None
