"""One update after another: what belongs together, and where it is in its streams.

    report = updater.update(chunk)          predicts, then learns; report.out was made before anything was learned

Shapes: b streams, t new steps per update; with a window of w steps, w >= t, the model reads up to w steps.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import threads as threading
from .checks import check_positive, check_sizes
from .compiled import Compiled
from .fused import Fused, serves
from .inputs import check_parts
from .loop_state import LoopState
from .model import Model
from .ngram import Reading
from .ranks import Ranks
from .readout import RLS, check_readout, update_readout
from .reduction import Reduction
from .rows import Rows
from .rules.base import LearningRule
from .state import Tree, tree_map
from .step import Step
from .stream import Chunk, Task
from .update import UpdateInput, UpdateOutput, trainable_parameters, update

PATIENCE = 100  # updates in a row that may fail before the learner gives up


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


class Updater:
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
        horizon: int = 64,
        max_drift: float | None = None,
        rows: Rows | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Take what belongs together.

        window: steps of exact credit through the whole stack, replayed at each update (default: the chunk).
        optimizer: of torch, or `readout.RLS` for the head alone. clip: largest norm of the gradient. compile: make one
        graph of each update (needs a C++ compiler, and half a minute for each kind of chunk); the first update and
        chunks of another length stay as they are. threads: that an update takes (default: a second one where it pays,
        see `threads.resolve`); between updates torch has its own number.
        horizon: how many of the last steps may be answered. max_drift: the largest `drift`; weights that a step of the
        optimiser moves beyond it are drawn back to it. rows: units of `predict` and `learn` (default: the model's own).
        ranks: the processes among which the streams of each chunk are spread; all are given the same chunks.
        Raises ValueError for weights that are not finite, for parts that do not belong together, for a number of
        threads that cannot be had and where nothing can be compiled; TypeError for what is of another type.
        """
        threading.check(threads)
        check_sizes(horizon=horizon, **({} if window is None else {"window": window}))
        for name, value in (("clip", clip), ("max_drift", max_drift)):
            if value is not None:
                check_positive(name, value)
        check_parts(task, model, rule, optimizer)
        if ranks is not None and (compile or rule.counts_streams):
            given = "compile: got true" if compile else f"rule: got {type(rule).__name__}, which counts streams"
            raise ValueError(f"{given}, expected none of it on several ranks: leave torchrun out, or do without")
        if isinstance(optimizer, RLS):
            check_readout(model, compile or ranks is not None)
        if compile:
            model.check_graphs("compile")
        self.task, self.model, self.rule, self.optimizer = task, model, rule, optimizer
        self.window, self.clip, self.threads = window, clip, threads
        self.horizon, self.max_drift, self.compile, self.ranks = horizon, max_drift, compile, ranks
        self.rows = rows or Rows.of(task, model)
        self.reduction = Reduction(task)
        self.state: LoopState | None = None
        self.frozen, self._by_kernels = False, True
        self._parameters = list(model.parameters())
        self._build_update()
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
        self.restart(state)

    def restart(self, state: LoopState | None = None) -> None:
        """Go on from a state that was checked; None: new streams, weights and optimiser as they are."""
        self.state, self._length = state, 0
        if state is not None and self.ranks is not None:
            own = self.ranks.rows(len(state.x))
            past = tree_map(lambda tensor: tensor[own].clone(), [state.model_state, state.trace])
            meters = {} if self.ranks.rank else state.meters
            self.state = replace(state, model_state=past[0], trace=past[1], meters=meters)

    def gathered(self) -> LoopState | None:
        """Return the state of all ranks' streams, on the first of them; all call it after the same update."""
        if self.state is None or self.ranks is None:
            return self.state
        past = self.ranks.gather([self.state.model_state, self.state.trace], len(self.state.x))
        return replace(self.state, model_state=past[0], trace=past[1])

    def peek(self, chunk: Chunk) -> Tensor:
        """Return the predictions (b, t, d_out) for a chunk as `inputs.checked` gives it; nothing moves.

        They are those that `update` reports of it, which reads the chunk once more to learn from it.
        """
        state = self._begun(chunk)
        x, reset = append(state.x, chunk.x), append(state.reset, chunk.reset)
        resets = reset if bool(reset.any()) else None
        reading = self.model.read(x, state.context, resets)
        inputs = self._of_rank(UpdateInput(x, resets, chunk, state.model_state, state.trace, reading))
        count = threading.resolve(self.threads, state.nbytes(x.shape[1]))
        with threading.using(count), torch.no_grad():
            out, _ = self._output(inputs.x, inputs.state, inputs.reset, inputs.reading, len(x))
            out = out[:, -chunk.x.shape[1] :]
        return out if self.ranks is None else self.ranks.whole(out, len(x))

    def update(self, chunk: Chunk) -> Report:
        """Predict a chunk as `inputs.checked` gives it, and learn from it.

        An update without a labelled step moves state and trace, not the optimiser. Where outputs, loss or learning
        signals are not finite nothing moves: weights, state and trace are held, and where only the gradient or the new
        weights are not, weights and optimiser are; `state.skipped` counts all. Steps that wait for an answer as long as
        the window holds them may be answered still.
        Raises ValueError for a window shorter than the chunk, FloatingPointError after 100 such updates in a row.
        """
        state, new = self._begun(chunk), chunk.x.shape[1]
        window = self.window or new
        if window < new:
            raise ValueError(f"window: got {self.window} steps, expected at least the {new} steps of a chunk")
        if not self._length:
            self._length, self._count = new, threading.resolve(self.threads, state.nbytes(window))
        x, reset = append(state.x, chunk.x), append(state.reset, chunk.reset)
        advance = self._advance(x.shape[1], new)
        usual = state.steps > 0 and new == self._length and x.shape[1] == window
        output, learned = self._pass(state, x, reset, chunk, advance, usual)
        state.steps += new
        if bool(output.forward_finite):
            release(state, x, reset, advance)
        norm = output.norm if learned else None
        return Report(chunk, output.out, output.loss, norm, output.spikes, state, self._count)

    def scan(self, chunk: Chunk, length: int) -> Report:
        """Predict and learn a chunk of many updates of `length` steps each, as `update` does one after another.

        Where the data lies ready and kernels serve (blocks that `kinds` has, without n-grams, Adam, a cross entropy, no
        window), all updates are made in one call. The report is of the whole chunk, its loss the updates' mean, its
        norm the last one's. A shorter update comes last where `length` does not divide the steps.
        Raises what `update` raises.
        """
        check_sizes(length=length)
        reports, whole = list[Report](), chunk
        while (steps := chunk.x.shape[1]) and not self._scans(chunk, length):
            piece = chunk.map(lambda tensor: tensor[:, :length])
            reports.append(self.update(piece))
            chunk = chunk.map(lambda tensor: tensor[:, length:])
        if steps:
            many = steps // length * length
            reports.append(self._scan(chunk.map(lambda tensor: tensor[:, :many]), length))
            rest = chunk.map(lambda tensor: tensor[:, many:])
            reports += [self.update(rest)] if rest.x.shape[1] else []
        last = reports[-1]
        weights = torch.tensor([math.ceil(report.out.shape[1] / length) for report in reports])
        losses = torch.stack([report.loss for report in reports])
        out = torch.cat([report.out for report in reports], dim=1)
        return last._replace(chunk=whole, out=out, loss=(losses * weights).sum() / weights.sum())

    def _scans(self, chunk: Chunk, length: int) -> bool:
        """Say whether the updates of a chunk can be made in one call."""
        between = self.frozen or self.window or self.max_drift or self.model.ngrams or self.compile
        held = self.state is None or self.state.x.shape[1] > 0
        if between or held or chunk.x.shape[1] < length or not isinstance(self._plain, Fused):
            return False
        return self._plain.takes(chunk.x[:, :length]) and self._plain.scans(chunk)

    def _scan(self, chunk: Chunk, length: int) -> Report:
        """Make the updates in one call."""
        state, own = self._begun(chunk), cast(Fused, self._plain)
        resets = chunk.reset if bool(chunk.reset.any()) else None
        inputs = UpdateInput(chunk.x, resets, chunk, state.model_state, state.trace)
        output, facts = own.scan(inputs, length)
        state.model_state, state.trace, state.live = output.state, output.trace, None
        labelled = chunk.mask.unflatten(1, (-1, length)).any(2).any(0).tolist()
        for (ok, _, taken), mask in zip(facts, labelled, strict=True):
            self._count_update(state, bool(ok), bool(taken), mask)
        state.steps += chunk.x.shape[1]
        release(state, append(state.x, chunk.x), append(state.reset, chunk.reset), chunk.x.shape[1])
        norm = output.norm if facts[-1][2] else None
        return Report(chunk, output.out, output.loss, norm, output.spikes, state, 1)

    def without_kernels(self) -> None:
        """Have updates made by torch's operations, where kernels would serve, to look at what they hold."""
        self._by_kernels = False
        self._build_update()

    def set_origin(self) -> None:
        """Count `drift` from the weights as they are now."""
        self.origin = [parameter.detach().clone() for parameter in trainable_parameters(self.model)]

    def drift(self) -> float:
        """Return how far the weights are from where they began, |theta - theta_0| / |theta_0|, n-gram tables aside."""
        with torch.no_grad():
            weights = trainable_parameters(self.model)
            far = [torch.linalg.vector_norm(now - then) for now, then in zip(weights, self.origin, strict=True)]
            began = [torch.linalg.vector_norm(then) for then in self.origin]
            return float(torch.stack(far).norm() / torch.stack(began).norm())

    def _pass(
        self, state: LoopState, x: Tensor, reset: Tensor, chunk: Chunk, advance: int, usual: bool
    ) -> tuple[UpdateOutput, bool]:
        """Read x (b, w), learn from the chunk at its end, move state and trace; say whether anything was learned."""
        if [parameter.requires_grad for parameter in self._parameters] != self._requires_grad:
            self._build_update()
        labelled, new = bool(chunk.mask.any()) and not self.frozen, chunk.x.shape[1]
        resets = reset if bool(reset.any()) else None
        reading = self.model.read(x, state.context, resets)
        inputs = self._of_rank(UpdateInput(x, resets, chunk, state.model_state, state.trace, reading))
        with threading.using(self._count):
            output = (self._compiled if usual else self._plain)(inputs, advance, labelled)
        if labelled and self.ranks is not None:
            self.ranks.check_loss(self.task, output.out, chunk)
        state.model_state, state.trace, state.live = output.state, output.trace, None
        if bool(output.forward_finite):
            state.context = reading and reading.context_at(resets, advance)
        learned = output.gradient_finite is not None and bool(output.gradient_finite)
        self._count_update(state, bool(output.forward_finite), learned, labelled)
        if learned and reading:
            embedding, logits = output.read
            own = self.reduction.own(logits[:, -new:], output.out, chunk)  # rows learn from each step's own loss
            self.model.learn_rows(reading, embedding * own, logits[:, -new:] * own)
        if learned and self.max_drift is not None:
            self._draw_back(self.max_drift)
        return output, learned

    def _advance(self, steps: int, new: int) -> int:
        """Return by how many of the steps held, `new` of them new, state and trace move on."""
        return max(0, steps + new - (self.window or new))

    def _output(
        self,
        x: Tensor,
        state: Tree,
        reset: Tensor | None,
        reading: Reading | None,
        streams: int | None = None,
    ) -> tuple[Tensor, Tree]:
        """Return the outputs (b, t, d_out) for x and the state behind it, as an update says them.

        streams: of all ranks (default: b).
        """
        if isinstance(self._plain, Fused) and self._plain.takes(x, streams):
            return self._plain.predict(x, state, reset, reading)
        out, after, _ = self.model(x, state, reset, reading=reading)
        return out, after

    def _begun(self, chunk: Chunk) -> LoopState:
        """Return the state, begun where there is none; of several ranks the first alone keeps meters."""
        if self.state is None and self.ranks is not None:
            own = self.ranks.rows(len(chunk.x))
            state = LoopState.begin(chunk.map(lambda tensor: tensor[own]), self.task, self.model, self.rule)
            meters = {} if self.ranks.rank else state.meters
            self.state = replace(state, x=chunk.x[:, :0], reset=chunk.reset[:, :0], meters=meters)
        self.state = self.state or LoopState.begin(chunk, self.task, self.model, self.rule)
        return self.state

    def _of_rank(self, inputs: UpdateInput) -> UpdateInput:
        """Return what an update reads, of this rank's streams; its chunk stays whole."""
        if self.ranks is None:
            return inputs
        own = self.ranks.rows(len(inputs.x))
        reset, reading = inputs.reset, inputs.reading
        return inputs._replace(
            x=inputs.x[own], reset=None if reset is None else reset[own], reading=reading and reading.of(own)
        )

    def _build_update(self) -> None:
        """Build the update of the weights that require a gradient now; `drift` counts from here."""
        self._requires_grad = [parameter.requires_grad for parameter in self._parameters]
        parts = self.model, self.task, self.rule, Step(self.optimizer, trainable_parameters(self.model)), self.clip
        by_kernels = self._by_kernels and all(self._requires_grad) and serves(self.model, self.rule)
        self._plain: Callable[..., UpdateOutput] = partial(update, *parts, ranks=self.ranks)
        if isinstance(self.optimizer, RLS):
            self._plain = partial(update_readout, self.model, self.task, self.rule, self.optimizer)
        elif by_kernels:
            self._plain = Fused(*parts, self.ranks)
        self._compiled = Compiled(*parts, self._plain) if self.compile else self._plain
        for parameter in self._parameters:
            if not parameter.requires_grad:
                parameter.grad = None  # or the optimiser would use an old one again
        self.set_origin()

    def _count_update(self, state: LoopState, finite: bool, learned: bool, labelled: bool) -> None:
        """Count an update as taken or skipped."""
        state.updates += learned
        if learned or (finite and not labelled):
            self._failures = 0
            return
        self._failures += 1
        state.skipped += 1
        if self._failures == PATIENCE:
            raise FloatingPointError(
                f"{PATIENCE} updates in a row were not finite, the last at step {state.steps}: "
                "lower the learning rate or clip the gradient"
            )

    @torch.no_grad()
    def _draw_back(self, most: float) -> None:
        """Move the weights towards where they began, until they are no further than that."""
        drift = self.drift()
        if drift > most:
            for now, then in zip(trainable_parameters(self.model), self.origin, strict=True):
                now.copy_(then + (now - then) * (most / drift))

    def _like(self, tensor: Tensor) -> Tensor:
        """Return a tensor where the weights are, and in their precision where it holds real values."""
        weight = self.model.head.weight
        return tensor.to(weight) if tensor.is_floating_point() else tensor.to(weight.device)


def append(held: Tensor, new: Tensor) -> Tensor:
    """Return the steps held and the new ones; without a window none are held."""
    return torch.cat([held, new], dim=1) if held.shape[1] else new


def release(state: LoopState, x: Tensor, reset: Tensor, advance: int) -> None:
    """Hold the steps of x from `advance` on; those before can be answered no longer."""
    state.x, state.reset, state.base = x[:, advance:], reset[:, advance:], state.base + advance
    for ticket in [ticket for ticket, step in state.waiting.items() if step < state.base]:
        del state.waiting[ticket]
