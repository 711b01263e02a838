"""How near is a rule's gradient to backpropagation through all of a segment? Weights held, on the real stream.

    cosine = g . G / (|g| |G|)     ratio = |g| / |G|     gap = 1 - cosine = | g / |g| - G / |G| |^2 / 2
    g: the rule's, summed over its updates                 G: full BPTT's
    through the past alone:  g - I  beside  G - I          I: immediate, every step's state held

Where most of a gradient is immediate, every rule's cosine is near 1; through the past alone they differ. All are of the
same loss: the task's, of each chunk, summed. Per parameter, per layer (encoder, each block, head) and over all.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..learner import Learner
from ..loop import online
from ..model import Model
from ..ngram import Reading
from ..rules.base import LearningRule
from ..state import cut
from ..stream import Chunk, Task
from ..update import trainable_parameters

Gradients = dict[str, Tensor]


def fidelity(
    model: Model, task: Task, rule: LearningRule, stream: Iterator[Chunk], window: int | None = None
) -> dict[str, Any]:
    """Return {"all": near, "layers": {name: near}, "parameters": {name: near}}, and the same as "past".

    near is {"cosine", "ratio", "gap"}, None where one of the gradients is zero; "past" is of the credit through the
    past alone. The stream is read to its end, and kept: full backpropagation takes memory for all of it. The weights
    stay as they are. Differences of float32 gradients are rounded: float64 tells gaps below 1e-7.
    """
    got, chunks = by_rule(model, task, rule, stream, window)
    full, now = by_bptt(model, task, chunks), immediate(model, task, chunks)
    past = (without(gradient, now) for gradient in (got, full))
    return {**_each(got, full), "past": _each(*past)}


def _each(got: Gradients, full: Gradients) -> dict[str, Any]:
    """Return how near one gradient is to another: over all, by layer, by parameter."""
    layers: dict[str, list[str]] = {}
    for name in full:
        layers.setdefault(layer(name), []).append(name)
    return {
        "all": near([*got.values()], [*full.values()]),
        "layers": {key: near([got[n] for n in names], [full[n] for n in names]) for key, names in layers.items()},
        "parameters": {name: near([got[name]], [full[name]]) for name in full},
    }


def by_rule(
    model: Model, task: Task, rule: LearningRule, stream: Iterator[Chunk], window: int | None
) -> tuple[Gradients, list[Chunk]]:
    """Return the sum of the rule's gradients over a stream, and the stream's chunks."""
    held = torch.optim.SGD(trainable_parameters(model), lr=0.0)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total, chunks = {name: torch.zeros_like(p) for name, p in parameters.items()}, []
    for report in online(stream, Learner(task, model, rule, held, window=window, clip=None)):
        chunks.append(report.chunk)
        if report.norm is not None:
            for name, p in parameters.items():
                assert p.grad is not None
                total[name] += p.grad
    return total, chunks


def by_bptt(model: Model, task: Task, chunks: Sequence[Chunk]) -> Gradients:
    """Return the gradient of the sum of the chunks' losses, backpropagated through all of them."""
    x, reset = (torch.cat(parts, dim=1) for parts in zip(*((chunk.x, chunk.reset) for chunk in chunks), strict=True))
    out, _, _ = model(x, model.init_state(len(x)), reset)
    ends = torch.tensor([chunk.x.shape[1] for chunk in chunks]).cumsum(0).tolist()
    pieces = torch.tensor_split(out, ends[:-1], dim=1)
    losses = [task.loss(o, chunk) for o, chunk in zip(pieces, chunks, strict=True) if bool(chunk.mask.any())]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not losses:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    found = torch.autograd.grad(
        torch.stack(losses).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, found, strict=True))


def immediate(model: Model, task: Task, chunks: Sequence[Chunk]) -> Gradients:
    """Return the gradient of the sum of the chunks' losses with the state before every step held."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    x, reset = (torch.cat(parts, dim=1) for parts in zip(*((chunk.x, chunk.reset) for chunk in chunks), strict=True))
    with torch.no_grad():
        reading = model.read(x, None, reset)  # of the tables, which know the tokens before a step
    state, done = model.init_state(len(x)), 0
    for chunk in chunks:
        outs = []
        for s in range(done, done + chunk.x.shape[1]):
            at = slice(s, s + 1)
            now = reading and Reading(reading.tokens, *(own[:, at] for own in reading[1:]))
            out, state, _ = model(x[:, at], cut(state), reset[:, at], reading=now)
            outs.append(out)
        done += chunk.x.shape[1]
        if bool(chunk.mask.any()):
            loss = task.loss(torch.cat(outs, dim=1), chunk)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
            for own, gradient in zip(total.values(), found, strict=True):
                own += gradient
    return total


def without(gradient: Gradients, now: Gradients) -> Gradients:
    """Return what is left of a gradient without the immediate one; zero where no more than rounding is left."""
    found = {}
    for name, own in gradient.items():
        left = own - now[name]
        rounding = 1e4 * torch.finfo(own.dtype).eps * float(own.norm() + now[name].norm())
        found[name] = left if float(left.norm()) > rounding else torch.zeros_like(left)
    return found


def layer(name: str) -> str:
    """Return the layer of a parameter: encoder, blocks.0, ..., head (with the norm before it)."""
    first, second, *_ = name.split(".")
    return f"blocks.{second}" if first == "blocks" else "encoder" if first == "encoder" else "head"


def near(got: Sequence[Tensor], full: Sequence[Tensor]) -> dict[str, float | None]:
    """Return cosine, norm ratio and gap of two gradients, each in several tensors."""
    g, G = (torch.cat([tensor.flatten() for tensor in own]).double() for own in (got, full))
    size, whole = float(g.norm()), float(G.norm())
    if whole == 0 or size == 0:
        return {"cosine": None, "ratio": size / whole if whole else None, "gap": None}
    gap = float((g / size - G / whole).square().sum() / 2)  # of 1 - cosine nothing would be left near 1
    return {"cosine": float(g @ G) / (size * whole), "ratio": size / whole, "gap": gap}
