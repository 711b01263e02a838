"""How the influence Z = dh/dtheta meets the learning signal, and how it crosses a chunk.

    gradient = sum over streams and states of signal Z_0           Z_end = P_all Z_0 + sum_s P_s d_s

    influence_naive       the recurrence Z_s = a_s Z_{s-1} + d_s, step by step: the definition
    contract_and_advance  both at once: P_s = exp(sum_{u>s} log a_u) in closed form, one pass over Z, in place
    contract_and_advance_functional  the same in new tensors, nothing written to what was given

The decay still ahead of step s is known for the whole chunk at once, so no trace-sized temporary per step.
Letters: b streams, t steps, e channels, n states, j inputs of a weight matrix, k inputs of a channel's or state's own.
post is (b, t, e, n), signal (b, e, n). The axes say whose parameter it is, (c,) or (c, j), and how Z is laid out:

    axes    parameter   Z               pre
    e, en   (e,), (e, n)  (b, e, n)     none
    ej      (e, j)      (b, e, n, j)    (b, t, j); (b, k-1+t, j) with taps (b, t, e, k)
    nj      (n, j)      (b, n, e, j)    the same, with taps (b, t, n, k)
    ek      (e, k)      (b, n, k, e)    (b, t, e, k)
    nk      (n, k)      (b, n, k, e)    (b, t, n, k)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .backend import LIBRARY, call, module, resolve
from .conv import fold, windows
from .pairs import times

OF_STATES = ("nj", "ek", "nk")  # axes of traces that lie as (b, n, ...)


class Drive(NamedTuple):
    """The drive dh_s/dtheta with h_{s-1} held, at every step s, as an outer product.

    With c the parameter's own axis, e or n:

        no pre                 d[e, n]    = post[e, n]
        pre (b, t, j)          d[e, n, j] = post[e, n] pre[j]
        pre (b, t, c, k)       d[e, n, k] = post[e, n] pre[c, k]
        pre and taps           d[e, n, j] = post[e, n] sum_i taps[c, i] pre_{s-(k-1)+i}[j]
    """

    post: Tensor  # (b, t, e, n)
    pre: Tensor | None = None  # (b, t, j) or (b, t, c, k); (b, k-1+t, j) with taps
    taps: Tensor | None = None  # (b, t, c, k)


class DecayProducts(NamedTuple):
    """The decay that lies ahead of each step of a chunk, and of its start; complex (..., n / 2) where states rotate."""

    step: Tensor  # (b, t, e, n or 1)
    start: Tensor  # (b, e, n or 1)


def decay_products(log_a: Tensor, reset: Tensor | None = None) -> DecayProducts:
    """Return exp(sum of log_a over the steps after s), zero where a reset lies between."""
    since = log_a.flip(1).cumsum(1).flip(1) if log_a.shape[1] > 1 else log_a  # from s on, s included
    after = torch.cat([since[:, 1:], torch.zeros_like(since[:, :1])], dim=1)
    if reset is None:
        return DecayProducts(after.exp(), since[:, 0].exp())
    resets = reset.flip(1).cumsum(1).flip(1)[..., None, None]
    resets_after = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], dim=1)
    return DecayProducts(
        after.exp().masked_fill(resets_after > 0, 0), since[:, 0].exp().masked_fill(resets[:, 0] > 0, 0)
    )


def shape(axes: str, batch: int, e: int, n: int, inputs: int = 0) -> tuple[int, ...]:
    """Return the shape of Z."""
    if axes in ("e", "en"):
        return batch, e, n
    if axes[1] == "k":
        return batch, n, inputs, e
    return (batch, e, n, inputs) if axes == "ej" else (batch, n, e, inputs)


def param_axis_first(tensor: Tensor, axes: str) -> Tensor:
    """Return (..., e, n) with the parameter's own axis first."""
    return tensor.transpose(-1, -2) if axes[0] == "n" else tensor


