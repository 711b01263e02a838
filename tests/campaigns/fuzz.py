"""Damaged inputs for every reader: python -m tests.campaigns.fuzz --seconds 60 --seed 0 [--readers csv] [--again DIR]

Each input is read in this process under `oracle.outcome`. The first that fail are kept in --keep, in folders of the
reader's name, the seed and the number: --again DIR reads one of them again.
"""

import importlib.util
import logging
import os
import random as randoms
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from . import options
from .oracle import Outcome, outcome, roomy
from .readers import READERS, offline

KEPT = 3  # inputs that failed, of each reader
NOW = "now.txt"  # which case is being read, in case it ends the process


def available(names: Sequence[str] = ()) -> list[str]:
    """Return the readers whose packages are there."""
    own = names or list(READERS)
    return [name for name in own if all(importlib.util.find_spec(package) for package in READERS[name].needs)]


def read(name: str, folder: Path, random: randoms.Random) -> Outcome:
    """Return what a reader did with a folder."""
    with offline(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(lambda: READERS[name].read(folder, random))


def campaign(name: str, seconds: float, seed: int, keep: Path, most: int = 10**9) -> tuple[Counter[str], list[str]]:
    """Damage a sound input again and again; return how often what came of it, and what failed."""
    counts, failures = Counter[str](), list[str]()
    slowest, most_memory = 0.0, 0.0
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sound, own = Path(place) / "sound", Path(place) / "own"
        sound.mkdir()
        with offline(sound):
            READERS[name].make(sound)
        read(name, sound, drawn(name, "sound"))  # which imports what it needs
        first = read(name, sound, drawn(name, "sound"))
        if first.kind != "read":
            print(f"{name}: the sound input was not read: {first.line}", file=sys.stderr)
            return Counter(failed=1), [first.line]
        number, until = 0, time.monotonic() + seconds
        while time.monotonic() < until and number < most:
            number += 1
            case = f"{name.replace(' ', '_')}-{seed}-{number}"
            damaged(name, sound, own, case)
            (keep / NOW).write_text(case)
            found = read(name, own, drawn(case, "read"))
            counts[found.kind] += 1
            slowest, most_memory = max(slowest, found.seconds), max(most_memory, found.memory)
            if found.kind == "failed":
                failures.append(f"{found.line}\nagain: python -m tests.campaigns.fuzz --again {keep / case}")
                if len(failures) <= KEPT:
                    damaged(name, sound, keep / case, case)  # anew: a reader may have written into it
                    print(f"{name}: {failures[-1]}", file=sys.stderr, flush=True)
    told = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("read", "refused", "failed"))
    print(f"{name:12} {number:8,} inputs: {told}; at most {slowest:.2f} s, {most_memory / 1e6:.0f} MB", flush=True)
    return counts, failures


def apart(name: str, seconds: float, seed: int, keep: Path, most: int) -> bool:
    """Say whether a campaign failed, made in a process of its own: what ends that is a failure, the next goes on."""
    pid = os.fork()
    if not pid:
        failed = True
        try:
            failed = bool(campaign(name, seconds, seed, keep, most)[1])
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(failed)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        case, died = (keep / NOW).read_text(), signal.Signals(os.WTERMSIG(status)).name
        print(f"{name}: died of {died} over {keep / case}, left there", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as place, offline(Path(place)):
            READERS[name].make(Path(place))
            damaged(name, Path(place), keep / case, case)
    return status != 0


def damaged(name: str, sound: Path, own: Path, case: str) -> None:
    """Make a damaged copy of a sound input, the same for the same case."""
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(sound, own)
    READERS[name].damage(own, drawn(case, "damage"))


def drawn(case: str, what: str) -> randoms.Random:
    """Return the random numbers of a case."""
    return randoms.Random(f"{case} {what}")  # noqa: S311 - no secret


def again(folder: Path) -> int:
    """Read an input that was kept."""
    name = folder.name.rsplit("-", 2)[0].replace("_", " ")
    found = read(name, folder, drawn(folder.name, "read"))
    print(f"{name}: {found.kind}\n{found.line}")
    return int(found.kind == "failed")


def main(argv: Sequence[str]) -> int:
    """Go through the readers, each for its share of the time."""
    parser = options.parser(__doc__)
    parser.add_argument("--readers", default="", help="names between commas; default: all")
    parser.add_argument("--most", type=int, default=10**9, help="inputs for each reader")
    parser.add_argument("--again", type=Path)
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if asked.again:
        return again(asked.again)
    names = available(asked.readers.split(",") if asked.readers else ())
    failed = list[bool]()
    with roomy():
        for name in names:
            failed.append(apart(name, asked.seconds / len(names), asked.seed, asked.keep, asked.most))
    return int(any(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
