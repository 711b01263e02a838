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
from typing import NamedTuple

from torch import Tensor

from ..blocks.base import Block, Tape
from ..ops.influence import Drive, contract_now
from ..ops.traces import at_steps, decaying_sum, fixed, last_rows, pre_rows
from ..state import Tree, where
from .base import Gradients, LearningRule, Signal, Span
from .factored import zero_inputs
from .stdp import mask_replayed, post_trace


class Traces(NamedTuple):
    """The traces of one influence at every step."""

    drive: Drive
    sums: Tensor  # of its inputs, as `pre_rows` gives them, or of its posts (b, t, e, n)
    Q: Tensor | None = None  # (b, t, e, n) of posts, the step's own included
    R: Tensor | None = None  # (b, t, e, n) of the posts before


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

        Raises ValueError where a decay is outside [0, 1), and for blocks with the backend mamba_ssm.
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

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return what the traces add to each step's own gradient, sum_t g_t post_t pre_t, which autograd has given."""
        return self._gradient(block, signal, self._traces(block, tape, trace), new)

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return the traces at the chunk's step `steps`."""
        return self._advanced(tape, self._traces(block, tape, trace), trace, steps, go)

    def gradient_and_advance(
        self, block: Block, tape: Tape, signal: Signal, trace: Tree, span: Span
    ) -> tuple[Gradients, Tree]:
        """Return both; the traces of all steps are worked out once."""
        traces = self._traces(block, tape, trace)
        return self._gradient(block, signal, traces, span.new), self._advanced(tape, traces, trace, span.steps, span.go)

    def _traces(self, block: Block, tape: Tape, trace: Tree) -> dict[str, Traces]:
        """Return the traces of every influence at every step."""
        found, drives = {}, block.drives(tape)
        for name in block.influences:
            drive, own = drives[name], trace[name]
            decay = fixed(self.lambda_pre, drive.post, tape.reset)
            if drive.pre is None:  # the causal half with the post in the input's place
                found[name] = Traces(drive, decaying_sum(drive.post, decay, own, block.backend))
            else:
                rows = pre_rows(drive, decay, own["pre"], block.backend)
                found[name] = Traces(drive, rows, *post_trace(block, tape, drive, own["Q"], self.lambda_post))
        return found

    def _gradient(self, block: Block, signal: Signal, traces: dict[str, Traces], new: int) -> Gradients:
        """Return the gradient of every influence."""
        assert signal.h is not None
        gradients = {}
        for name, (drive, sums, _, R) in traces.items():
            axes = block.influences[name]
            if drive.pre is None or R is None:
                gradient = (signal.h * (self.alpha_pre * sums - drive.post)).sum((0, 1))
                gradients[name] = gradient.sum(-1) if axes == "e" else gradient
            else:
                causal = self.alpha_pre * at_steps(sums, drive) - drive.pre
                gradient = contract_now(signal.h * drive.post, axes, causal, drive.taps)
                late = mask_replayed(signal, new) * R
                gradients[name] = gradient + self.alpha_post * contract_now(late, axes, drive.pre, drive.taps)
        return gradients

    def _advanced(self, tape: Tape, traces: dict[str, Traces], trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return the traces at the chunk's step `steps`."""
        if steps == 0:
            return trace
        moved: dict[str, Tree] = {}
        for name, (drive, sums, Q, _) in traces.items():
            if drive.pre is None or Q is None:
                moved[name] = sums[:, steps - 1]
            else:
                pre = last_rows(sums, tape.reset, steps, trace[name]["pre"].shape[1])
                moved[name] = {"pre": pre, "Q": Q[:, steps - 1]}
        return where(go, moved, trace)

    def _zeros(self, block: Block, name: str, batch: int) -> Tree:
        """Return the zero trace of one influence."""
        post = next(block.parameters()).new_zeros(batch, *block.shape)
        return {"pre": zero_inputs(block, name, batch), "Q": post} if name in block.fan_in else post
