"""EEG of EEGMMI as a running decision: eyes open or closed, left or right fist imagined.

    eyes     each of the runs R01 (open) and R02 (closed) is cut into `folds` contiguous blocks; block `fold` of both
             is the test, the others are learned from, each a recording of its own
    imagery  R04, R08 and R12 are a recording each, rest and trials in a row; run number `fold` is the test

The gate, the filters and the scale begin anew with every recording, so padding of a test block can reach a block that
is learned from, nor the other way round. Where the gate cuts something out, the recording goes on behind it: the
model's state is held meanwhile, and the filters begin anew. A label is in `y` alone and never in `x`.
Shapes: b rows, t steps, s steps of a recording, f features.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.metrics import CrossEntropy, Derived, Total, labelled_cross_entropy
from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split

from ..common import packing
from ..common.baselines import Predict, score
from ..common.files import check_split
from . import signal as eeg_signal
from .files import MONTAGE, RATE, Run, find, read
from .scores import Decisions, Latency
from .simulated import simulate
from .stream import Grid, Recording, blocks, padding, recording, trials

SETS = {
    "occipital": ("O1", "OZ", "O2"),
    "motor": ("FC3", "FC4", "C3", "CZ", "C4", "CP3", "CP4"),
    "all": MONTAGE,
}
RUNS = {"eyes": (1, 2), "imagery": (4, 8, 12)}
CLASSES = {"eyes": ("open", "closed"), "imagery": ("left", "right")}
CHANNELS = {"eyes": ("occipital",), "imagery": ("motor",)}
NEVER = f"it is flat or beyond {eeg_signal.LARGEST:g} microvolts throughout"
SAID = 5  # channels that are named of those cut out
BANDS = {"eyes": ("8-13",), "imagery": ("8-30",)}  # alpha; mu and beta


@dataclass(frozen=True)
class Eeg(Benchmark):
    """Motor imagery and rest, one person of the EEG Motor Movement/Imagery data set (PhysioNet eegmmidb 1.0.0).

    contrast: eyes (open against closed) or imagery (left against right fist)
    path: folder of the .edf files; null: eegmmi under BIOMAMBA_DATA, else fetched, else simulated
    simulate: use the simulated person, whatever data there is
    subject: which person; the files are named after it
    fold: which part is held out: a block of each run for eyes (0 to folds - 1), a run for imagery (0 to 2)
    folds: into how many contiguous blocks eyes cuts each run
    channels: electrodes, or the sets occipital, motor, all; none: occipital for eyes, motor for imagery
    reference: average (of all electrodes, taken off each) or none
    bands: frequencies to let pass, Hz, such as 8-13; none: 8-13 for eyes, 8-30 for imagery
    features: signal (the filtered signal), power (the log of its smoothed square) or both
    power_seconds: over how long the power is smoothed
    scale: running (by each channel's own strength so far, 1 to 40 Hz) or fixed (by 20 microvolts)
    decimate: keep every so many-th step, behind the filters
    warm: seconds after the onset of a block or trial from which on there are labels
    window: seconds between two running decisions
    passes: how often split train goes through its recordings, in an order that the seed draws for each

    The files are read when first needed, and once. Construction raises ValueError for options that no data can
    satisfy; reading raises FileNotFoundError, ValueError or ImportError, naming the file.
    """

    contrast: Literal["eyes", "imagery"] = "eyes"
    path: str | None = None
    simulate: bool = False
    subject: str = "S001"
    fold: int = 0
    folds: int = 6
    channels: tuple[str, ...] = ()
    reference: Literal["average", "none"] = "average"
    bands: tuple[str, ...] = ()
    features: eeg_signal.Features = "power"
    power_seconds: float = 0.25
    scale: Literal["running", "fixed"] = "running"
    decimate: int = 4
    warm: float = 1.0
    window: float = 1.0
    passes: int = 1

    def __post_init__(self) -> None:
        """Refuse options that no data can satisfy."""
        for name in ("decimate", "passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 2 <= self.folds <= 15:
            raise ValueError(f"folds is {self.folds}, expected 2 to 15: a block of a minute's run needs 4 seconds")
        if not 0 <= self.fold < self._parts:
            raise ValueError(f"fold is {self.fold}, expected 0 to {self._parts - 1} for contrast {self.contrast}")
        if self.path is not None and self.simulate:
            raise ValueError(f"path is {self.path!r} and simulate is true: leave one of them out")
        for name, least in (("warm", 0.0), ("window", 0.05), ("power_seconds", 0.01)):
            if not least <= getattr(self, name) <= 3:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least:g} to 3 seconds")
        self._form  # noqa: B018 - for its errors

    @property
    def spec(self) -> Spec:
        """Return one input per channel, band and kind of feature, and one output per class."""
        return Spec(d_in=self._form.size, d_out=2)

    @property
    def splits(self) -> dict[str, str]:
        """Return the parts of the data."""
        if self.contrast == "eyes":
            train = f"{self.folds - 1} of {self.folds} contiguous blocks of R01 and R02"
            return {"train": train, "test": f"block {self.fold} of each, counted from 0"}
        left = [f"R{number:02d}" for i, number in enumerate(RUNS["imagery"]) if i != self.fold]
        return {"train": " and ".join(left), "test": f"R{RUNS['imagery'][self.fold]:02d}"}

    @property
    def held_out(self) -> Split:
        """Return test."""
        return "test"

    @property
    def step_seconds(self) -> float:
        """Return how long a step lasts: 1 / 160 second times `decimate`."""
        return self.decimate / RATE

    @property
    def source(self) -> str:
        """Name the files, or say that they are simulated; this looks for them."""
        runs = " ".join(f"R{number:02d}" for number in RUNS[self.contrast])
        if self._folder is None:
            return f"SIMULATED by tasks/eeg/simulated.py, no brain: {runs}"
        return f"EEGMMI {self.subject} {runs} in folder {self._folder.name}"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many steps each row has; the shorter ones are filled up."""
        return packing.steps(packing.assign_rows(self._order(split, seed), batch))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from time step `start` on; the seed draws the order of split train. Reads at once."""
        return packing.iterate(
            packing.assign_rows(self._order(split, seed), batch), padding(self._form.size), length, start
        )

    @property
    def reduction(self) -> str | None:
        """The loss is the mean over the labelled steps."""
        return "mean"

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the mean cross entropy (nats) of `out` (b, t, 2) over the labelled steps; 0 where there are none."""
        return labelled_cross_entropy(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters: of windows for eyes, of whole trials for imagery; latency of windows in both."""
        said = Decisions(CLASSES[self.contrast], "window" if self.contrast == "eyes" else "unit")
        latency = Latency()
        return {
            "balanced_accuracy": Derived(said.balanced_accuracy),
            "kappa": Derived(said.kappa),
            "accuracy": said,
            "loss": CrossEntropy(),
            "latency_seconds": latency,
            "never_right": Derived(latency.never),
            "skipped_seconds": Total("skipped", RATE),
        }

    def left_out(self, meters: Mapping[str, Meter]) -> list[str]:
        """Return lines on the channels that are no reference, and on the seconds that the gate cuts out of the runs."""
        return [line for lines in self._told.values() for line in lines]

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of both classes at the labelled steps."""
        return Answers(chunk.mask, out.softmax(-1), True, CLASSES[self.contrast])

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the scores of `guesses`, said with next to no confidence, so that their loss is ln 2 nats."""
        total = self.steps(split, batch=batch, seed=seed)
        total = total if steps is None else min(steps, total)
        chunk = next(self.stream(split, batch=batch, length=total, seed=seed))
        said: dict[str, Predict] = {name: partial(_unsure, classes) for name, classes in self.guesses(chunk).items()}
        return score(said, iter([chunk]), self.meters, total)

    def guesses(self, chunk: Chunk) -> dict[str, Tensor]:
        """Return classes (b, t) that no look at the signal was needed for, by name; the chunk begins the stream.

        majority: the commonest class of split train. last_label: the class of the block or trial before on the same
        row; of the first, the commonest.
        """
        commonest = self._commonest()
        return {"majority": torch.full_like(chunk.y, commonest), "last_label": _last(chunk, commonest)}

    def _commonest(self) -> int:
        """Return the class with most blocks or trials in split train; the first where there are as many of both."""
        pieces = [recording.segment for recording in self._recordings["train"]]
        ended = torch.cat([segment.y[segment.info["unit"] == 1] for segment in pieces])
        return int(torch.bincount(ended, minlength=2).argmax())

    def _order(self, split: str, seed: int) -> list[Recording]:
        """Return the recordings of a split in the order of the stream."""
        check_split(split, self.splits)
        own = self._recordings[split]
        if split == "test":
            return own
        return packing.in_passes(own, self.passes, seed)

    @cached_property
    def _recordings(self) -> dict[str, list[Recording]]:
        """Return the recordings of each split."""
        split: dict[str, list[Recording]] = {"train": [], "test": []}
        for which, number in enumerate(RUNS[self.contrast]):
            name, run = f"{self.subject}R{number:02d}.edf", self._read(number)
            signal = self._pick(run, name)
            own = blocks(signal, which, self.folds) if self.contrast == "eyes" else {which: (signal, trials(run))}
            for part, (stretch, spans) in own.items():
                if not any(end - start > (self.warm + self.window) * RATE for start, end, _ in spans):
                    raise ValueError(
                        f"{name}: no block or trial, T1 or T2, outlasts warm and window, {self.warm + self.window:g} "
                        "seconds: give a whole run, or lower warm, window or folds"
                    )
                made = recording(stretch, spans, self._grid, self._form)
                split["test" if part == self.fold else "train"].append(made)
        for held, recordings in split.items():
            if not any(bool(own.segment.mask.any()) for own in recordings):
                raise ValueError(
                    f"split {held}: no step has a label; {'; '.join(self.left_out({})) or 'all are too short'}"
                )
        return split

    @cached_property
    def _told(self) -> dict[str, list[str]]:
        """Hold by run what of it is not used."""
        return {}

    def _read(self, number: int) -> Run:
        """Return a run."""
        if self._folder is None:
            return simulate(number)
        return read(self._folder / f"{self.subject}R{number:02d}.edf")

    def _pick(self, run: Run, name: str) -> NDArray[np.float64]:
        """Return the channels in use (n, c), and after them all, where their average is the reference."""
        lost = [channel for channel in self._channels if channel not in run.channels]
        if lost:
            raise ValueError(f"{name} has no channel {lost[0]}, expected one of {', '.join(run.channels)}")
        faults = eeg_signal.faults(run.signal)
        never: NDArray[np.bool_] = np.all(faults[eeg_signal.STILL - 1 :], axis=0)
        useless = {c: NEVER for c, bad in zip(run.channels, never, strict=True) if bad} | dict(run.useless)
        for channel in self._channels:
            if channel in useless:
                raise ValueError(f"{name}, channel {channel}: {useless[channel]}: name others in task.channels")
        chosen = [list(run.channels).index(channel) for channel in self._channels]
        others = [i for i, channel in enumerate(run.channels) if channel not in useless]
        others = others if self.reference == "average" else []
        used = sorted({*chosen, *others})
        lines = [f"{name}, channel {c} is no part of the reference: {why}" for c, why in useless.items() if others]
        seconds = dict(zip([run.channels[i] for i in used], (faults[:, used].sum(0) / RATE).tolist(), strict=True))
        if cut := sorted((channel for channel, own in seconds.items() if own), key=lambda c: -seconds[c]):
            named = ", ".join(f"{channel} for {seconds[channel]:.3g} s" for channel in cut[:SAID])
            lines.append(f"{name}, cut out where flat or beyond {eeg_signal.LARGEST:g} microvolts: {named}")
        self._told[name] = lines
        return np.concatenate([run.signal[:, chosen], run.signal[:, others]], axis=1)

    @property
    def _parts(self) -> int:
        """Return how many folds there are."""
        return self.folds if self.contrast == "eyes" else len(RUNS["imagery"])

    @property
    def _channels(self) -> list[str]:
        """Return the electrodes in use, each once."""
        names = [name for given in self.channels or CHANNELS[self.contrast] for name in SETS.get(given, (given,))]
        return list(dict.fromkeys(name.upper() for name in names))

    @property
    def _grid(self) -> Grid:
        """Return which samples become steps, and which of these have labels."""
        return Grid(self.decimate, round(self.warm * RATE), round(self.window * RATE))

    @property
    def _form(self) -> eeg_signal.Form:
        """Return how the signal becomes features. Raises ValueError for bands that there cannot be."""
        highest = RATE / 2 if self.features == "power" else RATE / 2 / self.decimate
        bands = [eeg_signal.edges(text, highest) for text in self.bands or BANDS[self.contrast]]
        running = self.scale == "running"
        return eeg_signal.Form(len(self._channels), bands, self.features, self.power_seconds, running)

    @cached_property
    def _folder(self) -> Path | None:
        """Return where the files lie; None where the runs are simulated."""
        return None if self.simulate else find(self.path, self.subject)


def _unsure(classes: Tensor, chunk: Chunk) -> Tensor:
    """Return predictions (b, t, 2) for classes (b, t), with next to no confidence."""
    return torch.eye(2)[classes] * 1e-4


def _last(chunk: Chunk, first: int) -> Tensor:
    """Return (b, t) the class of the block or trial before; `first` where there is none."""
    said = torch.full_like(chunk.y, first)
    for row, (y, ends) in enumerate(zip(chunk.y, chunk.info["unit"], strict=True)):
        known = first
        before = 0
        for end in ends.nonzero()[:, 0].tolist():
            said[row, before : end + 1] = known
            known, before = int(y[end]), end + 1
        said[row, before:] = known
    return said
