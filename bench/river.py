"""Streams of river's own: a pipeline of StandardScaler and a model, scored before it learns: python -m bench.river.

Phishing and Bananas (classes, rows without an order in time: nothing to remember), ChickWeights and TrumpApproval
(values; chicks are weighed in turn), and a stream made here whose class is the sign of the input three rows before.
Beside the learner: logistic or linear regression and a Hoeffding tree of river's. Seeds draw the learner's weights.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from river import datasets, evaluate, linear_model, metrics, preprocessing, tree

from biomamba.integrations.river import MambaClassifier, MambaRegressor

Rows = Iterable[tuple[dict[Any, Any], Any]]


def past(count: int) -> Rows:
    """Return rows whose class is the sign of the signal three rows before."""
    drawn = random.Random(0)  # noqa: S311 - a stream, not a secret
    signal = [drawn.gauss(0, 1) for _ in range(count)]
    return [({"signal": signal[i]}, signal[max(0, i - 3)] > 0) for i in range(count)]


def numbers(rows: Rows) -> Rows:
    """Return the rows with the features that are numbers."""
    return [({name: value for name, value in x.items() if isinstance(value, int | float)}, y) for x, y in rows]


STREAMS: dict[str, tuple[Callable[[int], Rows], bool]] = {
    "Phishing": (lambda count: datasets.Phishing().take(count), True),
    "Bananas": (lambda count: datasets.Bananas().take(count), True),
    "sign three rows before": (past, True),
    "TrumpApproval": (lambda count: numbers(datasets.TrumpApproval().take(count)), False),
    "ChickWeights": (lambda count: numbers(datasets.ChickWeights().take(count)), False),
}


def models(is_class: bool, seed: int) -> dict[str, Any]:
    """Return what is compared; only the learner depends on a seed."""
    if is_class:
        peers = {
            "logistic regression": linear_model.LogisticRegression(),
            "Hoeffding tree": tree.HoeffdingTreeClassifier(),
        }
        return {"biomamba": MambaClassifier(classes=2, seed=seed, threads=1), **peers}
    peers = {"linear regression": linear_model.LinearRegression(), "Hoeffding tree": tree.HoeffdingTreeRegressor()}
    return {"biomamba": MambaRegressor(seed=seed, threads=1), **peers}


def main() -> None:
    """Print a line for each stream and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    own = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'stream':24} {'model':20} {'score':26} ms of CPU a row")
    for name, (rows, is_class) in STREAMS.items():
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(own.seeds):
            for label, model in models(is_class, seed).items():
                if seed and label != "biomamba":
                    continue  # it draws nothing
                stream, began = list(itertools.islice(rows(own.rows), own.rows)), time.process_time()
                metric = metrics.Accuracy() if is_class else metrics.MAE()
                score = evaluate.progressive_val_score(stream, preprocessing.StandardScaler() | model, metric).get()
                found.setdefault(label, []).append((score, 1e3 * (time.process_time() - began) / len(stream)))
        for label, every in found.items():
            scores, costs = zip(*every, strict=True)
            spread = f" +- {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            what = "accuracy" if is_class else "MAE"
            print(
                f"{name:24} {label:20} {what} {statistics.mean(scores):.3f}{spread:10} {min(costs):10.3f}", flush=True
            )


if __name__ == "__main__":
    main()
