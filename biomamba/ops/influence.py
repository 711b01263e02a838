"""How the influence Z = dh/dtheta crosses a chunk: Z_end = P_all Z_0 + sum_s P_s d_s, written twice.

    influence_naive   the recurrence Z_s = a_s Z_{s-1} + d_s, step by step: the definition
    influence         P_s = exp(sum_{u>s} log a_u) in closed form, then one matrix product over time

The decay still ahead of step s is known for the whole chunk at once, so no trace-sized temporary per step.
Shapes: Z is (b, c, r) or (b, c, r, j) with c the leading axis of the parameter (channels e or states n)
and r the other of the two; post, signal are (b, t, e, n) and (b, e, n); axes is "e", "en", "ej" or "nj".
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .conv import fold, windows


class Ahead(NamedTuple):
    """The decay that lies ahead of each step of a chunk, and of its start."""

    step: Tensor  # (b, t, e, n or 1)
    start: Tensor  # (b, e, n or 1)


def decay_ahead(log_a: Tensor, reset: Tensor | None = None) -> Ahead:
    """Return exp(sum of log_a over the steps after s), zero where a reset lies between."""
    since = log_a.flip(1).cumsum(1).flip(1)  # from s on, s included
    after = torch.cat([since[:, 1:], torch.zeros_like(since[:, :1])], dim=1)
    if reset is None:
        return Ahead(after.exp(), since[:, 0].exp())
    resets = reset.flip(1).cumsum(1).flip(1)[..., None, None]
    resets_after = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], dim=1)
    return Ahead(after.exp().masked_fill(resets_after > 0, 0), since[:, 0].exp().masked_fill(resets[:, 0] > 0, 0))


def lead(tensor: Tensor, axes: str) -> Tensor:
    """Return (..., e, n) with the parameter's own axis first."""
    return tensor.transpose(-1, -2) if axes[0] == "n" else tensor


def influence_naive(
    Z: Tensor, log_a: Tensor, reset: Tensor | None, axes: str, post: Tensor, pre: Tensor | None, taps: Tensor | None
) -> Tensor:
    """Return Z after the chunk, one step at a time, every outer product written out."""
    a = log_a.exp() if reset is None else log_a.exp().masked_fill(reset[..., None, None], 0)
    a, post = lead(a, axes), lead(post, axes)
    if taps is not None and pre is not None:
        pre = torch.einsum("btck,btjk->btcj", taps, windows(pre, taps.shape[-1], None))
    if pre is not None:
        pre = pre.unsqueeze(2) if pre.ndim == 3 else pre
        post, a = post.unsqueeze(-1) * pre.unsqueeze(3), a.unsqueeze(-1)
    for s in range(post.shape[1]):
        Z = a[:, s] * Z + post[:, s]
    return Z


def influence(Z: Tensor, ahead: Ahead, axes: str, post: Tensor, pre: Tensor | None, taps: Tensor | None) -> Tensor:
    """Return Z after the chunk; Z itself is overwritten."""
    start = lead(ahead.start, axes)
    if pre is None:
        return Z.mul_(start).add_(lead(post[:, 0] if post.shape[1] == 1 else (post * ahead.step).sum(1), axes))
    Z.mul_(start.unsqueeze(-1))
    if post.shape[1] == 1:
        return _add_step(Z, lead(post, axes), pre, taps)
    post = lead(post * ahead.step, axes)
    b, c, r, j = Z.shape
    if pre.ndim == 4:
        Z.view(b * c, r, j).baddbmm_(
            post.permute(0, 2, 3, 1).reshape(b * c, r, -1), pre.transpose(1, 2).reshape(b * c, -1, j)
        )
        return Z
    if taps is not None:
        post = fold(post, taps.unsqueeze(3))
    Z.view(b, c * r, j).baddbmm_(post.flatten(2).transpose(1, 2), pre)
    return Z


def _add_step(Z: Tensor, post: Tensor, pre: Tensor, taps: Tensor | None) -> Tensor:
    """Add the outer product of a single step, which needs no product over time."""
    now = pre[:, 0] if taps is None else taps[:, 0] @ pre
    return Z.addcmul_(post[:, 0].unsqueeze(-1), (now if now.ndim == 3 else now.unsqueeze(1)).unsqueeze(2))


def contract(signal: Tensor, Z: Tensor, axes: str) -> Tensor:
    """Return the parameter's gradient (c,), (c, r) or (c, j): the signal (b, e, n) meets the influence."""
    signal = lead(signal, axes)
    if Z.ndim == 4:
        return (signal.unsqueeze(-1) * Z).sum(0).sum(1)  # streams first: as an einsum it would transpose all of Z
    product = signal * Z
    return product.sum(0) if len(axes) == 2 else product.sum((0, 2))


def contract_now(weights: Tensor, axes: str, pre: Tensor, taps: Tensor | None) -> Tensor:
    """Return sum_s weights_s outer pre_s (c, j), for weights (b, t, e, n) at the steps themselves."""
    weights = lead(weights, axes).sum(-1)
    if pre.ndim == 4:
        return torch.einsum("btc,btcj->cj", weights, pre)
    if taps is not None:
        weights = fold(weights, taps)
    return torch.einsum("btc,btj->cj", weights, pre)
