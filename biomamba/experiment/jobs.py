"""Processes: signals answered between two updates, and commands run side by side."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]"
ROOT = Path(__file__).parents[2]
USER_ERROR = 2  # the exit code of a command whose user can mend what is wrong
PROGRESS = "BIOMAMBA_PROGRESS"  # the file in which a run says how far it is
EVERY = 1.0  # seconds between two such words
PARENT = "BIOMAMBA_PARENT"  # the process without which this one has nothing to do


class Job(Protocol):
    """A command that was started: what run_all asks of it, as subprocess.Popen has it."""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""

    def terminate(self) -> None:
        """Tell it to stop."""

    def wait(self) -> int:
        """Return its exit code, once it has ended."""


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one interrupts at once."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent() -> None:
    """Have this process told to stop, once, when the one that started it is gone, however that ended."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


class Progress:
    """What a run says of how far it is to the process that started it, where one asks."""

    def __init__(self) -> None:
        """Take the file, where one is given."""
        given = os.environ.get(PROGRESS)
        self.path, self.said = None if given is None else Path(given), 0.0

    def say(self, share: float) -> None:
        """Write the share that is done, 0 to 1, at most once in EVERY seconds."""
        if self.path is not None and (now := time.monotonic()) - self.said >= EVERY:
            self.path.write_text(f"{share:.4f}")
            self.said = now


def share_of(path: Path) -> float:
    """Return the share that a run has said; 0 where it has said nothing, or is just about to."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0


def command(*words: str) -> list[str]:
    """Return the command line `biomamba words`; -P: what lies in the current folder is not imported."""
    return [sys.executable, "-P", "-m", "biomamba", *words]


def run_all(
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    jobs: int,
    tolerant: bool = False,
    launch: Callable[[Sequence[str], Path], Job] | None = None,
) -> None:
    """Run the commands, `jobs` at a time, the words of each in folder/<name>.log.

    tolerant: one that ends with USER_ERROR, as a run whose rate is too high, does not stop the others.
    launch: starts a command, given where its words go (default: as a process of this machine).
    Raises ChildProcessError with the last words of one that fails, and KeyboardInterrupt on a signal; those still
    running are told to stop.
    """
    waiting, running, launch, drawn = list(commands), dict[str, Job](), launch or start, 0.0
    with tqdm(total=len(commands), bar_format=BAR, disable=None) as bar, signals() as caught:
        try:
            while (waiting or running) and not caught:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    running[name] = launch(commands[name], folder / f"{name}.log")
                time.sleep(0.05)
                if not bar.disable and time.monotonic() - drawn >= EVERY:
                    ended = len(commands) - len(waiting) - len(running)
                    bar.n = ended + sum(share_of(folder / f"{name}.progress") for name in running)
                    bar.refresh()
                    drawn = time.monotonic()
                for name, code in [(name, job.poll()) for name, job in running.items()]:
                    if code is None:
                        continue
                    del running[name]
                    _check(code, name, folder / f"{name}.log", tolerant)
                    (folder / f"{name}.progress").unlink(missing_ok=True)
                    if bar.disable:
                        print(f"{name} done, {len(waiting) + len(running)} to go", flush=True)
        finally:
            for job in running.values():
                job.terminate()
            for job in running.values():
                job.wait()
        if caught:
            raise KeyboardInterrupt


def start(command: Sequence[str], words: Path) -> subprocess.Popen[bytes]:
    """Start a command, its words going to a file, in a session of its own: a Ctrl-C reaches it once, through us."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # the same biomamba, installed or a checkout
    with words.open("wb") as file:
        return subprocess.Popen(  # noqa: S603 - the caller's own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(path), PARENT: str(os.getpid())}
            | {PROGRESS: str(words.with_suffix(".progress").resolve())},
        )


def _check(code: int, name: str, words: Path, tolerant: bool) -> None:
    """Raise ChildProcessError for a command that did not end well."""
    if code and not (tolerant and code == USER_ERROR):
        last = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise ChildProcessError(f"{name} failed: {' '.join(last)} (all it said: {words})")
