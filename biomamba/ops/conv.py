"""The causal depthwise convolution, c_s = bias + sum_i weight[i] x_{s-(k-1)+i}, cut at resets.

Taps are counted as torch stores them: i = k - 1 is the present step, i = 0 the oldest.
Shapes: x is (b, k-1+t, c), the k - 1 rows before the chunk first; weight is (c, k).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import call, resolve


def tap_mask(reset: Tensor | None, taps: int) -> Tensor | None:
    """Return (b, t, k): whether tap i of step s looks at its own sequence; None without resets."""
    if reset is None:
        return None
    if reset.shape[1] == 1:
        own = torch.ones_like(reset)
        return torch.cat([(~reset).expand(-1, taps - 1), own], dim=1).unsqueeze(1)
    before = reset.new_zeros(reset.shape[0], taps - 1)
    sequence = torch.cat([before, reset], dim=1).cumsum(1)
    return sequence.unfold(1, taps, 1) == sequence[:, taps - 1 :, None]


def windows(x: Tensor, taps: int, mask: Tensor | None) -> Tensor:
    """Return (b, t, c, k): what the taps of each step see; zero beyond a reset."""
    seen = x.unfold(1, taps, 1)
    return seen if mask is None else seen * mask.unsqueeze(2)


def conv_naive(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return c (b, t, c): the definition."""
    return (windows(x, weight.shape[1], mask) * weight).sum(-1) + bias


def conv(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Return c (b, t, c): one shifted multiply-add per tap; the same values and gradients as `conv_naive`."""
    t = x.shape[1] - weight.shape[1] + 1
    if t > 1 and resolve(backend, x.device.type) == "llvm":
        y: Tensor = _Conv.apply(x, weight, bias, mask)  # type: ignore[no-untyped-call]
        return y
    if t == 1 and backend == "unfused":
        rows = x * weight.T if mask is None else x * weight.T * mask[:, 0, :, None]
        return rows.sum(1, keepdim=True) + bias
    out = bias
    for i in range(weight.shape[1]):
        term = x[:, i : i + t] * weight[:, i]
        out = out + (term if mask is None else term * mask[:, :, i, None])
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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        mask = x.new_empty(0, dtype=torch.bool) if mask is None else mask
        x, weight, mask = (tensor.contiguous() for tensor in (x, weight, mask))
        y = x.new_empty(x.shape[0], x.shape[1] - weight.shape[1] + 1, x.shape[2])
        call("conv.conv", x, weight, bias.contiguous(), mask, y)
        ctx.save_for_backward(x, weight, mask)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        grads = x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))
        call("conv.conv_adjoint", x, weight, mask, grad_y.contiguous(), *grads)
        return *grads, None
