"""A run: an experiment that learns, and the folder that keeps what it leaves behind (see `log`)."""

import itertools
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import checkpoint
from ..durable import clear
from ..loop_state import LoopState
from ..state import nbytes
from . import config, jobs, log, outcome, replaced, trackers
from .build import Experiment, limit
from .config import Config
from .digest import Digest
from .files import read
from .lock import LOCK, Lock
from .predictions import Predictions
from .resume import resumed

RUN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "model.safetensors",
    "average.safetensors",
    "summary.json",
)


@dataclass
class Run:
    """An experiment on its way through the stream."""

    experiment: Experiment
    folder: Path
    progress: log.Progress
    state: LoopState | None = None
    stream_state: checkpoint.Tensors = field(default_factory=dict)
    threads: int = 1  # that an update takes
    lock: Lock | None = None
    digest: Digest = field(default_factory=Digest)
    trace_bytes: int = 0  # of all streams, at the end
    made: Path | None = None  # the uppermost folder that was made for it
    predictions: Predictions | None = None

    @classmethod
    def begin(cls, experiment: Experiment) -> "Run":
        """Make the run's folder, with the config in it. Raises FileExistsError where it holds another run."""
        own = experiment.config
        predictions = Predictions.of(own.run, experiment.task)
        made = _missing(Path(own.run.dir)) if own.run.dir is not None else None
        folder, lock = create_run_dir(own)
        progress = log.Progress(experiment.task, experiment.total)
        run = cls(
            experiment, folder, progress, lock=lock, made=made if own.run.dir else folder, predictions=predictions
        )
        written = config.to_yaml(replace(own, run=replace(own.run, dir=str(folder), overwrite=False)))
        try:
            log.write(folder / "config.yaml", written)
        except BaseException:
            run.discard()
            run.close()
            raise
        return run

    def discard(self) -> None:
        """Take away what was made for a run that has begun and has not made a step, and put back what it replaced."""
        if self.state is None:
            folder = self.folder
            for name in RUN_FILES:
                (folder / name).unlink(missing_ok=True)
            replaced.put_back(folder, RUN_FILES)
            (folder / LOCK).unlink(missing_ok=True)
            while self.made is not None and folder.is_relative_to(self.made) and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent

    @classmethod
    def resume(cls, experiment: Experiment, folder: Path) -> "Run":
        """Return the run of a folder as it was at its last checkpoint, or at its start where it has none.

        Raises ValueError where another process uses it, and where file, config or data do not fit.
        """
        run = cls(experiment, folder, log.Progress(experiment.task, experiment.total), lock=Lock(folder))
        try:
            run._take_up()
        except BaseException:
            run.close()
            raise
        return run

    def _take_up(self) -> None:
        """Go on from the folder's checkpoint, where there is one."""
        experiment, folder = self.experiment, self.folder
        clear(folder)

        def take(facts: dict[str, Any]) -> None:
            self.progress.load_state_dict(facts["progress"])
            log.shorten(folder / "metrics.jsonl", facts["metrics_bytes"])
            self.predictions = Predictions.of(experiment.config.run, experiment.task, facts.get("predictions"))

        past = resumed(experiment, folder, take)
        self.state, self.stream_state, self.digest = past.state, past.stream_state, past.digest or Digest()
        if self.state is not None:
            self.trace_bytes = nbytes(self.state.trace)  # the checkpoint may be the last
        else:
            (folder / "metrics.jsonl").write_text("")
            self.predictions = Predictions.of(experiment.config.run, experiment.task, {"bytes": 0})

    def close(self) -> None:
        """Let the folder go."""
        if self.lock is not None:
            self.lock.release()

    @property
    def done(self) -> int:
        """Time steps of each stream so far."""
        return self.state.steps if self.state else 0

    def learn(self, tracked: Sequence[trackers.Tracker]) -> int | None:
        """Learn to the end of the stream, or until a signal; return the signal. Raises ValueError for no step.

        Whatever ends it, a stream that breaks off or a reader of what is printed who has gone, it is saved first.
        """
        total, done = self.experiment.total, self.done
        chunks = self.experiment.stream(start=done)
        chunks.load_state_dict(self.stream_state)
        try:
            caught = self._learn(chunks, tracked)
        except (ValueError, OSError):
            # of several ranks others may not be here: the last checkpoint stays
            if self.state is not None and self.done > done and self.experiment.learner.ranks is None:
                self.save(chunks, last=True)
            raise
        if caught is None and self.state is not None and self.done < total:  # as a live stream may end
            self.log_record(tracked)
            self.save(chunks, last=True)
        return caught

    def _learn(self, chunks: limit, tracked: Sequence[trackers.Tracker]) -> int | None:
        """Learn to the end of the chunks, or until a signal; return the signal. Raises ValueError for no step."""
        options, total, done = self.experiment.config.run, self.experiment.total, self.done
        ranks = self.experiment.learner.ranks
        live = not self.experiment.task.replayable  # nobody knows when the rest of it comes
        bar, told = tqdm(total=None if live else total, initial=done, unit=" steps", disable=None), jobs.Progress()
        began, saved = time.perf_counter() - self.progress.seconds, time.perf_counter()
        with bar, self.predictions or nullcontext(), jobs.signals() as caught:
            for report in self.experiment.online(chunks, self.state, self.predictions):
                self.threads = report.threads
                self.digest.update(report.chunk)
                self.state, now, new = report.state, time.perf_counter(), report.chunk.x.shape[1]
                steps = self.state.steps
                self.progress.update(report, now - began)
                bar.update(new)
                told.say(steps / total)
                if steps // options.report_every > (steps - new) // options.report_every or steps == total:
                    record = self.log_record(tracked)
                    bar.set_postfix(record.interval)
                    if bar.disable:
                        print(log.progress_line(record, total), flush=True)
                due = options.save_every is not None and now - saved >= options.save_every
                stop, due = ranks.agree(bool(caught), due) if ranks else (bool(caught), due)
                if stop or steps == total or due:
                    self.save(chunks, last=stop or steps == total)
                    saved = now
                if stop:
                    return caught[0] if caught else signal.SIGTERM
        if self.state is None:
            raise ValueError(f"{self.experiment.task.source}: it ended before its first step, expected at least one")
        return None

    def log_record(self, tracked: Sequence[trackers.Tracker]) -> log.Record:
        """Write a line of metrics.jsonl, tell the trackers, and return it."""
        assert self.state is not None
        record = self.progress.record(self.state)
        log.append(self.folder / "metrics.jsonl", record)
        for tracker in tracked:
            tracker.record(record)
        return record

    def save(self, chunks: limit, last: bool = False) -> None:
        """Write a checkpoint; the last one says what a row of the task is too."""
        experiment, progress = self.experiment, self.progress
        progress.peak = progress.peak or log.peak_rss_bytes()
        state = experiment.learner.gathered()
        assert state is not None and self.state is not None
        tensors, loop = checkpoint.collect(experiment.model, experiment.learner.optimizer, state)
        tensors |= {"rng": torch.get_rng_state()}
        stream = chunks.state_dict()
        tensors |= {f"stream.{name}": tensor for name, tensor in stream.items()}
        facts: dict[str, Any] = {"loop": loop, "progress": progress.state_dict(), "source": experiment.task.source}
        facts |= {"config": config.to_dict(experiment.config), "digest": self.digest.state_dict()}
        facts["stateful"] = bool(stream)  # such a stream depends on what the model said
        facts["predictions"] = self.predictions.state_dict() if self.predictions else {}
        if experiment.average:
            averaged, facts["average"] = experiment.average.collect()
            tensors |= averaged
        facts["metrics_bytes"] = log.sync(self.folder / "metrics.jsonl")
        if last:
            own = experiment.config.stream
            rows = experiment.task.row_format(own.split, batch=own.batch, steps=state.steps)
            if rows is not None:
                tensors |= {f"rows.{name}": tensor for name, tensor in rows.state.items()}
                facts["rows"] = {**rows._asdict(), "state": None}
            self.trace_bytes = nbytes(state.trace)
        checkpoint.save(self.folder / "checkpoint.safetensors", tensors, facts)
        replaced.remove(self.folder)

    def finish(self) -> log.Summary:
        """Write the weights and the summary, the scores beside the baselines, and return the summary.

        Raises FloatingPointError where fewer updates were taken than left out, ValueError where nothing was learned or
        scored.
        """
        assert self.state is not None
        experiment, own, loop_state, progress = self.experiment, self.experiment.config, self.state, self.progress
        if loop_state.skipped > loop_state.updates:
            raise FloatingPointError(
                f"{loop_state.skipped} updates were not finite and {loop_state.updates} were taken, expected more of "
                f"these: lower optim.lr, or give optim.clip; {self.folder} keeps the checkpoint, no model"
            )
        outcome.check(experiment.task, loop_state, own.stream.steps is None or loop_state.steps < experiment.total)
        peak = progress.peak or log.peak_rss_bytes()
        checkpoint.save(self.folder / "model.safetensors", checkpoint.weights(experiment.model))
        scores = progress.scores(loop_state)
        averaged: log.Scores = {}
        if experiment.average:
            averaged = experiment.average.scores
            checkpoint.save(self.folder / "average.safetensors", checkpoint.weights(experiment.average.model))
        if own.run.held_out:
            experiment.add_held_out(scores)
            if experiment.average:
                experiment.add_held_out(averaged, experiment.average.model)
        summary = log.Summary(
            task=own.task.name,
            source=experiment.task.source,
            block=own.model.block,
            rule=own.rule.name,
            length=own.stream.length,
            window=own.rule.window,
            seed=own.run.seed,
            steps=loop_state.steps,
            streams=own.stream.batch,
            scores=scores,
            averaged=averaged,
            baselines=experiment.baselines() if own.run.baselines else {},
            confusion=log.confusion(loop_state.meters),
            steps_per_second=loop_state.steps / progress.seconds,
            trace_bytes=self.trace_bytes,
            peak_rss_bytes=peak,
            parameters=sum(p.numel() for p in experiment.model.parameters()),
            spike_rate=progress.spike_rate(),
            wall_seconds=progress.seconds,
            updates=loop_state.updates,
            skipped=loop_state.skipped,
            latency_ms=self.predictions.latency.milliseconds() if self.predictions else {},
            threads=self.threads,
            versions=log.versions(),
        )
        log.write(self.folder / "summary.json", log.to_json(asdict(summary)))
        return summary


