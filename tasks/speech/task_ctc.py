"""Speech recognition by characters, learned online across utterances with CTC.

The loss of CTC needs the whole utterance, so each is heard twice on its row:

    first    nothing is learned from this row; what the model says of each frame is scored, and kept
    again    gamma is computed from what was kept, and the loss of each frame is -sum_k gamma_t(k) log p_t(k)

Both times begin with a reset and are filled up to a multiple of `align` steps, so that gamma is known when the second
begins. Memory is that of one utterance per row. With stream.length as long as the longest utterance, and as `align`,
rule bptt is the usual training by whole utterances.

Shapes: b rows, t steps of `stack` frames, k symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from biomamba.metrics import Derived
from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split

from ..common import packing
from ..common.files import check_split
from . import files as corpora
from . import signal as audio
from .augment import IDENTITY, USUAL, Augmentation, check
from .files import Utterance
from .scores import FIRST, SYMBOLS, Transcripts
from .simulated import LETTERS, spellings
from .stream import TwoPass, TwoPassStream


@dataclass(frozen=True)
class SpeechCTC(Benchmark):
    """Recognition of spelled speech (AN4) by letters.

    path: folder of AN4; null: under BIOMAMBA_DATA, else downloaded, else simulated
    simulate: take simulated spelling, whatever there is
    passes: how often split train is gone through, each time in another order
    stack: frames of 10 ms in a time step
    align: utterances are filled up to a multiple of so many steps; stream.length must divide it
    augment: how much the utterances of split train vary; 0: not at all, 1: much
    vary: in what: some of speed, shift, gain, noise, coloured, formants, masks
    fold: 0 to 3: this quarter of train's speakers is split valid, and held out, to choose settings by; null: none

    Construction raises ValueError; reading raises FileNotFoundError, ValueError or ImportError.
    """

    path: str | None = None
    simulate: bool = False
    passes: int = 1
    stack: int = 3
    align: int = 16
    augment: float = 0.0
    vary: tuple[str, ...] = USUAL
    fold: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers below 1, and a fold that there is not."""
        check(self.vary)
        corpora.check_fold(self.fold)
        if min(self.passes, self.stack, self.align) < 1:
            raise ValueError(
                f"passes is {self.passes}, stack {self.stack}, align {self.align}: expected at least 1 of each"
            )

    @property
    def spec(self) -> Spec:
        """Return the bands of a step in, the blank and the letters out."""
        return Spec(d_in=self.stack * audio.BANDS, d_out=SYMBOLS)

    @property
    def splits(self) -> dict[str, str]:
        """Return the parts of the corpus."""
        own = {"train": "the given training utterances", "test": "the given test utterances"}
        return {**corpora.folded(own, self.fold), "all": "all"}

    @property
    def held_out(self) -> Split:
        """Return test, or, with a fold, valid."""
        return "test" if self.fold is None else "valid"

    @property
    def step_seconds(self) -> float:
        """Return how much new sound a step brings, seconds: half its length, as everything is heard twice."""
        return self.stack * audio.HOP / 2

    @property
    def source(self) -> str:
        """Name the corpus and how much of it there is, or say that it is simulated."""
        name = "SIMULATED spelling" if self._folder is None else "an4"
        return f"{name}, {len(self.utterances('all')):,} utterances"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many time steps the longest row has."""
        return packing.steps(self._rows(split, batch, seed))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> "TwoPassStream":
        """Return the chunks of a split from time step `start` on; they must be told what the model says of each.

        Split train comes as often as `passes` says, and `seed` shuffles it. Raises ValueError where `length` does not
        divide `align`.
        """
        return TwoPassStream(self._rows(split, batch, seed), self.stack * audio.BANDS, self.align, length, start)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return -sum_k gamma log p (nats) of `out` (b, t, k), over all b t steps of the chunk."""
        gamma = chunk.y.to(out.dtype) * chunk.mask[..., None]
        return -(gamma * torch.log_softmax(out, -1)).sum() / chunk.mask.numel()

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters of what is said at first hearing: error rates, and frames from sound to symbol."""
        heard = Transcripts([utterance.text for utterance in self.utterances("all")], self.stack)
        first, last = (Derived(partial(heard.latency, which)) for which in ("first", "last"))
        return {"cer": heard, "wer": Derived(heard.wer), "first_latency": first, "last_latency": last}

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of the letters, "" for the blank, at the steps heard for the first time."""
        return Answers(chunk.info["pass"] == FIRST, out.softmax(-1), True, ("", *LETTERS))

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the error rates of saying nothing: 1."""
        scores = {"cer": 1.0, "wer": 1.0}
        return {"silence": {name: {"all": score, "last_tenth": score} for name, score in scores.items()}}

    def utterances(self, split: str) -> Sequence[Utterance]:
        """Return the utterances of a split in the order of the corpus."""
        check_split(split, self.splits)
        return self._listed[split]

    @cached_property
    def _folder(self) -> Path | None:
        """Return where the corpus is; None where it is simulated."""
        return None if self.simulate else corpora.find("an4", self.path)

    def _rows(self, split: str, batch: int, seed: int) -> list[list[TwoPass]]:
        """Return the utterances as they lie on the rows; split train in as many orders as there are passes."""
        first = {utterance: number for number, utterance in enumerate(self.utterances("all"))}
        found = [(one, self._samples[first[one]], first[one]) for one in self.utterances(split)]
        utterances: list[TwoPass] = []
        for number in range(self.passes if split == "train" else 1):
            rng = np.random.default_rng((seed, number))
            for i in rng.permutation(len(found)) if split == "train" else range(len(found)):
                augmentation = Augmentation.drawn(rng, self.augment, self.vary) if split == "train" else IDENTITY
                utterances.append(TwoPass(*found[i], len(utterances), self.stack, self.align, augmentation))
        return packing.assign_rows(utterances, batch)

    @cached_property
    def _listed(self) -> dict[str, Sequence[Utterance]]:
        """Return the utterances of every split: meters ask for their words again and again."""
        return {split: corpora.select(self._load, split, self.fold) for split in self.splits}

    def _load(self, split: str) -> Sequence[Utterance]:
        """Return what the corpus calls a split."""
        return spellings(split) if self._folder is None else corpora.an4(self._folder, split)

    @cached_property
    def _samples(self) -> list[int]:
        """Return the samples of every utterance, in the order of split all. Raises ValueError for a bad file."""
        return corpora.lengths(self.utterances("all"), audio.RATE["an4"])
