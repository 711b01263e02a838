"""Spoken words, frame by frame: which of a few words is it? Decided at every frame, and for good at the word's end.

    frames of log-mel  ->  recording of one word on a row  ->  y = the word, -1 where a row is filled up

A row begins each word with a reset; info has the `last` step of a word, and the `weight` of each step in the loss.
Shapes: b rows, t steps; a step is `stack` frames of 40 bands, `stack` * 10 ms.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from biomamba.metrics import Accuracy, Confusion, CrossEntropy
from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split

from ..common import packing
from ..common.files import check_split
from ..common.packing import Rows, Segment
from . import files as corpora
from . import signal as audio
from .augment import IDENTITY, USUAL, Augmentation, check
from .files import Utterance
from .simulated import digits

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Speech(Benchmark):
    """Classification of spoken words.

    corpus: fsdd (digits, 8 kHz) or speech_commands (keywords, 16 kHz)
    path: folder of the corpus; null: under BIOMAMBA_DATA, else downloaded, else simulated
    simulate: take simulated digits, whatever there is
    speaker: fsdd's test is everything by this speaker, and nothing of theirs is in train; null: the official split
    passes: how often split train is gone through, each time in another order
    stack: frames of 10 ms in a time step
    align: words are filled up to a multiple of so many steps, so that a chunk as long holds one whole word
    loss_at: every (frame, later ones weigh more) or end (the last frame alone)
    augment: how much the words of split train vary; 0: not at all, 1: much
    vary: in what: some of speed, shift, gain, noise, coloured, formants, masks
    fold: 0 to 3: this quarter of train's speakers is split valid, and held out, to choose settings by; null: none

    Construction raises ValueError; reading raises FileNotFoundError, ValueError or ImportError.
    """

    corpus: Literal["fsdd", "speech_commands"] = "fsdd"
    path: str | None = None
    simulate: bool = False
    speaker: str | None = None
    passes: int = 1
    stack: int = 1
    align: int = 1
    loss_at: Literal["every", "end"] = "every"
    augment: float = 0.0
    vary: tuple[str, ...] = USUAL
    fold: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no corpus can satisfy."""
        check(self.vary)
        corpora.check_fold(self.fold)
        if min(self.passes, self.stack, self.align) < 1:
            raise ValueError(
                f"passes is {self.passes}, stack {self.stack}, align {self.align}: expected at least 1 of each"
            )
        if self.speaker and self.corpus != "fsdd":
            raise ValueError(f"speaker is {self.speaker!r}, expected null: only fsdd is split by speakers on request")

    @property
    def spec(self) -> Spec:
        """Return the bands of a step in, the words out."""
        return Spec(d_in=self.stack * audio.BANDS, d_out=len(self.words))

    @property
    def splits(self) -> dict[str, str]:
        """Return the parts of the corpus."""
        if self.speaker:
            own = {"train": f"all speakers but {self.speaker}", "test": self.speaker}
        elif self.corpus == "fsdd":
            own = {"train": "recordings from index 5 on", "test": "recordings 0 to 4"}
        else:
            own = dict.fromkeys(("train", "valid", "test"), "by the corpus's lists or its hash of the speaker")
        return {**corpora.folded(own, self.fold), "all": "all"}

    @property
    def held_out(self) -> Split:
        """Return test, or, with a fold, valid."""
        return "test" if self.fold is None else "valid"

    @property
    def step_seconds(self) -> float:
        """Return how long a step lasts, seconds."""
        return self.stack * audio.HOP

    @property
    def words(self) -> tuple[str, ...]:
        """Return the classes by name."""
        return DIGITS if self.corpus == "fsdd" or self._folder is None else corpora.KEYWORDS + corpora.OTHERS

    @property
    def source(self) -> str:
        """Name the corpus and how much of it there is, or say that it is simulated."""
        if self._folder is None:
            return f"SIMULATED: {self._count} spoken digits"
        return f"{self.corpus}, {self._count:,} recordings"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many time steps the longest row has."""
        return packing.steps(self._rows(split, batch, seed))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from time step `start` on; split train as often as `passes` says, `seed` shuffles it."""
        rows = self._rows(split, batch, seed)
        no = torch.zeros(1, dtype=torch.bool)
        padding = Segment(
            torch.zeros(1, self.stack * audio.BANDS), torch.tensor([-1]), no, {"last": no, "weight": torch.zeros(1)}
        )
        return packing.iterate(rows, padding, length, start)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the cross entropy (nats) of `out` (b, t, words), each step by its weight, over b and, at every, t."""
        each = torch.nn.functional.cross_entropy(out.transpose(1, 2), chunk.y.clamp(min=0), reduction="none")
        total = (each * chunk.info["weight"].to(out.dtype) * chunk.mask).sum()
        return total / (chunk.mask.numel() if self.loss_at == "every" else len(out))

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters: of the decisions at the words' ends, and `running`, the accuracy over all frames."""
        return {"accuracy": Confusion(self.words, _final), "running": _Running(), "loss": _Final()}

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of the words at every frame."""
        return Answers(chunk.y >= 0, out.softmax(-1), True, self.words)

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the scores of always saying the commonest word of split train, over the whole split."""
        common = Counter(utterance.text for utterance in self._utterances("train")).most_common(1)[0][0]
        here = self._utterances(split)
        share = sum(utterance.text == common for utterance in here) / len(here)
        scores = {"accuracy": share, "running": share, "loss": math.log(len(self.words))}
        return {"commonest_word": {name: {"all": score, "last_tenth": score} for name, score in scores.items()}}

    @cached_property
    def _folder(self) -> Path | None:
        """Return where the corpus is; None where it is simulated."""
        return None if self.simulate else corpora.find(self.corpus, self.path)

    @cached_property
    def _count(self) -> int:
        """Return how many recordings there are: every checkpoint names its source, so they are listed once."""
        return len(self._utterances("all"))

    @cached_property
    def _known(self) -> dict[str, list[tuple[Utterance, int]]]:
        """Hold, by split, the words and their samples, once they have been looked at."""
        return {}

    def _sized(self, split: str) -> list[tuple[Utterance, int]]:
        """Return the words of a split and how many samples each has. Raises ValueError where there is none."""
        if split not in self._known:
            found = self._utterances(split)
            if not found:
                raise ValueError(f"{self.source}: split {split} holds no recording: give the whole corpus")
            self._known[split] = list(zip(found, corpora.lengths(found, audio.RATE[self.corpus]), strict=True))
        return self._known[split]

    def _utterances(self, split: str) -> Sequence[Utterance]:
        """Return the words of a split in the order of the corpus."""
        check_split(split, self.splits)
        return corpora.select(self._load, split, self.fold)

    def _load(self, split: str) -> Sequence[Utterance]:
        """Return what the corpus calls a split."""
        if self._folder is None:
            return digits(split, self.speaker)
        if self.corpus == "fsdd":
            return corpora.fsdd(self._folder, split, self.speaker)
        return corpora.speech_commands(self._folder, split)

    def _rows(self, split: str, batch: int, seed: int) -> Rows:
        """Return the words as they lie on the rows; split train in as many orders as there are passes.

        The others in one order, the same always, but no longer sorted by word: that would be another thing to learn.
        """
        found, train = self._sized(split), split == "train"
        words = []
        for draw in [(seed, number) for number in range(self.passes)] if train else [(0, 0)]:
            rng = np.random.default_rng(draw)
            for i in rng.permutation(len(found)):
                utterance, samples = found[i]
                change = Augmentation.drawn(rng, self.augment if train else 0.0, self.vary)
                words.append(_Word(utterance, samples, self, change))
        return packing.assign_rows(words, batch)


