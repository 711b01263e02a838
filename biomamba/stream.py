"""What flows into the online loop, and who makes it.

    files -> Task.stream -> Chunk -> online()

Shapes: b streams side by side, t steps of time.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Split = Literal["train", "valid", "test", "all"]


class Chunk(NamedTuple):
    """The next t steps of b streams."""

    x: Tensor  # (b, t) tokens, int64, or (b, t, d_in) real values
    y: Tensor  # (b, t) or (b, t, ...) what the task's loss and meters need to know
    mask: Tensor  # (b, t) bool: this step has a loss; a chunk without one moves state and trace alone
    reset: Tensor  # (b, t) bool: a new sequence begins at this step


@runtime_checkable
class Attentive(Protocol):
    """A stream whose next chunk depends on what the model said of those before, so it must be told."""

    def hear(self, out: Tensor, chunk: Chunk) -> None:
        """Take in the predictions (b, t, d_out) for a chunk; the loops call it before they draw the next."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` needs to go on from here."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state, the stream having been started at that time step."""


class Spec(NamedTuple):
    """What a task's streams ask of a model: `vocab` for tokens, else `d_in` for real values."""

    d_out: int
    vocab: int | None = None
    d_in: int | None = None


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
    """A source of streams, the loss on them and their scores; tasks implement this without inheriting."""

    @property
    def spec(self) -> Spec:
        """What the model must take and give."""

    @property
    def splits(self) -> Mapping[str, str]:
        """Every part of the data that can be asked for, by name, each in a few words."""

    @property
    def held_out(self) -> Split:
        """The split that scores what was learned from split "train"."""

    @property
    def step_seconds(self) -> float | None:
        """How much of the world's time a time step brings, seconds; None where it brings none."""

    @property
    def source(self) -> str:
        """One line naming the data in use, for example the file, or that it is simulated."""

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int | None:
        """Return how many time steps each stream of the split has, drawn by `seed`; None where it never ends."""

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from time step `start` on, `length` steps at a time (the last may be shorter).

        The chunks laid end to end depend neither on `length` nor on `start`.
        """

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the scalar loss (nats) of the masked steps of a chunk; 0 where there is none."""

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters by name, such as `accuracy`, `bits_per_byte`, `loss`."""

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the trivial baselines over the first `steps` steps of the split, by name.

        Each is {"score": {"all": x, "last_tenth": y}}, with the scores of `meters`.
        """

    def parts(self, split: str) -> Mapping[str, "Task"]:
        """Return, by name, a task for each person or record of a split, to adapt to each from the same weights.

        Empty where the split does not come in parts.
        """
