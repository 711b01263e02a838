"""RTRL with the post-before-pre half of STDP, after S-TLLR (Apolinario and Roy, TMLR 2025).

    R_t   = lam (R_{t-1} + post_{t-1})                 what a later input finds of an earlier post
    grad += a_post sum_t g_t R_t pre_t                 g_t = dL/dh_t with h_{t+1} held

The pre-before-post half is the RTRL trace itself, untouched. The learning signal is the third factor of
both halves. Approximate by design: at a_post = 0 it is RTRL to the bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..blocks.base import Block, Drive, Tape
from ..ops.influence import contract_now
from ..ops.scan import scan
from ..state import Tree
from .base import Signal
from .rtrl import RTRL


class RTRLSTDP(RTRL):
    """RTRL plus a_post times the non-causal half, for every influence that has a pre factor.

    The trace is {"Z": as RTRL, "Q": (b, e, n) per influence} with Q_t = R_t + post_t.
    """

    reads_h = True

    def __init__(self, blocks: Iterable[Block], a_post: float = 0.2, lam: float = 0.5) -> None:
        """Take the blocks, the weight a_post of the non-causal half and its decay lam per step.

        Raises ValueError where lam is outside [0, 1).
        """
        super().__init__(blocks)
        if not 0 <= lam < 1:
            raise ValueError(f"lam is the decay of a trace per step: got {lam}, expected 0 <= lam < 1")
        self.a_post, self.lam = a_post, lam

    def init(self, batch: int) -> Tree:
        """Return zero traces."""
        empty = []
        for block, Z in zip(self.blocks, super().init(batch), strict=True):
            like = next(block.parameters())
            empty.append({"Z": Z, "Q": {name: like.new_zeros(batch, *block.shape) for name in block.fan_in}})
        return empty

    def past(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> dict[str, Tensor]:
        """Return the gradient through the past, and of the inputs that came after a post."""
        gradients = super().past(block, tape, signal, trace["Z"], new)
        if signal.h is None:
            return gradients
        old = signal.h.shape[1] - new
        drives = block.drives(tape)
        for name, before in trace["Q"].items():
            _, pre, taps = drives[name]
            assert pre is not None
            Q, decay = self.posts(drives[name], tape, before)
            R = decay * torch.cat([before.unsqueeze(1), Q[:, :-1]], dim=1)
            weights = signal.h * R
            weights[:, :old] = 0
            half = contract_now(weights, block.influences[name], pre, taps)
            gradients[name] = gradients[name] + self.a_post * half
        return gradients

    def posts(self, drive: Drive, tape: Tape, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q (b, t, e, n), the decaying sum of posts, and the decay (b, t, 1, 1) that met it."""
        decay = drive.post.new_full((*drive.post.shape[:2], 1, 1), self.lam)
        if tape.reset is not None:
            decay = decay.masked_fill(tape.reset[..., None, None], 0)
        return scan(decay, drive.post.contiguous(), before), decay

    def move(self, block: Block, tape: Tape, drives: dict[str, Drive], Z: Tree) -> Tree:
        """Return one block's trace at the end of the tape."""
        Q = {name: self.posts(drives[name], tape, before)[0][:, -1].clone() for name, before in Z["Q"].items()}
        return {"Z": super().move(block, tape, drives, Z["Z"]), "Q": Q}
