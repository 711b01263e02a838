"""The learner: a model, what teaches it, and where it is in its streams.

    report = learner.update(chunk)          predicts, then learns; report.out was made before anything was learned

Shapes: b streams, t new steps per update; with a window of w steps, w >= t, the model reads up to w steps.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import threads as threading
from .checks import check_mask
from .compiled import Compiled
from .inputs import check_parts
from .model import Model
from .rules.base import LearningRule
from .state import Tree, nbytes, tree_map
from .step import Step
from .stream import Chunk, Meter, Task
from .update import UpdateInput, UpdateOutput, trainable_parameters, update

PATIENCE = 100  # updates in a row that may fail before the learner gives up


@dataclass
class LoopState:
    """All that goes from one update to the next beside weights and optimiser; save it, and the loop goes on."""

    model_state: Tree  # at the start of the window
    trace: Tree  # at the start of the window
    x: Tensor  # (b, s, ...) the inputs from there to now, to be replayed; s = 0 without a window
    reset: Tensor  # (b, s)
    meters: dict[str, Meter]
    context: Tensor | None = None  # (b, K-1) the tokens before x, for n-grams
    steps: int = 0  # time steps of each stream
    updates: int = 0  # optimiser steps
    skipped: int = 0  # updates left out because something was not finite

    @classmethod
    def begin(cls, chunk: Chunk, task: Task, model: Model, rule: LearningRule | None = None) -> "LoopState":
        """Return the state of zero-initialised streams; `chunk` tells how many and of what."""
        batch = chunk.x.shape[0]
        trace = rule.init(batch) if rule else []
        return cls(model.init_state(batch), trace, chunk.x[:, :0], chunk.reset[:, :0], task.meters())

    def check(self, model: Model, rule: LearningRule | None = None) -> None:
        """Lay all tensors in one piece. Raises ValueError or TypeError where they are not of this model and rule."""
        b, s = self.x.shape[:2]
        check_mask("state.reset", self.reset, b, s)
        model.check_state(self.model_state, b)
        if rule is not None:
            rule.check_trace(self.trace, b)
        model.check_context(self.context, b)
        self.model_state, self.trace = (tree_map(Tensor.contiguous, tree) for tree in (self.model_state, self.trace))

    def nbytes(self, steps: int) -> int:
        """Return the bytes that an update of so many steps goes over in one block: its trace, and the states."""
        states = [nbytes(state) * steps for state in self.model_state]
        traces = [nbytes(trace) for trace in self.trace] or [0] * len(states)
        return max(state + trace for state, trace in zip(states, traces, strict=True))


class Report(NamedTuple):
    """What one update saw and did."""

    chunk: Chunk
    out: Tensor  # (b, t, d_out) the predictions, made before learning from the chunk
    loss: Tensor  # () nats, detached
    norm: Tensor | None  # () of the whole gradient before clipping; None where nothing was learned
    spikes: Tensor  # () share of ones in what the out_proj of spiking blocks received; else nan
    state: LoopState
    threads: int  # that the update took

    @property
    def scores(self) -> dict[str, float]:
        """Every meter's score over the whole stream so far."""
        return {name: meter.get() for name, meter in self.state.meters.items()}


