"""What flows into the online loop, and who makes it.

    files -> Task.stream -> Chunk -> online()

Shapes: b streams side by side, t steps of time.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Split = Literal["train", "valid", "test", "all"]


class Chunk(NamedTuple):
    """The next t steps of b streams."""

    x: Tensor  # (b, t) tokens, int64, or (b, t, d_in) real values
    y: Tensor  # (b, t) or (b, t, ...) the target
    mask: Tensor  # (b, t) bool: this step has a loss; a chunk without one moves state and trace alone
    reset: Tensor  # (b, t) bool: a new sequence begins at this step
    info: dict[str, Tensor] = {}  # noqa: RUF012 - by name (b, t, ...), for meters beside y; shared: nobody may write into it

    def map(self, function: Callable[[Tensor], Tensor]) -> "Chunk":
        """Return the chunk with `function` applied to every tensor, those of `info` too."""
        info = {name: function(own) for name, own in self.info.items()}
        return Chunk(function(self.x), function(self.y), function(self.mask), function(self.reset), info)

    def between(self, start: int, stop: int | None = None) -> "Chunk":
        """Return the steps from `start` to before `stop` (default: to the end).

        >>> Chunk(*torch.ones(4, 2, 9)).between(6).x.shape
        torch.Size([2, 3])
        """
        return self.map(lambda tensor: tensor[:, start:stop])


def join(chunks: Sequence[Chunk], axis: int = 1) -> Chunk:
    """Return chunks of the same streams one after another, or, with axis 0, of other streams side by side."""
    x, y, mask, reset = (torch.cat(parts, axis) for parts in zip(*(chunk[:4] for chunk in chunks), strict=True))
    names = chunks[0].info
    return Chunk(x, y, mask, reset, {name: torch.cat([chunk.info[name] for chunk in chunks], axis) for name in names})


class StatefulStream(Iterator[Chunk]):
    """A stream whose next chunk may depend on what the model said of those before.

    As it stands it gives the chunks it is made of, and depends on nothing. One that does depend overrides `observe`,
    and the other two, with which an interrupted run goes on.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        """Take the chunks."""
        self.chunks = iter(chunks)

    @classmethod
    def of(cls, stream: Iterable[Chunk]) -> "StatefulStream":
        """Return the stream itself, or chunks that depend on nothing as such a stream."""
        return stream if isinstance(stream, StatefulStream) else StatefulStream(stream)

    def __next__(self) -> Chunk:
        """Return the next chunk."""
        return next(self.chunks)

    @property
    def waits(self) -> bool:
        """Whether the next chunk may depend on what is said: it overrides `observe`."""
        return type(self).observe is not StatefulStream.observe

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        """Take in the predictions (b, t, d_out) for a chunk; the loops call it before they draw the next."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` needs to go on from here."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state, the stream having been started at that time step."""


class Spec(NamedTuple):
    """What a task's streams ask of a model: `vocab` for tokens, else `d_in` for real values."""

    d_out: int
    vocab: int | None = None
    d_in: int | None = None


class RowFormat(NamedTuple):
    """What a row of a task's data is, for those who give a learner one after another."""

    inputs: list[str]  # names
    classes: list[str] | None  # names in the order of the outputs; None for values
    outputs: list[str]  # names of the values
    scaled: bool
    state: dict[str, Tensor]  # of the scalers, as `scaler.StandardScaler` has it: scaler.count, ..., targets.last


class Answers(NamedTuple):
    """What outputs say in the user's words and units."""

    asked: Tensor  # (b, t) bool: somebody waits for an answer at this step
    values: Tensor  # (b, t, k) probabilities of classes, or values in the user's units
    is_class: bool
    names: Sequence[str] | None = None  # of the k classes or values
    held: Tensor | None = None  # (b, t) bool: the input of this step was unusable, the model saw an earlier one


