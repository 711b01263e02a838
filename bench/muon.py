"""Muon against Adam on the matrices of the blocks: digits, one pass, in chunks, what the steps take beside it.

    BIOMAMBA_DATA=... python -m bench.muon [--seeds 2] [--jobs 1] [--out runs/bench]

configs/fsdd.yaml, one pass over the recordings of all speakers but those of fold 0, who are scored with learning off.
Muon (Jordan et al. 2024; torch.optim.Muon, its rate matched to Adam's) takes in_proj and out_proj, Adam at its own rate
the rest.
"""

import argparse
import time
from collections import deque
from pathlib import Path
from typing import Any

from torch.optim import Adam, Muon, Optimizer

from bench.grid import Row, config_of, heading, run, spread, table
from biomamba import Learner, evaluate
from biomamba.experiment.build import LONG, Experiment

ROWS: list[Row] = [{"optimiser": "adam", "lr": 3e-3}]
ROWS += [{"optimiser": "muon", "lr": rate} for rate in (3e-3, 1e-2, 3e-2)]
SCORES = ("accuracy", "running")


class Both(Optimizer):
    """Two optimisers as one."""

    def __init__(self, parts: list[Optimizer], factors: list[float]) -> None:
        """Take the optimisers, and their rates by that of the config."""
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.parts, self.param_groups = parts, [group for part in parts for group in part.param_groups]
        for group, factor in zip(self.param_groups, factors, strict=True):
            group["factor"] = factor

    def step(self, closure: Any = None) -> None:
        """Take a step of each."""
        for part in self.parts:
            part.step()


def measure(setting: Row) -> Row:
    """Learn the pass and score the fold."""
    own = Experiment.from_config(config_of("fsdd", {"task.fold": 0, "task.passes": 1, "seed": setting["seed"]}))
    model, learner, rate = own.model, own.learner, own.config.optim.lr
    if setting["optimiser"] == "muon":
        names = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2 and "blocks" in name}
        rest = [weight for name, weight in model.named_parameters() if name not in names]
        muon = Muon([*names.values()], lr=setting["lr"], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        both = Both([muon, Adam(rest, lr=rate, fused=True)], [setting["lr"] / rate, 1.0])
        own.learner = Learner(own.task, model, learner.rule, both, clip=own.config.optim.clip, threads=1)
    optimizer, steps = own.learner.optimizer, [0.0]
    step = optimizer.step

    def timed(closure: Any = None) -> None:
        began = time.process_time()
        step()
        steps[0] += time.process_time() - began

    optimizer.step = timed  # type: ignore[method-assign]
    began = time.process_time()
    report = deque(own.online(own.stream()), maxlen=1).pop()
    seconds = time.process_time() - began
    valid = own.task.stream("valid", batch=8, length=LONG, seed=0)
    held_out = deque(evaluate(valid, own.task, model), maxlen=1).pop().scores
    return {"scores": report.scores, "held_out": held_out, "seconds": seconds, "steps": steps[0]}


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    settings = [row | {"seed": seed} for row in ROWS for seed in range(arguments.seeds)]
    measured = run(measure, settings, arguments.out / "muon.jsonl", arguments.jobs)
    lines = []
    for i in range(0, len(measured), arguments.seeds):
        rows = measured[i : i + arguments.seeds]
        cells = [spread([row[part][name] for row in rows]) for part in ("scores", "held_out") for name in SCORES]
        took = [spread([row[name] for row in rows], 1) for name in ("seconds", "steps")]
        lines.append([rows[0]["setting"]["optimiser"], f"{rows[0]['setting']['lr']:g}", *cells, *took])
    head = [f"{part} {name}" for part in ("prequential", "held-out") for name in SCORES]
    print(heading(f"python -m bench.muon --seeds {arguments.seeds}"))
    print(table(["matrices by", "lr", *head, "CPU seconds", "of it steps"], lines))


if __name__ == "__main__":
    main()
