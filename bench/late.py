"""Memory and time of a learner in a program: predictions one by one, answers ten steps late, or never.

    python -m bench.late [--predictions 1000000] [--answered 1.0]

Prints the resident memory at powers of ten of predictions, and the latency of predict and learn in each stretch.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import biomamba

LATE = 10
KEPT = 100_000  # times of a stretch, in memory that is taken before anything is measured


def resident() -> float:
    """Return the memory that the process holds, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def milliseconds(times: np.ndarray) -> str:
    """Return the median and the 99th percentile of times in seconds, those not measured NaN."""
    p50, p99 = np.nanpercentile(times, [50, 99]) * 1e3
    return f"p50 {p50:.2f} p99 {p99:.2f} ms"


def main() -> None:
    """Predict, answer, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--answered", type=float, default=1.0, help="share of the predictions that get an answer")
    asked = parser.parse_args()
    draw = np.random.default_rng(0)
    learner = biomamba.classifier(inputs=4, classes=3, d_model=16, d_state=4, threads=1)
    predicted, learned, mark = np.full(KEPT, np.nan), np.full(KEPT, np.nan), 1000
    for t in range(1, asked.predictions + 1):
        row, began = draw.normal(size=4), time.perf_counter()
        learner.predict(row, id=t)
        predicted[t % KEPT] = time.perf_counter() - began
        if t > LATE and draw.random() < asked.answered:
            began = time.perf_counter()
            learner.learn(t - LATE, int(draw.integers(3)))
            learned[t % KEPT] = time.perf_counter() - began
        if t == mark or t == asked.predictions:
            told = f"predict {milliseconds(predicted)}, learn {milliseconds(learned)}"
            print(f"{t:>9,} predictions: {resident():.1f} MB; {told}", flush=True)
            predicted[:], learned[:] = np.nan, np.nan
            mark = mark * 10 if mark < KEPT else mark + KEPT


if __name__ == "__main__":
    main()
