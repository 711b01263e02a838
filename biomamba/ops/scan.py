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

UNROLL = 2  # steps up to which a compiler is shown the loop itself


def scan_naive(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t."""
    h, hs = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs, dim=1)


def scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t; the same values and gradients as `scan_naive`."""
    if torch.compiler.is_compiling() and b.shape[1] <= UNROLL:
        return scan_naive(a, b, h0)
    h: Tensor = _scan(a, b, h0)
    return h


@torch.library.custom_op("biomamba::scan", mutates_args=())
def _scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    out = torch.empty_like(b)
    h = h0
    for t in range(b.shape[1]):
        h = torch.addcmul(b[:, t], a[:, t], h, out=out[:, t])
    return out


@torch.library.custom_op("biomamba::scan_adjoint", mutates_args=())
def _adjoint(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return adjoint_t = g_t + a_{t+1} adjoint_{t+1}, where g_t = dL/dh_t with h_{t+1} held; and that of h0."""
    adjoint = torch.empty_like(g)
    after = torch.zeros_like(g[:, 0])  # a_{t+1} adjoint_{t+1}
    for t in reversed(range(g.shape[1])):
        torch.add(g[:, t], after, out=adjoint[:, t])
        after = a[:, t] * adjoint[:, t]
    return adjoint, after


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    a, _, h0 = inputs
    ctx.save_for_backward(a, h0, output)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, h0, h = ctx.saved_tensors
    adjoint, after = _adjoint(a, g)
    h_prev = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
    return (adjoint * h_prev).sum_to_size(a.shape), adjoint, after


_scan.register_fake(lambda a, b, h0: torch.empty_like(b))
_adjoint.register_fake(lambda a, g: (torch.empty_like(g), torch.empty_like(g[:, 0])))
_scan.register_autograd(_backward, setup_context=_remember)
