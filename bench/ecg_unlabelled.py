"""Adapt to a patient without labels: S and V on DS2 before and after.

    python -m bench.ecg_unlabelled [--seeds 3] [--jobs 2] [--out runs/bench]

Every run learns DS1 by configs/ecg.yaml, then goes on with each record of DS2 from the same weights, no label read:

    frozen         learning off
    usual          a beat that is as usual by the rule below is learned as N, others are not learned from
    replay         the same, beside rows of DS1 with their labels, so that S and V are not forgotten
    next           the loss is the squared error of the next beat's channels, which the model learned to foresee on DS1
    next, frozen   that model with learning off

A beat is as usual where its wait is within 10 % of the long waits and, in both leads, its QRS complex correlates above
0.95 with the template, differs from it by less than 0.4 of its norm and has its size within 20 %.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bench.ecg import HEADER, NAMES, Groups, config_of, learn, score, take, task_of
from bench.grid import Row, heading, run, spread, table
from biomamba import checkpoint
from biomamba.experiment.build import Experiment
from biomamba.stream import Chunk, Meter, Spec, Split, join
from biomamba.tasks.ecg.files import CLASSES
from biomamba.tasks.ecg.task import Ecg

RATES = (1e-4, 1e-3)
LENGTH = 16  # beats per update
REPLAYED = 7  # rows of DS1 beside the patient's
WAYS = ("usual", "replay", "next")
LIMITS = {"wait_long": 4 * math.log(1.1), "qrs_unlike": 0.1, "qrs_size": 2 * math.log(1.2), "qrs_distance": 0.4}
Kind = TypeVar("Kind", bound=Ecg)


@dataclass(frozen=True)
class Usual(Ecg):
    """The task, with N for a beat that is as usual, and no other label."""

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks, labelled by themselves."""
        for chunk in super().stream(split, batch=batch, length=length, seed=seed, start=start):
            usual = self.usual(chunk.x) & (chunk.info["at"] > 0)
            yield chunk._replace(y=torch.where(usual, 0, -1), mask=usual)

    def usual(self, x: Tensor) -> Tensor:
        """Return which beats (b, t) are as usual, of their channels (b, t, k)."""
        leads = [2 if name.startswith(("qrs", "p_")) else 1 for name in self.channels]
        limits = [LIMITS.get(name, math.inf) for name, n in zip(self.channels, leads, strict=True) for _ in range(n)]
        return (x.abs() < torch.tensor(limits)).all(-1)


@dataclass(frozen=True)
class Replay(Usual):
    """The same beside rows of DS1, on and on, which are learned from and not scored."""

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the patient's chunks with those of DS1."""
        old = task_of()
        rows = (
            chunk
            for turn in count()
            for chunk in old.stream("train", batch=REPLAYED, length=length, seed=turn)
            if chunk.x.shape[1] == length
        )
        own = super().stream(split, batch=1, length=length, seed=seed, start=start)
        for mine, other in zip(own, rows, strict=False):
            silent = other._replace(info=other.info | {"score": torch.full_like(other.y, -1)})
            yield join([mine, silent.between(0, mine.x.shape[1])], axis=0)


@dataclass(frozen=True)
class Next(Ecg):
    """The task with the next beat's channels to foresee beside the class, or, where `alone`, instead of it."""

    alone: bool = False

    @property
    def spec(self) -> Spec:
        """Return the channels in, the classes and the channels out."""
        own = super().spec
        return own._replace(d_out=own.d_out + (own.d_in or 0))

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks; each beat has a loss."""
        for chunk in super().stream(split, batch=batch, length=length, seed=seed, start=start):
            yield chunk._replace(mask=chunk.info["at"] > 0)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the squared error of what the beats of the chunk said of those after them, and the class' loss."""
        follows = chunk.mask[:, 1:] & ~chunk.reset[:, 1:]
        error = (out[:, :-1, len(CLASSES) :] - chunk.x[:, 1:]).square().mean(-1)
        foreseen = (error * follows).sum() / len(out)
        labelled = chunk._replace(mask=chunk.mask & (chunk.y >= 0))
        return foreseen if self.alone else foreseen + super().loss(out[..., : len(CLASSES)], labelled)

    def meters(self) -> dict[str, Meter]:
        """Return none: `Groups` scores the classes."""
        return {}


def of(kind: type[Kind], task: Ecg, **options: object) -> Kind:
    """Return the task as another kind; what was read of the records is shared."""
    other = kind(**{field.name: getattr(task, field.name) for field in fields(Ecg)} | options)
    vars(other).update(_opened=task._opened, _tables=task._tables)
    return other


def measure(setting: Row) -> Row:
    """Return the scores of DS2 before and after."""
    config, task = config_of("rtrl", setting["seed"]), task_of()
    kinds: dict[str, tuple[Ecg, Ecg]] = {
        "usual": (task, of(Usual, task)),
        "replay": (task, of(Replay, task)),
        "next": (of(Next, task), of(Next, task, alone=True)),
    }
    first, then = kinds[setting["way"]]
    learned = learn(config, first)
    row: Row = {"source": task.source, "frozen": score(learned, first, "test").get()}
    weights, batch = checkpoint.weights(learned.model), 1
    for rate in RATES:
        split: Split = "test"
        own = replace(
            config,
            optim=replace(config.optim, lr=rate, lr_end=None),
            stream=replace(config.stream, split=split, batch=batch, length=LENGTH),
        )
        groups = Groups(task)
        for part in then.parts("test").values():
            patient = Experiment.from_config(own, part)
            checkpoint.load_weights(patient.model, weights)
            take(patient.online(patient.stream()), groups)
        row[f"{rate:g}"] = groups.get()
    return row


def rows_of(measured: list[Row]) -> Iterator[list[str]]:
    """Yield a row for each rate of what the seeds of one way gave."""
    way = measured[0]["setting"]["way"]
    for protocol in ("frozen", *(f"{rate:g}" for rate in RATES)):
        if protocol != "frozen" or way != "replay":  # the same weights as `usual`
            for group in ("all", "later"):
                got = [row[protocol][group] for row in measured]
                yield [way, protocol, group, *(spread([own[name] for own in got]) for name in NAMES)]


def main() -> None:
    """Run all ways and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    settings = [{"way": way, "seed": seed} for way in WAYS for seed in range(arguments.seeds)]
    measured = run(measure, settings, arguments.out / "ecg-unlabelled.jsonl", arguments.jobs)
    print(heading(f"python -m bench.ecg_unlabelled --seeds {arguments.seeds}"))
    print(f"{measured[0]['source']}; `later`: the beats after minute 5\n")
    lines = [
        line for i in range(0, len(measured), arguments.seeds) for line in rows_of(measured[i : i + arguments.seeds])
    ]
    print(table(["way", "rate", "beats", *HEADER], lines))


if __name__ == "__main__":
    main()
