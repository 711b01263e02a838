"""What a reader may do with a damaged input: read it, or refuse it in one line; quickly, and in little memory."""

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

REFUSALS = (ValueError, OSError, ImportError, FloatingPointError)  # of which the command line makes one line
SECONDS = 5.0  # of the processor
MEMORY = 200e6  # bytes above the start
ROOM = 4 << 30  # bytes of addresses above the start: what asks for more fails at once, and is found


class Hang(BaseException):
    """A reader took longer than it may; no reader's own `except Exception` catches it."""


class Outcome(NamedTuple):
    """What a reader did."""

    kind: str  # read, refused or failed
    line: str  # why
    seconds: float  # of the processor
    memory: float  # bytes above the start


def outcome(read: Callable[[], object], memory: float = MEMORY) -> Outcome:
    """Return what a reader did with its input."""
    start, began = _resident(peak=False), time.process_time()
    _forget_peak()
    kind, line = "read", ""
    try:
        with _within(SECONDS):
            read()
    except REFUSALS as error:
        kind, line = "refused", " ".join(str(error).split())
        if not line:
            kind, line = "failed", f"{type(error).__name__} without a word"
    except Hang:
        kind, line = "failed", f"hang: over {SECONDS:g} s\n{traceback.format_exc(limit=-12)}"
    except Exception:
        kind, line = "failed", traceback.format_exc(limit=-8)
    took, held = time.process_time() - began, _resident(peak=True) - start
    if kind != "failed" and took > SECONDS:
        kind, line = "failed", f"hang: {took:.1f} s"
    if kind != "failed" and held > memory:
        kind, line = "failed", f"memory: {held / 1e6:.0f} MB above the start; {line}"
    return Outcome(kind, line, took, held)


@contextmanager
def roomy() -> Iterator[None]:
    """Let the process have so many addresses more, and no others."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise Hang in what takes longer, in seconds of the processor: other programs may have the machine meanwhile."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _resident(peak: bool) -> float:
    """Return the process's memory, bytes, or its largest since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmHWM:" if peak else "VmRSS:"
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))


def _forget_peak() -> None:
    """Count the largest memory anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
