"""The chunks of `speech_ctc`: every utterance twice on its row, the second time with what the first has taught.

y is gamma, 0 but in the second pass. info tells of each step the `utterance` by number, its `place` in the stream (-1
where a row is filled up), which `pass` it is, whether it is the `last` step of one, and whether it is `loud`.
Shapes: b rows, t steps, k symbols.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from biomamba.stream import Chunk, StatefulStream

from ..common import packing as playlist
from ..common.packing import Piece
from . import signal as audio
from .augment import AS_IT_IS, Change
from .ctc import posteriors
from .files import Utterance
from .scores import AGAIN, FIRST, SYMBOLS, loud, spelled

RATE = audio.RATE["an4"]
Kept = dict[int, list[Tensor]]  # by place, the log probabilities (t, k) of a first hearing


def nothing(steps: int, inputs: int) -> Piece:
    """Return so many steps of silence without a label."""
    no, zero = torch.zeros(steps, dtype=torch.bool), torch.zeros(steps, dtype=torch.int64)
    info = {"utterance": zero, "place": zero - 1, "pass": zero.clone(), "last": no, "loud": zero.clone()}
    return Piece(torch.zeros(steps, inputs), torch.zeros(steps, SYMBOLS), no.clone(), info)


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

    def hearing(self, which: int, gamma: Tensor | None = None) -> Piece:
        """Return one hearing, the second with gamma."""
        features = audio.log_mel(self.change.wave(self.utterance.wave(RATE)), RATE)
        heard = audio.stacked(self.change.bands(audio.normalised(features)), self.stack)
        count = len(heard)
        x = torch.nn.functional.pad(heard, (0, 0, 0, self.half - count))
        piece = nothing(self.half, x.shape[1])
        y, mask, info = piece.y, piece.mask, piece.info
        info["utterance"][:], info["place"][:], info["pass"][:count] = self.number, self.place, which
        info["last"][count - 1], info["loud"][:count] = True, loud(features, self.stack, count)
        if gamma is not None:
            y[:count], mask[:count] = gamma.float(), True
        return piece._replace(x=x)


@dataclass(frozen=True)
class _Hearing:
    """One of the two hearings of a lesson, as a recording of its own."""

    lesson: Lesson
    which: int
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
            raise ValueError("the stream was not told what the model said of its last chunk: call its `observe`")
        yield self.lesson.hearing(AGAIN, posteriors(torch.cat(said), spelled(self.lesson.utterance.said)))


class Lessons(StatefulStream):
    """Chunks, of each of which `observe` must say what the model said before the next is asked for."""

    def __init__(self, rows: Iterable[Iterable[Lesson]], inputs: int, align: int, length: int, start: int) -> None:
        """Begin at time step `start` of the rows. Raises ValueError where `length` does not divide `align`.

        inputs: values of a step. length: steps of a chunk; one above `align` gives chunks of `align`.
        """
        length = min(length, align)
        if align % length:
            raise ValueError(f"stream.length is {length}, expected one that divides task.align, {align} steps")
        self.kept: Kept = {}
        hearings = [[_Hearing(one, which, self.kept) for one in row for which in (FIRST, AGAIN)] for row in rows]
        super().__init__(playlist.play(hearings, nothing(1, inputs), length, start))

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        """Keep what the model says (b, t, k) of the steps heard for the first time, as long as they are needed."""
        log_p = torch.log_softmax(out.detach(), -1).cpu()
        places = chunk.info["place"].cpu()
        for row, heard in enumerate(chunk.info["pass"].cpu() == FIRST):
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