def influence_naive(Z: Tensor, log_a: Tensor, reset: Tensor | None, axes: str, drive: Drive) -> Tensor:
    """Return Z after the chunk, one step at a time, every outer product written out."""
    post, pre, taps = drive
    a = log_a.exp() if reset is None else log_a.exp().masked_fill(reset[..., None, None], 0)
    a, post = param_axis_first(a, axes), param_axis_first(post, axes)  # (b, t, c, r)
    if taps is not None and pre is not None:
        pre = torch.einsum("btck,btjk->btcj", taps, windows(pre, taps.shape[-1], None))
    if pre is not None:
        pre = pre.unsqueeze(2) if pre.ndim == 3 else pre
        post, a = post.unsqueeze(-1) * pre.unsqueeze(3), a.unsqueeze(-1)  # (b, t, c, r, j)
        if axes == "ek":
            post, a = post.permute(0, 1, 3, 4, 2), a.permute(0, 1, 3, 4, 2)
        elif axes == "nk":
            post, a = post.transpose(3, 4), a.transpose(3, 4)
    for s in range(post.shape[1]):
        Z = times(a[:, s], Z, _states(axes)) + post[:, s]
    return Z


def _states(axes: str) -> int:
    """Return the axis of the states in Z."""
    return 2 if axes[0] == "e" and axes not in OF_STATES else 1


def contract_naive(signal: Tensor, Z: Tensor, axes: str) -> Tensor:
    """Return the gradient, every product written out."""
    where = {"e": "ben", "en": "ben", "ej": "benj", "nj": "bnej", "ek": "bnke", "nk": "bnke"}[axes]
    return torch.einsum(f"ben,{where}->{axes}", signal, Z)


def contract_and_advance(
    Z: Sequence[Tensor],
    axes: Sequence[str],
    arrived: Sequence[Drive],
    decay: Tensor,
    signal: Tensor,
    go: Tensor,
    backend: str = "auto",
) -> list[Tensor]:
    """Return the gradients at the start of the chunk, and move every Z in place to its end.

    arrived holds the drives as `discount_to_end` gives them; decay (b, e, n or 1) is that of the whole chunk,
    `DecayProducts.start`. go is a () bool: where it is false nothing moves, and the gradients mean nothing.
    """
    start, backend = decay.expand_as(signal), resolve(backend, signal.device.type)
    by_e, by_n = [start.contiguous(), signal.contiguous()], list[Tensor]()
    if any(a in OF_STATES for a in axes):
        by_n = [tensor.transpose(1, 2).contiguous() for tensor in (start, signal)]
    if backend == "llvm":
        own = [by_n if a in OF_STATES else by_e for a in axes]
        each = zip(Z, axes, arrived, own, strict=True)
        return [_contract_and_advance(z, a, drive, by[0], by[1], go) for z, a, drive, by in each]
    none = signal.new_empty(0)  # an operator takes no None in a list
    gradient = empty_flat(Z, axes, signal)
    torch.ops.biomamba.contract_and_advance(
        list(Z),
        gradient,
        ",".join(axes),
        [drive.post for drive in arrived],
        [none if drive.pre is None else drive.pre for drive in arrived],
        [none if drive.taps is None else drive.taps for drive in arrived],
        [*by_e, *by_n],
        go,
        backend,
    )
    return unflatten(gradient, Z, axes)


def _contract_and_advance(Z: Tensor, axes: str, drive: Drive, decay: Tensor, signal: Tensor, go: Tensor) -> Tensor:
    """Return the gradient of one trace, and move it, by our kernels for the CPU."""
    post, pre, taps = drive
    gradient = signal.new_empty(_summed(Z.shape, axes))
    if pre is None:
        flat = [tensor.flatten(1) for tensor in (Z, decay, signal, post)]
        call("influence.alone", *flat, go, gradient.view(-1))
    elif axes[1] == "k":
        call(f"influence.of_{'channel' if axes == 'ek' else 'state'}", Z, decay, signal, post, pre, go, gradient)
    elif taps is not None:
        call("influence.tapped", Z, decay, signal, post, pre, taps.contiguous(), go, gradient)
    else:
        call("influence.dense", Z, decay, signal, post, pre, go, gradient)
    return _of_parameter(gradient, axes)


