"""UORO, unbiased online recurrent optimisation (Tallec and Ollivier 2018): RTRL's trace as one random outer product.

    Z ~ h x theta                                     E[h x theta] = Z, nu random signs, D what the chunk drives
    h'     = rho_0 a h        + rho_1 nu
    theta' = theta / rho_0    + nu . D / rho_1
    rho_0 = sqrt(|theta| / |a h|)                     rho_1 = sqrt(|nu . D| / |nu|)

Approximate, and unbiased: with weights held the expected gradient is RTRL's; what it costs is variance, which grows
with the size of the state. One draw of nu per stream, block and chunk. The signs are a function of the seed, the stream
and the number of chunks it has seen, so that a resumed or compiled run draws the same.
Memory: e n plus one number per parameter, of each stream.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..blocks.base import Block, Tape, head
from ..ops.influence import Drive, contract_now, decay_products
from ..ops.pairs import times, times_transposed
from ..state import Tree, where
from .base import Gradients, LearningRule, Signal

TINY = 1e-12  # keeps the scales finite while there is nothing to scale
WORD = 0xFFFFFFFF


class UORO(LearningRule):
    """RTRL with a random rank-one trace; approximate, unbiased.

    The trace of a block is {"h": (b, e, n), "theta": {influence: (b, ...) as the parameter}, "chunks": (b,) int64}.
    """

    counts_streams = True

    def __init__(self, blocks: Iterable[Block], seed: int = 0) -> None:
        """Take the blocks, and what the signs are drawn by."""
        super().__init__(blocks)
        self.seed = seed

    def init(self, batch: int) -> Tree:
        """Return traces of nothing."""
        empty = []
        for block in self.blocks:
            like = next(block.parameters())
            theta = {name: like.new_zeros(batch, *_shape(block, name)) for name in block.influences}
            chunks = torch.zeros(batch, dtype=torch.int64, device=like.device)
            empty.append({"h": like.new_zeros(batch, *block.shape), "theta": theta, "chunks": chunks})
        return empty

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return (signal . h) theta for all before the chunk."""
        reached = (signal.h0 * trace["h"]).sum((1, 2))
        return {name: torch.einsum("b,b...->...", reached, own) for name, own in trace["theta"].items()}

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return the two factors at the chunk's step `steps`."""
        if steps == 0:
            return trace
        h, theta, chunks = trace["h"], trace["theta"], trace["chunks"]
        part = head(tape, steps)
        ahead, drives = decay_products(part.log_a, part.reset), block.drives(part)
        place = next(i for i, own in enumerate(self.blocks) if own is block)  # of a copied rule too
        nu = signs(self.seed, place, chunks, block.shape).to(h.dtype)
        seen = times_transposed(ahead.step, nu.unsqueeze(1))
        pushed = {name: _through(seen, drives[name], axes) for name, axes in block.influences.items()}
        kept = times(ahead.start, h)
        rho_0, rho_1 = _scale(theta.values(), [kept]), _scale(pushed.values(), [nu])
        moved = {
            "h": _times(kept, rho_0) + _times(nu, rho_1),
            "theta": {name: _times(own, 1 / rho_0) + _times(pushed[name], 1 / rho_1) for name, own in theta.items()},
            "chunks": chunks + 1,
        }
        return where(go, moved, trace)


def signs(seed: int, block: int, chunks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return -1 and 1 (b, e, n), int64, for streams that have seen `chunks` (b,).

    Bits of a counter through the mixer lowbias32 (Wellons 2018), the position hashed apart from the stream.
    """
    stream = torch.arange(len(chunks), device=chunks.device)
    key = mix(mix(mix(stream * 0 + seed) + block) + stream)
    place = torch.arange(shape[0] * shape[1], device=chunks.device)
    drawn = mix(mix(key + chunks).unsqueeze(1) ^ mix(place + 1))
    return 1 - 2 * (drawn >> 7 & 1).view(-1, *shape)


def mix(x: Tensor) -> Tensor:
    """Return 32 well mixed bits of each number, int64."""
    x = x & WORD
    x = (x ^ x >> 16) * 0x7FEB352D & WORD
    x = (x ^ x >> 15) * 0x846CA68B & WORD
    return x ^ x >> 16


def _shape(block: Block, name: str) -> tuple[int, ...]:
    """Return the shape of an effective parameter."""
    axes, (e, n) = block.influences[name], block.shape
    if axes in ("e", "en"):
        return (e,) if axes == "e" else (e, n)
    return (e if axes[0] == "e" else n), block.fan_in[name]


def _through(weights: Tensor, drive: Drive, axes: str) -> Tensor:
    """Return sum over steps and states of weights (b, t, e, n) times the drive, for each stream (b, ...)."""
    weights = weights * drive.post
    if drive.pre is not None:
        return contract_now(weights, axes, drive.pre, drive.taps, each=True)
    weights = weights.sum(1)
    return weights.sum(-1) if axes == "e" else weights


def _scale(above: Iterable[Tensor], below: Iterable[Tensor]) -> Tensor:
    """Return sqrt(|above| / |below|) of each stream (b,)."""
    return ((_square(above) + TINY) / (_square(below) + TINY)) ** 0.25


def _square(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of squares of each stream (b,)."""
    return torch.stack([tensor.square().flatten(1).sum(1) for tensor in tensors]).sum(0)


def _times(tensor: Tensor, scale: Tensor) -> Tensor:
    """Return each stream of the tensor times its own number."""
    return tensor * scale.view(-1, *[1] * (tensor.ndim - 1))
