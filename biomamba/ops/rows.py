"""Rows of a table, read and written where an index says: what an embedding does, without a gradient of its size.

    gather    out_t = sum_k w_tk W[r_tk]          contract    g_t . W[r_tk]          scatter_    W[r_tk] -= w_tk g_t

Each by torch's operations and by our kernels for the CPU. A row that several steps name takes in all of them, in the
order of streams and steps. Shapes: W (m, c) rows; index r (b, t, k) int64, all in [0, m); weights w (b, t, k); out and
g (b, t, c).
"""

import torch
from torch import Tensor

from .backend import call, resolve


def gather(W: Tensor, index: Tensor, weights: Tensor, backend: str = "auto") -> Tensor:
    """Return the weighted sum of each step's rows (b, t, c)."""
    if _ours(backend, W, weights):
        out = weights.new_empty(*index.shape[:2], W.shape[1])
        call("rows.gather", W, index, weights, out)
        return out
    return (weights.unsqueeze(-1) * W[index].to(weights.dtype)).sum(2)


def contract(W: Tensor, index: Tensor, g: Tensor, backend: str = "auto") -> Tensor:
    """Return the product of each step's g with each of its rows (b, t, k)."""
    if _ours(backend, W, g):
        out = g.new_empty(index.shape)
        call("rows.contract", W, index, g, out)
        return out
    return (W[index].to(g.dtype) @ g.unsqueeze(-1)).squeeze(-1)


def scatter_(W: Tensor, index: Tensor, weights: Tensor, g: Tensor, backend: str = "auto") -> None:
    """Take every step's weighted g from its rows, in place."""
    if _ours(backend, W, g):
        call("rows.scatter", W, index, weights, g)
        return
    for i, s in torch.cartesian_prod(*map(torch.arange, index.shape[:2])).tolist():
        for k, r in enumerate(index[i, s].tolist()):
            W[r] -= weights[i, s, k] * g[i, s]


def _ours(backend: str, W: Tensor, like: Tensor) -> bool:
    """Say whether our kernels do it: they know bfloat16 beside float32 alone."""
    known = W.dtype == like.dtype or (W.dtype, like.dtype) == (torch.bfloat16, torch.float32)
    return known and resolve(backend, W.device.type) == "llvm"
