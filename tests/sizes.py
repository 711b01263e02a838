"""Small random models and streams for the laws: odd sizes, nothing left at its initial value."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from biomamba.rules import LearningRule
from biomamba.state import Tree, copy, leaves
from biomamba.stream import Chunk, join

BLOCKS: dict[str, dict[str, Any]] = {
    "mamba2": {"d_state": 5, "headdim": 4},
    "mamba": {"d_state": 3, "dt_rank": 2},
    "diagonal": {"d_state": 4},
    "mamba3": {"d_state": 4, "headdim": 4, "dt_min": 0.1, "dt_max": 0.5},  # smaller steps hardly write into the state
}
UNTRACED: dict[str, dict[str, Any]] = {  # whose recurrence is not diagonal
    "gru": {"expand": 2},
    "lstm": {"expand": 2},
    "gated_delta": {"d_state": 3, "headdim": 4},
    "echo_state": {"leak": 0.6},
}
EVERY = BLOCKS | UNTRACED
REAL = {
    name: own for name, own in BLOCKS.items() if name != "mamba3"
}  # whose decays are real: kernels, graphs and counts know them
VOCAB, D_OUT, D_MODEL, BATCH, T = 11, 7, 6, 3, 60


def random_model(block: str, n_layers: int = 1, seed: int = 0, **options: Any) -> biomamba.Model:
    """Return a model in which every parameter, biases and norms too, is off its initial value."""
    torch.manual_seed(seed)
    sizes = {"d_model": D_MODEL} | EVERY[block] | options
    model = biomamba.Model(vocab=VOCAB, d_out=D_OUT, n_layers=n_layers, block=block, **sizes)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def random_state(model: biomamba.Model, batch: int = BATCH) -> Tree:
    """Return a state that remembers something."""
    return biomamba.state.tree_map(torch.randn_like, model.init_state(batch))


def random_tokens(t: int = T, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return x, y (b, t)."""
    return torch.randint(VOCAB, (batch, t)), torch.randint(D_OUT, (batch, t))


def summed_gradient(
    model: biomamba.Model,
    rule: LearningRule,
    x: Tensor,
    y: Tensor,
    length: int,
    reset: Tensor | None = None,
    state: Tree = None,
) -> dict[str, Tensor]:
    """Return the gradient summed over a stream cut into chunks, weights held."""
    model.zero_grad()
    batch, t = x.shape
    state, trace = state or model.init_state(batch), rule.init(batch)
    for s in range(0, t, length):
        at = slice(s, s + length)
        out, after, tapes = model(x[:, at], biomamba.cut(state), None if reset is None else reset[:, at], rule.local)
        loss = F.cross_entropy(out.flatten(0, 1), y[:, at].flatten(), reduction="sum")
        trace, state = rule.backward(loss, tapes, trace), copy(after)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def windowed_gradient(
    model: biomamba.Model,
    rule: LearningRule,
    x: Tensor,
    y: Tensor,
    length: int,
    window: int,
    reset: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the same through `online` with a window: the loop's own arithmetic, at learning rate 0."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in biomamba.online(
        chunks(x, y, length, reset), biomamba.Learner(SummedLoss(), model, rule, optimizer, window, clip=None)
    ):
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad
    return total


def chunks(x: Tensor, y: Tensor, length: int, reset: Tensor | None = None) -> list[biomamba.Chunk]:
    """Return the stream cut into chunks, every step labelled."""
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    reset = torch.zeros_like(mask) if reset is None else reset
    cuts = [slice(s, s + length) for s in range(0, x.shape[1], length)]
    return [biomamba.Chunk(x[:, at], y[:, at], mask[:, at], reset[:, at]) for at in cuts]


def joined(chunks: Iterable[Chunk]) -> Chunk:
    """Return chunks laid end to end as one."""
    return join([*chunks])


def same(one: Chunk, other: Chunk) -> bool:
    """Say whether two chunks are equal to the bit, NaN where the other has NaN."""
    a, b = dict(leaves(one)), dict(leaves(other))
    return a.keys() == b.keys() and all(torch.equal(a[n].nan_to_num(0.25), b[n].nan_to_num(0.25)) for n in a)


class SummedLoss:
    """A task reduced to what the laws need: cross entropy summed over the labelled steps."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the sum, nats."""
        if not bool(chunk.mask.any()):
            return out.sum() * 0
        return F.cross_entropy(out[chunk.mask], chunk.y[chunk.mask], reduction="sum")

    def meters(self) -> dict[str, biomamba.stream.Meter]:
        """Return one meter."""
        return {"loss": biomamba.metrics.CrossEntropy()}


def error(got: Tensor, expected: Tensor) -> float:
    """Return the relative error of a gradient."""
    return float(((got - expected).norm() / expected.norm()).detach())
