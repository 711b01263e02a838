"""The chunks of `speech_ctc`: every utterance twice on its row, the second time with what the first has taught.

y is gamma, 0 but in the second pass. info tells of each step the `utterance` by number, its `place` in the stream (-1
where a row is filled up), which `pass` it is, whether it is the `last` step of one, and its `voice_activity`: 1 at the
first step with voice, 2 at the last.
Shapes: b rows, t steps, k symbols.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from biomamba.stream import Chunk, StatefulStream

from ..common import packing
from ..common.packing import Segment
from . import signal as audio
from .augment import IDENTITY, Augmentation
from .ctc import posteriors
from .files import Utterance
from .scores import AGAIN, FIRST, SYMBOLS, spelled, voice_activity

RATE = audio.RATE["an4"]
Kept = dict[int, list[Tensor]]  # by place, the log probabilities (t, k) of a first hearing


def padding(steps: int, inputs: int) -> Segment:
    """Return so many steps of silence without a label."""
    no, zero = torch.zeros(steps, dtype=torch.bool), torch.zeros(steps, dtype=torch.int64)
    info = {"utterance": zero, "place": zero - 1, "pass": zero.clone(), "last": no, "voice_activity": zero.clone()}
    return Segment(torch.zeros(steps, inputs), torch.zeros(steps, SYMBOLS), no.clone(), info)


@dataclass(frozen=True)
class TwoPass:
    """Two hearings: an utterance, its number among all, and the place that it has in the stream."""

    utterance: Utterance
    samples: int
    number: int
    place: int
    stack: int
    align: int
    augmentation: Augmentation = IDENTITY

    @property
    def steps(self) -> int:
        """Return the steps of both hearings."""
        return 2 * self.half

    @cached_property
    def half(self) -> int:
        """Return the steps of one hearing, a multiple of `align`."""
        return audio.steps(self.augmentation.samples(self.samples, RATE), RATE, self.stack, self.align)

    def hearing(self, which: int, gamma: Tensor | None = None) -> Segment:
        """Return one hearing, the second with gamma."""
        features = audio.log_mel(self.augmentation.wave(self.utterance.wave(RATE), RATE), RATE)
        heard = audio.stacked(self.augmentation.bands(audio.normalised(features)), self.stack)
        count = len(heard)
        x = torch.nn.functional.pad(heard, (0, 0, 0, self.half - count))
        segment = padding(self.half, x.shape[1])
        y, mask, info = segment.y, segment.mask, segment.info
        info["utterance"][:], info["place"][:], info["pass"][:count] = self.number, self.place, which
        info["last"][count - 1], info["voice_activity"][:count] = True, voice_activity(features, self.stack, count)
        if gamma is not None:
            y[:count], mask[:count] = gamma.float(), True
        return segment._replace(x=x)


@dataclass(frozen=True)
class _Hearing:
    """One of the two hearings of an utterance, as a recording of its own."""

    both: TwoPass
    which: int
    kept: Kept = field(repr=False)

    @property
    def steps(self) -> int:
        """Return its steps."""
        return self.both.half

    def read(self) -> Iterator[Segment]:
        """Yield it; the second needs what was said at the first."""
        if self.which == FIRST:
            yield self.both.hearing(FIRST)
            return
        predicted = self.kept.get(self.both.place)
        if not predicted:
            raise ValueError("the stream was not told what the model said of its last chunk: call its `observe`")
        yield self.both.hearing(AGAIN, posteriors(torch.cat(predicted), spelled(self.both.utterance.text)))


class TwoPassStream(StatefulStream):
    """Chunks, of each of which `observe` must say what the model said before the next is asked for."""

    def __init__(self, rows: Iterable[Iterable[TwoPass]], inputs: int, align: int, length: int, start: int) -> None:
        """Begin at time step `start` of the rows. Raises ValueError where `length` does not divide `align`.

        inputs: values of a step. length: steps of a chunk; one above `align` gives chunks of `align`.
        """
        length = min(length, align)
        if align % length:
            raise ValueError(f"stream.length is {length}, expected one that divides task.align, {align} steps")
        self.kept: Kept = {}
        hearings = [[_Hearing(one, which, self.kept) for one in row for which in (FIRST, AGAIN)] for row in rows]
        super().__init__(packing.iterate(hearings, padding(1, inputs), length, start))

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
        return {str(place): torch.cat(predicted) for place, predicted in self.kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state, at the same time step."""
        self.kept.clear()
        self.kept.update({int(place): [predicted] for place, predicted in state.items()})
