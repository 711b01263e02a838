"""Learn a stream online, compare learning rules, score a run.

    biomamba                                                        = train --config language
    biomamba train --config delay --rule.name bptt --run.seed 3 --run.dir runs/x
    biomamba train --config runs/x/config.yaml --run.resume true
    biomamba compare --config delay --rules rtrl,rtrl_stdp,bptt --lengths 1,64 --seeds 3
    biomamba fidelity --config delay --rules rtrl,stllr --lengths 1,8 --depths 1,2
    biomamba report runs/compare-delay-001 runs/x -o report.html
    biomamba evaluate runs/x --split valid
    biomamba info

`python -m biomamba` is the same, and so is `python train.py` in a checkout. --config takes a YAML file, or the name of
one that comes with the package. Every value of a config can be given on the command line: `biomamba train --help`
names them all, those of another task, block or rule with its name: `train --task.name delay --help`; so do
`compare --help`, `fidelity --help`, `report --help` and `evaluate --help`. `info` prints what a bug report needs.
What a run leaves behind is described in biomamba/experiment/log.py.
"""

import argparse
import itertools
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from tqdm import tqdm

from .. import Model, Report, Task, evaluate, online
from ..analysis import cost, neurobench
from ..analysis.fidelity import fidelity
from ..blocks import BLOCKS
from ..experiment import checkpoint, config, jobs, log, trackers
from ..experiment.config import Config
from ..experiment.memory import keep_freed_memory
from ..online import Carry
from ..ops.kernels import resolve
from ..report import page as html
from ..report.text import (
    bytes_text,
    compare_table,
    confusion_table,
    fidelity_table,
    gather,
    plot,
    score_table,
)
from ..rules import RULES, LearningRule
from ..state import nbytes
from ..stream import Attentive, Chunk, Split
from ..tasks import TASKS
from . import info

