"""Averaged weights beside those that learn: they predict each chunk before it is learned from, and are scored on it.

    averaged += (1 - d) (weights - averaged)       after each update;   d = min(decay, (1 + n) / (10 + n)),  n updates

Polyak and Juditsky 1992; d begins small, as TensorFlow's ExponentialMovingAverage has it, so that the weights as drawn
are soon forgotten. The optimiser knows nothing of them, and n-gram tables are shared, not averaged.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ..checkpoint import loop_facts, loop_tensors, restored_loop, under
from ..learner import Report
from ..loop import evaluate
from ..loop_state import LoopState
from ..model import Model
from ..stream import Chunk, StatefulStream, Task
from . import log

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass
class Average:
    """Averaged weights, their own state in the streams and their scores."""

    task: Task
    live: Model
    decay: float
    total: int  # time steps of each stream
    threads: int | None = None  # that a prediction takes, as for `evaluate`
    state: LoopState | None = None
    chunks: deque[Chunk] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin with a copy of the weights."""
        tables, self.live.ngrams = self.live.ngrams, None  # large, and shared
        self.averaged = AveragedModel(self.live, multi_avg_fn=self._move)
        self.live.ngrams = self.model.ngrams = tables
        self.last_tenth = self.task.meters()
        self.reports: Iterator[Report] | None = None

    @property
    def model(self) -> Model:
        """The model with averaged weights."""
        model = self.averaged.module
        assert isinstance(model, Model)
        return model

    @property
    def scores(self) -> log.Scores:
        """The scores so far; empty before the first chunk."""
        return log.summarize(self.state.meters, self.last_tenth) if self.state else {}

    def predict(self, chunk: Chunk) -> None:
        """Predict a chunk, before anything is learned from it, and score that."""
        self.chunks.append(chunk)
        if self.reports is None:
            self.reports = evaluate(iter(self.chunks.popleft, None), self.task, self.model, self.state, self.threads)
        report = next(self.reports)
        self.state = report.state
        log.update_last_tenth(report, self.last_tenth, self.total)

    def update(self, report: Report) -> None:
        """Move towards the weights where something was learned."""
        if report.norm is not None:
            self.averaged.update_parameters(self.live)

    def beside(self, stream: Iterator[Chunk]) -> StatefulStream:
        """Return a stream whose chunks these weights predict when they are drawn."""
        return _Beside(self, stream)

    def collect(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the facts that `restore` needs."""
        assert self.state is not None
        tensors: dict[str, Tensor] = {f"average.model.{name}": own for name, own in self.model.named_parameters()}
        tensors |= {f"average.{name}": own for name, own in loop_tensors(self.state).items()}
        late = {name: meter.state_dict() for name, meter in self.last_tenth.items()}
        return tensors, {"loop": loop_facts(self.state), "last_tenth": late, "count": int(self.averaged.n_averaged)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"average.model.{name}"])
        self.averaged.n_averaged.fill_(facts["count"])
        for name, meter in self.last_tenth.items():
            meter.load_state_dict(facts["last_tenth"][name])
        self.state = restored_loop(under(tensors, "average."), facts["loop"], self.task, self.model)

    @torch.no_grad()
    def _move(self, averaged: Tensors, weights: Tensors, count: Tensor | int) -> None:
        """Move the averaged weights towards the others, `count` updates averaged before."""
        n = int(count)
        torch._foreach_lerp_(averaged, weights, 1 - min(self.decay, (1 + n) / (10 + n)))


class _Beside(StatefulStream):
    """A stream that averaged weights follow."""

    def __init__(self, average: Average, stream: Iterator[Chunk]) -> None:
        """Take both."""
        super().__init__(stream)
        self.average, self.stream = average, StatefulStream.of(stream)

    def __next__(self) -> Chunk:
        """Return the next chunk, which the averaged weights have predicted."""
        chunk = next(self.stream)
        self.average.predict(chunk)
        return chunk

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        """Pass on what the weights that learn say."""
        self.stream.observe(out, chunk)
