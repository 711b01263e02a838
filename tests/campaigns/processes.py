"""Commands in processes forked from this one: torch is loaded once, and each can be killed at any moment."""

import os
import random as randoms
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from biomamba.cli.main import main

INTERRUPTED = re.compile(
    r"Exception ignored in: <function _get_module_lock(?s:.)*?\nKeyboardInterrupt: ?\n"
)  # Python's
PATIENCE = 1800.0  # seconds, after which a process that should end is taken for one that hangs


def fork(call: Callable[[], int], log: Path, stdin: Path | None = None) -> int:
    """Begin a call in a process of its own, what it says in a file, and return the process's number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
        os.dup2(1, 2)
        os.dup2(os.open(stdin or os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = (open(own, mode) for own, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115, PTH123
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
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(words: Sequence[str], log: Path, stdin: Path | None = None) -> int:
    """Begin a command of biomamba."""
    return fork(lambda: main(list(words)), log, stdin)


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
