"""The linear recurrence h_t = a_t * h_{t-1} + b_t, written twice.

Everything that remembers in this library runs on that one line: the ssm state, and every
eligibility trace, which is the same recurrence driven by another input.

    scan_naive   autograd through the loop: the definition, and what the tests believe
    scan         the loop and its adjoint, by hand: what the library calls

Shapes: b, h are (b, t, e, n); a is the same or 1 on trailing axes; h0 is (b, e, n).
"""

from typing import Any

import torch
from torch import Tensor

from .backend import FUNCTIONAL, LIBRARY, call, module, resolve


def scan_naive(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t."""
    h, hs = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs, dim=1)


def scan(a: Tensor, b: Tensor, h0: Tensor, backend: str = "auto") -> Tensor:
    """Return every h_t; the same values and gradients as `scan_naive`."""
    if b.shape[1] == 1:
        return a * h0.unsqueeze(1) + b
    chosen = resolve(backend, b.device.type)
    if chosen in FUNCTIONAL:
        return scan_naive(a, b, h0)
    h: Tensor = torch.ops.biomamba.scan(a, b, h0, chosen)
    return h


def _scan(a: Tensor, b: Tensor, h0: Tensor, backend: str) -> Tensor:
    out = b.new_empty(b.shape)
    if backend == "torch":
        h = h0
        for t in range(b.shape[1]):
            h = torch.addcmul(b[:, t], a[:, t], h, out=out[:, t])
    elif backend == "llvm":
        call("scan.scan", *(flat(tensor) for tensor in (a.expand_as(b), b)), flat(h0, 1), flat(out))
    else:
        module("triton.scan").scan(a, b, h0, out)
    return out


def _adjoint(a: Tensor, grad_h: Tensor, h0: Tensor, h: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/da, dL/db and dL/dh0 for grad_h_t = dL/dh_t with h_{t+1} held.

    dL/db_t = grad_h_t + a_{t+1} dL/db_{t+1},   dL/da_t = dL/db_t h_{t-1},   dL/dh0 = a_1 dL/db_1.
    """
    grad_b, after = h.new_empty(h.shape), h0.new_empty(h0.shape)  # after: a_{t+1} dL/db_{t+1}
    if backend != "torch":
        grad_a = h.new_empty(h.shape)
        if backend == "llvm":
            given = flat(a.expand_as(h)), flat(grad_h), flat(h0, 1), flat(h)
            call("scan.scan_adjoint", *given, flat(grad_a), flat(grad_b), flat(after, 1))
        else:
            module("triton.scan").scan_adjoint(a, grad_h, h0, h, grad_a, grad_b, after)
        return grad_a.sum_to_size(a.shape), grad_b, after
    after.zero_()
    for t in reversed(range(grad_h.shape[1])):
        torch.add(grad_h[:, t], after, out=grad_b[:, t])
        torch.mul(a[:, t], grad_b[:, t], out=after)
    h_prev = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
    return (grad_b * h_prev).sum_to_size(a.shape), grad_b, after


def to_decay(log_a: Tensor, reset: Tensor | None) -> Tensor:
    """Return the decay a = exp(log_a), zero where a new sequence begins."""
    a = log_a.exp()
    return a if reset is None else a.masked_fill(reset[..., None, None], 0)


def flat(tensor: Tensor, axis: int = 2) -> Tensor:
    """Return the tensor in one piece, its axes from `axis` on as one; only what is read may need a copy."""
    return tensor.contiguous().flatten(axis)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    a, _, h0, ctx.backend = inputs
    ctx.save_for_backward(a, h0, output)


def _backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    a, h0, h = ctx.saved_tensors
    return *torch.ops.biomamba.scan_adjoint(a, grad_h, h0, h, ctx.backend), None


LIBRARY.define("scan(Tensor a, Tensor b, Tensor h0, str backend) -> Tensor")
LIBRARY.define("scan_adjoint(Tensor a, Tensor grad_h, Tensor h0, Tensor h, str backend) -> (Tensor, Tensor, Tensor)")
LIBRARY.impl("scan", _scan, "CompositeExplicitAutograd")
LIBRARY.impl("scan_adjoint", _adjoint, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::scan", lambda a, b, h0, backend: b.new_empty(b.shape))
torch.library.register_fake(
    "biomamba::scan_adjoint",
    lambda a, grad_h, h0, h, backend: (a.new_empty(a.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)),
)
torch.library.register_autograd("biomamba::scan", _backward, setup_context=_remember)
