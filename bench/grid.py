"""Run many settings side by side, each in a process of its own with one thread, and keep every finished row.

A row is the setting plus what was measured, one JSON line each; a grid that was interrupted goes on where it stopped.
"""

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from biomamba.experiment.config import Config
from biomamba.experiment.memory import keep_freed_memory
from biomamba.experiment.parse import parse

Row = dict[str, Any]


def run(measure: Callable[[Row], Row], settings: Iterable[Row], file: Path, jobs: int) -> list[Row]:
    """Return the rows of all settings, those of `file` among them taken from there.

    measure must be a function of a module (it travels to other processes). Where one of them raises, the rows of the
    others are measured and kept, and RuntimeError is raised at the end, which names the first that did.
    """
    wanted = list(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    rows: dict[str, Row] = {key(row["setting"]): row for row in map(json.loads, lines)}
    missing = {key(s): s for s in wanted if key(s) not in rows}
    failed = list[tuple[Row, BaseException]]()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=prepare) as pool:
        by_seed = sorted(missing.values(), key=lambda setting: setting["seed"])  # all settings once before any twice
        running = {pool.submit(measure, setting): setting for setting in by_seed}
        for done in tqdm(as_completed(running), total=len(running), desc=file.stem, disable=None):
            setting, error = running[done], done.exception()
            if error is not None:
                failed.append((setting, error))
                continue
            row = {"setting": setting, **done.result()}
            rows[key(setting)] = row
            with file.open("a") as log:
                log.write(json.dumps(row) + "\n")
    if failed:
        setting, error = failed[0]
        raise RuntimeError(f"{len(failed)} of {len(missing)} settings failed, the first {setting}") from error
    return [rows[key(setting)] for setting in wanted]


def config_of(name: str, setting: Row) -> Config:
    """Return a config with the seed of a setting, and with the keys of configs among its own: those with a point."""
    own = {"run.seed": setting["seed"]} | {key: value for key, value in setting.items() if "." in key}
    return parse(["--config", name, *(f"--{key}={value}" for key, value in own.items())]).config


def key(setting: Row) -> str:
    """Return what tells two settings apart."""
    return json.dumps(setting, sort_keys=True)


def write(rows: Iterable[Row], file: Path | None) -> None:
    """Write the rows as JSON lines, where a file is given."""
    if file:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare() -> None:
    """Set up a process that measures."""
    torch.set_num_threads(1)
    keep_freed_memory()


def heading(command: str, threads: str = "one thread per run") -> str:
    """Return what a reader of the table must know: the command, the day, the machine, the threads."""
    machine = f"{os.cpu_count()} {platform.machine()} cores ({processor()}), {threads}"
    return f"`{command}`, {datetime.date.today()}, {machine}, torch {torch.__version__}\n"


def processor() -> str:
    """Return the processor's name and its widest vectors, as torch sees them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def table(header: list[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *map(list, rows)]]
    return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
    """Return rows of one kind as a Markdown table, numbers to three digits."""

    def text(value: Any) -> str:
        return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") if isinstance(value, float) else str(value)

    return table(list(rows[0]), [[text(value) for value in row.values()] for row in rows])


def spread(values: list[float], digits: int = 3) -> str:
    """Return `mean +- standard deviation` (of the sample), or the value alone."""
    numbers = torch.tensor(values, dtype=torch.float64)
    mean = f"{numbers.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {numbers.std():.{digits}f}"
