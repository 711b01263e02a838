"""Recordings of one's own, with their labels, as a stream: EDF, BDF, WFDB, sound files, windows, data sets.

    files -> sources -> train | test -> steps with labels -> rows, a reset at the beginning of each recording

Shapes: b rows, t steps, f features.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from biomamba.metrics import CrossEntropy, Derived, Total, labelled_cross_entropy
from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split, Task

from ..common import packing
from ..common.baselines import score
from ..common.files import check_split
from ..speech.signal import BANDS, HOP
from .files import find
from .scores import Decisions, LastLabel, unsure
from .signal import STACK, Prior, View, sound_prior
from .simulated import simulated
from .source import Found, Samples, Wanted, listed
from .split import By, Part, Parts, divide, with_persons
from .stream import Recording, Timing, padding
from .wfdb import BEATS

USUAL = 64.0  # steps a second where no rate is given, at most
MANY = 50  # texts of annotations, beyond which classes must be named
SEEN = 4096  # steps of windows that are learned from, whose mean and deviation scaling begins with


@dataclass(frozen=True)
class Recordings(Benchmark):
    """Labelled recordings of one's own.

    path: a folder or file: EDF, BDF, WFDB; WAV or FLAC in a folder a class, or a .csv of file, start, end, label; .npz
        or x.npy and y.npy of windows; a data set saved to disk; null: small SIMULATED ones
    channels: names or numbers; none: all that every recording has
    classes: TEXT=CLASS, or TEXT alone: which annotations are of which class; none: each text is a class
    annotator: suffix of the annotations of WFDB records
    columns: of a data set of Hugging Face: the recordings', the labels', the persons'; none: by their types and names
    time_axis: of windows, 1 for (n, time, channels), 2 for (n, channels, time)
    features: signal, or mel (of sound); auto: mel for sound files
    rate: steps a second of features signal, at most that of the samples; null: theirs, up to 64
    warm: seconds after the onset of a label from which on its steps have one
    decision: seconds after an event, which lasts for no time, when it is decided
    hold_out: what the held-out part has of its own: file, person or time; auto: as the data says, else files, else time
    test_share: how much is held out, about
    test: files or persons that are held out
    person: a regular expression for the person in a file's name, such as '(S[0-9]+)'
    passes: how often split train goes through its recordings, in an order that the seed draws for each

    Files are opened when first needed, samples read as the stream gets there. Construction raises ValueError; reading
    raises FileNotFoundError, ValueError or ImportError, naming the file.
    """

    path: str | None = None
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    annotator: str = "atr"
    columns: tuple[str, ...] = ()
    time_axis: Literal[1, 2] = 1
    features: Literal["auto", "signal", "mel"] = "auto"
    rate: float | None = None
    warm: float = 0.0
    decision: float = 0.35
    hold_out: By = "auto"
    test_share: float = 0.2
    test: tuple[str, ...] = ()
    person: str | None = None
    passes: int = 1

    def __post_init__(self) -> None:
        """Refuse options that no data can satisfy."""
        if not 0.01 <= self.test_share <= 0.5:
            raise ValueError(f"test_share is {self.test_share}, expected 0.01 to 0.5")
        if self.passes < 1 or self.warm < 0 or self.decision < 0:
            raise ValueError(
                f"passes is {self.passes}, warm {self.warm} and decision {self.decision}, expected at least 1, 0 and 0"
            )
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate is {self.rate}, expected steps a second, above 0")
        if self.test and self.hold_out == "time":
            raise ValueError("test names files or persons and hold_out is time: leave one of them out")
        if not self.annotator.isalnum():
            raise ValueError(f"annotator is {self.annotator!r}, expected a suffix such as atr")

    @property
    def spec(self) -> Spec:
        """Return the channels, or the bands of two frames, in, and the classes out; this opens the files."""
        return Spec(d_in=self._view.size, d_out=len(self._classes))

    @property
    def splits(self) -> dict[str, str]:
        """Return what is learned from and what is held out."""
        return {"train": self._parts.train_words, "test": self._parts.test_words}

    @property
    def held_out(self) -> Split:
        """Return test."""
        return "test"

    @property
    def step_seconds(self) -> float | None:
        """Return how long a step lasts; None of windows, whose rate nobody knows."""
        return None if self._found.kind == "windows" else 1 / self._view.rate

    @property
    def source(self) -> str:
        """Name the recordings, the channels, the classes and what is held out."""
        where = "SIMULATED" if self.path is None else self.path.rstrip("/").rpartition("/")[2]
        what = f"{len(self._found.sources):,} {self._found.kind} of {where}"
        seen = f"{BANDS} mel bands" if self._view.features == "mel" else listed(self._found.sources[0].channels)
        speed = "" if self._found.kind == "windows" else f" at {self._view.rate:g} steps a second"
        return f"{what}: {seen}{speed}; classes {listed(self._classes)}; held out: {self._parts.test_words}"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many steps each row has; the shorter ones are filled up."""
        return packing.steps(packing.assign_rows(self.order(split, seed), batch))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from time step `start` on; the seed draws the order of split train."""
        rows = packing.assign_rows(self.order(split, seed), batch)
        return packing.iterate(rows, padding(self._view.size), length, start)

    @property
    def reduction(self) -> str | None:
        """The loss is the mean over the labelled steps."""
        return "mean"

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the mean cross entropy (nats) of `out` (b, t, k) over the labelled steps; 0 where there are none."""
        return labelled_cross_entropy(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters: of decisions, one a label, and of the loss of the labelled steps."""
        said = Decisions(self._classes)
        return {
            "balanced_accuracy": Derived(said.balanced_accuracy),
            "accuracy": said,
            "macro_f1": Derived(said.macro_f1),
            "loss": CrossEntropy(),
            "skipped_steps": Total("skipped"),
        }

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of the classes at the labelled steps."""
        return Answers(chunk.mask, out.softmax(-1), True, self._classes, chunk.info["skipped"] > 0)

    def left_out(self, meters: Mapping[str, Meter]) -> list[str]:
        """Return lines on the channels, files, annotations and steps that are not used."""
        told = [*self._found.left_out]
        texts = Counter(label.text for own in self._found.sources for label in own.labels)
        unused = {text: count for text, count in texts.items() if text not in self._codes}
        if unused:
            named = listed(f"{text!r} {count:,} times" for text, count in Counter(unused).most_common())
            told.append(f"annotations that are of no class: {named}")
        targets = [own.targets() for split in ("train", "test") for own in self._recordings[split]]
        for count, why in (
            (sum(own.outside for own in targets), "lie outside the recording, or are decided after it"),
            (sum(own.hidden for own in targets), "lie on the steps of later ones"),
        ):
            if count:
                told.append(f"{count:,} labels are not used: they {why}")
        skipped = meters["skipped_steps"].get() if "skipped_steps" in meters else 0
        return [*told, f"{skipped:,.0f} steps skipped: samples missing or not finite"] if skipped else told

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the scores of the commonest class of split train, and of the label before."""
        total = steps or self.steps(split, batch=batch, seed=seed)
        classes, commonest = len(self._classes), self._commonest()
        majority = partial(torch.full_like, fill_value=commonest)
        predictors = {
            "majority": lambda chunk: unsure(majority(chunk.y), classes),
            "last_label": LastLabel(commonest, classes).predict,
        }
        return score(predictors, self.stream(split, batch=batch, length=256, seed=seed), self.meters, total)

    def parts(self, split: str) -> dict[str, Task]:
        """Return a task for each person, or each file where nobody says whose it is."""
        check_split(split, self.splits)
        own = self._parts.test if split == "test" else self._parts.train
        names = dict.fromkeys(part.source.person for part in own)
        return {name: Person(self, name) for name in names} if len(names) > 1 else {}

    @cached_property
    def _found(self) -> Found:
        """Return the recordings, all with the same channels. Raises ValueError where none is left."""
        found = self._open(self.channels)
        channels = [own.channels for own in found.sources]
        common = [name for name in channels[0] if all(name in own for own in channels)] if channels else []
        if not self.channels and any(list(own) != common for own in channels):
            if not common:
                first, other = (listed(own) for own in (channels[0], next(c for c in channels if c != channels[0])))
                raise ValueError(f"channels: the recordings share none: {first} in one, {other} in another")
            others = dict.fromkeys(name for own in channels for name in own if name not in common)
            found = self._open(common)
            found = found._replace(left_out=[*found.left_out, f"channels not in every recording: {listed(others)}"])
        found = found._replace(sources=with_persons(found.sources, self.person))
        if not found.sources:
            raise ValueError(f"task.path: {self.path} holds no labelled recording")
        return found

    def _open(self, channels: Sequence[str]) -> Found:
        """Return what the path holds."""
        return simulated() if self.path is None else find(self.path, self._wanted(channels))

    def _wanted(self, channels: Sequence[str]) -> Wanted:
        """Return what is asked of the files."""
        return Wanted(tuple(channels), self.annotator, self.time_axis, self.columns)

    @cached_property
    def _codes(self) -> dict[str, int]:
        """Return the number of the class of each text. Raises ValueError where there are not two classes."""
        texts = Counter(label.text for own in self._found.sources for label in own.labels)
        if self.classes:
            pairs = [(text, name or text) for text, _, name in (given.partition("=") for given in self.classes)]
            if lost := [text for text, _ in pairs if text not in texts]:
                raise ValueError(f"classes: no recording says {lost[0]!r}, expected some of {listed(sorted(texts))}")
        else:
            is_ecg = self.path is not None and any(own.file.endswith(".hea") for own in self._found.sources)
            pairs = [(text, text) for text in sorted(texts) if text and (not is_ecg or text in BEATS)]
        names = list(dict.fromkeys(name for _, name in pairs))
        if not 2 <= len(names) <= (len(names) if self.classes or self._found.kind != "records" else MANY):
            raise ValueError(
                f"classes: found {listed(names) or 'none'} among {listed(sorted(texts)) or 'no labels'}, expected 2 to "
                f"{MANY}: name them, "
                "as in --task.classes T1=left T2=right, or put the sounds of each class in a folder of its own"
            )
        return {text: names.index(name) for text, name in pairs}

    @cached_property
    def _classes(self) -> list[str]:
        """Return the names of the classes in the order of their numbers."""
        codes = self._codes
        if not self.classes:
            return list(codes)
        return list(dict.fromkeys(name or text for text, _, name in (own.partition("=") for own in self.classes)))

    @cached_property
    def _parts(self) -> Parts:
        """Return what is learned from and what is held out."""
        return divide(self._found, self.hold_out, self.test_share, self.test)

    @cached_property
    def _view(self) -> View:
        """Return how samples become steps. Raises ValueError for rates that do not fit."""
        sources = self._found.sources
        rates = {own.rate: own for own in reversed(sources)}
        lowest = min(rates)
        if self.features == "mel" or (self.features == "auto" and self._found.kind == "sounds"):
            if len(rates) > 1 or len(sources[0].channels) > 1:
                few = listed(f"{own.name} at {rate:g} Hz" for rate, own in list(rates.items())[:2])
                raise ValueError(f"features: mel takes one channel at one rate, got {few}: resample, or choose one")
            return View("mel", 1 / (STACK * HOP), STACK * BANDS, sound_prior())
        if self.rate is not None and self.rate > lowest:
            raise ValueError(f"rate: got {self.rate:g}, expected at most {lowest:g}, the rate of {rates[lowest].name}")
        view = View("signal", self.rate or min(USUAL, lowest), len(sources[0].channels))
        return view._replace(prior=self._prior(self._parts.train)) if self._found.kind == "windows" else view

    def _prior(self, parts: Sequence[Part]) -> Prior:
        """Return mean and deviation of the first windows that are learned from."""
        rows, count = list[Samples](), 0
        for part in parts:
            rows.append(part.source.read(part.first, part.last))
            count += len(rows[-1])
            if count >= SEEN:
                break
        seen = np.concatenate(rows)
        seen = seen[np.isfinite(seen).all(axis=1)]
        if not len(seen):
            raise ValueError(f"{parts[0].source.name}: no finite number in the first {count:,} steps")
        return Prior(len(seen), seen.mean(0), seen.std(0))

    @cached_property
    def _recordings(self) -> dict[str, list[Recording]]:
        """Return the recordings of each split. Raises ValueError for a split without a step or a label."""
        timing, own = Timing(self.warm, self.decision), dict[str, list[Recording]]()
        for split, parts in (("train", self._parts.train), ("test", self._parts.test)):
            every = [Recording(p.source, self._view, timing, self._codes, p.first, p.last) for p in parts]
            own[split] = [recording for recording in every if recording.steps]
            if not own[split] or not any(recording.targets().unit.any() for recording in own[split]):
                raise ValueError(
                    f"split {split}: no step of its {len(parts)} recordings has a label of the classes "
                    f"{listed(self._classes)}: see task.hold_out, task.test and task.classes"
                )
        return own

    def order(self, split: str, seed: int) -> list[Recording]:
        """Return the recordings of a split in the order of the stream."""
        check_split(split, self.splits)
        own = self._recordings[split]
        if split == "test":
            return own
        return packing.in_passes(own, self.passes, seed)

    def _commonest(self) -> int:
        """Return the class with most labels in split train."""
        ends = [targets.y[targets.unit == 1] for targets in (own.targets() for own in self._recordings["train"])]
        return int(np.bincount(np.concatenate(ends)).argmax())


@dataclass(frozen=True)
class Person(Benchmark):
    """The recordings of one person, or of one file, of a split."""

    task: Recordings
    name: str

    @property
    def spec(self) -> Spec:
        """Return the whole task's."""
        return self.task.spec

    @property
    def splits(self) -> dict[str, str]:
        """Return the whole task's."""
        return self.task.splits

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many steps each row has."""
        return packing.steps(packing.assign_rows(self._order(split, seed), batch))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the person's part of the split from time step `start` on."""
        rows = packing.assign_rows(self._order(split, seed), batch)
        return packing.iterate(rows, padding(self.spec.d_in or 1), length, start)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the whole task's."""
        return self.task.loss(out, chunk)

    def meters(self) -> dict[str, Meter]:
        """Return the whole task's."""
        return self.task.meters()

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the whole task's."""
        return self.task.answers(out, chunk)

    def _order(self, split: str, seed: int) -> list[Recording]:
        """Return the person's recordings."""
        return [own for own in self.task.order(split, seed) if own.source.person == self.name]