def contract_and_advance_functional(
    Z: Sequence[Tensor], axes: Sequence[str], arrived: Sequence[Drive], decay: Tensor, signal: Tensor, go: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what `contract_and_advance` does, and every Z at the end of the chunk; where go is false, the Z given."""
    # where go is false the decay is 1 and the drive 0: fewer numbers to choose from than those of Z
    decay = torch.where(go, decay, torch.ones_like(decay))
    start = decay if decay.is_complex() else decay.expand_as(signal)
    by_n = start.transpose(1, 2).contiguous()  # so that what it is multiplied with stays in its order
    gradients, moved = [], []
    for z, a, drive in zip(Z, axes, arrived, strict=True):
        before = z.to(signal.dtype)
        gradients.append(_contract(signal, before, a))
        post, pre, taps = (None if own is None else torch.where(go, own, torch.zeros_like(own)) for own in drive)
        assert post is not None
        if pre is None:
            after = times(start, before) + post
        elif a[1] == "j":
            if taps is None:
                own = (post.flatten(2).transpose(1, 2) @ pre).view(z.shape)
            else:  # of a single step
                own = post[:, 0].unsqueeze(-1) * (taps[:, 0] @ pre).unsqueeze(2)
            after = times((start if a == "ej" else by_n).unsqueeze(-1), before, _states(a)) + own
        else:
            after = times(by_n.unsqueeze(2), before, _states(a)) + _own(a, post, pre)
        moved.append(after.to(z.dtype))
    return gradients, moved


def _contract(signal: Tensor, Z: Tensor, axes: str) -> Tensor:
    """Return what `contract_naive` does, by sums and products that make a graph of few operations."""
    if axes in ("e", "en"):
        each = (signal * Z).sum(0)
        return each.sum(-1) if axes == "e" else each
    if axes == "ek":
        return (signal.transpose(1, 2).unsqueeze(2) * Z).sum((0, 1)).T
    if axes == "nk":
        return (Z @ signal.transpose(1, 2).unsqueeze(3)).squeeze(3).sum(0)
    return (param_axis_first(signal, axes).unsqueeze(2) @ Z).squeeze(2).sum(0)


def _own(axes: str, post: Tensor, pre: Tensor) -> Tensor:
    """Return the drives of all steps to Z (b, n, k, e); post and pre as `discount_to_end` gives them."""
    if post.shape[1] == 1:
        return post[:, 0].unsqueeze(2) * (pre if axes == "ek" else pre[:, 0].unsqueeze(3))
    return torch.einsum("btne,btke->bnke" if axes == "ek" else "btne,btnk->bnke", post, pre)


def empty_flat(Z: Sequence[Tensor], axes: Sequence[str], like: Tensor) -> Tensor:
    """Return one empty vector for the gradients of all traces, one after the other."""
    return like.new_empty(sum(math.prod(_summed(z.shape, a)) for z, a in zip(Z, axes, strict=True)))


def unflatten(gradient: Tensor, Z: Sequence[Tensor], axes: Sequence[str]) -> list[Tensor]:
    """Return the gradient of each parameter."""
    gradients = split(gradient, [_summed(z.shape, a) for z, a in zip(Z, axes, strict=True)])
    return [_of_parameter(g, a) for g, a in zip(gradients, axes, strict=True)]


def _of_parameter(gradient: Tensor, axes: str) -> Tensor:
    """Return the gradient as the parameter lies in memory."""
    return gradient.sum(-1) if axes == "e" else gradient.T if axes == "ek" else gradient


def split(whole: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the matrices of which `whole` holds the numbers, one after the other."""
    parts = whole.split([x * y for x, y in shapes])
    return [part.view(*size) for part, size in zip(parts, shapes, strict=True)]


def discount_to_end(drive: Drive, ahead: DecayProducts, axes: str) -> Drive:
    """Return the drives of a chunk as they arrive at its end, in memory as Z lies there.

        e, en     post (b, e, n)
        ej        post (b, t, e, n), pre (b, t, j)
        nj        post (b, t, n, e), pre (b, t, j)
        ek        post (b, t, n, e), pre (b, t, k, e)
        nk        post (b, t, n, e), pre (b, t, n, k)

    Taps are left for a single step only; in a chunk they are folded into post, which then has k - 1 more rows.
    """
    return _to_layout(_at_end(drive, ahead, axes), axes)


def _at_end(drive: Drive, ahead: DecayProducts, axes: str) -> Drive:
    """Return the drives of a chunk as they arrive at its end; a single step has nothing ahead."""
    post, pre, taps = drive
    if post.shape[1] == 1:
        return drive
    post = times(ahead.step, post)
    if pre is None:
        return Drive(post.sum(1, keepdim=True))
    if taps is None:
        return Drive(post, pre)
    return Drive(fold(post, taps.unsqueeze(3) if axes[0] == "e" else taps.unsqueeze(2)), pre)


def _to_layout(drive: Drive, axes: str) -> Drive:
    """Return the drive in memory as Z lies there: post (b, t, c, r), the inputs of a channel's own (b, t, k, e)."""
    post, pre, taps = drive
    if axes in ("e", "en"):
        return Drive(post[:, 0].contiguous())
    if axes != "ej":
        post = post.transpose(2, 3)
    if axes == "ek" and pre is not None:
        pre = pre.transpose(2, 3)
    return Drive(post.contiguous(), None if pre is None else pre.contiguous(), taps)


def _summed(Z: Sequence[int], axes: str) -> list[int]:
    """Return the shape of signal Z summed over streams, and what lies inside and the parameter lacks."""
    inside = {"e": (1, 2), "en": (1, 2), "ej": (1, 3), "nj": (1, 3), "ek": (2, 3), "nk": (1, 2)}
    return [Z[i] for i in inside[axes]]


def _contract_and_advance_operator(
    Z: list[Tensor],
    gradient: Tensor,
    axes: str,
    post: list[Tensor],
    pre: list[Tensor],
    taps: list[Tensor],
    by: list[Tensor],
    go: Tensor,
    backend: str,
) -> None:
    if bool(go):
        passes = contract_and_advance_torch if backend == "torch" else module("triton.influence").contract_and_advance
        passes(Z, gradient, axes.split(","), post, pre, taps, by)


LIBRARY.define(
    "contract_and_advance(Tensor(a!)[] Z, Tensor(b!) gradient, str axes, Tensor[] post, Tensor[] pre, Tensor[] taps, "
    "Tensor[] by, Tensor go, str backend) -> ()"
)
LIBRARY.impl("contract_and_advance", _contract_and_advance_operator, "CompositeExplicitAutograd")
torch.library.register_fake("biomamba::contract_and_advance", lambda *given: None)


def contract_and_advance_torch(
    Z: list[Tensor],
    gradient: Tensor,
    axes: list[str],
    post: list[Tensor],
    pre: list[Tensor],
    taps: list[Tensor],
    by: list[Tensor],
) -> None:
    """Write the gradients and move every Z, of any precision, by torch operations.

    post, pre and taps as `discount_to_end` gives them, empty where there are none; by holds decay and signal,
    (b, e, n) and then, where a trace lies so, (b, n, e). gradient holds the numbers of all, one after the other; that
    of an `ek` is (k, e), of an `e` (e, n).
    """
    gradients = split(gradient, [_summed(z.shape, a) for z, a in zip(Z, axes, strict=True)])
    for z, a, p, q, w, to in zip(Z, axes, post, pre, taps, gradients, strict=True):
        moved = z if z.dtype == to.dtype else z.to(to.dtype)
        start, signal = by[2:] if a in OF_STATES else by[:2]
        if a in ("e", "en"):
            torch.sum(signal * moved, 0, out=to)
            moved.mul_(start).add_(p)
        elif a[1] == "j":
            # streams first: an einsum would transpose all of Z
            torch.sum((signal.unsqueeze(-1) * moved).sum(0), 1, out=to)
            add_(moved.mul_(start.unsqueeze(-1)), p, q, w)
        else:
            torch.sum(signal.unsqueeze(2) * moved, (0, 1) if a == "ek" else (0, 3), out=to)
            moved.mul_(start.unsqueeze(2))
            add_own_(moved, a, p, q)
        if moved is not z:
            z.copy_(moved)


def add_(Z: Tensor, post: Tensor, pre: Tensor, taps: Tensor | None = None) -> None:
    """Add the outer products of all steps to Z (b, c, r, j); post is (b, t, c, r)."""
    b, c, r, j = Z.shape
    if post.shape[1] > 1:
        Z.view(b, c * r, j).baddbmm_(post.view(b, -1, c * r).transpose(1, 2), pre)
        return
    now = pre if taps is None or not taps.numel() else taps[:, 0] @ pre  # (b, 1 or c, j)
    Z.addcmul_(post[:, 0].unsqueeze(-1), now.unsqueeze(2))


def add_own_(Z: Tensor, axes: str, post: Tensor, pre: Tensor) -> None:
    """Add the drives of all steps to Z (b, n, k, e); post and pre as `discount_to_end` gives them."""
    Z.add_(_own(axes, post, pre))


def contract_now(weights: Tensor, axes: str, pre: Tensor, taps: Tensor | None, each: bool = False) -> Tensor:
    """Return sum_s weights_s outer pre_s (c, j), for weights (b, t, e, n) at the steps; (b, c, j) for each stream."""
    weights = param_axis_first(weights, axes).sum(-1)
    if taps is not None:
        weights = fold(weights, taps)
    inputs, result = ("btcj" if pre.ndim == 4 else "btj"), ("bcj" if each else "cj")
    return torch.einsum(f"btc,{inputs}->{result}", weights, pre)
