"""Beats of patients never heard before, on MIT-BIH, by learning rule, with each part alone.

    python -m bench.ecg [--stage inter|choice|parts|adapt|gap|samples] [--seeds 5] [--jobs 2] [--out runs/bench]

Every run learns by configs/ecg.yaml but for what the table names, and is scored by protocol:

    DS2          learns DS1, scores DS2, learning off; `without 232`: without the record of 3 in 4 of its S beats
    reversed     learns DS2, scores DS1
    left out     learns three quarters of DS1's patients, scores the others, four times; the seed draws the quarters
    adapt        learns on, each record of DS2 from the weights of DS1, labels 10 beats late
    patient      learns on, each record of DS2 from the weights of DS1, labels of its first five minutes alone

    inter        both rules, R peaks annotated and detected: DS2, reversed, untrained
    choice       parts of the input: left out; what the settings are chosen by
    parts        parts of the input: DS2 and reversed
    adapt        both rules: adapt and patient, all beats and those after the fifth minute
    gap          from the rhythm channels of `step: sample` to those of `step: beat`, one difference at a time
    samples      `step: sample` at its own settings: DS2 and adapt
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import grid
from bench.grid import Row, heading, run, spread, table
from biomamba import Report, checkpoint, evaluate
from biomamba.experiment.build import LONG, Experiment, make_task
from biomamba.experiment.config import Config
from biomamba.stream import Chunk, Meter, Split, join
from biomamba.tasks.ecg import detector, features, rhythm
from biomamba.tasks.ecg import task as ecg
from biomamba.tasks.ecg.beats import Table
from biomamba.tasks.ecg.files import CLASSES, RATE
from biomamba.tasks.ecg.scores import meters
from biomamba.tasks.ecg.task import SPLITS, Ecg

DELAY, MINUTES = 10, 5  # beats that labels are late in `adapt`, minutes labelled in `patient`
ADAPT = {"beat": (1e-3, 4), "sample": (1e-4, 64)}  # learning rate and steps per update of one patient
FOLDS = 4  # of `left out`
MOSTLY_S = "232"
DS2_COUNTS = (44_259, 1_837, 3_221, 388, 7)  # beats of DS2, by class
SAMPLES: Row = {
    **{"task.step": "sample", "task.gate": 0, "task.decimate": 12, "task.augment": True},
    **{"task.balance": 0.7, "stream.length": 64, "task.channels": []},
}
NAMES = ["jk", "macro_f1", "S_sensitivity", "S_predictivity", "V_sensitivity", "V_predictivity", "kappa"]
HEADER = ["jk", "macro-F1 (N, S, V)", "Se S", "+P S", "Se V", "+P V", "kappa"]
WAIT, QRS, P = ["wait_long"], [c for c in features.SHAPES if c[0] == "q"], [c for c in features.SHAPES if c[0] == "p"]
PARTS: dict[str, Row] = {
    "all waits, QRS, P": {"channels": list(features.CHANNELS)},
    "wait alone": {"channels": WAIT},
    "all waits alone": {"channels": list(features.WAITS)},
    "QRS alone": {"channels": QRS},
    "P alone": {"channels": P},
    "wait and QRS": {"channels": WAIT + QRS},
    "wait, QRS, P": {},
    "the same, MLII alone": {"leads": "MLII"},
    "the same, not gated": {"gate": 0.0},
    "all waits, QRS, P, not gated": {"gate": 0.0, "channels": list(features.CHANNELS)},
}
GAP: dict[str, Row] = {
    "a beat a step": {},
    "MLII alone": {"options": {"leads": "MLII"}},
    "1 to 25 Hz": {"features": {"PASS": (1.0, 25.0)}},
    "templates start as they go on, weight 0.1": {"features": {"START": 0, "USUAL": 0.1}},
    "no P wave": {"options": {"channels": WAIT + QRS}},
    "no distance": {"options": {"channels": [c for c in WAIT + QRS + P if "distance" not in c]}},
    "channels times 4": {"scale": 4.0},
    "R peaks detected": {"options": {"peaks": "detected"}},
    "R peaks detected, each on its larger side": {
        "options": {"peaks": "detected"},
        "detector": {"SIDE": 1.0, "CLEARLY": 1.0},
    },
    "tops of the energy, not R peaks": {"options": {"peaks": "detected"}, "detector": {"SEARCHED": 0, "DELAY": 30}},
    "all but P: MLII, 1 to 25 Hz, weight 0.1, tops, times 4": {
        "options": {"peaks": "detected", "leads": "MLII", "channels": WAIT + QRS},
        "features": {"PASS": (1.0, 25.0), "START": 0, "USUAL": 0.1},
        "detector": {"SEARCHED": 0, "DELAY": 30},
        "scale": 4.0,
    },
    "channels of the rhythm, a beat a step": {},
}
RULES = ("rtrl", "bptt")
STAGES: dict[str, list[Row]] = {
    "inter": [{"rule": rule, "peaks": peaks} for peaks in ("annotated", "detected") for rule in RULES],
    "parts": [{"part": part} for part in PARTS],
    "choice": [{"part": part} for part in PARTS],
    "adapt": [{"rule": rule, "peaks": peaks} for peaks in ("annotated", "detected") for rule in RULES],
    "gap": [{"difference": name} for name in GAP],
    "samples": [{"rule": rule} for rule in RULES],
}
Scores = dict[str, Any]  # the scores by name, and the matrix of counts


class Groups:
    """Meters of all beats, of those after the fifth minute, and of those of other records than 232."""

    def __init__(self, task: Ecg, names: Iterable[str] = ()) -> None:
        """Start with nothing scored; names: of the records on the rows."""
        self.rows = torch.tensor([name != MOSTLY_S for name in names])
        self.meters = {group: meters(task.peaks == "detected") for group in ("all", "later", "without 232")}

    def update(self, out: torch.Tensor, chunk: Chunk) -> None:
        """Score the predictions for a chunk, classes first."""
        out = out[..., : len(CLASSES)]
        late = chunk.info["at"] > MINUTES * 60 * RATE
        others = self.rows[:, None].expand(late.shape) if len(self.rows) else torch.zeros_like(late)
        for group, kept in (("all", torch.ones_like(late)), ("later", late), ("without 232", others)):
            info = chunk.info | {"score": torch.where(kept, chunk.info["score"], -1)}
            if "missed" in info:
                info["missed"] = info["missed"] * kept[..., None]
            for meter in self.meters[group].values():
                meter.update(out, chunk._replace(info=info))

    def get(self) -> dict[str, Scores]:
        """Return the scores and the counts of each group."""
        return {group: _scores(own) for group, own in self.meters.items()}


def _scores(group: dict[str, Meter]) -> Scores:
    """Return the scores by name, with the matrix of counts."""
    return {name: meter.get() for name, meter in group.items()} | {"counts": group["accuracy"].state_dict()["matrix"]}


@cache
def config_of(rule: str, seed: int, samples: bool = False) -> Config:
    """Return the config of a run."""
    return grid.config_of("ecg", {"rule.name": rule, "seed": seed} | (SAMPLES if samples else {}))


@cache
def task_of(peaks: str = "annotated", gate: float | None = None, leads: str = "both", samples: bool = False) -> Ecg:
    """Return the config's task; what it reads is read once a process."""
    options = config_of("rtrl", 0, samples).task.options
    options = options | {"peaks": peaks, "leads": leads} | ({} if gate is None else {"gate": gate})
    task = make_task("ecg", **options)
    assert isinstance(task, Ecg)  # noqa: S101 - narrows the type
    return task


