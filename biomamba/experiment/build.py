"""What a config stands for: a task, and a model with the rule and the optimiser that teach it.

config -> Experiment.from_config -> task, model, rule, optimizer -> online
"""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..blocks import BLOCKS
from ..learner import Learner, Report
from ..loop import evaluate, online
from ..loop_state import LoopState
from ..model import Model
from ..ops.backend import resolve
from ..ranks import Ranks
from ..readout import RLS
from ..rules import RULES, LearningRule
from ..stream import Benchmark, Chunk, StatefulStream, Task
from ..threads import available
from . import config as configs
from . import log, memory, schedule, warm
from .average import Average
from .config import Config, ModelConfig
from .predictions import Predictions
from .registry import OPTIMIZERS, TASKS

TIME_OPTIONS = ("dt_min", "dt_max", "A_min", "A_max")  # of blocks, which say their time constants at first
LONG = 256  # steps per chunk where nothing is learned; the scores do not depend on it


class limit(StatefulStream):  # noqa: N801 - called like a function, as itertools.islice is
    """The first `steps` steps of a stream."""

    def __init__(self, stream: Iterator[Chunk], steps: int) -> None:
        """Take the stream."""
        self.stream, self.left = StatefulStream.of(stream), steps

    def __next__(self) -> Chunk:
        """Return the next chunk, cut where the steps end."""
        if self.left <= 0:
            raise StopIteration
        chunk = next(self.stream)
        left, self.left = self.left, self.left - chunk.x.shape[1]
        return chunk if self.left >= 0 else chunk.between(0, left)

    @property
    def waits(self) -> bool:
        """Whether the stream waits for what is said."""
        return self.stream.waits

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        """Pass on what the model says."""
        self.stream.observe(out, chunk)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the stream's state."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Give the stream its state back."""
        self.stream.load_state_dict(state)


