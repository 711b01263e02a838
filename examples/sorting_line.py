"""Write a recording in which an event decides what a channel means 2 to 20 s later: `python examples/sorting_line.py`.

A SIMULATED sorting line, 50 rows a second. A scanner answers a parcel with a pulse, up for large and down for small.
The parcel rides on for 2 to 20 s, nobody knows how long, and breaks the beam before the gate for 0.2 s. At the last row
of these the gate must be told its side: `side` is left for small, right for large, and empty at all other times, so
that no label repeats another. Then the next parcel comes. The beam tells when, never which; the motor's hum nothing.

Nothing that is seen while the beam is broken says the side: it was seen once, for 0.2 s, 100 to 1,000 rows before.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 50  # rows a second
WAIT = (2.0, 20.0)  # seconds from the scanner to the beam
PULSE = 10  # rows that a pulse and a broken beam last
PAUSE = (0.5, 2.0)  # seconds from the beam to the next parcel
SIDES = ("left", "right")


def simulate(
    rows: int, wait: tuple[float, float] = WAIT, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the channels scanner, beam and motor (rows, 3), and the side (rows,): 0 left, 1 right, -1 none."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, (0.3, 0.1, 1.0), size=(rows, 3))
    side = np.full(rows, -1)
    at = 0
    while True:
        scanned = at + round(RATE * rng.uniform(*PAUSE))
        gate = scanned + round(RATE * rng.uniform(*wait))
        at = gate + PULSE
        if at > rows:
            return x, side
        large = int(rng.integers(2))
        x[scanned : scanned + PULSE, 0] += 2.0 if large else -2.0
        x[gate:at, 1] -= 2.0
        side[at - 1] = large


def write(path: Path, rows: int, wait: tuple[float, float] = WAIT, seed: int = 0) -> None:
    """Write the recording as a table with a first line of names."""
    x, side = simulate(rows, wait, seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["scanner", "beam", "motor", "side"])
        for values, own in zip(x.tolist(), side.tolist(), strict=True):
            table.writerow([*(f"{value:.3f}" for value in values), SIDES[own] if own >= 0 else ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sorting.csv"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.out, arguments.rows, seed=arguments.seed)
    print(f"SIMULATED: {arguments.rows:,} rows, {arguments.rows / RATE / 60:.0f} minutes, in {arguments.out}")
