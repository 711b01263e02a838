"""States that rotate: complex numbers in real tensors, so that states, traces and signals stay what they are elsewhere.

    an axis of n = 2 m holds m complex numbers: the real parts first, then the imaginary ones
    a complex decay (..., m) times it is a rotation and a shrinking of each pair

Gradients are real too: dL/d(re), dL/d(im) lie where re and im do, and a signal meets a trace as any other does.
"""

import torch
from torch import Tensor


def to_complex(x: Tensor, dim: int = -1) -> Tensor:
    """Return the complex numbers whose parts lie along an axis."""
    return torch.complex(*x.chunk(2, dim))


def to_pairs(z: Tensor, dim: int = -1) -> Tensor:
    """Return the parts of complex numbers along an axis."""
    return torch.cat([z.real, z.imag], dim)


def times(decay: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    """Return decay x; where decay is complex, of the numbers whose parts lie along the axis `dim` of x."""
    return to_pairs(decay * to_complex(x, dim), dim) if decay.is_complex() else decay * x


def times_transposed(decay: Tensor, x: Tensor) -> Tensor:
    """Return the transpose of the map x -> decay x, applied to x: what a signal is before the decay that is ahead."""
    return times(decay.conj() if decay.is_complex() else decay, x)
