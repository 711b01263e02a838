"""What a run says while it goes: one line of JSON for each step that somebody waits on, written before it is learned.

    chunk arrives  ->  learner.peek  ->  lines, flushed  ->  the chunk goes on to the loop, which learns from it

A line holds `stream` and `row` (of the stream, from 0; of the table where the task numbers its rows), `time` (seconds
of the stream; null where the task does not say how long a step lasts), `prediction` (the name of a class, or values in
the user's units), of classes `probabilities`, and `held` where the step's own input could not be used.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from ..inputs import checked
from ..learner import Learner
from ..stream import Answers, Benchmark, Chunk, StatefulStream
from .config import RunConfig
from .log import finite

MANY, LIKELIEST = 20, 5  # of more classes than MANY, only the likeliest are told
FINEST, RATIO, BINS = 1e-6, 1.01, 2100  # seconds: the edge of the first bin; the last lies beyond 1000 s


class Latency:
    """Quantiles of durations, to 1 %, in memory that does not grow."""

    def __init__(self) -> None:
        """Start with nothing taken in."""
        self.counts = np.zeros(BINS, dtype=np.int64)

    def add(self, seconds: float) -> None:
        """Take in a duration."""
        place = math.ceil(math.log(max(seconds, FINEST) / FINEST, RATIO))
        self.counts[min(place, BINS - 1)] += 1

    def quantile(self, share: float) -> float:
        """Return the duration, seconds, that a share of all do not exceed; nan where there is none."""
        if not self.counts.any():
            return math.nan
        place = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum())
        return float(FINEST * RATIO**place)

    def milliseconds(self) -> dict[str, float]:
        """Return the median and the 99 % quantile; nothing where nothing was taken in."""
        if not self.counts.any():
            return {}
        return {"p50": 1e3 * self.quantile(0.5), "p99": 1e3 * self.quantile(0.99)}

    def state_dict(self) -> dict[str, int]:
        """Return the counts that are not 0, by bin."""
        return {str(place): int(self.counts[place]) for place in np.flatnonzero(self.counts)}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        """Go on from saved counts."""
        self.counts[:] = 0
        for place, count in saved.items():
            self.counts[int(place)] = count


class Predictions:
    """Lines of predictions on their way to a file, or to standard output for -."""

    def __init__(self, file: IO[str], task: Benchmark, closes: bool = False) -> None:
        """Take an open file, which it closes or not, and the task that says what outputs mean."""
        self.file, self.task, self.closes, self.latency = file, task, closes, Latency()
        self.steps, self.bytes = 0, 0  # of the stream, and of the file where it is one
        self.begun = False

    @classmethod
    def of(cls, options: RunConfig, task: Benchmark, earlier: Mapping[str, Any] | None = None) -> "Predictions | None":
        """Return what `run.predictions` asks for; None where it asks for nothing.

        earlier: what `state_dict` gave in an earlier part of the run, whose lines stay; None where the run begins.
        Raises FileExistsError where a run that begins would lose what a file holds, unless it may overwrite it.
        """
        if options.predictions in (None, "-"):
            return None if options.predictions is None else cls(sys.stdout, task)
        path = Path(options.predictions)
        if not earlier and not options.overwrite and path.exists() and path.stat().st_size:
            raise FileExistsError(
                f"run.predictions: {path} already holds something: give another file, or --run.overwrite true"
            )
        own, kept = cls(path.open("a", encoding="utf-8"), task, closes=True), earlier or {"bytes": 0}
        own.bytes = kept["bytes"]
        own.latency.load_state_dict(kept.get("latency", {}))
        return own

    def __enter__(self) -> "Predictions":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        if self.closes:
            self.file.close()

    def before(self, chunks: Iterator[Chunk], learner: Learner, done: int) -> StatefulStream:
        """Return the chunks, each handed on once its lines are written; the stream has done so many time steps."""
        self.steps = done
        return _Told(chunks, learner, self)

    def begin(self) -> None:
        """Cut the file back to the lines that belong to the run, now that it has something to say."""
        if self.closes and not self.begun:
            self.file.truncate(self.bytes)
        self.begun = True

    def tell(self, out: Tensor, chunk: Chunk) -> None:
        """Write the lines of a chunk."""
        lines = [json.dumps(finite(line)) + "\n" for line in told(self.task, out, chunk, self.steps)]
        self.steps += chunk.x.shape[1]
        text = "".join(lines)
        self.bytes += len(text)  # JSON is ASCII
        if text:
            self.file.write(text)
            self.file.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return how much of the file belongs to the run so far, and the latencies."""
        return {"bytes": self.bytes, "latency": self.latency.state_dict()}


class _Told(StatefulStream):
    """The chunks of a stream, whose predictions are written before anybody else sees them."""

    def __init__(self, chunks: Iterator[Chunk], learner: Learner, predictions: Predictions) -> None:
        """Take the stream."""
        self.stream, self.learner, self.predictions = StatefulStream.of(chunks), learner, predictions
        self.chunks = checked(self.stream, learner.model, learner.streams)

    def __next__(self) -> Chunk:
        """Return the next chunk."""
        chunk = next(self.chunks)
        self.predictions.begin()
        arrived = time.perf_counter()
        self.predictions.tell(self.learner.peek(chunk), chunk)
        self.predictions.latency.add(time.perf_counter() - arrived)
        return chunk

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        """Pass on what the model says."""
        self.stream.observe(out, chunk)


def told(task: Benchmark, out: Tensor, chunk: Chunk, done: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of a chunk, `done` time steps into the stream, in the order of time."""
    answers = task.answers(out, chunk)
    at = answers.asked.T.nonzero().cpu()
    step, stream = at.unbind(1)
    values = answers.values.detach()[stream, step].double().tolist()
    rows = chunk.info["row"][stream, step] if "row" in chunk.info else step + done
    held = None if answers.held is None else answers.held[stream, step].tolist()
    seconds, many = task.step_seconds, out.shape[0] > 1
    for i, (s, row) in enumerate(zip(stream.tolist(), rows.tolist(), strict=True)):
        line: dict[str, Any] = {"stream": s} if many else {}
        line |= {"row": row, "time": None if seconds is None else row * seconds, **said(answers, values[i])}
        yield line | ({"held": True} if held and held[i] else {})


def said(answers: Answers, values: list[float]) -> dict[str, Any]:
    """Return what the values of one step say."""
    names: Any = answers.names or range(len(values))
    if not answers.is_class:
        one = len(values) == 1
        return {"prediction": values[0] if one else {str(n): v for n, v in zip(names, values, strict=True)}}
    if not all(map(math.isfinite, values)):
        return {"prediction": None, "probabilities": {}}
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
    shown = range(len(values)) if len(values) <= MANY else order[:LIKELIEST]
    return {"prediction": names[order[0]], "probabilities": {str(names[i]): values[i] for i in shown}}