class Learner:
    """A task, a model, the rule and the optimiser that teach it, and the state that goes from update to update."""

    def __init__(
        self,
        task: Task,
        model: Model,
        rule: LearningRule,
        optimizer: Optimizer,
        window: int | None = None,
        clip: float | None = 1.0,
        compile: bool = False,  # noqa: A002 - torch's own word
        threads: int | None = None,
    ) -> None:
        """Take what belongs together.

        window: steps of exact credit through the whole stack, replayed at each update (default: the chunk).
        clip: largest norm of the gradient. compile: make one graph of each update (needs a C++ compiler, and half a
        minute for each kind of chunk); the first update and chunks of another length stay as they are. threads: that an
        update takes (default: a second one where it pays, see `threads.resolve`); between updates torch has its own
        number.
        Raises ValueError for weights that are not finite, for parts that do not belong together, for a number of
        threads that cannot be had and where nothing can be compiled; TypeError for what is of another type.
        """
        threading.check(threads)
        check_parts(task, model, rule, optimizer)
        self.task, self.model, self.rule, self.optimizer = task, model, rule, optimizer
        self.window, self.clip, self.threads = window, clip, threads
        self.state: LoopState | None = None
        step = Step(optimizer, trainable_parameters(model))
        self._plain = partial(update, model, task, rule, step, clip)
        self._compiled = Compiled(model, task, rule, step, clip) if compile else self._plain
        self._length, self._count, self._failures = 0, 1, 0

    @property
    def streams(self) -> int | None:
        """How many streams it has; None before the first."""
        return None if self.state is None else len(self.state.x)

    def resume(self, state: LoopState) -> None:
        """Go on from a state. Raises ValueError or TypeError where it is not of this model and rule."""
        if not isinstance(state, LoopState):
            raise TypeError(
                f"state: got {type(state).__name__}, expected a LoopState: give report.state, or None to begin anew"
            )
        state.check(self.model, self.rule)
        self.state, self._length = state, 0

    def peek(self, chunk: Chunk) -> Tensor:
        """Return the predictions (b, t, d_out) for a chunk as `inputs.checked` gives it; nothing moves.

        They are those that `update` reports of it, which reads the chunk once more to learn from it.
        """
        state = self.state = self.state or LoopState.begin(chunk, self.task, self.model, self.rule)
        x, reset = _append(state.x, chunk.x), _append(state.reset, chunk.reset)
        resets = reset if bool(reset.any()) else None
        count = threading.resolve(self.threads, state.nbytes(x.shape[1]))
        with threading.using(count), torch.no_grad():
            reading = self.model.read(x, state.context, resets)
            out: Tensor = self.model(x, state.model_state, resets, reading=reading)[0]
        return out[:, -chunk.x.shape[1] :]

    def update(self, chunk: Chunk) -> Report:
        """Predict a chunk as `inputs.checked` gives it, and learn from it.

        An update without a labelled step moves state and trace, not the optimiser. Where outputs, loss or learning
        signals are not finite nothing moves: weights, state and trace are held, and where only the gradient or the new
        weights are not, weights and optimiser are; `state.skipped` counts all.
        Raises ValueError for a window shorter than the chunk, FloatingPointError after 100 such updates in a row.
        """
        state = self.state = self.state or LoopState.begin(chunk, self.task, self.model, self.rule)
        new, labelled = chunk.x.shape[1], bool(chunk.mask.any())
        window = self.window or new
        if window < new:
            raise ValueError(f"window: got {self.window} steps, expected at least the {new} steps of a chunk")
        if not self._length:
            self._length, self._count = new, threading.resolve(self.threads, state.nbytes(window))
        x, reset = _append(state.x, chunk.x), _append(state.reset, chunk.reset)
        advance = max(0, x.shape[1] + new - window)
        usual = state.steps > 0 and new == self._length and x.shape[1] == window
        resets = reset if bool(reset.any()) else None
        reading = self.model.read(x, state.context, resets)
        inputs = UpdateInput(x, resets, chunk, state.model_state, state.trace, reading)
        with threading.using(self._count):
            output = (self._compiled if usual else self._plain)(inputs, advance, labelled)

        state.model_state, state.trace, state.steps = output.state, output.trace, state.steps + new
        if bool(output.forward_finite):
            if self.window is not None:
                state.x, state.reset = x[:, advance:], reset[:, advance:]
            state.context = reading and reading.context_at(resets, advance)
        learned = self._count_update(state, output, labelled)
        if learned and reading:
            count = chunk.mask.sum()  # the loss is a mean over labelled steps: rows learn from each step's own
            embedding, logits = output.read
            self.model.learn_rows(reading, embedding * count, logits[:, -new:] * count)
        norm = output.norm if learned else None
        return Report(chunk, output.out, output.loss, norm, output.spikes, state, self._count)

    def _count_update(self, state: LoopState, output: UpdateOutput, labelled: bool) -> bool:
        """Count an update as taken or skipped; say whether anything was learned."""
        learned = output.gradient_finite is not None and bool(output.gradient_finite)
        state.updates += learned
        if learned or (bool(output.forward_finite) and not labelled):
            self._failures = 0
            return learned
        self._failures += 1
        state.skipped += 1
        if self._failures == PATIENCE:
            raise FloatingPointError(
                f"{PATIENCE} updates in a row were not finite, the last at step {state.steps}: "
                "lower the learning rate or clip the gradient"
            )
        return learned


def _append(held: Tensor, new: Tensor) -> Tensor:
    """Return the steps held and the new ones; without a window none are held."""
    return torch.cat([held, new], dim=1) if held.shape[1] else new
