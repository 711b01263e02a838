"""What a run leaves behind for people and programs: metrics.jsonl while it goes, summary.json at its end.

A run folder holds config.yaml (every value of the experiment), metrics.jsonl (one `Record` per line),
checkpoint.safetensors, model.safetensors (the weights at the end), average.safetensors (the averaged ones, where
optim.average asks for them: of the same form) and summary.json (one `Summary`).
Numbers that are not finite are null in the files.
"""

import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from .. import __version__
from ..durable import replacing
from ..learner import Report
from ..loop_state import LoopState
from ..metrics import Confusion
from ..stream import Meter, Task

Scores = dict[str, dict[str, float]]  # {"accuracy": {"all": x, "last_tenth": y}}


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl.

    step: time steps of each stream so far
    updates: optimiser steps so far
    skipped: updates left out so far because something was not finite
    interval: every score since the last line
    overall: every score since the beginning
    loss: nats, of the last update that learned
    norm: of that update's gradient before clipping
    spike_rate: share of spikes since the last line; null where the blocks do not spike
    wall_seconds: so far, earlier parts of a resumed run included
    steps_per_second: time steps of each stream per second, over the whole run
    """

    step: int
    updates: int
    skipped: int
    interval: dict[str, float]
    overall: dict[str, float]
    loss: float
    norm: float
    spike_rate: float
    wall_seconds: float
    steps_per_second: float


@dataclass(frozen=True)
class Summary:
    """summary.json, written when a run is complete.

    task: its name
    source: the data in use, in words
    block: the block's name
    rule: the rule's name
    length: time steps per update
    window: steps replayed at each update, or null
    seed: of weights and simulated streams
    steps: time steps of each stream
    streams: side by side; steps times streams is the samples seen
    scores: by name (accuracy, bits_per_byte, loss in nats, ...), {"all": over the whole stream, "last_tenth": over its
        last tenth}, every prediction made before it was learned from; "held_out": of the held-out split, learning off
    averaged: of the same form, of averaged weights; empty where there are none
    baselines: by name, of the same form: `frozen`, the model as drawn, and the task's own; empty where not asked for
    confusion: by name of a score that counts decisions, {"classes": names, "counts": rows of the true class}
    steps_per_second: time steps of each stream per second of learning
    trace_bytes: what the rule remembers of all streams
    peak_rss_bytes: the process's largest memory while it learned, before a first checkpoint was written
    parameters: of the model
    spike_rate: share of spikes over the whole stream; null where the blocks do not spike
    wall_seconds: of learning, baselines not included
    updates: optimiser steps
    skipped: updates left out because something was not finite
    latency_ms: from a chunk's arrival until its predictions were written, {"p50": x, "p99": y}; {} where none were
    threads: that an update took
    versions: of python, biomamba and torch
    """

    task: str
    source: str
    block: str
    rule: str
    length: int
    window: int | None
    seed: int
    steps: int
    streams: int
    scores: Scores
    averaged: Scores
    baselines: dict[str, Scores]
    confusion: dict[str, Any]
    steps_per_second: float
    trace_bytes: int
    peak_rss_bytes: int
    parameters: int
    spike_rate: float
    wall_seconds: float
    updates: int
    skipped: int
    latency_ms: dict[str, float]
    threads: int
    versions: dict[str, str]


def progress_line(record: Record, total: int) -> str:
    """Return one line on how a run of `total` steps goes."""
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record.interval.items() if not math.isnan(value))
    return f"step {record.step:,}/{total:,}  {scores}  {record.steps_per_second:,.0f} steps/s"


def append(path: Path, record: Record) -> None:
    """Add a line to metrics.jsonl; it is with the operating system when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(asdict(record))) + "\n")


def sync(path: Path) -> int:
    """See that the lines of metrics.jsonl are on the disk, and return their bytes."""
    with path.open("ab") as file:
        os.fsync(file.fileno())
        return file.tell()


def shorten(path: Path, size: int) -> None:
    """Cut metrics.jsonl back to `size` bytes, to the lines that a checkpoint knows of.

    Raises ValueError where it holds fewer.
    """
    path.touch()
    held = path.stat().st_size
    if held < size:
        raise ValueError(f"{path} holds {held} bytes, the checkpoint knows of {size}: restore it, or begin a new run")
    if held > size:
        os.truncate(path, size)


