"""Windows (n, time, channels) in an .npz, or in x.npy and y.npy of a folder: each window a recording of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays.cells import class_name
from ..arrays.files import load_npy, load_npz
from .source import Found, Label, Samples, Source, Wanted, choose

NAMES = ("x", "y", "person")


def by_npz(path: Path, wanted: Wanted) -> Found:
    """Return a recording for each window of arrays x (n, t, c), y (n,) and, where there is one, person (n,)."""
    return _found(path.name, load_npz(path, NAMES, words=("y", "person")), wanted)


def by_npy(folder: Path, wanted: Wanted) -> Found:
    """Return a recording for each window of x.npy, y.npy and person.npy of a folder; mapped, not read."""
    there = [name for name in NAMES if (folder / f"{name}.npy").is_file()]
    return _found(folder.name, {name: load_npy(folder / f"{name}.npy", words=name != "x") for name in there}, wanted)


def _found(where: str, arrays: dict[str, NDArray[Any]], wanted: Wanted) -> Found:
    """Return the windows of arrays. Raises ValueError for shapes that are none."""
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or y is None:
        raise ValueError(f"{where}: no array {'x' if x is None else 'y'}, expected x (n, time, channels) and y (n,)")
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"{where}: x has the shape {x.shape}, expected windows (n, time, channels)")
    if wanted.time_axis == 2:
        x = x.transpose(0, 2, 1)
    elif x.shape[2] > x.shape[1]:
        raise ValueError(
            f"{where}: windows of {x.shape[1]:,} steps of {x.shape[2]:,} channels, expected (n, time, channels): they "
            "look like (n, channels, time), which --task.time_axis 2 reads"
        )
    words = {name: _words(where, name, arrays[name], len(x)) for name in ("y", "person") if name in arrays}
    labels, people = words["y"], words.get("person") or [f"window {i}" for i in range(len(x))]
    names = [str(i) for i in range(x.shape[2])]
    chosen = choose(names, wanted.channels, where)
    sources = [
        window(f"window {i}", people[i], x[i], [names[c] for c in chosen], chosen, labels[i]) for i in range(len(x))
    ]
    return Found([own for own in sources if own.labels[0].text], _unlabelled(where, labels), "windows")


def window(name: str, person: str, x: NDArray[Any], names: Sequence[str], chosen: Sequence[int], label: str) -> Source:
    """Return a window (t, c), whose rate is 1, as nobody knows it: seconds are steps."""

    def read(first: int, last: int) -> Samples:
        return np.asarray(x[first:last], dtype=np.float64)[:, list(chosen)]

    return Source(name, name, person, 1.0, len(x), names, [Label(0.0, float(len(x)), label)], read)


def _words(where: str, name: str, array: NDArray[Any], count: int) -> list[str]:
    """Return an array (n,) or (n, 1) as text. Raises ValueError."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise ValueError(f"{where}: {name} has the shape {array.shape}, expected ({count},), one for each window")
    cells = (own.decode("utf-8", "replace") if isinstance(own, bytes) else str(own) for own in array.tolist())
    return [class_name("" if cell == "nan" and array.dtype.kind == "f" else cell) for cell in cells]


def _unlabelled(where: str, labels: Sequence[str]) -> list[str]:
    """Return a line on windows without a label."""
    count = sum(not label for label in labels)
    return [f"{where}: {count:,} windows left out: they have no label"] if count else []
