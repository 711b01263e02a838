"""The recurrence of a selective state-space model, and what is read from it, without a tensor of all drives.

    h_t = a_t h_{t-1} + delta_t u_t B_t        y_t = h_t C_t

selective_scan and readout are `scan` and a product, written so that of the tensors of all states only h itself, and
the gradient to it, are ever in memory: llvm's kernels multiply out and sum up the others on the way; other kernels, and
single steps, write them. Shapes: u, y are (b, t, e); B, C (b, t, n); h (b, t, e, n), h0 (b, e, n); a (b, t, g, n or 1)
and delta (b, t, g), the same for the e / g channels of each of g heads.
"""

from typing import Any

import torch
from torch import Tensor

from .backend import call, resolve
from .scan import scan


def selective_scan(a: Tensor, delta: Tensor, u: Tensor, B: Tensor, h0: Tensor, backend: str = "auto") -> Tensor:
    """Return every h_t; B may differ from channel to channel, (b, t, e, n)."""
    if u.shape[1] > 1 and B.ndim == 3 and resolve(backend, u.device.type) == "llvm":
        h: Tensor = _SelectiveScan.apply(a, delta, u, B, h0)  # type: ignore[no-untyped-call]
        return h
    return scan(by_channel(a, u.shape[2]), drive(delta, u, B), h0, backend)


def drive(delta: Tensor, u: Tensor, B: Tensor) -> Tensor:
    """Return every delta_t u_t B_t (b, t, e, n); B may differ from channel to channel, (b, t, e, n)."""
    return (by_channel(delta, u.shape[2]) * u).unsqueeze(-1) * (B if B.ndim == 4 else B.unsqueeze(2))


def by_channel(of_heads: Tensor, channels: int) -> Tensor:
    """Return what heads have (b, t, g, ...) as what their channels have."""
    heads = of_heads.shape[2]
    return of_heads if heads == channels else of_heads.repeat_interleave(channels // heads, 2)


def readout(h: Tensor, C: Tensor, backend: str = "auto") -> Tensor:
    """Return every y_t; C may differ from channel to channel, (b, t, e, n)."""
    if C.ndim == 4:
        return (h * C).sum(-1)
    if h.shape[1] > 1 and resolve(backend, h.device.type) == "llvm":
        y: Tensor = _Readout.apply(h, C)  # type: ignore[no-untyped-call]
        return y
    return (h @ C.unsqueeze(-1)).squeeze(-1)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, u: Tensor, B: Tensor, h0: Tensor) -> Tensor:
        given = tuple(tensor.contiguous() for tensor in (a, delta, u, B, h0))
        h = u.new_empty(*u.shape, B.shape[-1])
        call("ssm.selective_scan", *given, h)
        ctx.save_for_backward(*given, h)
        return h

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, ...]:
        given = ctx.saved_tensors
        grads = tuple(tensor.new_empty(tensor.shape) for tensor in given[:-1])
        call("ssm.selective_scan_adjoint", *given, grad_h.contiguous(), *grads)
        return grads


class _Readout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, C: Tensor) -> Tensor:
        given = h.contiguous(), C.contiguous()
        y = h.new_empty(h.shape[:3])
        call("ssm.readout", *given, y)
        ctx.save_for_backward(*given)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        given = ctx.saved_tensors
        grads = tuple(tensor.new_empty(tensor.shape) for tensor in given)
        call("ssm.readout_adjoint", *given, grad_y.contiguous(), *grads)
        return grads