def write(path: Path, text: str) -> None:
    """Write a file so that at every moment it is whole, old or new."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def to_json(value: Any) -> str:
    """Return indented JSON."""
    return json.dumps(finite(value), indent=2) + "\n"


def finite(value: Any) -> Any:
    """Return the value with None for every number that JSON cannot write."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_rss_bytes() -> int:
    """Return the largest memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on a mac


def versions() -> dict[str, str]:
    """Return what the numbers were made with."""
    return {"python": platform.python_version(), "biomamba": __version__, "torch": torch.__version__}


SAVED = ("loss", "norm", "seconds", "peak", "spikes")  # of `Progress`, beside its meters


class Progress:
    """What a run counts beside the loop's state: scores by part of the stream, time and memory."""

    def __init__(self, task: Task, total: int) -> None:
        """Begin a run of `total` time steps."""
        self.task, self.total = task, total
        self.last_tenth, self.interval = task.meters(), task.meters()
        self.loss, self.norm = math.nan, math.nan  # of the last update that learned
        self.spikes = {"all": [0.0, 0], "interval": [0.0, 0]}  # share times steps, and those steps
        self.seconds = 0.0
        self.peak = 0  # bytes before a first checkpoint was written: writing one takes memory too

    def update(self, report: Report, seconds: float) -> None:
        """Count one pass of the loop, `seconds` after the run began."""
        self.seconds = seconds
        new = report.chunk.x.shape[1]
        for own in self.spikes.values():
            own[0], own[1] = own[0] + float(report.spikes) * new, own[1] + new
        update_last_tenth(report, self.last_tenth, self.total)
        for meter in self.interval.values():
            meter.update(report.out, report.chunk)
        if report.norm is not None:
            self.loss, self.norm = float(report.loss), float(report.norm)

    def record(self, loop_state: LoopState) -> Record:
        """Return the next line of metrics.jsonl, and begin a new interval."""
        interval, self.interval = self.interval, self.task.meters()
        spike_rate, self.spikes["interval"] = self.spike_rate("interval"), [0.0, 0]
        return Record(
            step=loop_state.steps,
            updates=loop_state.updates,
            skipped=loop_state.skipped,
            interval={name: meter.get() for name, meter in interval.items()},
            overall={name: meter.get() for name, meter in loop_state.meters.items()},
            loss=self.loss,
            norm=self.norm,
            spike_rate=spike_rate,
            wall_seconds=self.seconds,
            steps_per_second=loop_state.steps / self.seconds,
        )

    def spike_rate(self, part: str = "all") -> float:
        """Return the share of spikes over the whole stream, or since the last line of metrics.jsonl; else nan."""
        total, steps = self.spikes[part]
        return total / steps if steps else math.nan

    def scores(self, loop_state: LoopState) -> Scores:
        """Return the scores over the whole stream and over its last tenth."""
        return summarize(loop_state.meters, self.last_tenth)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs, plain values."""
        meters = {"last_tenth": self.last_tenth, "interval": self.interval}
        saved = {part: {name: meter.state_dict() for name, meter in own.items()} for part, own in meters.items()}
        return {**saved, **{name: getattr(self, name) for name in SAVED}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for part, own in {"last_tenth": self.last_tenth, "interval": self.interval}.items():
            for name, meter in own.items():
                meter.load_state_dict(saved[part][name])
        for name in SAVED:
            setattr(self, name, saved[name])


class Scored(NamedTuple):
    """A run through a loop."""

    scores: Scores
    meters: dict[str, Meter]  # of the whole stream
    seconds: float


def score(reports: Iterable[Report], task: Task, total: int, label: str) -> Scored:
    """Run through a loop of `total` steps and return its scores."""
    last_tenth, began = task.meters(), time.perf_counter()
    with tqdm(total=total, desc=label, unit=" steps", disable=None) as bar:
        for report in reports:
            update_last_tenth(report, last_tenth, total)
            bar.update(report.chunk.x.shape[1])
    meters = report.state.meters
    return Scored(summarize(meters, last_tenth), meters, time.perf_counter() - began)


def confusion(meters: Mapping[str, Meter]) -> dict[str, Any]:
    """Return the counts of those meters that count decisions."""
    counting = {name: meter for name, meter in meters.items() if isinstance(meter, Confusion)}
    return {name: {"classes": list(m.classes), "counts": m.matrix.tolist()} for name, m in counting.items()}


def update_last_tenth(report: Report, meters: dict[str, Meter], total: int) -> None:
    """Show the meters what of a report lies in the last tenth of `total` steps."""
    new = report.chunk.x.shape[1]
    before = max(0, total - total // 10 - (report.state.steps - new))
    if before < new:
        chunk = report.chunk.between(before)
        for meter in meters.values():
            meter.update(report.out[:, before:], chunk)


def summarize(whole: dict[str, Meter], last_tenth: dict[str, Meter]) -> Scores:
    """Return the scores of two sets of meters."""
    return {name: {"all": meter.get(), "last_tenth": last_tenth[name].get()} for name, meter in whole.items()}