@contextmanager
def constants(module: Any, **values: Any) -> Iterator[None]:
    """Let the constants of a module have other values for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def learn(
    config: Config, task: Ecg, split: Split = "train", change: Callable[[Chunk], Chunk] | None = None
) -> Experiment:
    """Return the experiment after learning a split, `passes` times over its records, the rate falling."""
    batch = min(config.stream.batch, len(task.parts(split)))
    config = replace(config, stream=replace(config.stream, split=split, batch=batch))
    own = Experiment.from_config(config, task)
    chunks: Iterator[Chunk] = own.stream()
    if split == "test":  # which the task itself reads once
        chunks = chain(chunks, *(own.stream() for _ in range(task.passes - 1)))
        own.total *= task.passes
    deque(own.online(map(change, chunks) if change else chunks), maxlen=0)
    return own


def score(own: Experiment, task: Ecg, split: str, change: Callable[[Chunk], Chunk] | None = None) -> Groups:
    """Return the scores of a split with learning off."""
    task, names = task.derived(passes=1, augment=False), list(task.parts(split))
    chunks: Iterator[Chunk] = task.stream(split, batch=len(names), length=LONG, seed=0)
    groups = Groups(task, names if split == "test" else ())
    for report in evaluate(map(change, chunks) if change else chunks, task, own.model):
        groups.update(report.out, report.chunk)
    return groups


def inter(setting: Row) -> Row:
    """Return what a rule scores on patients that it has not learned from, by split."""
    config, task = config_of(setting["rule"], setting["seed"]), task_of(setting["peaks"])
    row: Row = {"source": task.source, "untrained": score(Experiment.from_config(config, task), task, "test").get()}
    began = time.perf_counter()
    own = learn(config, task)
    row["seconds"] = time.perf_counter() - began
    row |= {"DS2": score(own, task, "test").get(), "reversed": reverse(config, task)}
    return row


def reverse(config: Config, task: Ecg) -> dict[str, Scores]:
    """Return the scores of DS1 after learning DS2, whose own counts weigh the classes."""
    with constants(ecg, COUNTS=DS2_COUNTS):
        other = task.derived()
        return score(learn(config, other, "test"), other, "train").get()


def left_out(config: Config, task: Ecg) -> dict[str, Scores]:
    """Return the scores of the patients of DS1, each scored by a model that learned from others."""
    names = np.random.default_rng(config.run.seed).permutation(SPLITS["train"].split())
    groups = Groups(task)
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        own = learn(config, task.derived(records=tuple(name for name in names if name not in out)))
        rest = task.derived(records=tuple(out), passes=1, augment=False)
        for report in evaluate(rest.stream("train", batch=len(out), length=LONG, seed=0), rest, own.model):
            groups.update(report.out, report.chunk)
    return groups.get()


def parts(setting: Row) -> Row:
    """Return what one part of the input scores."""
    config, task = config_of("rtrl", setting["seed"]), part_task(setting["part"])
    row = {"source": task.source, "DS2": score(learn(config, task), task, "test").get()}
    return row | {"reversed": reverse(config, task)}


def choice(setting: Row) -> Row:
    """Return what a part of the input scores on patients of DS1 that are left out: what settings are chosen by."""
    task = part_task(setting["part"])
    return {"source": task.source, "left out": left_out(config_of("rtrl", setting["seed"]), task)}


def part_task(part: str) -> Ecg:
    """Return the task with a part of the input."""
    options = PARTS[part]
    task = task_of(gate=options.get("gate"), leads=options.get("leads", "both"))
    return task.derived(channels=tuple(options.get("channels", task.channels)))


def adapt(setting: Row) -> Row:
    """Return what a rule scores on DS2 that goes on learning, each record from the weights of DS1."""
    config, task = config_of(setting["rule"], setting["seed"]), task_of(setting["peaks"])
    own = learn(config, task)
    row: Row = {"source": task.source, "DS2": score(own, task, "test").get()}
    began = time.perf_counter()
    row["adapt"] = each(own, task.derived(label_delay=DELAY), 2)
    row["seconds"] = time.perf_counter() - began
    return row | {"patient": each(own, task.derived(labelled=float(MINUTES)), 1)}


def each(learned: Experiment, task: Ecg, batch: int, split: Split = "test") -> dict[str, Scores]:
    """Return the scores of the records with learning on, each from the same weights."""
    weights, (rate, length) = checkpoint.weights(learned.model), ADAPT[task.step]
    config = replace(
        learned.config,
        optim=replace(learned.config.optim, lr=rate, lr_end=None),
        stream=replace(learned.config.stream, split=split, batch=batch, length=length),
    )
    groups = Groups(task)
    for part in task.parts(split).values():
        own = Experiment.from_config(config, part)
        checkpoint.load_weights(own.model, weights)
        take(own.online(own.stream()), groups)
    return groups.get()


def take(reports: Iterable[Report], groups: Groups) -> None:
    """Score what a loop says, all at once: meters cost more than a chunk of a few beats."""
    heard = [(report.out.detach(), report.chunk) for report in reports]
    groups.update(torch.cat([out for out, _ in heard], dim=1), join([chunk for _, chunk in heard]))


def gap(setting: Row) -> Row:
    """Return what the input scores with one difference."""
    own = GAP[setting["difference"]]
    config, scale = config_of("rtrl", setting["seed"]), own.get("scale", 1.0)
    change = (lambda chunk: chunk._replace(x=(scale * chunk.x).clamp(-4, 4))) if scale != 1 else None
    with constants(features, **own.get("features", {})), constants(detector, **own.get("detector", {})):
        task = gap_task(setting["difference"])
        learned = learn(config, task, change=change)
        return {"source": task.source, "DS2": score(learned, task, "test", change).get()}


@cache
def gap_task(difference: str) -> Ecg:
    """Return the task with one difference; it reads its records while the difference holds."""
    options = {"gate": 0.0, "channels": tuple(WAIT + QRS + P)} | GAP[difference].get("options", {})
    if difference != "channels of the rhythm, a beat a step":
        return task_of().derived(**options, simulate=False)  # simulate: nothing that was read is shared
    heard = task_of(samples=True).derived(leads="MLII", channels=rhythm.CHANNELS, augment=False, passes=1)
    task = task_of(gate=0.0, leads="MLII").derived(channels=features.CHANNELS[: len(rhythm.CHANNELS)], simulate=False)
    for split in SPLITS:
        for name in heard.parts(split):
            chunk = join(list(heard.derived(records=(name,)).stream(split, batch=1, length=LONG, seed=0)))
            kinds, at = chunk.info["score"][0].numpy(), chunk.info["at"][0].numpy()
            x = np.pad(chunk.x[0][kinds >= 0].numpy(), ((0, 0), (0, 3)))
            vars(task).setdefault("_tables", {})[name] = Table(
                x, kinds[kinds >= 0], at[kinds >= 0], at, at, at[:0], 0, 0
            )
    return task


def samples(setting: Row) -> Row:
    """Return what `step: sample` scores."""
    config, task = config_of(setting["rule"], setting["seed"], samples=True), task_of(samples=True)
    row: Row = {"source": task.source, "untrained": score(Experiment.from_config(config, task), task, "test").get()}
    own = learn(config, task)
    row["DS2"] = score(own, task, "test").get()
    return row | {"adapt": each(own, task.derived(label_delay=DELAY), 2)}


def baselines(peaks: str) -> Iterator[list[str]]:
    """Yield the rows of the trivial predictors on DS2."""
    for protocol, batch, options in (
        ("DS2, adapt", 2, {"label_delay": DELAY}),
        ("patient", 1, {"labelled": float(MINUTES)}),
    ):
        for group, score_from in (("all", 0.0), ("later", float(MINUTES))):
            task = task_of(peaks).derived(**options, score_from=score_from)
            for name, scores in task.baseline("test", batch=batch, seed=0).items():
                values = [scores[score]["all"] for score in NAMES]
                yield [protocol, name, peaks, group, *("-" if math.isnan(v) else f"{v:.3f}" for v in values)]


def rows_of(measured: list[Row]) -> Iterator[list[str]]:
    """Yield a row for each protocol and group of what the seeds of one setting gave."""
    s = measured[0]["setting"]
    what = s.get("part") or s.get("difference") or s["rule"]
    peaks = s.get("peaks") or GAP.get(what, {}).get("options", {}).get("peaks", "annotated")
    for protocol, groups in SHOWN:
        for group in groups:
            if protocol in measured[0]:
                got = [row[protocol][group] for row in measured]
                cells = [spread([0.0 if own[n] != own[n] else own[n] for own in got]) for n in NAMES]
                yield [protocol, what, peaks, group, *cells]


MEASURES = {"inter": inter, "parts": parts, "choice": choice, "adapt": adapt, "gap": gap, "samples": samples}
SHOWN: list[tuple[str, tuple[str, ...]]] = [
    ("untrained", ("all",)),
    ("DS2", ("all", "later", "without 232")),
    ("reversed", ("all",)),
    ("left out", ("all",)),
    ("adapt", ("all", "later")),
    ("patient", ("later",)),
]


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="inter")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    settings = [row | {"seed": seed} for row in STAGES[arguments.stage] for seed in range(arguments.seeds)]
    measured = run(MEASURES[arguments.stage], settings, arguments.out / f"ecg-{arguments.stage}.jsonl", arguments.jobs)
    lines = (
        [line for peaks in ("annotated", "detected") for line in baselines(peaks)] if arguments.stage == "adapt" else []
    )
    for i in range(0, len(measured), arguments.seeds):
        lines += rows_of(measured[i : i + arguments.seeds])
    print(heading(f"python -m bench.ecg --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(f"{measured[0]['source']}; `later`: the beats after minute {MINUTES}\n")
    print(table(["protocol", "rule or input", "R peaks", "beats", *HEADER], lines))


if __name__ == "__main__":
    main()
