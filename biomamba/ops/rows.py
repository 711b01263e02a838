"""Tables of rows that a hash of the last tokens finds: read, and learned from the error of what was read.

    read    r_tk = hash(the last orders[k] tokens of step t),   out_t = sum_k s_{k,v} W[r_tk]
    learn_  A[r] += |g|^2,   W[r] -= rate g / sqrt(A[r] + floor) / sqrt(1 + orders met before) / sqrt(m),
            s_{k,v} -= scale_rate g . W[r] of rows met before,   visits[r] += 1;   v: visits, in powers of two

m: how many steps of the update read the row, so that a row moves by at most the rate however many there are. Each by
torch's operations and by our kernels for the CPU. All that several steps read the same row for counts: A first, then
rows, in the order of streams and steps. Shapes: b streams, t steps, k orders of m / k rows each, c numbers of a
row; tokens (b, l-1+t) at least 0, those of the longest context first, 0 where there is none; reset (b, t) or None.
"""

import torch
from torch import Tensor

from .backend import call, resolve
from .conv import tap_mask

PRIME, MIX = 1099511628211, -4658895280553007687  # of FNV-1a, and of splitmix64's finaliser
BUCKETS = 10  # of visits: none, 1, 2 to 3, 4 to 7, ..., 256 and more
LEAST = 0.05  # that a scale may become


def read(
    W: Tensor,
    visits: Tensor,
    scale: Tensor,
    tokens: Tensor,
    reset: Tensor | None,
    orders: Tensor,
    steps: int,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return each step's rows (b, t, k), and their scaled sum (b, t, c).

    W (m, c), visits (m,), scale (k, BUCKETS), orders (k,) int64, ascending.
    """
    sizes = len(tokens), steps
    if _ours(backend, W, visits):
        rows, out = tokens.new_empty(*sizes, len(orders)), visits.new_empty(*sizes, W.shape[1])
        none = tokens.new_empty(0, dtype=torch.bool)
        resets = none if reset is None else reset.contiguous()
        call("rows.read", W, visits, scale, tokens.contiguous(), resets, orders, rows, out)
        return rows, out
    rows = hashed(tokens, reset, orders, steps, len(W))
    weights = scale.view(-1)[_cells(visits[rows])]
    return rows, (weights.unsqueeze(-1) * W[rows].to(visits.dtype)).sum(2)


def learn_(
    W: Tensor,
    A: Tensor,
    visits: Tensor,
    scale: Tensor,
    rows: Tensor,
    g: Tensor,
    rates: Tensor,
    backend: str = "auto",
) -> None:
    """Learn, in place, from the errors g (b, t, c) of the steps that read the rows (b, t, k).

    rates (3,): of Adagrad, its floor, of the scales.
    """
    rows, g = rows.contiguous(), g.contiguous()
    if _ours(backend, W, g):
        call("rows.learn", W, A, visits, scale, rows, g, rates)
        return
    (rate, floor, scale_rate), flat, seen = rates.tolist(), rows.flatten(), visits[rows]
    met = seen > 0
    if scale_rate:
        slopes = (W[rows].to(g.dtype) @ g.unsqueeze(-1)).squeeze(-1) * met  # of the rows as they were read
        scale.view(-1).index_add_(0, _cells(seen).flatten(), slopes.flatten(), alpha=-scale_rate)
        scale.clamp_(min=LEAST)
    A.index_add_(0, flat, (g * g).sum(-1, keepdim=True).expand(rows.shape).flatten())
    pace = rate / (1 + met.sum(-1, keepdim=True)).to(g.dtype).sqrt()
    visits.index_add_(0, flat, torch.ones_like(flat, dtype=visits.dtype))
    weights = pace / ((A[rows] + floor) * (visits[rows] - seen)).sqrt()
    for i, s in torch.cartesian_prod(*map(torch.arange, rows.shape[:2])).tolist():
        for q, row in enumerate(rows[i, s].tolist()):
            W[row] -= weights[i, s, q] * g[i, s]


def hashed(tokens: Tensor, reset: Tensor | None, orders: Tensor, steps: int, many: int) -> Tensor:
    """Return the row of each order at each step (b, t, k), in a table of `many` rows of all orders.

    Whole numbers of 64 bits, which wrap: the same on every machine.
    """
    longest, own = tokens.shape[1] - steps + 1, many // len(orders)
    seen = tokens.unfold(1, longest, 1)  # (b, t, l), this step last
    mask = tap_mask(reset, longest)
    if mask is not None:
        seen = seen * mask
    h, kept, wanted = torch.zeros_like(seen[..., 0]), list[Tensor](), orders.tolist()
    for back in range(1, longest + 1):
        h = (h + seen[..., longest - back]) * PRIME
        if back in wanted:
            kept.append(h)
    whole = torch.stack(kept, -1)
    whole = (whole ^ ((whole >> 29) & (2**35 - 1))) * MIX
    whole = (whole ^ ((whole >> 32) & (2**32 - 1))) & (own - 1)
    return whole + own * torch.arange(len(kept), device=tokens.device)


def hashed_naive(tokens: list[int], own: int) -> int:
    """Return the row of a context within its order's table of `own` rows, the last token first: the definition."""
    h = 0
    for token in tokens:
        h = (h + token) * PRIME % 2**64
    h = (h ^ h >> 29) * (MIX % 2**64) % 2**64
    return (h ^ h >> 32) % own


def _cells(visits: Tensor) -> Tensor:
    """Return where the scales of rows with so many visits (b, t, k) lie."""
    bucket = torch.frexp(visits).exponent.clamp(max=BUCKETS - 1)  # 0 of 0, 1 of 1, 2 of 2 and 3, ...
    return bucket + BUCKETS * torch.arange(visits.shape[-1], device=visits.device)


def _ours(backend: str, W: Tensor, like: Tensor) -> bool:
    """Say whether our kernels do it: they know bfloat16 beside float32 alone."""
    known = W.dtype == like.dtype or (W.dtype, like.dtype) == (torch.bfloat16, torch.float32)
    return known and resolve(backend, W.device.type) == "llvm"