@dataclass
class Experiment:
    """A config, and the objects it stands for."""

    config: Config
    task: Benchmark
    learner: Learner
    total: int  # time steps of each stream
    average: Average | None = None

    @classmethod
    def from_config(cls, config: Config, task: Task | None = None, ranks: Ranks | None = None) -> "Experiment":
        """Build what the config says; `task` stands for the config's own where it is given.

        ranks: the processes among which its streams are spread.

        Sets the threads of the process. Raises ValueError and FileNotFoundError for what cannot be built.
        """
        task = Benchmark.of(task or task_of(config))
        config = replace(config, model=warm.sizes(config.model))
        length, window = config.stream.length, config.rule.window
        if window is not None and window < length:
            raise ValueError(f"rule.window: got {window} steps, expected at least stream.length, {length} steps")
        total = steps_to_take(task, config.stream.split, config.stream.batch, config.run.seed, config.stream.steps)
        if ranks is not None:
            ranks.rows(config.stream.batch)
            if not task.replayable:
                raise ValueError(f"task: {task.source} is read as it comes, by one process: leave torchrun out")
        if total < length:
            raise ValueError(f"stream.length: got {length} steps, expected at most the {total} steps of a stream")
        schedule.check(config.optim, total)
        check_together(config, task, ranks)
        learner, decay = build_learner(config, task, ranks=ranks), config.optim.average
        average = None if decay is None else Average(task, learner.model, decay, total, config.run.threads)
        return cls(config, task, learner, total, average)

    @property
    def model(self) -> Model:
        """The learner's model."""
        return self.learner.model

    def stream(self, start: int = 0, steps: int | None = None) -> limit:
        """Return the config's stream from time step `start` on: `steps` of it, or all that are to be learned."""
        own = self.config.stream
        length, seed = own.length * own.together, self.config.run.seed
        chunks = self.task.stream(own.split, batch=own.batch, length=length, seed=seed, start=start)
        return limit(chunks, self.total - start if steps is None else steps)

    def online(
        self, chunks: Iterator[Chunk], state: LoopState | None = None, predictions: Predictions | None = None
    ) -> Iterator[Report]:
        """Yield the reports of the online loop over the chunks, the learning rate moving along the stream.

        state: where to go on (default: streams begin anew). predictions: who is told them before they are learned from.
        """
        self.learner.restart()
        self._set_rate(state.steps if state else 0)
        if predictions is not None:
            chunks = predictions.before(chunks, self.learner, state.steps if state else 0)
        chunks = self.average.beside(chunks) if self.average else chunks
        length = self.config.stream.length if self.config.stream.together > 1 else None
        for report in online(chunks, self.learner, state, length):
            self._set_rate(report.state.steps)
            if self.average:
                self.average.update(report)
            yield report

    def evaluate(self, split: str, steps: int | None, label: str, model: Model | None = None) -> log.Scored:
        """Return the scores of a split, learning off, of the model or of another one; steps None: all of it."""
        if not sys.stderr.isatty():
            print(f"scoring {label} ...", flush=True)
        batch, seed = self.config.stream.batch, self.config.run.seed
        total = steps_to_take(self.task, split, batch, seed, steps)
        chunks = limit(self.task.stream(split, batch=batch, length=min(LONG, total), seed=seed), total)
        scored = evaluate(chunks, self.task, model or self.model, threads=self.config.run.threads)
        return log.score(scored, self.task, total, label)

    def baselines(self) -> dict[str, log.Scores]:
        """Return the scores of the model as the seed drew it, learning off, and of the task's trivial predictors."""
        stream, seed, task = self.config.stream, self.config.run.seed, self.task
        untrained = build_model(self.config, task)
        scored = self.evaluate(stream.split, self.total, "the untrained model", untrained)
        scores = {"frozen": scored.scores}
        scores |= task.baseline(stream.split, batch=stream.batch, seed=seed, steps=self.total)
        if self.config.run.held_out:
            self.add_held_out(scores["frozen"], untrained)
            for label, own in task.baseline(task.held_out, batch=stream.batch, seed=seed).items():
                for name, value in own.items():
                    scores[label][name]["held_out"] = value["all"]
        return scores

    def add_held_out(self, scores: log.Scores, model: Model | None = None) -> None:
        """Add the scores of the held-out split, read once, learning off; of an endless one as many steps as learned."""
        split, own = self.task.held_out, self.config
        endless = self.task.steps(split, batch=own.stream.batch, seed=own.run.seed) is None
        scored = self.evaluate(split, self.total if endless else None, f"split {split}, learning off", model)
        for name, value in scored.scores.items():
            scores[name]["held_out"] = value["all"]

    def _set_rate(self, done: int) -> None:
        """Set the learning rate of the update after `done` steps."""
        value = schedule.rate(self.config.optim, done, self.total, self.config.stream.length)
        schedule.set_rates(self.learner.optimizer, value)


def check_together(config: Config, task: Benchmark, ranks: Ranks | None) -> None:
    """Raise ValueError where several updates are to be made in one call and something is to happen between them."""
    optim, run = config.optim, config.run
    between = {
        "optim.schedule": optim.schedule not in (None, "constant") or optim.lr_end is not None or optim.warmup > 0,
        "optim.average": optim.average is not None,
        "run.predictions": run.predictions is not None,
        "torchrun": ranks is not None,
        task.source: not task.replayable,
    }
    asking = [name for name, asks in between.items() if asks]
    if config.stream.together > 1 and asking:
        raise ValueError(
            f"stream.together: got {config.stream.together}, but {asking[0]} asks for something between two updates: "
            "give --stream.together 1"
        )


def make_task(name: str, **options: Any) -> Benchmark:
    """Return a task by its name, that of the library or of an installed package, with the defaults of a benchmark.

    Raises ValueError for a name that there is not and for options that no data can satisfy, ImportError for a package
    that does not import.

    >>> make_task("delay", delay=4).source
    'simulated: store-recall, delay 4'
    """
    if name not in TASKS:
        raise ValueError(f"task: got {name!r}, expected one of {', '.join(TASKS)}")
    return Benchmark.of(TASKS[name](**options))


