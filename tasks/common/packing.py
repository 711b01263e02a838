"""Recordings laid end to end on b rows: what every task whose data comes in segments streams.

    row 0   | recording 0      | recording 2 | recording 5    |
    row 1   | recording 1 | recording 3   | recording 4  |####|     # filled up: no label, input 0

Each recording goes to the row that ends first; a row begins each with a reset. A recording is read only when the
stream gets there, a segment at a time, so memory does not grow with the data.

Shapes: b rows, t steps of a chunk, s steps of a segment.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from biomamba.stream import Chunk, join


class Segment(NamedTuple):
    """The next s steps of a recording."""

    x: Tensor  # (s, ...) as in Chunk, without b
    y: Tensor  # (s, ...)
    mask: Tensor  # (s,) bool
    info: dict[str, Tensor] = {}  # noqa: RUF012 - (s, ...) by name; shared: nobody may write into it


class Recording(Protocol):
    """One utterance, record or trial: a sequence that has nothing to do with the one before it."""

    @property
    def steps(self) -> int:
        """How many steps it takes on a row; known without reading it."""

    def read(self) -> Iterator[Segment]:
        """Yield it from its beginning, at most `steps` steps in all; what is missing at its end is filled up."""


class Timed(Protocol):
    """What takes time on a row."""

    @property
    def steps(self) -> int:
        """How many steps."""


Rows = Sequence[Sequence[Recording]]
T = TypeVar("T", bound=Timed)


def in_passes(own: Sequence[T], passes: int, seed: int) -> list[T]:
    """Return all of them once a pass, each time in another order."""
    random = np.random.default_rng(seed)
    return [own[i] for _ in range(passes) for i in random.permutation(len(own))]


def assign_rows(recordings: Iterable[T], batch: int) -> list[list[T]]:
    """Return the recordings in `batch` rows: in their order, each to the row that ends first."""
    rows: list[list[T]] = [[] for _ in range(batch)]
    ends = [(0, row) for row in range(batch)]
    for recording in recordings:
        end, row = heapq.heappop(ends)
        rows[row].append(recording)
        heapq.heappush(ends, (end + recording.steps, row))
    return rows


def steps(rows: Iterable[Iterable[Timed]]) -> int:
    """Return how many steps the longest row has."""
    return max(sum(recording.steps for recording in row) for row in rows)


def iterate(rows: Rows, padding: Segment, length: int, start: int = 0) -> Iterator[Chunk]:
    """Yield the rows from time step `start` on, `length` steps at a time; the last chunk may be shorter.

    padding: one step (1, ...) of silence without a label, which fills up.
    The chunks laid end to end depend neither on `length` nor on `start`.
    """
    total = steps(rows)
    players = [_Row(row, padding, total, start) for row in rows]
    for step in range(start, total, length):
        now = min(length, total - step)
        yield join([player.take(now) for player in players], axis=0)


class _Row:
    """One row, from `start` on."""

    def __init__(self, recordings: Sequence[Recording], padding: Segment, total: int, start: int) -> None:
        """Take the recordings and what fills up, to `total` steps."""
        self.parts = self._parts(recordings, padding, total, start)
        self.held: list[Chunk] = []
        self.size = 0

    def take(self, length: int) -> Chunk:
        """Return the next `length` steps."""
        while self.size < length:
            part = next(self.parts)
            self.held.append(part)
            self.size += part.mask.shape[1]
        joined = join(self.held) if len(self.held) > 1 else self.held[0]
        self.held = [joined.between(length)]
        self.size -= length
        return joined.between(0, length)

    @staticmethod
    def _parts(recordings: Sequence[Recording], padding: Segment, total: int, start: int) -> Iterator[Chunk]:
        """Yield all that begins at `start`, as chunks of one row."""
        ends = list(accumulate(recording.steps for recording in recordings))
        for recording, end in zip(recordings, ends, strict=True):
            if end <= start:
                continue
            at = end - recording.steps
            for segment in _filled(recording, padding):
                size = segment.mask.shape[1]
                skip = min(max(0, start - at), size)
                if skip < size:
                    yield _begun(segment, at == end - recording.steps).between(skip)
                at += size
        end = ends[-1] if ends else 0
        yield _begun(_repeat(padding, total - max(end, start)), start <= end)


def _filled(recording: Recording, padding: Segment) -> Iterator[Chunk]:
    """Yield the segments of a recording as chunks of one row, no more than its steps, and what they lack of these."""
    left, segments = recording.steps, recording.read()
    while left and (segment := next(segments, None)) is not None:  # no further than its steps: it may hold many more
        yield _row(segment).between(0, left)
        left -= min(left, len(segment.mask))
    if left:
        yield _repeat(padding, left)


def _row(segment: Segment) -> Chunk:
    """Return a segment as a chunk of one row, without a reset."""
    x, y, mask, info = segment
    return Chunk(x, y, mask, torch.zeros_like(mask), info).map(lambda tensor: tensor[None])


def _repeat(padding: Segment, count: int) -> Chunk:
    """Return `count` steps of the padding."""
    return _row(padding).map(lambda tensor: tensor.expand(1, count, *tensor.shape[2:]))


def _begun(chunk: Chunk, begins: bool) -> Chunk:
    """Return a chunk whose first step begins a new sequence, where it does."""
    reset = torch.zeros_like(chunk.mask)
    reset[:, :1] = begins
    return chunk._replace(reset=reset)