@dataclass(frozen=True)
class _Word:
    """One word on a row."""

    utterance: Utterance
    samples: int
    task: Speech
    augmentation: Augmentation = IDENTITY

    @cached_property
    def steps(self) -> int:
        """Return how many steps it takes."""
        task, rate = self.task, audio.RATE[self.task.corpus]
        return audio.steps(self.augmentation.samples(self.samples, rate), rate, task.stack, task.align)

    def read(self) -> Iterator[Segment]:
        """Yield it as one segment."""
        rate, word = audio.RATE[self.task.corpus], self.task.words.index(self.utterance.text)
        wave = self.augmentation.wave(self.utterance.wave(rate), rate)
        x = audio.stacked(self.augmentation.bands(audio.normalised(audio.log_mel(wave, rate))), self.task.stack)
        count = len(x)
        last = torch.arange(count) == count - 1
        weight = (torch.arange(count) + 1) / count
        mask = last if self.task.loss_at == "end" else torch.ones_like(last)
        yield Segment(x, torch.full((count,), word), mask, {"last": last, "weight": weight})


def _final(out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return the words said at the words' last frames, and the true ones."""
    last = chunk.info["last"]
    return out[last].argmax(-1), chunk.y[last]


class _Running(Accuracy):
    """Accuracy of the decisions at every frame of a word."""

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Count the frames of a chunk."""
        super().update(out, chunk._replace(mask=chunk.y >= 0))


class _Final(CrossEntropy):
    """Cross entropy (nats) of the decisions at the words' ends."""

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the ends of a chunk."""
        super().update(out, chunk._replace(mask=chunk.info["last"]))
