"""A rule of one's own: what to remember of the past, and how credit meets it. `python examples/your_rule.py`.

    Z_t = a_t Z_(t-1) + d_t       for parameters whose trace is no larger than the state: decays, step sizes
    nothing                       for weight matrices, whose traces are j times larger

So the memory is e n for each influence, where RTRL holds e n j. Exact for what it keeps, truncated for the rest.
"""

import torch
from torch import Tensor

import biomamba
from biomamba.blocks import Block, Tape
from biomamba.rules.base import Gradients, LearningRule, Signal
from biomamba.state import Tree, where
from biomamba.tasks.delay import Delay


class SmallTraces(LearningRule):
    """RTRL of the parameters without inputs of their own. The trace of a block is {name: (b, e, n)}."""

    def init(self, batch: int) -> Tree:
        """Return zero traces."""
        like = next(self.blocks[0].parameters())
        return [{name: like.new_zeros(batch, *block.shape) for name in small(block)} for block in self.blocks]

    def gradient(self, block: Block, tape: Tape, signal: Signal, trace: Tree, new: int) -> Gradients:
        """Return dL/dh0 . Z."""
        met = {name: (signal.h0 * Z).sum(0) for name, Z in trace.items()}
        return {name: g.sum(-1) if block.influences[name] == "e" else g for name, g in met.items()}

    def advance(self, block: Block, tape: Tape, trace: Tree, steps: int, go: Tensor) -> Tree:
        """Return Z `steps` steps on; where go is false, the Z given."""
        a, drives, moved = tape.log_a.exp(), block.drives(tape), dict(trace)
        if tape.reset is not None:
            a = a.masked_fill(tape.reset[..., None, None], 0)
        for name in trace:
            for t in range(steps):
                moved[name] = a[:, t] * moved[name] + drives[name].post[:, t]
        return where(go, moved, trace)


def small(block: Block) -> list[str]:
    """Return the names of the influences whose trace is no larger than the state."""
    return [name for name, axes in block.influences.items() if axes in ("e", "en")]


def gradients(rule: LearningRule, model: biomamba.Model, updates: int) -> dict[str, Tensor]:
    """Return the block's gradients summed over a stream, weights held, one step per update."""
    task = Delay(delay=10)
    model.zero_grad()
    state, trace, stream = model.init_state(4), rule.init(4), task.stream("all", batch=4, length=1, seed=0)
    for _, chunk in zip(range(updates), stream, strict=False):
        out, state, tapes = model(chunk.x, biomamba.cut(state), local=rule.local)
        trace = rule.backward(task.loss(out, chunk), tapes, trace)  # adds to .grad
    return {name: p.grad.clone() for name, p in model.blocks[0].named_parameters() if p.grad is not None}


def main(updates: int = 50) -> dict[str, tuple[float, float]]:
    """Return how far each parameter's gradient is from RTRL's: that of SmallTraces, and that of BPTT."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_state": 4, "headdim": 4, "dt_min": 0.1, "dt_max": 0.5}
    model = biomamba.Model(vocab=21, d_out=8, block="mamba2", **sizes).double()
    exact = gradients(biomamba.rules.RTRL(model.blocks), model, updates)
    own, none = (gradients(rule(model.blocks), model, updates) for rule in (SmallTraces, biomamba.rules.BPTT))
    return {
        name: (float((own[name] - g).norm() / g.norm()), float((none[name] - g).norm() / g.norm()))
        for name, g in exact.items()
    }


if __name__ == "__main__":
    print("relative error against RTRL    SmallTraces      BPTT")
    for name, (own, none) in main().items():
        print(f"{name:30} {own:11.1e} {none:9.1e}")
