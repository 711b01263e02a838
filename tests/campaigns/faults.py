"""What a machine does to a run: python -m tests.campaigns.faults --seconds 60 --seed 0 [--kinds full,gone]

    full      no file may grow beyond a size drawn at random, as on a full disk
    tmpfs     a file system of a megabyte that other files fill
    readonly  a folder that may not be written into
    gone      the folder is removed while the run goes on
    writers   several processes want one folder, to begin anew or to go on
    clock     the clock goes back and forth
    output    who reads what is printed, answered or complained of goes away, was never there, or has no room

Each ends with an exit code of its own and at most one line of error, never a traceback; what was saved is there, whole,
and where the fault goes away the run goes on to what it would have been.
"""

import contextlib
import os
import random as randoms
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from biomamba import checkpoint
from biomamba.cli.main import main as biomamba_main

from . import options
from .kills import TINY, compare
from .processes import check_said, command, fork, load, wait

WORDS = ["train", "--config", "delay", "--config", str(TINY), "--stream.steps", "60", "--run.baselines", "false"]
WORDS += ["--run.save_every", "0.02", "--run.threads", "1"]


def go_on(place: Path, words: Sequence[str] = WORDS) -> None:
    """Go on with the run `own`, or begin it where nothing was left, and compare it with `straight`."""
    own, log = place / "own", place / "again"
    resume = ["--run.resume", "true"] if (own / "config.yaml").exists() else []
    check_said(log, wait(command([*words, "--run.dir", str(own), *resume], log)), [0])
    compare_with_straight(place, words)


def full(place: Path, random: randoms.Random) -> None:
    """Let no file grow beyond a size."""
    size = random.choice((0, 1, 100, 500, 1000, 2000, 5000, 10_000, 20_000, random.randrange(40_000)))

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return biomamba_main([*WORDS, "--run.dir", str(place / "own")])

    # what it says goes through a pipe: a file could not take it
    with (place / "log").open("wb") as log, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log) as cat:
        assert cat.stdin is not None
        pipe = cat.stdin.fileno()

        def told() -> int:
            os.dup2(pipe, 1)
            os.dup2(pipe, 2)
            return limited()

        code = wait(fork(told, place / "unused"))
    check_said(place / "log", code, [0, 2])
    if (place / "own" / "checkpoint.safetensors").exists():
        checkpoint.load(place / "own" / "checkpoint.safetensors")
    if code == 0:
        compare_with_straight(place)
    else:
        go_on(place)


def compare_with_straight(place: Path, words: Sequence[str] = WORDS) -> None:
    """Compare a run that ended with one that nothing disturbed."""
    check_said(place / "first", wait(command([*words, "--run.dir", str(place / "straight")], place / "first")), [0])
    compare(place / "straight", place / "own")


