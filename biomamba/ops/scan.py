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

from .kernels import LIBRARY, call, module, resolve


def scan_naive(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Return every h_t."""
    h, hs = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs, dim=1)


def scan(a: Tensor, b: Tensor, h0: Tensor, kernels: str = "auto") -> Tensor:
    """Return every h_t; the same values and gradients as `scan_naive`."""
    if b.shape[1] == 1:
        return a * h0.unsqueeze(1) + b
    chosen = resolve(kernels, b.device.type)
    if chosen == "functional":
        return scan_naive(a, b, h0)
    h: Tensor = torch.ops.biomamba.scan(a, b, h0, chosen)
    return h


def _scan(a: Tensor, b: Tensor, h0: Tensor, kernels: str) -> Tensor:
    out = b.new_empty(b.shape)
    if kernels == "torch":
        h = h0
        for t in range(b.shape[1]):
            h = torch.addcmul(b[:, t], a[:, t], h, out=out[:, t])
    elif kernels == "llvm":
        call("scan.scan", *(flat(tensor) for tensor in (a.expand_as(b), b)), flat(h0, 1), flat(out))
    else:
        module("triton_kernels").scan(a, b, h0, out)
    return out


def _adjoint(a: Tensor, g: Tensor, h0: Tensor, h: Tensor, kernels: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/da, dL/db and dL/dh0 for g_t = dL/dh_t with h_{t+1} held.

    dL/db_t = g_t + a_{t+1} dL/db_{t+1},   dL/da_t = dL/db_t h_{t-1},   dL/dh0 = a_1 dL/db_1.
    """
    by_b, after = h.new_empty(h.shape), h0.new_empty(h0.shape)  # after: a_{t+1} dL/db_{t+1}
    if kernels != "torch":
        by_a = h.new_empty(h.shape)
        if kernels == "llvm":
            given = flat(a.expand_as(h)), flat(g), flat(h0, 1), flat(h)
            call("scan.scan_adjoint", *given, flat(by_a), flat(by_b), flat(after, 1))
        else:
            module("triton_kernels").scan_adjoint(a, g, h0, h, by_a, by_b, after)
        return by_a.sum_to_size(a.shape), by_b, after
    after.zero_()
    for t in reversed(range(g.shape[1])):
        torch.add(g[:, t], after, out=by_b[:, t])
        torch.mul(a[:, t], by_b[:, t], out=after)
    h_prev = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
    return (by_b * h_prev).sum_to_size(a.shape), by_b, after


def flat(tensor: Tensor, axis: int = 2) -> Tensor:
    """Return the tensor in one piece, its axes from `axis` on as one; only what is read may need a copy."""
    return tensor.contiguous().flatten(axis)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    a, _, h0, ctx.kernels = inputs
    ctx.save_for_backward(a, h0, output)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    a, h0, h = ctx.saved_tensors
    return *torch.ops.biomamba.scan_adjoint(a, g, h0, h, ctx.kernels), None


LIBRARY.define("scan(Tensor a, Tensor b, Tensor h0, str kernels) -> Tensor")
LIBRARY.define("scan_adjoint(Tensor a, Tensor g, Tensor h0, Tensor h, str kernels) -> (Tensor, Tensor, Tensor)")
LIBRARY.impl("scan", _scan, "CompositeExplicitAutograd")
LIBRARY.impl("scan_adjoint", _adjoint, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::scan", lambda a, b, h0, kernels: b.new_empty(b.shape))
torch.library.register_fake(
    "biomamba::scan_adjoint",
    lambda a, g, h0, h, kernels: (a.new_empty(a.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)),
)
torch.library.register_autograd("biomamba::scan", _backward, setup_context=_remember)
