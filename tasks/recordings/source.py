"""What a recording is, whatever kind of file it lies in: channels at a rate, and labels at times.

Shapes: n samples, c channels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
SAID = 8  # names in a list


class Label(NamedTuple):
    """What is said of a stretch of time, seconds from the beginning; an event where both times are one."""

    start: float
    end: float
    text: str


class Source(NamedTuple):
    """One recording; its samples are read when they are asked for."""

    name: str
    file: str  # it lies in; a window is a file of its own
    person: str  # whom it belongs to, the file where nobody says so
    rate: float  # samples a second
    samples: int
    channels: Sequence[str]
    labels: Sequence[Label]
    read: Callable[[int, int], Samples]  # from one sample to before another, (n, c)
    split: str | None = None  # train or test, where the data says so itself

    @property
    def seconds(self) -> float:
        """Return how long it lasts."""
        return self.samples / self.rate


class Wanted(NamedTuple):
    """What of the files is asked for."""

    channels: Sequence[str] = ()  # none: all
    annotator: str = "atr"  # suffix of the files of annotations of WFDB records
    time_axis: int = 1  # of windows (n, time, channels)
    columns: Sequence[str] = ()  # of a data set: the recordings', the label's and the person's


class Found(NamedTuple):
    """What was found: the recordings, and lines on what of the files is not used."""

    sources: Sequence[Source]
    left_out: Sequence[str]
    kind: Literal["records", "sounds", "windows"] = "records"


def choose(channels: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """Return the numbers of the channels that are wanted, by name in any case of letters or by number; all for none.

    Raises ValueError for one that there is not.
    """
    own = [channel.lower() for channel in channels]
    found = list[int]()
    for name in wanted:
        if name.lower() in own:
            found.append(own.index(name.lower()))
        elif name.isdecimal() and int(name) < len(own):
            found.append(int(name))
        else:
            raise ValueError(f"channels: {where} has no channel {name!r}, expected some of {listed(channels)}")
    return found or list(range(len(own)))


def listed(names: Iterable[object], most: int = SAID) -> str:
    """Return names in a line, of many the first."""
    own = [str(name) for name in names]
    return ", ".join([*own[:most], *([f"... ({len(own)} in all)"] if len(own) > most else [])])
