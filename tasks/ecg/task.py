"""ECG, beat by beat: the classes of AAMI EC57 on the MIT-BIH Arrhythmia Database, in a stream.

    step    x                                                      y
    sample  the leads, mV, high-passed at 0.5 Hz, and the rhythm   the class of a beat, where it is decided; else -1
    beat    how unlike the beat is to the usual one                its class

The split between patients is de Chazal's (2004): DS1 to learn from, DS2 to be scored on, the four paced records left
out. Where the R peaks are is given, as everywhere in this field, or detected; then what is missed or extra counts as an
error. What reaches the model is the signal alone.

Shapes: b rows, t steps, c leads.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split, Task

from ..common.baselines import Predict, score
from ..common.files import check_split, locate, package
from ..common.packing import Rows, assign_rows, iterate
from ..common.packing import steps as longest
from . import beats, features, rhythm
from . import scores as ecg_scores
from . import simulated as ecg_simulated
from .files import CLASSES, LEAD, RATE, Record, open_record
from .signal import WINDOW
from .stream import Beats, padding

SPLITS = {  # of the records of de Chazal 2004
    "train": "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230",
    "test": "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234",
}
SAME_PERSON = "201"  # whose other record is 202
COUNTS = (45_866, 944, 3_788, 415, 8)  # beats of DS1, by class
LONG = 4096  # steps of a chunk where nothing is learned
CHANNELS = {"sample": ("lead", *rhythm.CHANNELS), "beat": features.CHANNELS}
BEAT_SECONDS = 0.78  # from beat to beat, the mean of DS1
Recording = Beats | beats.BeatSteps


@dataclass(frozen=True)
class Ecg(Benchmark):
    """Beats of the MIT-BIH Arrhythmia Database.

    path: folder of the records; null: mitdb in the one that BIOMAMBA_DATA names, else fetched, else simulated
    simulate: use the SIMULATED records, whatever there is
    leads: both, or MLII alone
    step: a step every `decimate` samples, or one a beat
    peaks: R peaks as annotated, or detected: beats that are missed and extra ones count as errors (step: beat)
    channels: names of what the model is given; none: all there are. Those of the leads are given for each
    gate: share of the long wait below which a beat counts a tenth in the templates, such as 0.9; 0: none (step: beat)
    decimate: samples per step, a divisor of 360 (step: sample, as rhythm, scale and decision)
    rhythm: eight channels beside the leads, heard from them alone: how early, large and wide the last beat was
    scale: divide each lead by its running root mean square; false: mV
    augment: other gains in every block of split train, the second lead upside down or left out at times
    records: only these; none named: all of the split
    same_person: keep both 201 (train) and 202 (test), which are one person; false leaves 201 out of train
    decision: seconds from the R peak to the step that decides the beat
    label_delay: beats until a label is known, at least; above 0 each record runs on a live row and a late one
    labelled: minutes at the start of each test record whose labels are known; null: all
    score_from: minutes before which nothing is scored
    passes: over the records of split train, in another order each
    balance: weight of a class in the loss, (N's beats / its own) to this power, F and Q as N
    """

    path: str | None = None
    simulate: bool = False
    leads: Literal["both", "MLII"] = "both"
    step: Literal["sample", "beat"] = "sample"
    peaks: Literal["annotated", "detected"] = "annotated"
    channels: tuple[str, ...] = ()
    gate: float = 0.0
    decimate: int = 4
    rhythm: bool = True
    scale: bool = True
    augment: bool = False
    records: tuple[str, ...] = ()
    same_person: bool = True
    decision: float = 0.35
    label_delay: int = 0
    labelled: float | None = None
    score_from: float = 0.0
    passes: int = 1
    balance: float = 0.5

    def __post_init__(self) -> None:
        """Refuse options that no record can satisfy."""
        if self.decimate < 1 or WINDOW % self.decimate:
            raise ValueError(f"decimate is {self.decimate}, expected a divisor of {WINDOW}, such as 1, 2, 3, 4 or 6")
        if not 0 <= self.decision <= 2:
            raise ValueError(f"decision is {self.decision} s, expected 0 to 2 seconds after the R peak: give 0.35")
        if self.passes < 1 or self.label_delay < 0:
            raise ValueError(
                f"passes is {self.passes} and label_delay {self.label_delay}, expected at least 1 and at least 0"
            )
        if not 0 <= self.gate <= 1:
            raise ValueError(f"gate is {self.gate}, expected 0 to 1, a share of the long wait: give 0 or 0.9")
        if self.step == "sample" and (self.peaks == "detected" or self.gate):
            raise ValueError(
                f"peaks is {self.peaks} and gate {self.gate} with step sample, expected step beat for either"
            )
        there = CHANNELS[self.step] if self.rhythm or self.step == "beat" else ("lead",)
        unknown = [name for name in self.channels if name not in there or self.channels.count(name) > 1]
        if unknown:
            raise ValueError(f"channels: got {unknown[0]}, expected each at most once, of {', '.join(there)}")
        if self.score_from < 0 or (self.labelled is not None and self.labelled < 0):
            raise ValueError(
                f"labelled is {self.labelled} and score_from {self.score_from}, expected minutes, 0 or more"
            )

    @property
    def spec(self) -> Spec:
        """Return the channels in, five classes out."""
        return Spec(d_in=len(self._columns), d_out=len(CLASSES))

    @property
    def splits(self) -> dict[str, str]:
        """Return the split between patients."""
        return {"train": "DS1 of de Chazal 2004", "test": "DS2, other patients"}

    @property
    def held_out(self) -> Split:
        """Return test."""
        return "test"

    @property
    def step_seconds(self) -> float:
        """Return how long a step lasts, seconds; about so long where it is a beat."""
        return BEAT_SECONDS if self.step == "beat" else self.decimate / RATE

    @property
    def source(self) -> str:
        """Name the records, or say that they are SIMULATED."""
        used: str = LEAD if self.leads == LEAD else "both leads"
        used += (
            f" at {RATE / self.decimate:g} Hz" if self.step == "sample" else f", {self.peaks} R peaks, a beat a step"
        )
        if self._folder is None:
            return f"SIMULATED ECG (neurokit2), {ecg_simulated.RECORDS} records a split, {used}"
        return f"MIT-BIH Arrhythmia Database, {used}"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many time steps each row has. Raises as `stream`."""
        return longest(self._rows(split, batch, seed))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the records on `batch` rows, once each or `passes` times, every one with a reset at its beginning.

        `seed` draws the order of the passes. With label_delay the first half of the rows is live, the second late.
        Raises FileNotFoundError, ValueError and ImportError for records that are not there or cannot be read; what lies
        in the signal itself is found when the stream gets there.
        """
        fill = beats.padding if self.step == "beat" else padding
        return iterate(self._rows(split, batch, seed), fill(len(self._columns)), length, start)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the weighted cross entropy (nats) of `out` (b, t, 5), summed over the beats and divided by b.

        Not the mean over the beats: how many a chunk holds would then change the weight of each.
        """
        nothing = -100
        y = chunk.y.masked_fill(~chunk.mask, nothing).flatten()
        weights = self._weights.to(out)
        return F.cross_entropy(out.flatten(0, 1), y, weights, ignore_index=nothing, reduction="sum") / len(out)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters of the scored beats; see ecg_scores."""
        return ecg_scores.meters(self.peaks == "detected")

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of the five classes at the beats that are scored."""
        return Answers(chunk.info["score"] >= 0, out.softmax(-1), True, CLASSES)

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the scores of saying N always, and of saying the last label that was known by then."""
        total = steps or self.steps(split, batch=batch, seed=seed)
        known, kinds = torch.zeros(batch, dtype=torch.int64), len(CLASSES)
        predictors: dict[str, Predict] = {
            "always_n": lambda chunk: F.one_hot(torch.zeros_like(chunk.y), kinds).float(),
            "last_label": lambda chunk: F.one_hot(_last_known(chunk, known, self.label_delay > 0), kinds).float(),
        }
        return score(predictors, self.stream(split, batch=batch, length=LONG, seed=seed), self.meters, total)

    def parts(self, split: str) -> dict[str, Task]:
        """Return a task for each record."""
        return {name: self.derived(records=(name,)) for name in self._names(split)}

    def derived(self, **options: Any) -> "Ecg":
        """Return the task with other options; what was read of the records is shared where they do not change it."""
        folder = self._folder
        other = replace(self, **{"path": None if folder is None else str(folder), "simulate": folder is None} | options)
        if not options.keys() & {"path", "simulate", "leads", "step", "peaks", "gate"}:
            vars(other).update(_opened=self._opened, _tables=self._tables)
        return other

    @property
    def _leads(self) -> int:
        """Return how many leads there are."""
        return 1 if self.leads == LEAD else 2

    @cached_property
    def _columns(self) -> tuple[int, ...]:
        """Return which columns of all the channels are wanted."""
        if self.step == "beat":
            return self._of_beats(self._leads)
        own = {"lead": range(self._leads)}
        own |= {name: range(self._leads + i, self._leads + i + 1) for i, name in enumerate(rhythm.CHANNELS)}
        named = self.channels or (CHANNELS["sample"] if self.rhythm else ("lead",))
        return tuple(column for name in named for column in own[name])

    def _of_beats(self, there: int) -> tuple[int, ...]:
        """Return which columns of the channels of beats are wanted, of a record with so many leads."""
        return tuple(features.columns(self.channels or features.CHANNELS, self._leads, there))

    @cached_property
    def _weights(self) -> Tensor:
        """Return the weight of each class in the loss."""
        weights = (COUNTS[0] / torch.tensor(COUNTS).double()) ** self.balance
        weights[3:] = 1.0  # of F and Q there is too little to learn from: they are in neither j nor the macro-F1
        return weights

    @cached_property
    def _folder(self) -> Path | None:
        """Return the folder of the records; None where they are simulated."""
        return None if self.simulate else locate("mitdb", self.path, "*.hea", "physionet.org", _fetch)

    def _names(self, split: str) -> tuple[str, ...]:
        """Return the names of a split's records. Raises ValueError where none is left."""
        check_split(split, self.splits)
        if self._folder is None:
            names = ecg_simulated.names(split)
        else:
            names = tuple(name for name in SPLITS[split].split() if self.same_person or name != SAME_PERSON)
        chosen = tuple(name for name in names if not self.records or name in self.records)
        if not chosen:
            raise ValueError(
                f"records: got {', '.join(self.records)}, expected some of split {split}: {', '.join(names)}"
            )
        return chosen

    @cached_property
    def _opened(self) -> dict[str, Record]:
        """Hold the records that were opened: their beats, not their signals."""
        return {}

    def _record(self, name: str) -> Record:
        """Return a record."""
        if name not in self._opened:
            if self._folder is None:
                self._opened[name] = ecg_simulated.simulate(name, self._leads)
            else:
                both, missing = self._leads == 2, self.step == "beat"
                self._opened[name] = open_record(self._folder, name, both, missing)
        return self._opened[name]

    @cached_property
    def _tables(self) -> dict[str, beats.Table]:
        """Hold the beats of the records that were read, where a step is a beat."""
        return {}

    def _table(self, name: str) -> beats.Table:
        """Return the beats of a record, which is read the first time."""
        if name not in self._tables:
            self._tables[name] = beats.tabulate(self._record(name), self.gate, self.peaks == "detected")
        return self._tables[name]

    def _recording(self, name: str, split: str, *vary: int) -> Recording:
        """Return a record as it goes on a row, live and late at once; `vary` seeds what is varied in split train."""
        record = self._record(name)
        vary = (*vary, *name.encode()) if self.augment and split == "train" else ()
        labelled = math.inf if self.labelled is None or split == "train" else self.labelled * 60 * RATE
        score_from = self.score_from * 60 * RATE
        if self.step == "beat":
            known = len(record.beats) if self.peaks == "annotated" else None
            table = partial(self._table, name)
            columns = self._of_beats(record.leads)
            return beats.BeatSteps(record, table, known, columns, labelled=labelled, score_from=score_from)
        return Beats(
            record,
            self.decimate,
            round(self.decision * RATE),
            rhythm=self.rhythm,
            scale=self.scale,
            columns=self._columns,
            vary=vary or None,
            labelled=labelled,
            score_from=score_from,
        )

    def _rows(self, split: str, batch: int, seed: int) -> Rows:
        """Return the records on their rows. Raises ValueError where delayed labels have no row to be late on."""
        if self.label_delay and batch % 2:
            raise ValueError(f"batch is {batch}, expected an even number with label_delay: live rows and late ones")
        names = self._names(split)
        passes = self.passes if split == "train" else 1
        draw = np.random.default_rng(seed)
        orders = [draw.permutation(len(names)) if split == "train" else range(len(names)) for _ in range(passes)]
        recordings = [self._recording(names[i], split, seed, turn) for turn, order in enumerate(orders) for i in order]
        if not self.label_delay:
            return assign_rows(recordings, batch)
        live = assign_rows([replace(own, learn=False) for own in recordings], batch // 2)
        late = [[part for own in row for part in own.late(self.label_delay)] for row in live]
        return [*live, *late]


def _last_known(chunk: Chunk, known: Tensor, delayed: bool) -> Tensor:
    """Return for each step (b, t) the class learned last before it, in its row or the row's late one.

    known (b,) goes from chunk to chunk: the last class at its beginning, N where there is none.
    """
    learned = chunk.y
    if delayed:
        learned = learned[len(learned) // 2 :].repeat(2, 1)
    told = torch.cat([known[:, None], learned], dim=1)
    told[:, :-1][chunk.reset] = 0
    last = torch.where(told >= 0, torch.arange(told.shape[1]), -1).cummax(1).values
    filled = told.gather(1, last)
    known.copy_(filled[:, -1])
    return filled[:, :-1]


def _fetch(folder: Path) -> None:
    """Fetch the database into a folder, by wfdb."""
    package("wfdb", "ecg", "fetching ECG records").dl_database("mitdb", dl_dir=str(folder))