def create_run_dir(settings: Config) -> tuple[Path, Lock]:
    """Make the folder of a new run, and take its lock.

    Raises FileExistsError where it holds a run that may not be overwritten, ValueError where another process uses it.
    """
    if settings.run.dir is None:
        folder = next_run_dir(f"{settings.task.name}-{settings.rule.name}-seed{settings.run.seed}")
        return folder, Lock(folder)
    folder = Path(settings.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    replaced.put_back(folder, RUN_FILES)
    held = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if held and not settings.run.overwrite:
        lock.release()
        raise FileExistsError(
            f"run.dir: {folder} already holds a run: give another folder, --run.resume true to go on with it, "
            "or --run.overwrite true to lose it"
        )
    clear(folder)
    if held:
        replaced.set_aside(folder, RUN_FILES)
    return folder, lock


def _missing(folder: Path) -> Path | None:
    """Return the uppermost folder that has to be made for a folder; None where it is there."""
    return next((own for own in [*reversed(folder.parents), folder] if not own.exists()), None)


def next_run_dir(name: str) -> Path:
    """Make and return the first of runs/<name>-001, -002, ... that does not exist."""
    for number in itertools.count(1):
        folder = Path("runs", f"{name}-{number:03d}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()  # of two processes that want it, one makes it
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable: the numbers do not end")


def find_run_dir(settings: Config) -> Path:
    """Return the folder of the run to resume. Raises ValueError where there is none or it is another experiment."""
    folder = Path(settings.run.dir or "")
    if settings.run.dir is None or not (folder / "config.yaml").is_file():
        raise ValueError(f"run.dir: got {settings.run.dir!r}, expected the folder of the run to resume")
    differs = config.difference(read(folder / "config.yaml"), config.flatten(config.to_dict(settings)))
    if differs:
        raise ValueError(f"{differs}; to resume {folder}: --config {folder / 'config.yaml'} --run.resume true")
    return folder
