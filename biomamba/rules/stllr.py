"""S-TLLR (Apolinario and Roy, TMLR 2025): pre and post traces with fixed decays, on a gradient that is local in time.

    x_t = lambda_pre x_{t-1} + pre_t                                  causal: what came in before the post
    R_t = lambda_post (R_{t-1} + psi_{t-1} post_{t-1})                non-causal: what a later input finds of a post
    dL/dtheta = sum_t g_t (alpha_pre post_t x_t + alpha_post R_t pre_t)       g_t = dL/dh_t with h_{t+1} held

No gradient goes from a state to the one before it (`local`), so every part below the state sees single steps. psi is
the surrogate derivative of a spiking block, which the non-causal g_t is taken without, else 1. With alpha_post = 0 it
is e-prop (Bellec et al. 2020) with one fixed decay. Approximate: equal to RTRL where lambda_pre is the decay of every
state, the post is constant, alpha_pre = 1 and alpha_post = 0; then the chunk's length does not matter either way.
Memory per influence: e n + k j.
"""

from collections.abc import Iterable

from torch import Tensor

from ..blocks.base import Block, Tape, no_inputs
from ..ops.influence import Drive, contract_now
from ..ops.traces import at_steps, decaying_sum, fixed, last_rows, pre_rows
from ..state import Tree, where
from .base import Gradients, LearningRule, Signal
from .stdp import of_new, post_trace


class STLLR(LearningRule):
    """Fixed-decay STDP traces; approximate by design.

    The trace of an influence is {"pre": (b, K, j) the last K traces of its inputs, or (b, 1, c, k) of a channel's own,
    "Q": (b, e, n) with Q_t = R_t + psi_t post_t}; of one without inputs, the decaying sum of its posts (b, e, n).
    """

    local = True
    reads_h = True

    def __init__(
        self,
        blocks: Iterable[Block],
        lambda_pre: float = 0.5,
        lambda_post: float = 0.5,
        alpha_pre: float = 1.0,
        alpha_post: float = 0.2,
    ) -> None:
        """Take the blocks, the decays per step of the two traces and the weights of the two halves.

        Raises ValueError where a decay is outside [0, 1), and for blocks with the kernels mamba_ssm.
        """
        super().__init__(blocks)
        for name, decay in (("lambda_pre", lambda_pre), ("lambda_post", lambda_post)):
            if not 0 <= decay < 1:
                raise ValueError(f"{name} is the decay of a trace per step: got {decay}, expected 0 <= {name} < 1")
        self.lambda_pre, self.lambda_post = lambda_pre, lambda_post
        self.alpha_pre, self.alpha_post = alpha_pre, alpha_post

    def init(self, batch: int) -> Tree:
        """Return zero traces."""
        return [{name: self._zeros(block, name, batch) for name in block.influences} for block in self.blocks]

    def meet(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int, advance: int, go: Tensor
    ) -> tuple[Gradients, Tree]:
        """Return what the traces add to each step's own gradient, and the traces at step `advance`.

        Autograd has given sum_t g_t post_t pre_t already.
        """
        gradients, moved, drives = {}, {}, block.drives(tape)
        for name, axes in block.influences.items():
            drive, own = drives[name], trace[name]
            if drive.pre is None:
                gradients[name], after = self._without_inputs(block, tape, signal, drive, own, axes, advance)
            else:
                gradients[name], after = self._with_inputs(block, tape, signal, drive, own, axes, new, advance)
            moved[name] = after
        return gradients, where(go, moved, trace)

    def _without_inputs(
        self, block: Block, tape: Tape, signal: Signal, drive: Drive, own: Tensor, axes: str, advance: int
    ) -> tuple[Tensor, Tensor]:
        """Return the same for an influence that is a post alone: the causal half, the post in the input's place."""
        assert signal.h is not None
        sums = decaying_sum(drive.post, fixed(self.lambda_pre, drive.post, tape.reset), own, block.kernels)
        gradient = (signal.h * (self.alpha_pre * sums - drive.post)).sum((0, 1))
        return gradient.sum(-1) if axes == "e" else gradient, sums[:, advance - 1] if advance else own

    def _with_inputs(
        self, block: Block, tape: Tape, signal: Signal, drive: Drive, own: Tree, axes: str, new: int, advance: int
    ) -> tuple[Tensor, Tree]:
        """Return both halves of an influence that is post x pre, and its traces."""
        assert drive.pre is not None and signal.h is not None
        rows = pre_rows(drive, fixed(self.lambda_pre, drive.post, tape.reset), own["pre"], block.kernels)
        causal = self.alpha_pre * at_steps(rows, drive) - drive.pre
        Q, R = post_trace(block, tape, drive, own["Q"], self.lambda_post)
        gradient = contract_now(signal.h * drive.post, axes, causal, drive.taps)
        gradient = gradient + self.alpha_post * contract_now(of_new(signal, new) * R, axes, drive.pre, drive.taps)
        if advance == 0:
            return gradient, own
        pre = last_rows(rows, tape.reset, advance, own["pre"].shape[1])
        return gradient, {"pre": pre, "Q": Q[:, advance - 1]}

    def _zeros(self, block: Block, name: str, batch: int) -> Tree:
        """Return the zero trace of one influence."""
        post = next(block.parameters()).new_zeros(batch, *block.shape)
        return {"pre": no_inputs(block, name, batch), "Q": post} if name in block.fan_in else post
