"""`biomamba evaluate`: score a finished run's weights, learning off and learning on."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from .. import checkpoint
from ..experiment import log, outcome, schedule
from ..experiment.build import Experiment, steps_to_take, task_of
from ..experiment.config import Config
from ..experiment.parse import parse
from ..report.text import confusion_table, score_table
from ..stream import Benchmark, Split


@dataclass(frozen=True)
class Evaluate:
    """Score a finished run's weights with learning off, and with learning on from there.

    split: which part of the data; null: the task's held-out one
    each: adapt to each person or record of the split by itself, from the same weights; the scores are of all together
    steps: time steps of each stream, with each of each part's, where it has so many; null: the whole split, or as many
        as the run had where the task never ends
    save: folder that keeps what was adapted, for biomamba.load; with each, a folder in it for each person or record
    """

    split: Split | None = None
    each: bool = False
    steps: PositiveInt | None = None
    save: str | None = None


def run(argv: Sequence[str]) -> int:
    """Score a finished run's weights on a split, with learning off, and with learning on from there."""
    if not argv:
        raise ValueError("evaluate: expected the folder of a finished run: biomamba evaluate RUN_DIR")
    folder, rest = Path(argv[0]), argv[1:]
    asked = argv[0] in ("-h", "--help")
    given = ["--help"] if asked else ["--config", str(run_config(folder))]
    parsed = parse([*given, *rest], Evaluate, "evaluate RUN_DIR ")
    settings, wanted = parsed.config, parsed.command.steps
    task, learned, batch = task_of(settings), settings.stream.split, settings.stream.batch
    split = parsed.command.split or task.held_out
    endless = task.steps(split, batch=batch) is None
    wanted = wanted or (settings.stream.steps if endless else None)
    total = steps_to_take(task, learned, batch, settings.run.seed, settings.stream.steps)
    optim = schedule.ended(settings.optim, total, settings.stream.length)  # it goes on from there
    model = replace(settings.model, from_=None)  # the run has weights of its own
    settings = replace(settings, stream=replace(settings.stream, split=split, steps=wanted), optim=optim, model=model)
    keep = None if parsed.command.save is None else Path(parsed.command.save)
    own = Experiment.from_config(settings, task)
    weights, _ = checkpoint.load(folder / "model.safetensors")
    checkpoint.load_weights(own.model, weights)
    own.learner.set_origin()
    print(f"{folder}: {task.source}")
    print(f"split {split}: {batch} streams of {own.total:,} steps; {overlap(task, learned, split, endless)}")
    scored = {"learning off": own.evaluate(split, own.total, "learning off")}
    if (folder / "average.safetensors").is_file():
        averaged, _ = checkpoint.load(folder / "average.safetensors")
        checkpoint.load_weights(own.model, averaged)
        scored["averaged, learning off"] = own.evaluate(split, own.total, "averaged weights")
        checkpoint.load_weights(own.model, weights)
    scored["learning on"] = log.score(own.online(own.stream()), task, own.total, "learning on")
    if parsed.command.each:
        scored["each by itself"] = adapt(settings, task, split, weights, keep, parsed.command.steps)
    elif keep is not None:
        own.learner.save(keep)
    outcome.check_scored(task, scored["learning off"].meters, own.total)
    print(score_table({label: found.scores for label, found in scored.items()}))
    for line in task.left_out(scored["learning off"].meters):
        print(line)
    for label, found in scored.items():
        if counts := log.confusion(found.meters):
            print(f"{label}\n{confusion_table(counts)}")
    if task.step_seconds:
        factor = own.total * task.step_seconds / scored["learning on"].seconds
        streams = "one stream" if batch == 1 else f"{batch} streams at once"
        print(f"learning on: {factor:.1f} times faster than real time, {streams}")
    if keep is not None:
        print(f"{keep}: {'one learner for each' if parsed.command.each else 'the learner as learning on left it'}")
    return 0


def adapt(
    settings: Config,
    task: Benchmark,
    split: Split,
    weights: checkpoint.Tensors,
    keep: Path | None = None,
    most: int | None = None,
) -> log.Scored:
    """Score each part of a split with learning on, every one from the same weights; the scores are of all together.

    keep: folder that gets the learner of each part, in a folder of its name. most: steps that are taken of each part.
    """
    parts, whole, last_tenth = task.parts(split), task.meters(), task.meters()
    if not parts:
        raise ValueError(f"each: got true, expected false, as split {split} of {settings.task.name} has no parts")
    began, batch, seed = time.perf_counter(), settings.stream.batch, settings.run.seed
    for name, part in tqdm(parts.items(), desc="each by itself", disable=None):
        steps = None if most is None else min(most, steps_to_take(Benchmark.of(part), split, batch, seed, None))
        stream = replace(settings.stream, split=split, steps=steps)
        own = Experiment.from_config(replace(settings, stream=stream), part)
        checkpoint.load_weights(own.model, weights)
        own.learner.set_origin()
        for report in own.online(own.stream()):
            log.update_last_tenth(report, last_tenth, own.total)
            for meter in whole.values():
                meter.update(report.out, report.chunk)
        if keep is not None:
            own.learner.save(keep / name.replace("/", "_"))
        if not sys.stderr.isatty():
            print(f"{name} done", flush=True)
    return log.Scored(log.summarize(whole, last_tenth), whole, time.perf_counter() - began)


def run_config(folder: Path) -> Path:
    """Return the config of a finished run. Raises FileNotFoundError where the folder holds none."""
    for name in ("config.yaml", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}, expected the folder of a finished run: evaluate RUN_DIR")
    return folder / "config.yaml"


def overlap(task: Benchmark, learned: str, split: str, endless: bool) -> str:
    """Say in words what a split shares with the one that was learned from."""
    if learned == split:
        return f"the very stream that was learned from: its split was {learned} too"
    if endless:
        return f"drawn apart from split {learned}, which was learned from"
    words = f"split {learned} ({task.splits[learned]}; {split}: {task.splits[split]})"
    if "all" in (learned, split):
        return f"it overlaps what was learned from: {words}"
    return f"nothing of it was learned from: the run's was {words}"
