"""Recordings laid end to end on b rows: what every task whose data comes in pieces streams.

    row 0   | recording 0      | recording 2 | recording 5    |
    row 1   | recording 1 | recording 3   | recording 4  |####|     # filled up: no label, input 0

Each recording goes to the row that ends first; a row begins each with a reset. A recording is read only when the
stream gets there, a piece at a time, so memory does not grow with the data.

Shapes: b rows, t steps of a chunk, s steps of a piece.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from biomamba.stream import Chunk


class Piece(NamedTuple):
    """The next s steps of a recording."""

    x: Tensor  # (s, ...) as in Chunk, without b
    y: Tensor  # (s, ...)
    mask: Tensor  # (s,) bool


class Recording(Protocol):
    """One utterance, record or trial: a sequence that has nothing to do with the one before it."""

    @property
    def steps(self) -> int:
        """How many steps it takes on a row; known without reading it."""

    def read(self) -> Iterator[Piece]:
        """Yield it from its beginning, at most `steps` steps in all; what is missing at its end is filled up."""


class Lasting(Protocol):
    """What takes time on a row."""

    @property
    def steps(self) -> int:
        """How many steps."""


Rows = Sequence[Sequence[Recording]]
Piecewise = TypeVar("Piecewise", bound=Lasting)


def deal(recordings: Iterable[Piecewise], batch: int) -> list[list[Piecewise]]:
    """Return the recordings in `batch` rows: in their order, each to the row that ends first."""
    rows: list[list[Piecewise]] = [[] for _ in range(batch)]
    ends = [(0, row) for row in range(batch)]
    for recording in recordings:
        end, row = heapq.heappop(ends)
        rows[row].append(recording)
        heapq.heappush(ends, (end + recording.steps, row))
    return rows


def steps(rows: Iterable[Iterable[Lasting]]) -> int:
    """Return how many steps the longest row has."""
    return max(sum(recording.steps for recording in row) for row in rows)


def play(rows: Rows, blank: Piece, length: int, start: int = 0) -> Iterator[Chunk]:
    """Yield the rows from time step `start` on, `length` steps at a time; the last chunk may be shorter.

    blank: one step (1, ...) of silence without a label, which fills up.
    The chunks laid end to end depend neither on `length` nor on `start`.
    """
    total = steps(rows)
    players = [_Row(row, blank, total, start) for row in rows]
    for step in range(start, total, length):
        now = min(length, total - step)
        pieces = [player.take(now) for player in players]
        yield Chunk(*(torch.stack(field) for field in zip(*pieces, strict=True)))


class _Row:
    """One row, from `start` on."""

    def __init__(self, recordings: Sequence[Recording], blank: Piece, total: int, start: int) -> None:
        """Take the recordings and what fills up, to `total` steps."""
        self.parts = self._parts(recordings, blank, total, start)
        self.held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.size = 0

    def take(self, length: int) -> tuple[Tensor, ...]:
        """Return the next `length` steps: x, y, mask and reset."""
        while self.size < length:
            part = next(self.parts)
            self.held.append(part)
            self.size += len(part[2])
        joined = [torch.cat(field) if len(field) > 1 else field[0] for field in zip(*self.held, strict=True)]
        self.held = [tuple(field[length:] for field in joined)]  # type: ignore[list-item]
        self.size -= length
        return tuple(field[:length] for field in joined)

    @staticmethod
    def _parts(
        recordings: Sequence[Recording], blank: Piece, total: int, start: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield x, y, mask and reset of all that begins at `start`."""
        ends = list(accumulate(recording.steps for recording in recordings))
        for recording, end in zip(recordings, ends, strict=True):
            if end <= start:
                continue
            at = end - recording.steps
            for piece in _filled(recording, blank):
                reset = torch.zeros(len(piece.mask), dtype=torch.bool)
                reset[:1] = at == end - recording.steps
                skip = min(max(0, start - at), len(reset))
                at += len(reset)
                if skip < len(reset):
                    yield piece.x[skip:], piece.y[skip:], piece.mask[skip:], reset[skip:]
        end = ends[-1] if ends else 0
        first = torch.zeros(total - max(end, start), dtype=torch.bool)
        first[:1] = start <= end
        yield (*_repeat(blank, len(first)), first)


def _filled(recording: Recording, blank: Piece) -> Iterator[Piece]:
    """Yield the pieces of a recording, no more than its steps, and what they lack of these."""
    left, pieces = recording.steps, recording.read()
    while left and (piece := next(pieces, None)) is not None:  # no further than its steps: it may hold many more
        yield Piece(*(field[:left] for field in piece))
        left -= min(left, len(piece.mask))
    if left:
        yield _repeat(blank, left)


def _repeat(blank: Piece, count: int) -> Piece:
    """Return `count` steps of the blank."""
    return Piece(*(field.expand(count, *field.shape[1:]) for field in blank))
