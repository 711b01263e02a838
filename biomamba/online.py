"""The online loop: predict, score, learn, one chunk of a stream after another.

    out, state, trace = update(x, state, trace);   meters.update(out)

Both loops are generators: printing, saving and stopping are the caller's. Memory does not grow with the stream.
Shapes: b streams, t new steps per update; with a window of w steps, w >= t, the model reads up to w steps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import threads as threading
from .checks import check_mask
from .compiled import Compiled
from .inputs import check_parts, checked
from .learn import Seen, loss_of, update, wanting
from .model import Model
from .rules.base import LearningRule
from .state import Tree, copy, nbytes, tree_map
from .step import Step
from .stream import Chunk, Meter, StatefulStream, Task

PATIENCE = 100  # updates in a row that may fail before the loop gives up


@dataclass
class Carry:
    """All that goes from one update to the next beside weights and optimiser; save it, and the loop goes on."""

    state: Tree  # at the start of the window
    trace: Tree  # at the start of the window
    x: Tensor  # (b, s, ...) the inputs from there to now, to be replayed; s = 0 without a window
    reset: Tensor  # (b, s)
    meters: dict[str, Meter]
    steps: int = 0  # time steps of each stream
    updates: int = 0  # optimiser steps
    skipped: int = 0  # updates left out because something was not finite


class Report(NamedTuple):
    """What one pass of the loop saw and did."""

    chunk: Chunk
    out: Tensor  # (b, t, d_out) the predictions, made before learning from the chunk
    loss: Tensor  # () nats, detached
    norm: Tensor | None  # () of the whole gradient before clipping; None where nothing was learned
    spikes: Tensor  # () share of ones in what the out_proj of spiking blocks received; else nan
    carry: Carry
    threads: int  # that the update took

    @property
    def scores(self) -> dict[str, float]:
        """Every meter's score over the whole stream so far."""
        return {name: meter.get() for name, meter in self.carry.meters.items()}


def begin(chunk: Chunk, task: Task, model: Model, rule: LearningRule | None = None) -> Carry:
    """Return the carry of streams that have seen nothing; `chunk` tells how many and of what."""
    batch = chunk.x.shape[0]
    trace = rule.init(batch) if rule else []
    return Carry(model.init_state(batch), trace, chunk.x[:, :0], chunk.reset[:, :0], task.meters())


def online(
    stream: Iterable[Chunk],
    task: Task,
    model: Model,
    rule: LearningRule,
    optimizer: Optimizer,
    window: int | None = None,
    clip: float | None = 1.0,
    carry: Carry | None = None,
    compile: bool = False,  # noqa: A002 - torch's own word
    threads: int | None = None,
) -> Iterator[Report]:
    """Yield a report per chunk: predict, score, learn.

    window: steps of exact credit through the whole stack, replayed at each update (default: the chunk).
    clip: largest norm of the gradient. carry: where an earlier loop stopped. compile: make one graph of each update
    (needs a C++ compiler, and half a minute for each kind of chunk); the first update and chunks of another length stay
    as they are. threads: that an update takes (default: a second one where it pays, see `threads.resolve`); between
    updates torch has its own number.

    An update without a labelled step moves state and trace, not the optimiser. Where outputs, loss or learning
    signals are not finite nothing moves: weights, state and trace are held, and where only the gradient or the new
    weights are not, weights and optimiser are; `carry.skipped` counts all.
    Raises ValueError for weights that are not finite, for parts that do not belong together (task, model, rule,
    optimiser, carry, chunks), for a window shorter than a chunk, for a number of threads that cannot be had and where
    nothing can be compiled; TypeError for what is of another type; FloatingPointError after 100 such updates in a row.
    """
    threading.check(threads)
    check_parts(task, model, rule, optimizer)
    carry = carry and _checked_carry(carry, model, rule)
    step = Step(optimizer, wanting(model))
    plain = partial(update, model, task, rule, step, clip)
    fused = Compiled(model, task, rule, step, clip) if compile else plain
    failures, length, count = 0, None, 1
    stream = StatefulStream.of(stream)
    for chunk in checked(stream, model, len(carry.x) if carry else None):
        carry = carry or begin(chunk, task, model, rule)
        new = chunk.x.shape[1]
        if window is not None and window < new:
            raise ValueError(f"window: got {window} steps, expected at least the {new} steps of a chunk")
        x, reset = _append(carry.x, chunk.x), _append(carry.reset, chunk.reset)
        advance = max(0, x.shape[1] + new - (window or new))

        if length is None:
            length = new
            count = threading.resolve(threads, _bytes(carry, window or new))
        usual = carry.steps > 0 and new == length and x.shape[1] == (window or new)
        seen = Seen(x, reset if bool(reset.any()) else None, chunk, carry.state, carry.trace)
        labelled = bool(chunk.mask.any())
        with threading.using(count):
            passed = (fused if usual else plain)(seen, advance, labelled)
        _score(carry.meters, passed.out, chunk)
        stream.observe(passed.out, chunk)

        carry.state, carry.trace, carry.steps = passed.state, passed.trace, carry.steps + new
        if bool(passed.good) and window is not None:
            carry.x, carry.reset = x[:, advance:], reset[:, advance:]
        learned = passed.fine is not None and bool(passed.fine)
        carry.updates += learned
        if learned or (bool(passed.good) and not labelled):
            failures = 0
        else:
            failures += 1
            carry.skipped += 1
            if failures == PATIENCE:
                raise FloatingPointError(
                    f"{PATIENCE} updates in a row were not finite, the last at step {carry.steps}: "
                    "lower the learning rate or clip the gradient"
                )
        yield Report(chunk, passed.out, passed.loss, passed.norm if learned else None, passed.spikes, carry, count)


