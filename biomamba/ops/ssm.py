"""The recurrence of a selective state-space model, and what is read from it, without a tensor of all drives.

    h_t = a_t h_{t-1} + delta_t u_t B_t        y_t = h_t C_t

recur and read are `scan` and a product, written so that of the tensors of all states only h itself, and the gradient
to it, are ever in memory: numba's kernels multiply out and sum up the others on the way; other kernels, and single
steps, write them. Shapes: u, y are (b, t, e); B, C (b, t, n); h (b, t, e, n), h0 (b, e, n); a (b, t, g, n or 1)
and delta (b, t, g), the same for the e / g channels of each of g heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .kernels import LIBRARY, module, resolve
from .scan import scan


def recur(a: Tensor, delta: Tensor, u: Tensor, B: Tensor, h0: Tensor, kernels: str = "auto") -> Tensor:
    """Return every h_t."""
    if u.shape[1] > 1 and resolve(kernels, u.device.type) == "numba":
        h: Tensor = _Recur.apply(a, delta, u, B, h0)  # type: ignore[no-untyped-call]
        return h
    return scan(by_channel(a, u.shape[2]), drive(delta, u, B), h0, kernels)


def drive(delta: Tensor, u: Tensor, B: Tensor) -> Tensor:
    """Return every delta_t u_t B_t (b, t, e, n)."""
    return (by_channel(delta, u.shape[2]) * u).unsqueeze(-1) * B.unsqueeze(2)


def by_channel(of_heads: Tensor, channels: int) -> Tensor:
    """Return what heads have (b, t, g, ...) as what their channels have."""
    heads = of_heads.shape[2]
    return of_heads if heads == channels else of_heads.repeat_interleave(channels // heads, 2)


def read(h: Tensor, C: Tensor, kernels: str = "auto") -> Tensor:
    """Return every y_t."""
    if h.shape[1] > 1 and resolve(kernels, h.device.type) == "numba":
        y: Tensor = _Read.apply(h, C)  # type: ignore[no-untyped-call]
        return y
    return (h @ C.unsqueeze(-1)).squeeze(-1)


class _Recur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, u: Tensor, B: Tensor, h0: Tensor) -> Tensor:
        h: Tensor = torch.ops.biomamba.recur(a, delta, u, B, h0)
        ctx.save_for_backward(a, delta, u, B, h0, h)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        by: tuple[Tensor, ...] = torch.ops.biomamba.recur_adjoint(*ctx.saved_tensors, g)
        return by


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, C: Tensor) -> Tensor:
        ctx.save_for_backward(h, C)
        y: Tensor = torch.ops.biomamba.read(h, C)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        by: tuple[Tensor, ...] = torch.ops.biomamba.read_adjoint(*ctx.saved_tensors, g)
        return by


def _run(kernel: str, *given: Tensor) -> Any:
    """Return what numba's kernel of this name writes."""
    out = EMPTY[kernel](*given)
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    written = [tensor.numpy() for tensor in ([out] if isinstance(out, Tensor) else out)]
    states = (0,) * given[0 if kernel.startswith("read") else 3].shape[-1]
    getattr(module("numba", "ssm"), kernel)(states, *arrays, *written)
    return out


EMPTY: dict[str, Callable[..., Any]] = {
    "recur": lambda a, delta, u, B, h0: h0.new_empty(*u.shape, B.shape[-1]),
    "recur_adjoint": lambda a, delta, u, B, h0, h, g: tuple(
        x.new_empty(x.shape) for x in (a, delta, u, B, h0)
    ),  # g: dL/dh_t, h_(t+1) held
    "read": lambda h, C: h.new_empty(h.shape[:3]),
    "read_adjoint": lambda h, C, g: (h.new_empty(h.shape), C.new_empty(C.shape)),
}  # what each returns, not yet written

LIBRARY.define("recur(Tensor a, Tensor delta, Tensor u, Tensor B, Tensor h0) -> Tensor")
LIBRARY.define(
    "recur_adjoint(Tensor a, Tensor delta, Tensor u, Tensor B, Tensor h0, Tensor h, Tensor g) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define("read(Tensor h, Tensor C) -> Tensor")
LIBRARY.define("read_adjoint(Tensor h, Tensor C, Tensor g) -> (Tensor, Tensor)")
for _name, _empty in EMPTY.items():
    LIBRARY.impl(_name, partial(_run, _name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"biomamba::{_name}", _empty)
