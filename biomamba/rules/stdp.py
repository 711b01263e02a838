"""RTRL with the post-before-pre half of STDP, after S-TLLR (Apolinario and Roy, TMLR 2025).

    R_t   = lam (R_{t-1} + psi_{t-1} post_{t-1})       what a later input finds of an earlier post
    grad += a_post sum_t g_t R_t pre_t                 g_t = dL/dh_t with h_{t+1} held

psi is the surrogate derivative of a spiking block, which g_t is then taken without, else 1. The pre-before-post half is
the RTRL trace itself, untouched. The learning signal is the third factor of both halves. Approximate by design: at
a_post = 0 it is RTRL to the bit.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..blocks.base import Block, Tape
from ..ops.influence import Drive, contract_now
from ..ops.spike import surrogate_grad
from ..ops.traces import decaying_sum, fixed
from ..state import Tree
from .base import Gradients, Signal, Span
from .rtrl import RTRL


class RTRLSTDP(RTRL):
    """RTRL plus a_post times the non-causal half, for every influence that has a pre factor.

    The trace is {"Z": as RTRL, "Q": (b, e, n) per influence} with Q_t = R_t + psi_t post_t.
    """

    reads_h = True

    def __init__(
        self, blocks: Iterable[Block], a_post: float = 0.0, lam: float = 0.5, trace_dtype: str | None = None
    ) -> None:
        """Take the blocks, the weight a_post of the non-causal half and its decay lam per step.

        a_post is 0 by default because no other value gained on fresh seeds (docs/rules.md): S-TLLR's were -1 and 1.

        Raises ValueError where lam is outside [0, 1), and as `RTRL` does.
        """
        super().__init__(blocks, trace_dtype)
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

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return the gradient through the past, and a_post times that of the inputs that came after a post."""
        causal = super().gradient(block, tape, signal, trace["Z"], new)
        return self._with_half(causal, block, tape, signal, block.drives(tape), trace["Q"], new)

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return Z and Q at the chunk's step `steps`."""
        Q = self._advanced(block, tape, block.drives(tape), trace["Q"], steps, go)
        return {"Z": super().advance(block, tape, trace["Z"], steps, go), "Q": Q}

    def gradient_and_advance(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, span: Span
    ) -> tuple[Gradients, Tree]:
        """Return both, of one pass over Z; the drives are worked out once."""
        drives = block.drives(tape)
        causal, Z = super().gradient_and_advance(block, tape, signal, trace["Z"], span)
        gradients = self._with_half(causal, block, tape, signal, drives, trace["Q"], span.new)
        return gradients, {"Z": Z, "Q": self._advanced(block, tape, drives, trace["Q"], span.steps, span.go)}

    def _with_half(
        self,
        causal: Gradients,
        block: Block,
        tape: Tape,
        signal: Signal,
        drives: Mapping[str, Drive],
        Qs: dict[str, Tensor],
        new: int,
    ) -> Gradients:
        """Return the causal half with a_post times the non-causal one."""
        late, gradients = mask_replayed(signal, new), dict(causal)
        for name, before in Qs.items():
            drive = drives[name]
            assert drive.pre is not None
            _, R = post_trace(block, tape, drive, before, self.lam)
            half = contract_now(late * R, block.influences[name], drive.pre, drive.taps)
            gradients[name] = causal[name] + self.a_post * half
        return gradients

    def _advanced(
        self,
        block: Block,
        tape: Tape,
        drives: Mapping[str, Drive],
        Qs: dict[str, Tensor],
        steps: int,
        go: Tensor,
    ) -> dict[str, Tensor]:
        """Return every Q at the chunk's step `steps`."""
        if steps == 0:
            return Qs
        after = {name: post_trace(block, tape, drives[name], before, self.lam)[0] for name, before in Qs.items()}
        return {name: torch.where(go, Q[:, steps - 1], Qs[name]) for name, Q in after.items()}


def mask_replayed(signal: Signal, new: int) -> Tensor:
    """Return the bare signal (b, t, e, n) of the last `new` steps, those before being zero: each pair counts once."""
    assert signal.raw_signal is not None
    late = signal.raw_signal.clone()
    late[:, : late.shape[1] - new] = 0
    return late


def post_trace(block: Block, tape: Tape, drive: Drive, before: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return Q and R (b, t, e, n) of a drive's posts, for Q before the chunk (b, e, n) and the decay lam."""
    post = drive.post
    if block.threshold is not None:
        post = post * surrogate_grad(tape.pre_activation.detach(), block.threshold, block.steepness).unsqueeze(-1)
    decay = fixed(lam, post, tape.reset)
    Q = decaying_sum(post, decay, before, block.backend)
    return Q, decay[..., None, None] * torch.cat([before.unsqueeze(1), Q[:, :-1]], dim=1)