def evaluate(
    stream: Iterable[Chunk], task: Task, model: Model, carry: Carry | None = None, threads: int | None = None
) -> Iterator[Report]:
    """Yield a report per chunk with learning off: predict, score.

    carry, threads: as for `online`. Raises ValueError and TypeError as `online` does.
    """
    threading.check(threads)
    check_parts(task, model)
    carry = carry and _checked_carry(carry, model)
    stream, count = StatefulStream.of(stream), None
    for chunk in checked(stream, model, len(carry.x) if carry else None):
        carry = carry or begin(chunk, task, model)
        count = count or threading.resolve(threads, _bytes(carry, chunk.x.shape[1]))
        with threading.using(count), torch.no_grad():
            out, state, tapes = model(chunk.x, carry.state, chunk.reset if bool(chunk.reset.any()) else None)
            loss, spikes = loss_of(task, out, chunk), model.spikes(tapes, chunk.x.shape[1]).mean()
        _score(carry.meters, out, chunk)
        stream.observe(out, chunk)
        carry.state, carry.steps = copy(state), carry.steps + chunk.x.shape[1]
        yield Report(chunk, out, loss, None, spikes, carry, count)


def _score(meters: dict[str, Meter], out: Tensor, chunk: Chunk) -> None:
    """Show the predictions to the meters."""
    for meter in meters.values():
        meter.update(out, chunk)


def _append(held: Tensor, new: Tensor) -> Tensor:
    """Return the steps held and the new ones; without a window none are held."""
    return torch.cat([held, new], dim=1) if held.shape[1] else new


def _bytes(carry: Carry, steps: int) -> int:
    """Return the bytes that an update of so many steps goes over in one block: its trace, and the states."""
    states = [nbytes(state) * steps for state in carry.state]
    traces = [nbytes(trace) for trace in carry.trace] or [0] * len(states)
    return max(state + trace for state, trace in zip(states, traces, strict=True))


def _checked_carry(carry: Carry, model: Model, rule: LearningRule | None = None) -> Carry:
    """Return the carry, its tensors in one piece. Raises where it is not of this model and rule."""
    if not isinstance(carry, Carry):
        raise TypeError(
            f"carry: got {type(carry).__name__}, expected a Carry: give report.carry, or None to begin anew"
        )
    b, s = carry.x.shape[:2]
    check_mask("carry.reset", carry.reset, b, s)
    model.check_state(carry.state, b)
    if rule is not None:
        rule.check_trace(carry.trace, b)
    carry.state, carry.trace = (tree_map(torch.Tensor.contiguous, tree) for tree in (carry.state, carry.trace))
    return carry
