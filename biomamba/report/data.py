"""What the page shows, read from the folder of a comparison or of a run.

    compare.json, or summary.json of a lone run  ->  result, as `report.gather` makes it
    fidelity.json                                ->  the same without settings
    metrics.jsonl of every run, thinned          ->  curves: mean and spread over the seeds at each report

Absolute paths lose their folders: the page is for others too.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..experiment import files
from .text import gather

POINTS = 500  # of a curve, at most
ALL_POINTS = 3000  # of all curves of a plot together, so that many settings do not make a large page
FEWEST = 100  # points of a curve that are kept whatever the number of settings
RUN_FILES = ("summary.json", "metrics.jsonl")
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, StopIteration)
FOLDERS = re.compile(r"(?<![\w.:/\\])/(?:[^\s/,;:'\"]+/)+")  # of an absolute path: what stands before its last name

Record = dict[str, Any]  # a line of metrics.jsonl


class Run(NamedTuple):
    """What one run left behind."""

    name: str  # of its folder
    config: dict[str, Any]  # {"rule.name": "rtrl"}; empty where the folder has none
    records: list[Record]
    versions: dict[str, str]


class Section(NamedTuple):
    """One comparison of runs or of gradients, or one run by itself."""

    name: str  # of its folder
    date: str  # of the last run's end, UTC
    result: dict[str, Any]
    runs: dict[str, list[Run]]  # by setting; those whose folders are there

    def found(self) -> dict[str, list[Run]]:
        """Return the settings that have runs."""
        return {label: own for label, own in self.runs.items() if own}


class Curve(NamedTuple):
    """Mean and standard deviation over the seeds; 0 for a single one."""

    x: list[float]
    mean: list[float]
    spread: list[float]


def read(folder: Path) -> Section:
    """Return what a folder holds. Raises FileNotFoundError and ValueError where it is not what it should be."""
    with damage(folder):
        return _section(folder)


@contextmanager
def damage(folder: Path | str) -> Iterator[None]:
    """Raise ValueError, one line that names the folder, for whatever its files lead to where they hold something else.

    Who wrote a file by hand, or has half of one, may have left out any key, or put anything in its place.
    """
    try:
        yield
    except DAMAGE as error:
        if str(folder) in str(error):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{folder}: its files are damaged ({told}): restore them, or leave the folder out") from error


def _section(folder: Path) -> Section:
    """Return what a folder holds."""
    made = next((folder / name for name in READ if (folder / name).is_file()), None)
    if made is None:
        raise FileNotFoundError(f"{folder}: none of {', '.join(READ)} there, expected the folder of a finished run")
    result = READ[made.name](made)
    found = {label: _found(folder, own["folders"]) for label, own in result["settings"].items()}
    points = min(POINTS, max(FEWEST, ALL_POINTS // max(1, len(found))))
    ends = [run / "summary.json" for runs in found.values() for run in runs] or [made]
    date = datetime.fromtimestamp(max(end.stat().st_mtime for end in ends), UTC).strftime("%Y-%m-%d")
    result["source"] = without_folders(result["source"])
    return Section(folder.resolve().name, date, result, {label: _runs(own, points) for label, own in found.items()})


def curve(runs: Sequence[Run], x: str, y: Callable[[Record], float | None], times: int = 1) -> Curve:
    """Return y of each report, over the seeds, at `times` the mean of their x; reports without a y are left out."""
    at: dict[int, list[tuple[float, float]]] = {}
    for record in (record for run in runs for record in run.records):
        value = y(record)
        if value is not None:
            at.setdefault(record["step"], []).append((record[x] * times, value))
    points = [list(zip(*at[step], strict=True)) for step in sorted(at)]
    spread = [statistics.stdev(ys) if len(ys) > 1 else 0.0 for _, ys in points]
    return Curve([statistics.fmean(xs) for xs, _ in points], [statistics.fmean(ys) for _, ys in points], spread)


def thin(paths: Sequence[Path], points: int) -> list[list[Record]]:
    """Return every n-th line of each metrics.jsonl and its last; the same n for all, so that seeds lie side by side."""
    counts = []
    for path in paths:
        with path.open("rb") as file:
            counts.append(sum(1 for _ in file))
    stride = math.ceil(max(counts, default=0) / points)
    return [_every(path, stride, count) for path, count in zip(paths, counts, strict=True)]


def without_folders(value: Any) -> Any:
    """Return text with the last name alone of every absolute path in it, and anything else as it is."""
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _every(path: Path, stride: int, count: int) -> list[Record]:
    """Return every stride-th of `count` lines, and the last."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for i, line in enumerate(file, start=1) if i % stride == 0 or i == count]


def _lone(path: Path) -> dict[str, Any]:
    """Return a finished run as a comparison of one setting."""
    run = files.read_json(path)
    window = "" if run["window"] is None else f"-window{run['window']}"
    return gather({f"{run['rule']}-length{run['length']}{window}": [path.parent]})


def _gradients(path: Path) -> dict[str, Any]:
    """Return a comparison of gradients as one that has no runs."""
    found = files.read_json(path)
    return {"task": found["task"], "source": found["source"], "settings": {}, "baselines": {}, "fidelity": found}


def _found(folder: Path, written: Sequence[str]) -> list[Path]:
    """Return the runs' folders that are there: beside compare.json, else where they were when it was written."""
    found = []
    for name in written:
        places = (folder / Path(name).name, Path(name))
        found += [place for place in places if all((place / file).is_file() for file in RUN_FILES)][:1]
    return found


def _runs(folders: Sequence[Path], points: int) -> list[Run]:
    """Return the runs of a setting."""
    records = thin([folder / "metrics.jsonl" for folder in folders], points)
    versions = [files.read_json(folder / "summary.json")["versions"] for folder in folders]
    names = [folder.resolve().name for folder in folders]
    configs = [_config(folder / "config.yaml") for folder in folders]
    return [Run(*run) for run in zip(names, configs, records, versions, strict=True)]


def _config(path: Path) -> dict[str, Any]:
    """Return {"run.seed": 0} for {"run": {"seed": 0}}; nothing where there is no file."""
    return {key: _plain(value) for key, value in files.read(path).items()} if path.is_file() else {}


def _plain(value: Any) -> Any:
    """Return a config's value without the folders of this machine."""
    return [_plain(part) for part in value] if isinstance(value, list) else without_folders(value)


READ: dict[str, Callable[[Path], dict[str, Any]]] = {
    "compare.json": files.read_json,
    "summary.json": _lone,
    "fidelity.json": _gradients,
}
