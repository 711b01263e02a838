"""Live streams that do not end: python -m tests.campaigns.soak --seconds 60 --seed 0 [--kinds pipe,chunks]

    pipe      lines written into `biomamba train --task.path -`, a bad one among thousand, each learned from at once
    chunks    the same, 32 lines an update
    learner   predict and learn in a program of one's own, answers late, out of order, or never
    serve     lines of JSON into `biomamba serve`, damaged ones among them

The memory of the process must be flat: between its second and its last fifth it may grow by GROWTH.
"""

import json
import os
import random as randoms
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import biomamba
from biomamba.cli.main import main as biomamba_main

from . import options
from .processes import check_said, fork, load, wait

GROWTH = 4e6  # bytes
SAMPLES, SHORTEST = 40, 10.0  # of the memory, and seconds, at least: before, a process is still loading


class Soaked(NamedTuple):
    """What a stream came to."""

    steps: int
    memory: list[float]  # bytes, as the stream went on

    def growth(self) -> float:
        """Return how much memory the process took between its second and its last fifth."""
        fifth = len(self.memory) // 5
        return statistics.median(self.memory[-fifth:]) - statistics.median(self.memory[fifth : 2 * fifth])


def resident(pid: int) -> float:
    """Return a process's memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def watched(pid: int, seconds: float) -> list[float]:
    """Return a process's memory again and again; nothing of its first second, in which it is loaded."""
    found, until = list[float](), time.monotonic() + seconds
    time.sleep(min(1.0, seconds / 5))
    while time.monotonic() < until:
        found.append(resident(pid))
        time.sleep(min(0.1, seconds / 100))
    return found


def fed(place: Path, words: Sequence[str], write: Callable[[int], str], seconds: float) -> list[float]:
    """Feed a command lines for some seconds, and return its memory."""
    reader, writer = os.pipe()

    def feed() -> int:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            for i in range(10**12):
                pipe.write(write(i))
        return 0

    feeder = fork(feed, place / "feeder")

    def reads() -> int:
        os.close(writer)
        os.dup2(reader, 0)
        return biomamba_main(list(words))

    pid = fork(reads, place / "log")
    os.close(reader)
    os.close(writer)
    memory = watched(pid, seconds)
    os.kill(feeder, signal.SIGKILL)
    wait(feeder)
    check_said(place / "log", wait(pid), [0])
    return memory


def pipe(place: Path, random: randoms.Random, seconds: float, length: int = 1) -> Soaked:
    """Learn from lines of standard input, `length` at a time."""

    def line(i: int) -> str:
        return "half a li\n" if i % 1000 == 999 else f"{random.gauss(0, 1):.3f},{random.gauss(5, 2):.3f},{i % 2}\n"

    words = ["train", "--config", "arrays", "--task.path", "-", "--task.classes", "0", "1"]
    words += ["--stream.steps", str(10**9), "--stream.length", str(length)]
    words += ["--model.d_model", "8", "--run.report_every", "5000", "--run.save_every", "1"]
    words += ["--run.dir", str(place / "run"), "--run.baselines", "false", "--run.threads", "1"]
    memory = fed(place, words, line, seconds)
    return Soaked(json.loads((place / "run" / "summary.json").read_text())["steps"], memory)


def serve(place: Path, random: randoms.Random, seconds: float) -> Soaked:
    """Answer lines, some of them damaged, some with an id that is never answered."""
    biomamba.classifier(["u", "v"], ["a", "b"], d_model=8, d_state=2, headdim=4, horizon=8).save(place / "learner")

    def line(i: int) -> str:
        asked = {"id": f"row {i}", "x": [random.gauss(0, 1), 1.0]} | ({"y": "ab"[i % 2]} if i % 3 else {})
        return "{]\n" if i % 1000 == 999 else json.dumps(asked) + "\n"

    memory = fed(place, ["serve", str(place / "learner"), "--save", str(place / "kept")], line, seconds)
    state = biomamba.load(place / "kept").state
    return Soaked(state.steps if state else 0, memory)


def learner(place: Path, random: randoms.Random, seconds: float) -> Soaked:
    """Predict and learn here, answers late, out of order, or never."""
    own = biomamba.classifier(["u", "v"], ["a", "b"], d_model=8, d_state=2, headdim=4, horizon=16)
    memory, steps, began, due = list[float](), 0, time.monotonic(), 0.0
    while (now := time.monotonic() - began) < seconds:
        own.predict({"u": random.gauss(0, 1), "v": None if steps % 7 == 0 else 1.0}, id=steps)
        late = steps - random.randrange(24)
        if late >= 0 and random.random() < 0.8:
            own.learn(late, "ab"[late % 2])
        steps += 1
        if now >= max(due, min(1.0, seconds / 5)):
            memory.append(resident(os.getpid()))
            due = now + min(0.1, seconds / 100)
    assert own.state is not None and len(own.state.waiting) <= 17, "open steps beyond the horizon"
    return Soaked(steps, memory)


KINDS = {"pipe": pipe, "chunks": partial(pipe, length=32), "learner": learner, "serve": serve}


def main(argv: Sequence[str]) -> int:
    """Feed each kind for its share of the time."""
    parser = options.parser(__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="between commas; default: all")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    load()
    failed, kinds = list[str](), asked.kinds.split(",")
    for name in kinds:
        with tempfile.TemporaryDirectory() as held:
            try:
                found = KINDS[name](Path(held), randoms.Random(asked.seed), asked.seconds / len(kinds))  # noqa: S311
            except AssertionError as error:
                shutil.copytree(held, asked.keep / f"{name}-{asked.seed}", dirs_exist_ok=True)
                failed.append(f"{name}: {error}\nleft in {asked.keep / f'{name}-{asked.seed}'}")
                continue
        enough = len(found.memory) >= SAMPLES and asked.seconds / len(kinds) >= SHORTEST
        told = f"{found.growth() / 1e6:+.1f} MB" if enough else "too short to say of its memory"
        print(f"{name:8} {found.steps:10,} steps, {told}", flush=True)
        if enough and found.growth() > GROWTH:
            failed.append(f"{name}: memory grew by {found.growth() / 1e6:.1f} MB over {found.steps:,} steps")
    for line in failed:
        print(line, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
