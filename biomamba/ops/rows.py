"""Tables of rows that a hash of the last tokens finds: read, and learned from the error of what was read.

    key     r = hash(the last orders[k] tokens of step t), its place in the table of order k the last digits of r
    row     of the two rows that share a place and its neighbour the one whose key is r, else one that has no key yet,
            else the first: contexts share rows once a table is full
    read    out_t = sum_k s_{k,v} W[row_tk]
    learn_  key[row] = r where it had none,
            A[row] += |g|^2,   W[row] -= rate g / sqrt(A[row] + floor) / sqrt(1 + orders met before) / sqrt(m),
            s_{k,v} -= scale_rate g . W[row] of rows met before,   visits[row] += 1;   v: visits, in powers of two

m: how many steps of the update read the row, so that a row moves by at most the rate however many there are. Each by
torch's operations and by our kernels for the CPU. All that several steps read the same row for counts: keys first, then
A, then W, in the order of streams and steps. Two rows a place: caches of two ways. Shapes: b streams, t steps, k orders
of m / k rows each, c numbers of a row; tokens (b, l-1+t) at least 0, those of the longest context first, 0 where there
is none; reset (b, t) or None.
"""

import torch
from torch import Tensor

from .backend import call, module, resolve
from .conv import tap_mask

PRIME, MIX = 1099511628211, -4658895280553007687  # of FNV-1a, and of splitmix64's finaliser
BUCKETS = 10  # of visits: none, 1, 2 to 3, 4 to 7, ..., 256 and more
LEAST = 0.05  # that a scale may become


def read(
    W: Tensor,
    key: Tensor,
    visits: Tensor,
    scale: Tensor,
    tokens: Tensor,
    reset: Tensor | None,
    orders: Tensor,
    steps: int,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return each step's keys (b, t, k), and the scaled sum (b, t, c) of their rows.

    W (m, c), key (m,) int64, 0: none yet, visits (m,), scale (k, BUCKETS), orders (k,) int64, ascending.
    """
    sizes = len(tokens), steps
    if _ours(backend, W, visits):
        keys, out = tokens.new_empty(*sizes, len(orders)), visits.new_empty(*sizes, W.shape[1])
        none = tokens.new_empty(0, dtype=torch.bool)
        resets = none if reset is None else reset.contiguous()
        call("rows.read", W, key, visits, scale, tokens.contiguous(), resets, orders, keys, out)
        return keys, out
    keys = hashed(tokens, reset, orders, steps)
    rows = find(key, keys)
    weights = scale.view(-1)[_cells(visits[rows])]
    return keys, (weights.unsqueeze(-1) * W[rows].to(visits.dtype)).sum(2)


def learn_(
    W: Tensor,
    key: Tensor,
    A: Tensor,
    visits: Tensor,
    scale: Tensor,
    keys: Tensor,
    g: Tensor,
    rates: Tensor,
    backend: str = "auto",
) -> None:
    """Learn, in place, from the errors g (b, t, c) of the steps that read the rows of keys (b, t, k).

    rates (3,): of Adagrad, its floor, of the scales.
    """
    keys, g = keys.contiguous(), g.contiguous()
    if _ours(backend, W, g):
        call("rows.learn", W, key, A, visits, scale, keys, g, rates)
        return
    rate, floor, scale_rate = rates.tolist()
    if taken := claims(key, keys):
        key[torch.tensor(list(taken), device=key.device)] = torch.tensor(list(taken.values()), device=key.device)
    rows = find(key, keys)
    flat, seen = rows.flatten(), visits[rows]
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


def find(key: Tensor, keys: Tensor) -> Tensor:
    """Return the rows (..., k) of keys (..., k)."""
    first = _places(key, keys)
    second = first ^ 1
    of_first, of_second = ((key[row] == keys) | (key[row] == 0) for row in (first, second))
    return torch.where(~of_first & of_second, second, first)


def claims(key: Tensor, keys: Tensor) -> dict[int, int]:
    """Return the rows that get a key, and which, each of keys (..., k) in turn."""
    first = _places(key, keys).flatten()
    pairs = [first, key[first], first ^ 1, key[first ^ 1]]
    taken = dict[int, int]()
    for wanted, *pair in zip(keys.flatten().tolist(), *(own.tolist() for own in pairs), strict=True):
        one, its_key, other, other_key = pair
        held, beside = taken.get(one, its_key), taken.get(other, other_key)
        row, there = (other, beside) if held not in (wanted, 0) and beside in (wanted, 0) else (one, held)
        if not there:
            taken[row] = wanted
    return taken


def hashed(tokens: Tensor, reset: Tensor | None, orders: Tensor, steps: int) -> Tensor:
    """Return the key of each order at each step (b, t, k).

    Whole numbers of 64 bits, which wrap: the same on every machine.
    """
    longest = tokens.shape[1] - steps + 1
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
    return whole ^ ((whole >> 32) & (2**32 - 1))


def hashed_naive(tokens: list[int]) -> int:
    """Return the key of a context, the last token first: the definition."""
    h = 0
    for token in tokens:
        h = (h + token) * PRIME % 2**64
    h = (h ^ h >> 29) * (MIX % 2**64) % 2**64
    h ^= h >> 32
    return h - (h >> 63 << 64)  # as a number with a sign


def _places(key: Tensor, keys: Tensor) -> Tensor:
    """Return the place of each of keys (..., k) among all rows."""
    size = len(key) // keys.shape[-1]
    return (keys & (size - 1)) + size * torch.arange(keys.shape[-1], device=keys.device)


def _cells(visits: Tensor) -> Tensor:
    """Return where the scales of rows with so many visits (b, t, k) lie."""
    bucket = torch.frexp(visits).exponent.clamp(max=BUCKETS - 1)  # 0 of 0, 1 of 1, 2 of 2 and 3, ...
    return bucket + BUCKETS * torch.arange(visits.shape[-1], device=visits.device)


def _ours(backend: str, W: Tensor, like: Tensor) -> bool:
    """Say whether our kernels do it: they know float16 beside float32 alone, on processors that do."""
    if resolve(backend, W.device.type) != "llvm":
        return False
    halved = W.dtype == torch.float16 and like.dtype == torch.float32 and module("llvm.language").HAS_FLOAT16
    return bool(W.dtype == like.dtype or halved)