DEFAULT = config.CONFIGS / "language.yaml"
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}
REGISTRIES: dict[str, config.Registry] = {"task": TASKS, "model": BLOCKS, "rule": RULES, "optim": OPTIMIZERS}
RUN_FILES = ("config.yaml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "summary.json")
LONG = 256  # steps per chunk where nothing is learned; the scores do not depend on it


@dataclass(frozen=True)
class Compare:
    """Learn the same streams from the same weights by several rules, each run a process of its own.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    seeds: how many, counted from run.seed
    jobs: runs at the same time
    costs: count operations, memory, time and energy of each setting at the end
    fidelity: steps of each stream on which the gradients are compared with full BPTT's at the end; 0: not at all
    """

    rules: str = "rtrl,bptt"
    lengths: str | None = None
    windows: str | None = None
    seeds: PositiveInt = 3
    jobs: PositiveInt = 1
    costs: bool = True
    fidelity: NonNegativeInt = 256


@dataclass(frozen=True)
class Fidelity:
    """Compare each rule's gradient with full backpropagation through a segment of the stream, weights held.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    depths: numbers of blocks, separated by commas; null: the config's
    segment: time steps of each stream
    updates: that the config's own rule makes before, on what comes before the segment
    """

    rules: str = "rtrl,bptt"
    lengths: str | None = None
    windows: str | None = None
    depths: str | None = None
    segment: PositiveInt = 256
    updates: NonNegativeInt = 0


@dataclass(frozen=True)
class Evaluate:
    """Score a finished run's weights with learning off, and with learning on from there.

    split: which part of the data; null: the task's held-out one
    each: adapt to each person or record of the split by itself, from the same weights; the scores are of all together
    steps: time steps of each stream; null: the whole split, or as many as the run had where the task never ends
    """

    split: Split | None = None
    each: bool = False
    steps: PositiveInt | None = None


class Parts(NamedTuple):
    """What a config stands for."""

    task: Task
    model: Model
    rule: LearningRule
    optimizer: Optimizer
    total: int  # time steps of each stream


class Until:
    """The first `left` steps of a stream, which may have to be told what the model says of them."""

    def __init__(self, stream: Iterator[Chunk], left: int) -> None:
        """Take the stream."""
        self.stream, self.left = stream, left

    def __iter__(self) -> Iterator[Chunk]:
        """Return itself."""
        return self

    def __next__(self) -> Chunk:
        """Return the next chunk, cut where the steps end."""
        if self.left <= 0:
            raise StopIteration
        chunk = next(self.stream)
        left, self.left = self.left, self.left - chunk.x.shape[1]
        return chunk if self.left >= 0 else Chunk(*(tensor[:, :left] for tensor in chunk))

    def hear(self, out: Tensor, chunk: Chunk) -> None:
        """Pass on what the model says."""
        if isinstance(self.stream, Attentive):
            self.stream.hear(out, chunk)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the stream's state; nothing where it has none."""
        return self.stream.state_dict() if isinstance(self.stream, Attentive) else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Give the stream its state back."""
        if isinstance(self.stream, Attentive):
            self.stream.load_state_dict(state)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what the user can mend is one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what we print has heard enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 128 + signal.SIGPIPE


def _run(argv: Sequence[str]) -> int:
    """Choose the command and run it."""
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("train", argv)
    try:
        if command not in COMMANDS:
            raise ValueError(f"got {command!r}, expected one of the commands {', '.join(COMMANDS)}")
        return COMMANDS[command](rest)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"biomamba: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def train(argv: Sequence[str]) -> int:
    """Learn one stream online, and say how well that went."""
    parsed = config.parse(argv, REGISTRIES, DEFAULT, usage="train ")
    settings = parsed.config
    watching = trackers.choose(settings.run.trackers)
    parts = build(settings, make_task(settings))
    carry, heard, progress = None, dict[str, Tensor](), log.Progress(parts.task, parts.total)
    if settings.run.resume:
        folder = find(settings)
        if (folder / "summary.json").exists():
            print(f"{folder} is finished: nothing is left to resume. biomamba evaluate {folder}")
            return 0
        if (folder / "checkpoint.safetensors").exists():
            carry, heard = resume(settings, parts, folder, progress)
        else:
            (folder / "metrics.jsonl").write_text("")
    else:
        folder = claim(settings)
        settings = replace(settings, run=replace(settings.run, dir=str(folder), overwrite=False))
        log.write(folder / "config.yaml", config.to_yaml(settings))
    introduce(settings, parts, folder, carry, parsed.notes)
    with trackers.opened(watching, folder, config.to_dict(settings), carry.steps if carry else 0) as tracked:
        carry, signal_number = learn(settings, parts, folder, carry, heard, progress, tracked)
        if signal_number is None:
            summary = finish(settings, parts, folder, carry, progress)
            for tracker in tracked:
                tracker.finish(summary)
    if signal_number is not None:
        again = f"biomamba train --config {shlex.quote(str(folder / 'config.yaml'))} --run.resume true"
        print(f"stopped at step {carry.steps:,} of {parts.total:,}, saved; to go on: {again}")
        return 128 + signal_number
    return 0


def make_task(settings: Config) -> Task:
    """Make the task. Raises ValueError for options that no data can satisfy."""
    return TASKS[settings.task.name](**settings.task.options)


def build(settings: Config, task: Task) -> Parts:
    """Make model, rule and optimiser. Raises ValueError and FileNotFoundError for what cannot be made."""
    keep_freed_memory()
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    length, window = settings.stream.length, settings.rule.window
    if window is not None and window < length:
        raise ValueError(f"rule.window: got {window} steps, expected at least stream.length, {length} steps")
    total = steps(task, settings.stream.split, settings.stream.batch, settings.run.seed, settings.stream.steps)
    if total < length:
        raise ValueError(f"stream.length: got {length} steps, expected at most the {total} steps of a stream")
    model = draw(settings, task)
    rule = RULES[settings.rule.name](model.blocks, **settings.rule.options)  # type: ignore[arg-type]
    optimizer = OPTIMIZERS[settings.optim.name]
    options = config.accepted(optimizer, {**asdict(settings.optim), "fused": True})  # fused: one kernel, not one each
    return Parts(task, model, rule, optimizer(model.parameters(), **options), total)


def steps(task: Task, split: str, batch: int, seed: int, wanted: int | None) -> int:
    """Return how many steps of each stream to take. Raises ValueError where that many are not to be had."""
    available = task.steps(split, batch=batch, seed=seed)
    if available is None and wanted is None:
        raise ValueError("stream.steps: got null, expected a number of time steps, as this task never ends: give 12000")
    if available is not None and wanted is not None and wanted > available:
        raise ValueError(f"stream.steps: got {wanted}, expected at most the {available} steps of {batch} streams")
    return wanted or available or 0


def draw(settings: Config, task: Task) -> Model:
    """Return the model with the weights that the seed draws, whatever the device and the precision."""
    try:
        torch.empty(0, device=settings.run.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"run.device: got {settings.run.device!r}, which torch cannot use here: give cpu") from error
    resolve(settings.run.kernels, torch.device(settings.run.device).type)
    torch.manual_seed(settings.run.seed)
    own = settings.model
    given = asdict(own) | own.options | {"kernels": settings.run.kernels, "feedback": settings.rule.feedback}
    model = Model(**task.spec._asdict(), **{name: value for name, value in given.items() if name != "options"})
    return model.to(settings.run.device, getattr(torch, settings.run.dtype))


def claim(settings: Config) -> Path:
    """Make the folder of a new run. Raises FileExistsError where it holds a run that may not be overwritten."""
    if settings.run.dir is None:
        return fresh(f"{settings.task.name}-{settings.rule.name}-seed{settings.run.seed}")
    folder = Path(settings.run.dir)
    held = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if held and not settings.run.overwrite:
        raise FileExistsError(
            f"run.dir: {folder} already holds a run: give another folder, --run.resume true to go on with it, "
            "or --run.overwrite true to lose it"
        )
    for file in held:
        file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fresh(name: str) -> Path:
    """Make and return the first of runs/<name>-001, -002, ... that does not exist."""
    for number in itertools.count(1):
        folder = Path("runs", f"{name}-{number:03d}")
        if not folder.exists():
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable: the numbers do not end")


def find(settings: Config) -> Path:
    """Return the folder of the run to resume. Raises ValueError where there is none or it is another experiment."""
    folder = Path(settings.run.dir or "")
    if settings.run.dir is None or not (folder / "config.yaml").is_file():
        raise ValueError(f"run.dir: got {settings.run.dir!r}, expected the folder of the run to resume")
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    differs = config.difference(saved, config.to_dict(settings))
    if differs:
        raise ValueError(f"{differs}; to resume {folder}: --config {folder / 'config.yaml'} --run.resume true")
    return folder


def resume(settings: Config, parts: Parts, folder: Path, progress: log.Progress) -> tuple[Carry, checkpoint.Tensors]:
    """Put everything back as it was at the last checkpoint, and return the loop's carry and the stream's own state.

    Raises ValueError where file or data do not fit.
    """
    tensors, facts = checkpoint.load(folder / "checkpoint.safetensors")
    if facts["source"] != parts.task.source:
        raise ValueError(f"task: the run learned from {facts['source']!r}, given is {parts.task.source!r}")
    progress.load_state_dict(facts["progress"])
    log.shorten(folder / "metrics.jsonl", facts["metrics_bytes"])
    carry = checkpoint.restore(
        tensors, facts["loop"], parts.task, parts.model, parts.rule, parts.optimizer, settings.stream.batch
    )
    return carry, checkpoint.under(tensors, "stream.")


def save(parts: Parts, folder: Path, carry: Carry, chunks: Until, progress: log.Progress) -> None:
    """Write a checkpoint."""
    progress.peak = progress.peak or log.peak_rss_bytes()
    tensors, loop = checkpoint.collect(parts.model, parts.optimizer, carry)
    tensors |= {f"stream.{name}": tensor for name, tensor in chunks.state_dict().items()}
    facts: dict[str, Any] = {"loop": loop, "progress": progress.state_dict(), "source": parts.task.source}
    facts["metrics_bytes"] = log.sync(folder / "metrics.jsonl")
    checkpoint.save(folder / "checkpoint.safetensors", tensors, facts)


def introduce(settings: Config, parts: Parts, folder: Path, carry: Carry | None, notes: Sequence[str]) -> None:
    """Say what is about to happen."""
    for note in notes:
        print(note)
    parameters = sum(p.numel() for p in parts.model.parameters())
    kernels = resolve(settings.run.kernels, torch.device(settings.run.device).type)
    print(f"{settings.task.name}: {parts.task.source}")
    print(
        f"{settings.stream.batch} streams of {parts.total:,} steps, {settings.stream.length} per update; "
        f"{settings.model.block}, {parameters:,} parameters; {settings.rule.name}; "
        f"kernels {kernels}{', compiled' if settings.run.compile else ''}; {folder}"
    )
    if carry is not None:
        print(f"resumed at step {carry.steps:,}")
    sys.stdout.flush()


def learn(
    settings: Config,
    parts: Parts,
    folder: Path,
    carry: Carry | None,
    heard: checkpoint.Tensors,
    progress: log.Progress,
    tracked: Sequence[trackers.Tracker],
) -> tuple[Carry, int | None]:
    """Learn to the end of the stream, or until a signal; return the loop's carry and the signal."""
    stream, run, done = settings.stream, settings.run, carry.steps if carry else 0
    whole = parts.task.stream(stream.split, batch=stream.batch, length=stream.length, seed=run.seed, start=done)
    chunks = Until(whole, parts.total - done)
    chunks.load_state_dict(heard)
    reports = learning(settings, parts, chunks, carry)
    bar = tqdm(total=parts.total, initial=done, unit=" steps", disable=None)
    began, saved = time.perf_counter() - progress.seconds, time.perf_counter()
    with bar, jobs.signals() as caught:
        for report in reports:
            carry, now, new = report.carry, time.perf_counter(), report.chunk.x.shape[1]
            progress.take(report, now - began)
            bar.update(new)
            if carry.steps // run.report_every > (carry.steps - new) // run.report_every or carry.steps == parts.total:
                record = progress.record(carry)
                tell(record, folder, tracked)
                bar.set_postfix(record.interval)
                if bar.disable:
                    print(log.progress_line(record, parts.total), flush=True)
            if caught or carry.steps == parts.total or (run.save_every is not None and now - saved >= run.save_every):
                save(parts, folder, carry, chunks, progress)
                saved = now
            if caught:
                return carry, caught[0]
    if carry is None:
        raise ValueError(f"{parts.task.source}: it ended before its first step, expected at least one")
    if carry.steps < parts.total:  # a live stream may end before what was asked of it
        tell(progress.record(carry), folder, tracked)
        save(parts, folder, carry, chunks, progress)
    return carry, None


def tell(record: log.Record, folder: Path, tracked: Sequence[trackers.Tracker]) -> None:
    """Write a line of metrics.jsonl, and tell the trackers."""
    log.append(folder / "metrics.jsonl", record)
    for tracker in tracked:
        tracker.record(record)


def set_rate(parts: Parts, settings: Config, done: int) -> None:
    """Set the learning rate of the update after `done` steps, where it is to change along the stream."""
    first, last = settings.optim.lr, settings.optim.lr_end
    if last is not None:
        for group in parts.optimizer.param_groups:
            group["lr"] = first + (last - first) * done / parts.total


def learning(settings: Config, parts: Parts, chunks: Iterator[Chunk], carry: Carry | None = None) -> Iterator[Report]:
    """Yield the reports of the online loop over the chunks, the learning rate moving along the stream."""
    task, model, rule, optimizer, _ = parts
    window, clip, fuse = settings.rule.window, settings.optim.clip, settings.run.compile
    for report in online(chunks, task, model, rule, optimizer, window=window, clip=clip, carry=carry, compile=fuse):
        set_rate(parts, settings, report.carry.steps)
        yield report


def finish(settings: Config, parts: Parts, folder: Path, carry: Carry, progress: log.Progress) -> log.Summary:
    """Write the weights and the summary, print the scores beside the baselines, and return the summary."""
    peak = progress.peak or log.peak_rss_bytes()
    checkpoint.save(folder / "model.safetensors", checkpoint.weights(parts.model))
    scores = progress.scores(carry)
    if settings.run.held_out:
        add_held_out(scores, settings, parts.task, parts.model)
    others = baselines(settings, parts) if settings.run.baselines else {}
    confusion = log.confusion(carry.meters)
    summary = log.Summary(
        task=settings.task.name,
        source=parts.task.source,
        block=settings.model.block,
        rule=settings.rule.name,
        length=settings.stream.length,
        window=settings.rule.window,
        seed=settings.run.seed,
        steps=carry.steps,
        streams=settings.stream.batch,
        scores=scores,
        baselines=others,
        confusion=confusion,
        steps_per_second=carry.steps / progress.seconds,
        trace_bytes=nbytes(carry.trace),
        peak_rss_bytes=peak,
        parameters=sum(p.numel() for p in parts.model.parameters()),
        spike_rate=progress.spike_rate(),
        wall_seconds=progress.seconds,
        updates=carry.updates,
        skipped=carry.skipped,
        versions=log.versions(),
    )
    log.write(folder / "summary.json", log.to_json(asdict(summary)))
    print(score_table({settings.rule.name: scores, **others}))
    if confusion:
        print(confusion_table(confusion))
    print(
        f"{carry.steps * settings.stream.batch / progress.seconds:,.0f} samples/s, {progress.seconds:.1f} s, "
        f"{carry.skipped} updates skipped; traces {bytes_text(summary.trace_bytes)}, memory {bytes_text(peak)}"
    )
    print(f"{folder}/summary.json")
    return summary


def add_held_out(scores: log.Scores, settings: Config, task: Task, model: Model) -> None:
    """Add the scores of the held-out split, read once with learning off."""
    scored = frozen(settings, task, model, task.held_out, None, f"split {task.held_out}, learning off")
    for name, value in scored.scores.items():
        scores[name]["held_out"] = value["all"]


def frozen(settings: Config, task: Task, model: Model, split: str, wanted: int | None, label: str) -> log.Scored:
    """Score a split with learning off."""
    if not sys.stderr.isatty():
        print(f"scoring {label} ...", flush=True)
    batch, seed = settings.stream.batch, settings.run.seed
    total = steps(task, split, batch, seed, wanted)
    chunks = task.stream(split, batch=batch, length=min(LONG, total), seed=seed)
    return log.score(evaluate(Until(chunks, total), task, model), task, total, label)


def baselines(settings: Config, parts: Parts) -> dict[str, log.Scores]:
    """Score the model as the seed drew it, with learning off, and the task's trivial predictors."""
    stream, seed, task = settings.stream, settings.run.seed, parts.task
    untrained = draw(settings, task)
    scores = {"frozen": frozen(settings, task, untrained, stream.split, parts.total, "the untrained model").scores}
    scores |= task.baseline(stream.split, batch=stream.batch, seed=seed, steps=parts.total)
    if settings.run.held_out:
        add_held_out(scores["frozen"], settings, task, untrained)
        for label, own in task.baseline(task.held_out, batch=stream.batch, seed=seed).items():
            for name, value in own.items():
                scores[label][name]["held_out"] = value["all"]
    return scores


def evaluate_run(argv: Sequence[str]) -> int:
    """Score a finished run's weights on a split, with learning off, and with learning on from there."""
    if not argv:
        raise ValueError("evaluate: expected the folder of a finished run: biomamba evaluate RUN_DIR")
    folder, rest = Path(argv[0]), argv[1:]
    asked = argv[0] in ("-h", "--help")
    given = ["--help"] if asked else ["--config", str(run_config(folder))]
    parsed = config.parse([*given, *rest], REGISTRIES, DEFAULT, Evaluate, "evaluate RUN_DIR ")
    settings, wanted = parsed.config, parsed.command.steps
    task, learned, batch = make_task(settings), settings.stream.split, settings.stream.batch
    split = parsed.command.split or task.held_out
    endless = task.steps(split, batch=batch) is None
    wanted = wanted or (settings.stream.steps if endless else None)
    optim = replace(settings.optim, lr=settings.optim.lr_end or settings.optim.lr)  # as where the run ended
    settings = replace(settings, stream=replace(settings.stream, split=split, steps=wanted), optim=optim)
    parts = build(settings, task)
    weights, _ = checkpoint.load(folder / "model.safetensors")
    checkpoint.put(parts.model, weights)
    print(f"{folder}: {task.source}")
    print(f"split {split}: {batch} streams of {parts.total:,} steps; {overlap(task, learned, split, endless)}")
    scored = {"learning off": frozen(settings, task, parts.model, split, parts.total, "learning off")}
    chunks = Until(task.stream(split, batch=batch, length=settings.stream.length, seed=settings.run.seed), parts.total)
    scored["learning on"] = log.score(learning(settings, parts, chunks), task, parts.total, "learning on")
    if parsed.command.each:
        scored["each by itself"] = adapt(settings, task, split, weights)
    print(score_table({label: own.scores for label, own in scored.items()}))
    for label, own in scored.items():
        if counts := log.confusion(own.meters):
            print(f"{label}\n{confusion_table(counts)}")
    if task.step_seconds:
        factor = parts.total * task.step_seconds / scored["learning on"].seconds
        streams = "one stream" if batch == 1 else f"{batch} streams at once"
        print(f"learning on: {factor:.1f} times faster than real time, {streams}")
    return 0


def adapt(settings: Config, task: Task, split: Split, weights: checkpoint.Tensors) -> log.Scored:
    """Score each part of a split with learning on, every one from the same weights; the scores are of all together."""
    own, whole, last_tenth = task.parts(split), task.meters(), task.meters()
    if not own:
        raise ValueError(f"each: got true, expected false, as split {split} of {settings.task.name} has no parts")
    began = time.perf_counter()
    for name, part in tqdm(own.items(), desc="each by itself", disable=None):
        parts = build(replace(settings, stream=replace(settings.stream, split=split, steps=None)), part)
        checkpoint.put(parts.model, weights)
        stream = part.stream(split, batch=settings.stream.batch, length=settings.stream.length, seed=settings.run.seed)
        for report in learning(settings, parts, stream):
            log.take_end(report, last_tenth, parts.total)
            for meter in whole.values():
                meter.update(report.out, report.chunk)
        if not sys.stderr.isatty():
            print(f"{name} done", flush=True)
    return log.Scored(log.both(whole, last_tenth), whole, time.perf_counter() - began)


def run_config(folder: Path) -> Path:
    """Return the config of a finished run. Raises FileNotFoundError where the folder holds none."""
    for name in ("config.yaml", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}, expected the folder of a finished run: evaluate RUN_DIR")
    return folder / "config.yaml"


def overlap(task: Task, learned: str, split: str, endless: bool) -> str:
    """Say in words what a split shares with the one that was learned from."""
    if learned == split:
        return f"the very stream that was learned from: its split was {learned} too"
    if endless:
        return f"drawn apart from split {learned}, which was learned from"
    words = f"split {learned} ({task.splits[learned]}; {split}: {task.splits[split]})"
    if "all" in (learned, split):
        return f"it overlaps what was learned from: {words}"
    return f"nothing of it was learned from: the run's was {words}"


def compare(argv: Sequence[str]) -> int:
    """Run every rule, length, window and seed as a process of its own, and put them in one table."""
    parsed = config.parse(argv, REGISTRIES, DEFAULT, Compare, "compare ")
    settings, at_once = parsed.config, parsed.command.jobs
    plan = variants(argv, parsed.command, settings)
    build(next(iter(plan.values()))[0], make_task(settings))
    folder = compare_folder(settings)
    threads = settings.run.threads or max(1, (os.cpu_count() or 1) // at_once)
    first, runs = next(iter(plan)), dict[str, list[Path]]()
    commands: dict[str, list[str]] = {}
    for label, seeds in plan.items():
        for variant in seeds:
            name = f"{label}-seed{variant.run.seed}"
            begun = settings.run.resume and (folder / name / "config.yaml").exists()
            own = replace(variant.run, dir=str(folder / name), threads=threads, resume=begun, baselines=label == first)
            log.write(folder / f"{name}.yaml", config.to_yaml(replace(variant, run=own)))
            commands[name] = jobs.command("train", "--config", str(folder / f"{name}.yaml"))
            runs.setdefault(label, []).append(folder / name)
    jobs.run_all(commands, folder, at_once)
    result = gather(runs)
    firsts = {label: seeds[0] for label, seeds in plan.items()}
    if segment := parsed.command.fidelity:
        weights, _ = checkpoint.load(runs[first][0] / "model.safetensors")
        segment = min(segment, build(settings, make_task(settings)).total)
        rows = [near(label, own, weights, segment) for label, own in watched(firsts, "fidelity")]
        result["fidelity"] = {
            "steps": segment,
            "streams": settings.stream.batch,
            "weights": f"learned by {runs[first][0].name}",
            "rows": rows,
        }
    if parsed.command.costs:
        add_costs(result, firsts)
    log.write(folder / "compare.json", log.to_json(result))
    print(compare_table(result))
    try:
        plot(folder / "compare.png", result)
        html.write(folder / "report.html", [folder])
        print(f"{folder}/report.html")
    except ImportError as error:
        print(error)
    print(f"{folder}/compare.json")
    return 0


def watched(plan: Mapping[str, Config], what: str) -> Iterator[tuple[str, Config]]:
    """Yield the settings by label, with a bar on a terminal and lines elsewhere."""
    for label, variant in tqdm(plan.items(), desc=what, disable=None):
        if not sys.stderr.isatty():
            print(f"{what} of {label} ...", flush=True)
        yield label, variant


def near(label: str, settings: Config, weights: checkpoint.Tensors, segment: int, start: int = 0) -> dict[str, Any]:
    """Return how near a rule's gradient comes to full BPTT's on a segment of the stream, and of what rule it is."""
    parts = build(settings, make_task(settings))
    checkpoint.put(parts.model, weights)
    rule, stream = settings.rule, settings.stream
    chunks = parts.task.stream(
        stream.split, batch=stream.batch, length=stream.length, seed=settings.run.seed, start=start
    )
    found = fidelity(parts.model, parts.task, parts.rule, Until(chunks, segment), rule.window)
    own = {"rule": rule.name, "length": stream.length, "window": rule.window, "depth": settings.model.n_layers}
    return {"label": label, **own, **found}


def learned(settings: Config, updates: int, segment: int) -> tuple[checkpoint.Tensors, int]:
    """Return the weights after so many updates, and how many steps of the stream they took; a segment must be left."""
    parts, done = build(settings, make_task(settings)), 0
    stream = settings.stream
    chunks = parts.task.stream(stream.split, batch=stream.batch, length=stream.length, seed=settings.run.seed)
    for report in learning(settings, parts, Until(chunks, parts.total)) if updates else ():
        done = report.carry.steps
        if report.carry.updates == updates:
            break
    if done + segment > parts.total:
        raise ValueError(
            f"updates: after {updates} only {parts.total - done} steps are left, expected {segment} or more"
        )
    return checkpoint.weights(parts.model), done


def add_costs(result: dict[str, Any], plan: Mapping[str, Config]) -> None:
    """Add to a comparison what each of its settings costs, and what memory each holds by the stream's length."""
    result["memory"] = []
    for label, settings in watched(plan, "cost"):
        parts = build(settings, make_task(settings))
        window, clip = settings.rule.window, settings.optim.clip
        chunk = labelled(settings, parts, settings.stream.length)
        own = cost.measure(parts.model, parts.task, parts.rule, parts.optimizer, chunk, window, clip)
        result["settings"][label]["cost"] = asdict(own)
        if settings.model.threshold is not None:
            try:
                result["settings"][label]["neurobench"] = neurobench.metrics(parts.model, chunk)
            except ImportError as error:
                print(error)
        long = labelled(settings, parts, min(LONG, parts.total))
        held = {label: (parts.rule, settings.stream.length, window)}
        if not result["memory"]:
            held["BPTT of the whole stream"] = RULES["bptt"](parts.rule.blocks), None, None
        for name, (rule, length, back) in held.items():
            lengths = [n for n in (16, 64, LONG) if (length or 1) <= n <= long.x.shape[1]]
            if lengths:
                rows = cost.memory_by_length(name, parts.model, parts.task, rule, long, length, lengths, back)
                result["memory"] += map(asdict, rows)


def labelled(settings: Config, parts: Parts, length: int) -> Chunk:
    """Return the first chunk of `length` steps that holds a label; the model is as before."""
    stream = parts.task.stream(
        settings.stream.split, batch=settings.stream.batch, length=length, seed=settings.run.seed
    )
    for report in evaluate(stream, parts.task, parts.model):
        if bool(report.chunk.mask.any()) and report.chunk.x.shape[1] == length:
            return report.chunk
    raise ValueError(f"stream.length: got {length}, but no chunk of that length holds a label")


def compare_gradients(argv: Sequence[str]) -> int:
    """Print and keep how near each rule's gradient is to full BPTT's, by chunk length and depth."""
    parsed = config.parse(argv, REGISTRIES, DEFAULT, Fidelity, "fidelity ")
    settings, asked = parsed.config, parsed.command
    rows = []
    for depth in words(asked.depths or str(settings.model.n_layers)):
        given = [*argv, "--model.n_layers", depth]
        base = config.parse(given, REGISTRIES, DEFAULT, Fidelity).config
        plan = {label: seeds[0] for label, seeds in variants(given, asked, base, Fidelity).items()}
        weights, done = learned(base, asked.updates, asked.segment)
        rows += [near(label, own, weights, asked.segment, done) for label, own in watched(plan, f"{depth} blocks")]
    after = f"after {asked.updates} updates of {settings.rule.name}" if asked.updates else "as drawn"
    found = {"steps": asked.segment, "streams": settings.stream.batch, "weights": after, "rows": rows}
    task = make_task(settings)
    folder = compare_folder(settings, "fidelity")
    log.write(folder / "fidelity.json", log.to_json({"task": settings.task.name, "source": task.source, **found}))
    print(f"{task.source}: {asked.segment} steps of {settings.stream.batch} streams, weights {after}")
    print(fidelity_table(rows))
    print(f"{folder}/fidelity.json")
    return 0


def report(argv: Sequence[str]) -> int:
    """Make one page of comparisons and runs."""
    parser = argparse.ArgumentParser(prog="biomamba report", description=report.__doc__, exit_on_error=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_DIR", help="of compare, fidelity or train")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    try:
        asked, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(f"report: {error}: biomamba report RUN_DIR... -o report.html") from error
    if unknown or not asked.folders:
        raise ValueError(f"report: got {' '.join(unknown) or 'no folder'}, expected RUN_DIR... -o report.html")
    html.write(asked.output, asked.folders)
    print(asked.output)
    return 0


def variants(
    argv: Sequence[str], asked: Compare | Fidelity, base: Config, command: type = Compare
) -> dict[str, list[Config]]:
    """Return, by label, the config of every seed. Raises ValueError where one of them cannot be."""
    lengths = words(asked.lengths or str(base.stream.length))
    windows = words(asked.windows or str(base.rule.window or "none"))
    plan: dict[str, list[Config]] = {}
    for rule, length, window in itertools.product(words(asked.rules), lengths, windows):
        none = window in ("none", "null")
        given = ["--rule.name", rule, "--stream.length", length, "--rule.window", "null" if none else window]
        variant = config.parse([*argv, *given], REGISTRIES, DEFAULT, command).config
        if variant.rule.window is None or variant.rule.window >= variant.stream.length:
            label = f"{rule}-length{length}" + ("" if none else f"-window{window}")
            seeds = range(base.run.seed, base.run.seed + getattr(asked, "seeds", 1))
            plan[label] = [replace(variant, run=replace(variant.run, seed=seed)) for seed in seeds]
    if not plan:
        raise ValueError(f"windows: got {asked.windows}, expected at least one not shorter than a length")
    return plan


def words(text: str) -> list[str]:
    """Return what stands between the commas."""
    return [word.strip() for word in text.split(",")]


def compare_folder(settings: Config, what: str = "compare") -> Path:
    """Make the folder of a comparison. Raises FileExistsError where it is in use."""
    if settings.run.dir is None:
        return fresh(f"{what}-{settings.task.name}")
    folder = Path(settings.run.dir)
    if folder.exists() and any(folder.iterdir()) and not (settings.run.overwrite or settings.run.resume):
        raise FileExistsError(
            f"run.dir: {folder} is not empty: give another folder, --run.resume true to go on with it, "
            "or --run.overwrite true to lose what it holds"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


COMMANDS = {
    "train": train,
    "compare": compare,
    "fidelity": compare_gradients,
    "report": report,
    "evaluate": evaluate_run,
    "info": info.run,
}
