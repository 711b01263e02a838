"""Commands in processes forked from this one: torch is loaded once, and each can be killed at any moment.

Such a process is one of its own, killed as any other is; what it does not do is import. `fresh` ones do that too.
"""

import atexit
import contextlib
import gc
import importlib
import os
import random as randoms
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from biomamba.cli.main import COMMANDS, main
from biomamba.experiment import jobs
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse

INTERRUPTED = re.compile(
    r"Exception ignored in: <function _get_module_lock(?s:.)*?\nKeyboardInterrupt: ?\n"
)  # Python's
PATIENCE = 600.0  # seconds, after which a process that should end is taken for one that hangs


def load(modules: Sequence[str] = ()) -> None:
    """Import what commands import when they begin, and those modules, which takes longer than what is to be killed.

    Raises AssertionError where that began a thread, which a fork does not take along.
    """
    for name in (*(f"biomamba.cli.{command}" for command in COMMANDS), *modules):
        importlib.import_module(name)
    Experiment.from_config(parse(["--config", "delay", "--model.d_model", "8", "--run.threads", "1"]).config)
    gc.freeze()  # else a fork's first collection copies all that was loaded
    atexit.register(gc.unfreeze)  # or packages complain of what is left of them
    number = len([*Path("/proc/self/task").iterdir()])
    assert number == 1, f"{number} threads before a fork"


def fork(call: Callable[[], int], log: Path, stdin: Path | None = None, pipe: bool = False) -> int:
    """Begin a call in a process of its own, what it says in a file, and return the process's number.

    stdin: the file that it reads; pipe: through a pipe, seven bytes at a time.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
        os.dup2(1, 2)
        if stdin and pipe:
            feeder = subprocess.Popen(["dd", f"if={stdin}", "bs=7", "status=none"], stdout=subprocess.PIPE)
            assert feeder.stdout is not None
            os.dup2(feeder.stdout.fileno(), 0)
        else:
            os.dup2(os.open(stdin or os.devnull, os.O_RDONLY), 0)
        modes = ("r", "w", "w")  # left open when these go, as they do in a fork of this fork
        sys.stdin, sys.stdout, sys.stderr = (open(i, mode, closefd=False) for i, mode in enumerate(modes))  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        torch.set_num_threads(1)
        code = call()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError):  # or this fork would go on as what it is a fork of
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(words: Sequence[str], log: Path, stdin: Path | None = None, pipe: bool = False) -> int:
    """Begin a command of biomamba."""
    return fork(lambda: main(list(words)), log, stdin, pipe)


def fresh(words: Sequence[str], log: Path, stdin: Path | None = None, pipe: bool = False) -> int:
    """Begin a command of biomamba in a process that imports everything itself."""

    def execute() -> NoReturn:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(jobs.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.execv(sys.executable, jobs.command(*words))  # noqa: S606 - no shell

    return fork(execute, log, stdin, pipe)


class Forked:
    """A run that a comparison started as a fork of itself; see `jobs.Job`, and `jobs.start` for what it stands for."""

    def __init__(self, command: Sequence[str], words: Path) -> None:
        """Begin it, its words going to a file."""
        parent = os.getpid()

        def call() -> int:
            os.setsid()
            os.environ |= {jobs.PARENT: str(parent), jobs.PROGRESS: str(words.with_suffix(".progress").resolve())}
            return main(list(command[len(jobs.command()) :]))

        words.unlink(missing_ok=True)
        self.pid, self.code = fork(call, words), None

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._ended(os.WNOHANG)

    def terminate(self) -> None:
        """Tell it to stop."""
        if self.code is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Return its exit code, once it has ended."""
        code = self._ended(0)
        assert code is not None
        return code

    def _ended(self, how: int) -> int | None:
        if self.code is None:
            done, status = os.waitpid(self.pid, how)
            self.code: int | None = os.waitstatus_to_exitcode(status) if done else None
        return self.code


def wait(pid: int, after: float | None = None, signals: Sequence[int] = ()) -> int:
    """Return the exit code of a process, minus the signal it died of; send it signals after some seconds."""
    began, left = time.monotonic(), list(signals)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic() - began
        if done:
            return os.waitstatus_to_exitcode(status)
        if after is not None and left and now >= after:
            os.kill(pid, left.pop(0))
            after = now + 0.02
        if now > PATIENCE:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"a process did not end in {PATIENCE:g} s")
        time.sleep(0.002)


def drawn_signals(random: randoms.Random) -> list[int]:
    """Return what a process is ended by: mostly SIGKILL, which nothing can answer."""
    kill = [signal.SIGKILL]
    return random.choice([kill, kill, kill, [signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])


def check_said(log: Path, code: int, expected: Sequence[int]) -> None:
    """Raise AssertionError where a process ended otherwise than it may, or with a traceback."""
    text = log.read_text(errors="replace") if log.exists() else ""
    text = INTERRUPTED.sub("", text)
    assert "Traceback" not in text, f"a traceback:\n{text[-3000:]}"
    assert code in expected, f"exit code {code}, expected one of {list(expected)}:\n{text[-1500:]}"
