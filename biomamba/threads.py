"""How many threads an update takes: a second one only where measurements say that it pays.

Threads that wait for each other cost more than they bring while an update goes over little memory.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

SHARE = 1 << 20  # bytes for each thread: traces of 2 MiB are the least for which two threads were quicker than one


def available() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(threads: int | None) -> None:
    """Raise TypeError for what is no number of threads, ValueError for one that this process cannot have."""
    if threads is None:
        return
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise TypeError(f"threads: got {threads!r}, expected a whole number: give None to have it chosen")
    if not 1 <= threads <= available():
        raise ValueError(
            f"threads: got {threads}, expected 1 to {available()}, the cores of this process: "
            "give None to have it chosen"
        )


def resolve(threads: int | None, nbytes: int) -> int:
    """Return the number of threads for updates that go over `nbytes` in a block: its trace, and the states it reads.

    None: one, and one more for each further MiB, as many as torch has at most.
    Raises TypeError for what is no number of threads, ValueError for one that this process cannot have.
    """
    check(threads)
    return threads if threads is not None else max(1, min(torch.get_num_threads(), nbytes // SHARE))


def using(threads: int) -> AbstractContextManager[None]:
    """Let torch and our kernels use that many threads inside, and torch's own number again after."""
    before = torch.get_num_threads()
    return nullcontext() if threads == before else _changed(threads, before)


@contextmanager
def _changed(threads: int, before: int) -> Iterator[None]:
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
