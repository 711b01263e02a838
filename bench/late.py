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


def resident() -> float:
    """Return the memory that the process holds, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def milliseconds(times: list[float]) -> str:
    """Return the median and the 99th percentile."""
    return f"p50 {np.percentile(times, 50) * 1e3:.2f} p99 {np.percentile(times, 99) * 1e3:.2f} ms" if times else "-"


def main() -> None:
    """Predict, answer, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--answered", type=float, default=1.0, help="share of the predictions that get an answer")
    asked = parser.parse_args()
    draw = np.random.default_rng(0)
    learner = biomamba.classifier(inputs=4, classes=3, d_model=16, d_state=4, threads=1)
    predicted, learned, mark = list[float](), list[float](), 1000
    for t in range(1, asked.predictions + 1):
        row, began = draw.normal(size=4), time.perf_counter()
        learner.predict(row, id=t)
        predicted.append(time.perf_counter() - began)
        if t > LATE and draw.random() < asked.answered:
            began = time.perf_counter()
            learner.learn(t - LATE, int(draw.integers(3)))
            learned.append(time.perf_counter() - began)
        if t == mark or t == asked.predictions:
            told = f"predict {milliseconds(predicted)}, learn {milliseconds(learned)}"
            print(f"{t:>9,} predictions: {resident():.1f} MB; {told}", flush=True)
            predicted, learned, mark = [], [], mark * 10 if mark < 100_000 else mark + 100_000


if __name__ == "__main__":
    main()
