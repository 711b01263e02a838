"""The chunks of `speech_ctc`: every utterance twice on its row, the second time with what the first has taught.

Shapes: b rows, t steps, k symbols.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from biomamba.stream import Chunk

from ..common import packing as playlist
from ..common.packing import Piece
from . import signal as audio
from .augment import AS_IT_IS, Change
from .ctc import posteriors
from .files import Utterance
from .scores import COLUMNS, HEARD, LAST, LOUD, PLACE, SYMBOLS, UTTERANCE, loud, spelled

RATE = audio.RATE["an4"]
FIRST, AGAIN = 1.0, 2.0  # values of the column HEARD; 0 where a hearing is filled up
Kept = dict[int, list[Tensor]]  # by place, the log probabilities (t, k) of a first hearing


@dataclass(frozen=True)
class Lesson:
    """Two hearings: an utterance, its number among all, and the place that it has in the stream."""

    utterance: Utterance
    samples: int
    number: int
    place: int
    stack: int
    align: int
    change: Change = AS_IT_IS

    @property
    def steps(self) -> int:
        """Return the steps of both hearings."""
        return 2 * self.half

    @cached_property
    def half(self) -> int:
        """Return the steps of one hearing, a multiple of `align`."""
        return audio.steps(self.change.samples(self.samples), RATE, self.stack, self.align)

    def hearing(self, which: float, gamma: Tensor | None = None) -> Piece:
        """Return one hearing: inputs, and y of which the second has gamma."""
        features = audio.log_mel(self.change.wave(self.utterance.wave(RATE)), RATE)
        heard = audio.stacked(self.change.bands(audio.normalised(features)), self.stack)
        count = len(heard)
        x = torch.nn.functional.pad(heard, (0, 0, 0, self.half - count))
        y = torch.zeros(self.half, COLUMNS)
        y[:, PLACE], y[:, UTTERANCE], y[:count, HEARD] = self.place, self.number, which
        y[:count, LOUD], y[count - 1, LAST] = loud(features, self.stack, count), 1
        mask = torch.zeros(self.half, dtype=torch.bool)
        if gamma is not None:
            y[:count, :SYMBOLS], mask[:count] = gamma.float(), True
        return Piece(x, y, mask)


@dataclass(frozen=True)
class _Hearing:
    """One of the two hearings of a lesson, as a recording of its own."""

    lesson: Lesson
    which: float
    kept: Kept = field(repr=False)

    @property
    def steps(self) -> int:
        """Return its steps."""
        return self.lesson.half

    def read(self) -> Iterator[Piece]:
        """Yield it; the second needs what was said at the first."""
        if self.which == FIRST:
            yield self.lesson.hearing(FIRST)
            return
        said = self.kept.get(self.lesson.place)
        if not said:
            raise ValueError("the stream was not told what the model said of its last chunk: call its `hear`")
        yield self.lesson.hearing(AGAIN, posteriors(torch.cat(said), spelled(self.lesson.utterance.said)))


class Lessons:
    """An iterator over chunks that must be told, by `hear`, what the model says of each before it gives the next."""

    def __init__(self, rows: Iterable[Iterable[Lesson]], inputs: int, align: int, length: int, start: int) -> None:
        """Begin at time step `start` of the rows. Raises ValueError where `length` does not divide `align`.

        inputs: values of a step. length: steps of a chunk; one above `align` gives chunks of `align`.
        """
        length = min(length, align)
        if align % length:
            raise ValueError(f"stream.length is {length}, expected one that divides task.align, {align} steps")
        nothing = torch.zeros(1, COLUMNS)
        nothing[:, PLACE] = -1
        blank = Piece(torch.zeros(1, inputs), nothing, torch.zeros(1, dtype=torch.bool))
        self.kept: Kept = {}
        hearings = [[_Hearing(one, which, self.kept) for one in row for which in (FIRST, AGAIN)] for row in rows]
        self.chunks = playlist.play(hearings, blank, length, start)

    def __iter__(self) -> Iterator[Chunk]:
        """Return itself."""
        return self

    def __next__(self) -> Chunk:
        """Return the next chunk. Raises ValueError where it needs what `hear` was not told."""
        return next(self.chunks)

    def hear(self, out: Tensor, chunk: Chunk) -> None:
        """Keep what the model says (b, t, k) of the steps heard for the first time, as long as they are needed."""
        log_p = torch.log_softmax(out.detach(), -1).cpu()
        places = chunk.y[..., PLACE].long().cpu()
        for row, heard in enumerate(chunk.y[..., HEARD].cpu() == FIRST):
            if bool(heard.any()):
                self.kept.setdefault(int(places[row][heard][0]), []).append(log_p[row, heard])
        for place in self.kept.keys() - set(places.flatten().tolist()):
            del self.kept[place]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` needs to go on from here."""
        return {str(place): torch.cat(said) for place, said in self.kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state, at the same time step."""
        self.kept.clear()
        self.kept.update({int(place): [said] for place, said in state.items()})
