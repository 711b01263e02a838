"""The linear recurrence h_t = a_t * h_{t-1} + b_t, written twice.

Everything that remembers in this library runs on that one line: the ssm state, and every
eligibility trace, which is the same recurrence driven by another input.

    scan_naive   autograd through the loop: the definition, and what the tests believe
    scan         the loop and its adjoint, by hand: what the library calls

Shapes: b, h are (b, t, ...); a is the same or 1 on trailing axes; h0 is (b, ...).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def scan_naive(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t."""
    h, hs = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs, dim=1)


def scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t; the same values and gradients as `scan_naive`."""
    h: Tensor = _Scan.apply(a, b, h0)  # type: ignore[no-untyped-call]
    return h


class _Scan(Function):
    """With g_t = dL/dh_t, h_{t+1} held: adjoint_t = g_t + a_{t+1} adjoint_{t+1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        out = torch.empty_like(b)
        h = h0
        for t in range(b.shape[1]):
            h = torch.addcmul(b[:, t], a[:, t], h, out=out[:, t])
        ctx.save_for_backward(a, h0, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h0, h = ctx.saved_tensors
        adjoint = torch.empty_like(h)
        after = torch.zeros_like(h0)  # a_{t+1} adjoint_{t+1}
        for t in reversed(range(h.shape[1])):
            torch.add(g[:, t], after, out=adjoint[:, t])
            after = a[:, t] * adjoint[:, t]
        h_prev = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
        return (adjoint * h_prev).sum_to_size(a.shape), adjoint, after
