"""The recurrence of a selective state-space model, and what is read from it, without a tensor of all drives.

    h_t = a_t h_{t-1} + u_t B_t        y_t = h_t C_t

recur and read are `scan` and a product, written so that of the tensors of all states only h itself, and the gradient
to it, are ever in memory: numba's kernels multiply out and sum up the others on the way; other kernels, and single
steps, write them. Shapes: u, y are (b, t, e); B, C (b, t, n); h (b, t, e, n), a the same or (b, t, e, 1); h0 (b, e, n).
"""

from typing import Any

import torch
from torch import Tensor

from .kernels import LIBRARY, module, resolve
from .scan import scan


def recur(a: Tensor, u: Tensor, B: Tensor, h0: Tensor, kernels: str = "auto") -> Tensor:
    """Return every h_t."""
    if u.shape[1] > 1 and resolve(kernels, u.device.type) == "numba":
        h: Tensor = _Recur.apply(a, u, B, h0)  # type: ignore[no-untyped-call]
        return h
    return scan(a, u.unsqueeze(-1) * B.unsqueeze(2), h0, kernels)


def read(h: Tensor, C: Tensor, kernels: str = "auto") -> Tensor:
    """Return every y_t."""
    if h.shape[1] > 1 and resolve(kernels, h.device.type) == "numba":
        y: Tensor = _Read.apply(h, C)  # type: ignore[no-untyped-call]
        return y
    return (h @ C.unsqueeze(-1)).squeeze(-1)


class _Recur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor, B: Tensor, h0: Tensor) -> Tensor:
        h: Tensor = torch.ops.biomamba.recur(a, u, B, h0)
        ctx.save_for_backward(a, u, B, h0, h)
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


def _recur(a: Tensor, u: Tensor, B: Tensor, h0: Tensor) -> Tensor:
    return _run("recur", (a, u, B, h0), h0.new_empty(*u.shape, B.shape[-1]))[0]


def _recur_adjoint(a: Tensor, u: Tensor, B: Tensor, h0: Tensor, h: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Return dL/da, dL/du, dL/dB and dL/dh0 for g = dL/dh_t with h_{t+1} held."""
    return _run("recur_adjoint", (a, u, B, h0, h, g), *(torch.empty_like(x) for x in _dense(a, u, B, h0)))


def _read(h: Tensor, C: Tensor) -> Tensor:
    return _run("read", (h, C), h.new_empty(h.shape[:3]))[0]


def _read_adjoint(h: Tensor, C: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    return _run("read_adjoint", (h, C, g), h.new_empty(h.shape), C.new_empty(C.shape))


def _run(kernel: str, given: tuple[Tensor, ...], *out: Tensor) -> tuple[Tensor, ...]:
    states = (0,) * given[0 if kernel.startswith("read") else 2].shape[-1]
    getattr(module("numba", "ssm"), kernel)(states, *(x.numpy() for x in _dense(*given)), *(x.numpy() for x in out))
    return out


def _dense(*given: Tensor) -> list[Tensor]:
    return [tensor.detach().contiguous() for tensor in given]


LIBRARY.define("recur(Tensor a, Tensor u, Tensor B, Tensor h0) -> Tensor")
LIBRARY.define(
    "recur_adjoint(Tensor a, Tensor u, Tensor B, Tensor h0, Tensor h, Tensor g) -> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define("read(Tensor h, Tensor C) -> Tensor")
LIBRARY.define("read_adjoint(Tensor h, Tensor C, Tensor g) -> (Tensor, Tensor)")
for _name, _function in (
    ("recur", _recur),
    ("recur_adjoint", _recur_adjoint),
    ("read", _read),
    ("read_adjoint", _read_adjoint),
):
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::recur", lambda a, u, B, h0: h0.new_empty(*u.shape, B.shape[-1]))
torch.library.register_fake(
    "biomamba::recur_adjoint", lambda a, u, B, h0, h, g: tuple(x.new_empty(x.shape) for x in (a, u, B, h0))
)
torch.library.register_fake("biomamba::read", lambda h, C: h.new_empty(h.shape[:3]))
torch.library.register_fake("biomamba::read_adjoint", lambda h, C, g: (h.new_empty(h.shape), C.new_empty(C.shape)))