class Meter(Protocol):
    """A streaming score. `get` may be asked at any time; nan where nothing has been scored.

    One that is computed from another meter of the same task (see `metrics.Derived`) need not be updated itself.
    """

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Take in the predictions `out` (b, t, d_out) for a chunk, made before learning from it."""

    def get(self) -> float:
        """Return the score of everything taken in so far."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on from here (anything JSON can hold)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class Task(Protocol):
    """A source of streams, the loss on them and their scores: all that the loops ask. No need to inherit from it."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What the model must take and give."""

    @abstractmethod
    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Return the split from time step `start` on, `length` steps at a time (the last may be shorter).

        The chunks laid end to end depend neither on `length` nor on `start`. Where they depend on what the model says
        of those before, the iterator is a `StatefulStream`.
        """

    @abstractmethod
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the scalar loss (nats) of the masked steps of a chunk; 0 where there is none."""

    @abstractmethod
    def meters(self) -> dict[str, Meter]:
        """Return fresh meters by name, such as `accuracy`, `bits_per_byte`, `loss`."""


class Benchmark(Task):
    """A task with what experiments ask beside: inherit from it to say more than these defaults do."""

    @classmethod
    def of(cls, task: Task) -> "Benchmark":
        """Return the task itself, or one that inherits from no benchmark with the defaults of one."""
        return task if isinstance(task, Benchmark) else _Plain(task)

    @property
    def splits(self) -> Mapping[str, str]:
        """Every part of the data that can be asked for, by name, each in a few words."""
        return {"all": "all there is"}

    @property
    def held_out(self) -> Split:
        """The split that scores what was learned from split "train"."""
        return "all"

    @property
    def step_seconds(self) -> float | None:
        """How much of the world's time a time step brings, seconds; None where it brings none."""
        return None

    @property
    def replayable(self) -> bool:
        """Whether the same stream can be read again; not so where it is live."""
        return True

    def read_once(self) -> None:
        """Learn that nobody will read the stream a second time: what was read need not be kept for that."""

    @property
    def horizon(self) -> int | None:
        """How far back a prediction may have to look, time steps; None where nobody knows.

        Where it is given, models begin with time constants that reach so far (`model.timescales: auto`).
        """
        return None

    @property
    def reduction(self) -> str | None:
        """What the loss makes of the cross entropies of labelled steps, as torch calls it; None: it is another loss.

        mean: over the labelled steps; batchmean: their sum over the number of streams. A kernel then takes its place.
        """
        return None

    @property
    def source(self) -> str:
        """One line naming the data in use, for example the file, or that it is simulated."""
        return type(self).__name__

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int | None:
        """Return how many time steps each stream of the split has, drawn by `seed`; None where nobody knows."""
        return None

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the trivial baselines over the first `steps` steps of the split, by name.

        Each is {"score": {"all": x, "last_tenth": y}}, with the scores of `meters`.
        """
        return {}

    def row_format(self, split: str, *, batch: int, steps: int) -> RowFormat | None:
        """Return what a row is after so many steps of each stream; None where streams bring inputs made otherwise."""
        return None

    def left_out(self, meters: Mapping[str, Meter]) -> Sequence[str]:
        """Return lines that count and name what of the data was not used, and why: rows, beats, events, channels.

        meters: those of a run that has ended.
        """
        return ()

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return what the predictions `out` (b, t, d_out) for a chunk say, of its labels nothing but where they are.

        Without a word of the task's own: classes by softmax where y is of whole numbers, else values as they are; at
        the steps that have a loss.
        """
        is_class = not chunk.y.is_floating_point()
        return Answers(chunk.mask, out.softmax(-1) if is_class else out, is_class)

    def parts(self, split: str) -> Mapping[str, Task]:
        """Return, by name, a task for each person or record of a split, to adapt to each from the same weights.

        Empty where the split does not come in parts.
        """
        return {}


class _Plain(Benchmark):
    """A task that has what the loops ask, and the defaults of a benchmark."""

    def __init__(self, task: Task) -> None:
        """Take the task."""
        self.task = task

    @property
    def spec(self) -> Spec:
        """Return the task's."""
        return self.task.spec

    @property
    def source(self) -> str:
        """Return the name of the task's class."""
        return type(self.task).__name__

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Return the task's."""
        return self.task.stream(split, batch=batch, length=length, seed=seed, start=start)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the task's."""
        return self.task.loss(out, chunk)

    def meters(self) -> dict[str, Meter]:
        """Return the task's."""
        return self.task.meters()
