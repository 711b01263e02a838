"""How does the time of an update grow? Exponents fitted to streams, width, states and length, rtrl beside bptt.

    python -m bench.scaling [--json FILE]

One axis at a time is doubled from 8 streams, d 64, n 16 and the length 16; the exponent is the slope of a straight line
through the logarithms. The traces' arithmetic is b n d^2 per step, so that for large sizes rtrl tends to 1, 2, 1 and 1.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.grid import heading, markdown, write
from bench.online import BASE, online_row
from biomamba.experiment.memory import keep_freed_memory

Row = dict[str, Any]
AXES = {"streams": (4, 8, 16, 32), "d_model": (64, 128, 256), "d_state": (16, 32, 64), "length": (8, 16, 32, 64)}
MIDDLE = BASE | {"streams": 8, "length": 16, "backend": "llvm"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    print(heading("python -m bench.scaling"))
    keep_freed_memory()
    settings = [
        MIDDLE | {axis: value, "rule": rule} for rule in ("bptt", "rtrl") for axis in AXES for value in AXES[axis]
    ]
    rows = [online_row(setting) for setting in tqdm(settings, disable=None)]
    fits = []
    for rule in ("bptt", "rtrl"):
        for axis, values in AXES.items():
            same = {name: value for name, value in MIDDLE.items() if name not in (axis, "rule")}
            line = [r for r in rows if r["rule"] == rule and all(r[name] == value for name, value in same.items())]
            times = [next(r["us_per_update"] for r in line if r[axis] == value) for value in values]
            fits.append({"rule": rule, "axis": axis, "exponent": exponent(values, times), "us/update": show(times)})
    print(markdown(fits))
    write(rows, args.json)


def exponent(sizes: tuple[int, ...], times: list[float]) -> float:
    """Return the slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def show(times: list[float]) -> str:
    """Return the times as text."""
    return ", ".join(f"{time:,.0f}" for time in times)


if __name__ == "__main__":
    main()
