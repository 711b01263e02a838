"""RTRL with the trace factored into what came in and what it pushes on now: Z approximated by post x pre.

    pre_t = abar_t pre_{t-1} + x_t                     abar_t: the mean of the block's decays a_t, per stream
    dL/dtheta  =  dL/dtheta |_(h0 held)  +  dL/dh0 . (post_0 x pre_0)

Approximate: every input is taken to have met the post of the chunk's last step and to have decayed as the mean state
does. Equal to RTRL where all decays are one and the post is constant. Influences without a pre factor keep their exact
trace, which is no larger than the state. Memory per influence: of the order of e n + k j, against e n j of RTRL.
"""

import torch
from torch import Tensor

from ..blocks.base import Block, Tape, head
from ..ops.influence import Drive, decay_products, param_axis_first
from ..ops.pairs import times
from ..ops.scan import to_decay
from ..ops.traces import last_rows, pre_rows
from ..state import Tree, where
from .base import Gradients, LearningRule, Signal


class Factored(LearningRule):
    """RTRL with rank-one traces; approximate by design.

    The trace of an influence is its Z (b, e, n), or {"post": (b, e, n), "pre": (b, K, j) the last K traces of its
    inputs, "taps": (b, c, K) of the last step}, or, for inputs of a channel's own, {"post", "pre": (b, 1, c, k)}.
    """

    def init(self, batch: int) -> Tree:
        """Return zero traces."""
        return [{name: self._zeros(block, name, batch) for name in block.influences} for block in self.blocks]

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return signal . (post x pre) for all before the chunk."""
        return {name: _contract(signal.h0, trace[name], axes) for name, axes in block.influences.items()}

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return the factors at the chunk's step `steps`."""
        if steps == 0:
            return trace
        part = head(tape, steps)
        drives, ahead = block.drives(part), decay_products(part.log_a, part.reset)
        decay = to_decay(part.log_a.real, part.reset).mean((2, 3))  # of states that rotate how fast they fade
        moved: dict[str, Tree] = {}
        for name in block.influences:
            drive, own = drives[name], trace[name]
            if drive.pre is None:
                moved[name] = times(ahead.start, own) + times(ahead.step, drive.post).sum(1)
            else:
                rows = pre_rows(drive, decay, own["pre"], block.backend)
                factors = {"post": drive.post[:, -1], "pre": last_rows(rows, part.reset, steps, own["pre"].shape[1])}
                if "taps" in own:
                    factors["taps"] = _taps(drive, own["taps"])
                moved[name] = factors
        return where(go, moved, trace)

    def _zeros(self, block: Block, name: str, batch: int) -> Tree:
        """Return the zero trace of one influence."""
        axes, post = block.influences[name], next(block.parameters()).new_zeros(batch, *block.shape)
        if axes in ("e", "en"):
            return post
        trace = {"post": post, "pre": zero_inputs(block, name, batch)}
        if axes[1] == "j":
            trace["taps"] = post.new_zeros(batch, block.shape["en".index(axes[0])], block.taps)
        return trace


def _taps(drive: Drive, like: Tensor) -> Tensor:
    """Return the taps (b, c, K) of the last step; where there is no convolution, the last input as it is."""
    if drive.taps is not None:
        return drive.taps[:, -1]
    taps = torch.zeros_like(like)
    taps[..., -1] = 1
    return taps


def _contract(signal: Tensor, trace: Tree, axes: str) -> Tensor:
    """Return the gradient of one influence."""
    if axes in ("e", "en"):
        gradient: Tensor = (signal * trace).sum(0)
        return gradient.sum(-1) if axes == "e" else gradient
    weights = param_axis_first(signal * trace["post"], axes).sum(-1)  # (b, c)
    if "taps" not in trace:
        return torch.einsum("bc,bck->ck", weights, trace["pre"][:, 0])
    return torch.einsum("bck,bkj->cj", weights.unsqueeze(-1) * trace["taps"], trace["pre"])


def zero_inputs(block: Block, name: str, batch: int) -> Tensor:
    """Return zero traces of an influence's inputs, as `ops.traces` has them: (b, K, j), or (b, 1, c, k) of its own."""
    axes, inputs = block.influences[name], block.fan_in[name]
    own = (1, block.shape["en".index(axes[0])], inputs) if axes[1] == "k" else (block.taps, inputs)
    return next(block.parameters()).new_zeros(batch, *own)