@contextlib.contextmanager
def mounted(where: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a small file system; False where this user may not."""
    where.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(where)]
    may = shutil.which("mount") is not None and not subprocess.run(asked, capture_output=True).returncode
    try:
        yield may
    finally:
        if may:
            subprocess.run(["umount", "-l", str(where)], check=True)


def tmpfs(place: Path, random: randoms.Random) -> None:
    """Fill a small file system, and make room again."""
    with mounted(place / "disk", random.choice((16, 64, 128, 512))) as may:
        if not may:
            raise Skipped("no file system may be mounted here")
        (place / "own").symlink_to(place / "disk" / "own")
        filled = place / "disk" / "other"
        with contextlib.suppress(OSError), filled.open("wb") as file:
            file.write(bytes(random.randrange(512 * 1024)))
        code = wait(command([*WORDS, "--run.dir", str(place / "disk" / "own")], place / "log"))
        check_said(place / "log", code, [0, 2])
        filled.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(place / "disk")], check=True)
        if code == 2:
            go_on(place)


def readonly(place: Path, random: randoms.Random) -> None:
    """Give a folder of a file system that nobody may write to, from the beginning or from some moment on."""
    with mounted(place / "disk", 512) as may:
        if not may:
            raise Skipped("no file system may be mounted here")
        after = random.random() < 0.5  # half of the time the disk changes while the run goes on
        words = [*WORDS, "--run.dir", str(place / "disk" / "own")]
        if after:
            words += ["--stream.steps", "100000"]
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], check=True)
        pid = command(words, place / "log")
        if after:
            _until(place / "disk" / "own" / "checkpoint.safetensors")
            subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], capture_output=True)
            time.sleep(random.uniform(0, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        check_said(place / "log", wait(pid), [2, 143] if after else [2])


def gone(place: Path, random: randoms.Random) -> None:
    """Remove the folder, or a file of it, while the run goes on."""
    own = place / "own"
    pid = command([*WORDS, "--stream.steps", "100000", "--run.dir", str(own)], place / "log")
    _until(own / "checkpoint.safetensors")
    what = random.choice(("folder", "metrics.jsonl", "config.yaml", ".lock", "moved"))
    if what == "folder":
        shutil.rmtree(own, ignore_errors=True)
    elif what == "moved":
        own.rename(place / "elsewhere")
    else:
        (own / what).unlink(missing_ok=True)
    time.sleep(random.uniform(0, 0.3))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    check_said(place / "log", wait(pid), [2, 143])


def writers(place: Path, random: randoms.Random) -> None:
    """Have several processes want one folder."""
    own = place / "own"
    words = [*WORDS, "--run.dir", str(own)]
    if random.random() < 0.5:
        pid = command(words, place / "log")
        wait(pid, random.uniform(0.0, 0.5), [signal.SIGKILL])
    resumes = (own / "config.yaml").exists()
    pids = []
    for i in range(random.choice((2, 3))):
        more = random.choice((["--run.resume", "true"], ["--run.overwrite", "true"])) if resumes else []
        pids.append((command([*words, *more], place / f"log{i}"), place / f"log{i}"))
        time.sleep(random.choice((0, 0, 0.05)))
    codes = [wait(pid) for pid, _ in pids]
    for (_, log), code in zip(pids, codes, strict=True):
        check_said(log, code, [0, 2])
    assert 0 in codes, f"nobody came to an end: {codes}"
    compare_with_straight(place)


def clock(place: Path, random: randoms.Random) -> None:
    """Have the clock go back and forth, by an hour or by years, in the middle of a run."""

    def turned() -> int:
        real, by = time.time, [0.0]

        def wrong() -> float:
            by[0] += random.choice((-3600.0, 3600.0, -1e9, 0.0))
            return real() + by[0]

        time.time = wrong
        return biomamba_main([*WORDS, "--run.dir", str(place / "own")])

    check_said(place / "log", wait(fork(turned, place / "log")), [0])
    for path in (place / "own").iterdir():
        os.utime(path, (0, random.choice((0, 2**31, 2**33))))
    (place / "own" / "summary.json").unlink()
    go_on(place)


def output(place: Path, random: randoms.Random) -> None:
    """Close the pipe that the run prints into, or its predictions, or its words to the user; or give it none."""
    kind = random.choice(("reader goes", "reader goes", "predictions", "none", "full"))
    words = [*WORDS, "--run.report_every", "1", *(["--run.predictions", "-"] if kind == "predictions" else [])]
    reader, writer = os.pipe()

    def printed() -> int:
        os.close(reader)
        if kind == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        elif kind == "none":
            for number, name in random.sample([*enumerate(("stdin", "stdout", "stderr"))], random.choice((1, 2, 3))):
                os.close(number)
                setattr(sys, name, None)  # as Python itself begins then
        else:
            os.dup2(writer, 1)
        return biomamba_main([*words, "--run.dir", str(place / "own")])

    pid = fork(printed, place / "log")
    os.close(writer)
    if kind in ("reader goes", "predictions"):
        os.read(reader, random.choice((1, 100, 1000)))
    os.close(reader)
    check_said(place / "log", wait(pid), {"none": [0], "full": [2]}.get(kind, [141]))
    go_on(place, words)


class Skipped(Exception):  # noqa: N818 - no error
    """A fault that this machine or user cannot make."""


def _until(path: Path) -> None:
    """Wait for a file, for a minute at most."""
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.005)


KINDS: dict[str, Callable[[Path, randoms.Random], None]] = {
    "full": full,
    "tmpfs": tmpfs,
    "readonly": readonly,
    "gone": gone,
    "writers": writers,
    "clock": clock,
    "output": output,
}


def main(argv: Sequence[str]) -> int:
    """Make faults until the time is over, each kind once at least."""
    parser = options.parser(__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="between commas; default: all, in turn")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    load()
    until, number, kinds = time.monotonic() + asked.seconds, 0, asked.kinds.split(",")
    done, skipped, failed = Counter[str](), dict[str, str](), list[str]()
    while time.monotonic() < until or number < len(kinds):
        name, number = kinds[number % len(kinds)], number + 1
        random, label = randoms.Random(f"{asked.seed} {number}"), f"{name}-{asked.seed}-{number}"  # noqa: S311
        with tempfile.TemporaryDirectory() as held:
            try:
                KINDS[name](Path(held), random)
                done[name] += 1
            except Skipped as why:
                skipped[name] = str(why)
            except (AssertionError, OSError, ValueError) as error:
                shutil.rmtree(asked.keep / label, ignore_errors=True)
                shutil.copytree(held, asked.keep / label, symlinks=True)
                again = f"python -m tests.campaigns.faults --kinds {name} --seed {asked.seed}"
                failed.append(f"{label}: {error}\nleft in {asked.keep / label}; again: {again}")
    print("; ".join(f"{name} {count}" for name, count in done.items()), f"faults met as promised, {len(failed)} failed")
    for name, why in skipped.items():
        print(f"{name} skipped: {why}")
    for line in failed:
        print(line, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