def task_of(config: Config) -> Benchmark:
    """Return the task that a config names. Raises what `make_task` does."""
    return make_task(config.task.name, **config.task.options)


def build_learner(config: Config, task: Task, **others: Any) -> Learner:
    """Return the learner of a config, weights drawn by its seed; others: options of `Learner` in place of its own.

    Sets the threads of the process. Raises ValueError for what cannot be built.
    """
    memory.keep_freed_memory()
    if config.run.threads is not None:
        if config.run.threads > available():
            raise ValueError(
                f"run.threads: got {config.run.threads}, expected at most the {available()} processors there are"
            )
        torch.set_num_threads(config.run.threads)
    sizes = warm.sizes(config.model)
    one = replace(sizes, n_layers=1)
    with warm.fitting(sizes):
        memory.check(lambda: _taught(config, _drawn(one, config, task)), sizes.n_layers, config.stream.batch)
    model, rule = _taught(config, build_model(config, task))
    kind = OPTIMIZERS[config.optim.name]
    options = configs.accepted(kind, {**asdict(config.optim), "fused": True})  # fused: one kernel, not one each
    groups = schedule.groups(model.head if kind is RLS else model, config.optim)
    own: dict[str, Any] = {
        "window": config.rule.window,
        "clip": config.optim.clip,
        "compile": config.run.compile,
        "threads": config.run.threads,
    }
    return Learner(task, model, rule, kind(groups, **options), **(own | others))


def build_model(config: Config, task: Task) -> Model:
    """Return the model with the weights that the seed draws, whatever the device and the precision."""
    try:
        torch.empty(0, device=config.run.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"run.device: got {config.run.device!r}, which torch cannot use here: give cpu") from error
    resolve(config.run.backend, torch.device(config.run.device).type)
    torch.manual_seed(config.run.seed)
    own = warm.sizes(config.model)
    model = _drawn(own, config, task)
    if own.from_ is not None:
        warm.begin(model, own, task)
    return model.to(config.run.device, getattr(torch, config.run.dtype))


def _drawn(own: ModelConfig, config: Config, task: Task) -> Model:
    """Return a model of the sizes `own`, as the rest of the config says, with weights as they are drawn."""
    given = asdict(own) | own.options | {"backend": config.run.backend, "feedback": config.rule.feedback}
    with warm.fitting(own):
        given["timescales"] = timescales(config, task)
        arguments = {name: value for name, value in given.items() if name not in ("options", "from_")}
        return Model(**task.spec._asdict(), **arguments)


def _taught(config: Config, model: Model) -> tuple[Model, LearningRule]:
    """Return a model and the rule that a config teaches it by."""
    return model, RULES[config.rule.name](model.blocks, **config.rule.options)  # type: ignore[arg-type]


def timescales(config: Config, task: Task) -> tuple[float, float] | None:
    """Return the time constants that states begin with, steps; None where the block's own options say them.

    Of `auto` a third of the task's horizon and three times it, where the task states one, the block has the four
    options that say time constants, and all stand at the official values.
    """
    own, horizon = config.model, Benchmark.of(task).horizon
    if not isinstance(own.timescales, str):
        return own.timescales
    there = inspect.signature(BLOCKS[own.block]).parameters
    official = all(
        name in there and own.options.get(name, there[name].default) == there[name].default for name in TIME_OPTIONS
    )
    return (max(1.0, horizon / 3), 3.0 * horizon) if horizon and official else None


def steps_to_take(task: Benchmark, split: str, batch: int, seed: int, wanted: int | None) -> int:
    """Return how many steps of each stream to take. Raises ValueError where that many are not available."""
    available = task.steps(split, batch=batch, seed=seed)
    if available is None and wanted is None:
        raise ValueError("stream.steps: got null, expected a number of time steps, as this task never ends: give 12000")
    if available is not None and wanted is not None and wanted > available:
        raise ValueError(f"stream.steps: got {wanted}, expected at most the {available} steps of {batch} streams")
    return wanted or available or 0
