"""The influence pass for the GPU: every trace of a block is read and written once per update, one launch each.

    g += signal Z;   Z = P Z + post pre        in one pass over Z, in place

One kernel serves all traces, because it sees each as (b, c, r, j) through its strides, whatever its order in memory:
the gradient (c, j) is summed over b and r, and what does not vary along an axis has stride 0 there. A program holds one
tile of r and j and walks over streams and rows, alone with its part of the gradient: the sum has an order of its own,
so equal runs give equal numbers. The products of a chunk are torch's, except into a bfloat16 trace, of which torch
would need a copy. See `ops.influence` for the letters.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..influence import OF_STATES, add_
from . import OPTIONS

TILE, WIDTH = 2048, 128  # numbers in a tile of a trace, and in one of its rows
PROGRAMS = 1024  # fewer would leave a large GPU idle: then several share a sum; a constant, so that all GPUs agree


@triton.jit
def contract_and_advance_kernel(
    z,
    gradient,
    start,
    signal,
    post,
    pre,
    streams,
    channels,
    rows,
    columns,
    steps,
    z_b,
    z_c,
    z_r,
    z_j,
    by_b,
    by_c,
    by_r,
    by_j,
    post_b,
    post_t,
    post_c,
    post_r,
    post_j,
    pre_b,
    pre_t,
    pre_c,
    pre_j,
    HAS_PRE: tl.constexpr,
    BY_J: tl.constexpr,
    POST_J: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Contract Z (b, c, r, j), let it decay and add `steps` outer products.

    start and signal are (b, c, r, j), post (b, t, c, r, j), pre (b, t, c, j); gradient is (splits, c, j), in one piece.
    BY_J: start and signal vary along j; POST_J: post does.
    """
    widths = tl.cdiv(columns, COLUMNS)
    c = (tl.program_id(0) // widths).to(tl.int64)  # an offset into a trace may need 64 bits, one into a tile does not
    x = (tl.program_id(0) % widths) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    y = tl.arange(0, ROWS)[:, None]
    in_z, in_by, in_post = y * z_r + x * z_j, y * by_r, y * post_r
    if BY_J:
        in_by += x * by_j
    if POST_J:
        in_post += x * post_j
    number = gradient.dtype.element_ty
    total = tl.zeros((ROWS, COLUMNS), number)
    tiles = tl.cdiv(rows, ROWS)
    split, splits = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    for at in range(split * streams * tiles // splits, (split + 1) * streams * tiles // splits):
        i, first = (at // tiles).to(tl.int64), (at % tiles * ROWS).to(tl.int64)
        row, inside = first + y < rows, (first + y < rows) & (x < columns)
        by_row, post_row = row, row
        if BY_J:
            by_row = inside
        if POST_J:
            post_row = inside
        to = z + (i * z_b + c * z_c + first * z_r) + in_z
        by = i * by_b + c * by_c + first * by_r
        v = tl.load(to, mask=inside, other=0).to(number)
        total += tl.load(signal + by + in_by, mask=by_row, other=0) * v
        v = tl.load(start + by + in_by, mask=by_row, other=0) * v
        p = post + (i * post_b + c * post_c + first * post_r) + in_post
        q = pre + (i * pre_b + c * pre_c) + x * pre_j
        for _ in range(steps):
            push = tl.load(p, mask=post_row, other=0)
            if HAS_PRE:
                push = push * tl.load(q, mask=x < columns, other=0)
            v += push
            p += post_t
            q += pre_t
        tl.store(to, v.to(z.dtype.element_ty), mask=inside)
    part = gradient + (split * channels + c) * columns + x
    tl.store(part, tl.sum(total, 0)[None, :], mask=x < columns)


def contract_and_advance(
    traces: list[Tensor],
    gradient: Tensor,
    axes: list[str],
    post: list[Tensor],
    pre: list[Tensor],
    taps: list[Tensor],
    by: list[Tensor],
) -> None:
    """Write the gradients and move every Z: what `contract_and_advance_torch` does, each trace in one pass."""
    at = 0
    for z, a, p, q, w in zip(traces, axes, post, pre, taps, strict=True):
        start, signal = by[2:] if a in OF_STATES else by[:2]
        product = a in ("ej", "nj") and p.shape[1] > 1 and z.dtype == gradient.dtype
        now = (w[:, 0] @ q).unsqueeze(1) if w.numel() else q  # small beside Z
        view, start, signal, arriving, now = broadcast(z, a, start, signal, p, now)
        size = view.shape[1] * view.shape[3]
        steps = 0 if product else arriving.shape[1]
        launch(view, gradient[at : at + size], start, signal, arriving, now, steps, bool(q.numel()))
        at += size
        if product:
            add_(z, p, q)


def broadcast(
    z: Tensor, axes: str, start: Tensor, signal: Tensor, post: Tensor, pre: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return all as `contract_and_advance_kernel` reads them, without a copy.

    Z is then (b, c, r, j), of which the gradient keeps c and j; pre is (b, t, j), (b, t, c, j) or empty.
    """
    if axes in ("e", "en"):
        z, start, signal, post = (x.view(len(z), 1, 1, -1) for x in (z, start, signal, post))
        pre, post = post, post.unsqueeze(1)
    elif axes == "ek":
        z, start, signal = z.transpose(1, 2), start.unsqueeze(1), signal.unsqueeze(1)
        post = post.unsqueeze(2)
    else:
        z = z.transpose(2, 3) if axes == "nk" else z
        start, signal = start.unsqueeze(-1), signal.unsqueeze(-1)
        post = post.unsqueeze(-1)
        pre = pre if pre.ndim == 4 else pre.unsqueeze(2)
    b, c, r, j = z.shape
    return z, start.expand_as(z), signal.expand_as(z), post.expand(b, -1, c, r, j), pre.expand(b, -1, c, j)


def launch(
    z: Tensor, to: Tensor, start: Tensor, signal: Tensor, post: Tensor, pre: Tensor, steps: int, has_pre: bool
) -> None:
    """Launch `contract_and_advance_kernel` and write the sum over its splits to `to`, (c j,)."""
    b, c, r, j = z.shape
    rows, columns = triton.next_power_of_2(r), triton.next_power_of_2(j)
    if z.stride(3) == 1:  # neighbours in memory belong in one tile
        columns = min(columns, 4 * WIDTH if r == 1 else WIDTH)
        rows = min(rows, TILE // columns)
    else:
        rows = min(rows, WIDTH)
        columns = min(columns, TILE // rows)
    programs = c * triton.cdiv(j, columns)
    # two tiles at least for each split, so that the parts are small beside Z
    splits = min(triton.cdiv(b * triton.cdiv(r, rows), 2), triton.cdiv(PROGRAMS, programs))
    parts = to.new_empty(splits, c * j) if splits > 1 else to
    strides = *z.stride(), *start.stride(), *post.stride(), *pre.stride()
    with torch.cuda.device_of(z):  # triton launches on the current device
        contract_and_advance_kernel[programs, splits](
            *(z, parts, start, signal, post, pre, b, c, r, j, steps, *strides),
            HAS_PRE=has_pre,
            BY_J=start.stride(3) != 0,
            POST_J=post.stride(4) != 0,
            ROWS=rows,
            COLUMNS=columns,
            **OPTIONS,
        )
    if splits > 1:
        torch.sum(parts, 0, out=to)
