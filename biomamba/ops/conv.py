"""The causal depthwise convolution, c_s = bias + sum_i weight[i] x_{s-(k-1)+i}, cut at resets.

Taps are counted as torch stores them: i = k - 1 is the present step, i = 0 the oldest.
Shapes: x is (b, k-1+t, c), the k - 1 rows before the chunk first; weight is (c, k).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import LIBRARY, module, resolve


def reach(reset: Tensor | None, taps: int) -> Tensor | None:
    """Return (b, t, k): whether tap i of step s looks at its own sequence; None without resets."""
    if reset is None:
        return None
    before = reset.new_zeros(reset.shape[0], taps - 1)
    sequence = torch.cat([before, reset], dim=1).cumsum(1)
    return sequence.unfold(1, taps, 1) == sequence[:, taps - 1 :, None]


def windows(x: Tensor, taps: int, within: Tensor | None) -> Tensor:
    """Return (b, t, c, k): what the taps of each step see; zero beyond a reset."""
    seen = x.unfold(1, taps, 1)
    return seen if within is None else seen * within.unsqueeze(2)


def conv_naive(x: Tensor, weight: Tensor, bias: Tensor, within: Tensor | None = None) -> Tensor:
    """Return c (b, t, c): the definition."""
    return (windows(x, weight.shape[1], within) * weight).sum(-1) + bias


def conv(x: Tensor, weight: Tensor, bias: Tensor, within: Tensor | None = None, kernels: str = "auto") -> Tensor:
    """Return c (b, t, c): one shifted multiply-add per tap; the same values and gradients as `conv_naive`."""
    t = x.shape[1] - weight.shape[1] + 1
    if t > 1 and resolve(kernels, x.device.type) == "numba":
        y: Tensor = _Conv.apply(x, weight, bias, within)  # type: ignore[no-untyped-call]
        return y
    out = bias
    for i in range(weight.shape[1]):
        term = x[:, i : i + t] * weight[:, i]
        out = out + (term if within is None else term * within[:, :, i, None])
    return out


def fold(post: Tensor, taps: Tensor) -> Tensor:
    """Return (b, k-1+t, ...): what each *input* row meets, when step s weighs row s+i by taps[..., i].

    The transpose of `windows`. post is (b, t, ...), taps broadcasts to (b, t, ..., k).
    """
    k, others = taps.shape[-1], (0, 0) * (post.ndim - 2)
    rows = [F.pad(post * taps[..., i], (*others, i, k - 1 - i)) for i in range(k)]
    return torch.stack(rows).sum(0)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, within: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, within)
        y: Tensor = torch.ops.biomamba.conv(x, weight, bias, within)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return *torch.ops.biomamba.conv_adjoint(*ctx.saved_tensors, g), None


def _conv(x: Tensor, weight: Tensor, bias: Tensor, within: Tensor | None) -> Tensor:
    y = _empty(x, weight)
    module("numba", "conv").forward(x, weight, bias, within, y)
    return y


def _adjoint(x: Tensor, weight: Tensor, within: Tensor | None, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty_adjoint(x, weight)
    module("numba", "conv").backward(x, weight, within, g, *out)
    return out


def _empty(x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] - weight.shape[1] + 1, x.shape[2])


def _empty_adjoint(x: Tensor, weight: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))


LIBRARY.define("conv(Tensor x, Tensor weight, Tensor bias, Tensor? within) -> Tensor")
LIBRARY.define("conv_adjoint(Tensor x, Tensor weight, Tensor? within, Tensor g) -> (Tensor, Tensor, Tensor)")
LIBRARY.impl("conv", _conv, "CompositeExplicitAutograd")
LIBRARY.impl("conv_adjoint", _adjoint, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::conv", _empty)
torch.library.register_fake("biomamba::conv_adjoint", _empty_adjoint)
