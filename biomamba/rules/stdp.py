"""RTRL with the post-before-pre half of STDP, after S-TLLR (Apolinario and Roy, TMLR 2025).

    R_t   = lam (R_{t-1} + psi_{t-1} post_{t-1})       what a later input finds of an earlier post
    grad += a_post sum_t g_t R_t pre_t                 g_t = dL/dh_t with h_{t+1} held

psi is the surrogate derivative of a spiking block, which g_t is then taken without, else 1. The pre-before-post half is
the RTRL trace itself, untouched. The learning signal is the third factor of both halves. Approximate by design: at
a_post = 0 it is RTRL to the bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..blocks.base import Block, Tape
from ..ops.influence import Drive, contract_now
from ..ops.spike import psi
from ..ops.traces import decaying_sum, fixed
from ..state import Tree
from .base import Gradients, Signal
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

    def meet(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int, advance: int, go: Tensor
    ) -> tuple[Gradients, Tree]:
        """Return the gradient through the past and of the inputs that came after a post, and the trace moved on."""
        drives, half, Qs = block.drives(tape), {}, {}
        late = of_new(signal, new)
        for name, before in trace["Q"].items():
            drive = drives[name]
            assert drive.pre is not None
            Q, R = post_trace(block, tape, drive, before, self.lam)
            half[name] = contract_now(late * R, block.influences[name], drive.pre, drive.taps)
            Qs[name] = torch.where(go, Q[:, advance - 1], before) if advance else before
        gradients, Z = super().meet(block, tape, signal, trace["Z"], new, advance, go)
        gradients |= {name: gradients[name] + self.a_post * gradient for name, gradient in half.items()}
        return gradients, {"Z": Z, "Q": Qs}


def of_new(signal: Signal, new: int) -> Tensor:
    """Return the bare signal (b, t, e, n) of the last `new` steps, those before being zero: each pair counts once."""
    assert signal.bare is not None
    late = signal.bare.clone()
    late[:, : late.shape[1] - new] = 0
    return late


def post_trace(block: Block, tape: Tape, drive: Drive, before: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return Q and R (b, t, e, n) of a drive's posts, for Q before the chunk (b, e, n) and the decay lam."""
    post = drive.post
    if block.threshold is not None:
        post = post * psi(tape.potential.detach(), block.threshold, block.steepness).unsqueeze(-1)
    decay = fixed(lam, post, tape.reset)
    Q = decaying_sum(post, decay, before, block.kernels)
    return Q, decay[..., None, None] * torch.cat([before.unsqueeze(1), Q[:, :-1]], dim=1)
