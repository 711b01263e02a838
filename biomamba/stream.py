"""What flows into the online loop, and who makes it.

    files -> Task.stream -> Chunk -> online()

Shapes: b streams side by side, t steps of time.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor


class Chunk(NamedTuple):
    """The next t steps of b streams."""

    x: Tensor  # (b, t) tokens, int64, or (b, t, d_in) real values
    y: Tensor  # (b, t) or (b, t, ...) targets; anything where `mask` is false
    mask: Tensor  # (b, t) bool: this step is labelled, it is scored and has a loss
    reset: Tensor  # (b, t) bool: a new sequence begins at this step


class Spec(NamedTuple):
    """What a task's streams ask of a model: `vocab` for tokens, else `d_in` for real values."""

    d_out: int
    vocab: int | None = None
    d_in: int | None = None


class Meter(Protocol):
    """A streaming score. `get` may be asked at any time; nan where nothing has been scored."""

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Take in the predictions `out` (b, t, d_out) for a chunk, made before learning from it."""

    def get(self) -> float:
        """Return the score of everything taken in so far."""

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` needs to go on from here (plain numbers only)."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""


class Task(Protocol):
    """A source of streams, the loss on them and their scores; tasks implement this without inheriting."""

    @property
    def spec(self) -> Spec:
        """What the model must take and give."""

    @property
    def source(self) -> str:
        """One line naming the data in use, for example the file, or that it is simulated."""

    def steps(self, split: str, *, batch: int) -> int | None:
        """Return how many time steps each stream of the split has; None where it never ends."""

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from time step `start` on, `length` steps at a time (the last may be shorter).

        The chunks laid end to end depend neither on `length` nor on `start`.
        """

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the scalar loss (nats) of the labelled steps of a chunk; 0 where none is labelled."""

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters by name, such as `accuracy`, `bits_per_byte`, `loss`."""

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the trivial baselines over the first `steps` steps of the split, by name.

        Each is {"score": {"all": x, "last_tenth": y}}, with the scores of `meters`.
        """
