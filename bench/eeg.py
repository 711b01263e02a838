"""Eyes open or closed, left or right fist imagined: what each rule makes of one person's EEG, all folds pooled.

    python -m bench.eeg [--stage eyes|imagery] [--seeds 3] [--jobs 2] [--out runs/bench]

Every run learns the train part of a fold by configs/eeg.yaml, but for what the table and IMAGERY name, and is scored
with learning off on the part held out, `averaged` by the averaged weights. The counts of all folds are added up before
anything is computed from them.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.grid import Row, config_of, heading, run, spread, table
from biomamba import evaluate
from biomamba.experiment.build import LONG, Experiment
from biomamba.metrics import Confusion
from biomamba.tasks.eeg.scores import Decisions, Latency
from biomamba.tasks.eeg.task import Eeg

RATE = 3e-3  # of configs/eeg.yaml
FOLDS = {"eyes": 6, "imagery": 3}
WHOLE = {"eyes": 400, "imagery": 2500}  # steps of a block, of a run: backpropagation through all of it
IMAGERY = {
    "task.contrast": "imagery",
    "task.features": "power",
    "task.bands": '["8-30"]',
    "task.power_seconds": 0.5,
    "task.decimate": 8,
    "stream.batch": 2,
    "optim.lr": 3e-4,
}
AVERAGE = {"optim.average": 0.99}
COSINE = {"optim.schedule": "cosine"}
POWER = {"task.features": "power", "task.bands": '["8-13"]'}


def rows(passes: int, brief: int, whole: int, many: int, options: Row) -> list[Row]:
    """Return the settings of every rule, `passes` through the data.

    Updates of one step are so many that `brief` passes and a third of the learning rate of eyes do; backpropagation
    through `whole` recordings has so few that it is also given `many` passes.
    """
    brisk = {"passes": brief, "options": {"optim.lr": 1e-3} | options}
    usual = {"passes": passes, "options": options}
    return [
        usual | {"rule": "frozen"},
        *(brisk | {"rule": rule, "length": 1} for rule in ("bptt", "rtrl", "rtrl_stdp")),
        *(usual | {"rule": rule, "length": length} for length in (8, 32) for rule in ("bptt", "rtrl", "rtrl_stdp")),
        *({"rule": "bptt", "length": whole, "passes": count, "options": options} for count in (passes, many)),
        usual | {"rule": "rtrl", "length": 8, "label": "rtrl, averaged", "options": options | AVERAGE},
        usual | {"rule": "rtrl", "length": 8, "label": "rtrl, cosine", "options": options | COSINE},
    ]


STAGES: dict[str, list[Row]] = {
    "eyes": [
        *rows(10, 3, WHOLE["eyes"], 200, {}),
        *({"rule": rule, "length": 8, "passes": 2, "options": POWER} for rule in ("frozen", "bptt", "rtrl")),
    ],
    "imagery": rows(4, 1, WHOLE["imagery"], 40, IMAGERY),
}
HEADER = ["features", "rule", "length", "lr", "passes", "balanced accuracy", "by seed", "accuracy", "se", "kappa"]
HEADER += ["latency s", "never right", "loss", "updates", "seconds"]


def measure(setting: Row) -> Row:
    """Return the counts, the latencies and the loss on the held-out part of every fold."""
    row: Row = {"counts": [], "times": [], "missed": 0, "loss": [], "updates": 0, "seconds": 0.0}
    for fold in range(FOLDS[setting["stage"]]):
        frozen = setting["rule"] == "frozen"
        asked = {"rule.name": "rtrl" if frozen else setting["rule"], "stream.length": setting.get("length", 8)}
        asked |= {"rule.a_post": 0.2} if setting["rule"] == "rtrl_stdp" else {}
        asked |= setting["options"] | {"task.passes": setting["passes"], "task.fold": fold, "seed": setting["seed"]}
        own = Experiment.from_config(config_of("eeg", asked))
        began = time.perf_counter()
        if not frozen:
            for report in own.online(own.stream()):
                updates = report.state.updates
            row["updates"] += updates
        row["seconds"] += time.perf_counter() - began
        model = own.average.model if own.average else own.model
        for report in evaluate(own.task.stream("test", batch=2, length=LONG, seed=0), own.task, model):
            meters = report.state.meters
        said, latency = meters["accuracy"], meters["latency_seconds"]
        assert isinstance(said, Decisions) and isinstance(latency, Latency)  # noqa: S101 - narrows the types
        row["counts"].append(said.matrix.tolist())
        row["times"] += latency.times
        row["missed"] += latency.missed
        row["loss"].append(meters["loss"].get())
        row["source"] = own.task.source
    return row


def pooled(counts: list[list[list[int]]]) -> Confusion:
    """Return the counts of all folds together."""
    meter = Decisions(("0", "1"), 0)
    meter.matrix = torch.tensor(counts).sum(0)
    return meter


def scores(all_counts: list[list[list[list[int]]]]) -> list[str]:
    """Return balanced accuracy, by seed, accuracy, its standard error and kappa by seed and fold."""
    meters = [pooled(counts) for counts in all_counts]
    balanced = [meter.balanced_accuracy() for meter in meters]
    accuracy = [meter.get() for meter in meters]
    p, n = sum(accuracy) / len(accuracy), int(meters[0].matrix.sum())
    return [
        spread(balanced), ", ".join(f"{b:.3f}" for b in balanced), spread(accuracy),
        f"{(p * (1 - p) / n) ** 0.5:.3f}", spread([meter.kappa() for meter in meters]),
    ]  # fmt: skip


def baselines(stage: str) -> Iterator[list[str]]:
    """Yield the rows of the predictors that see no signal."""
    counts: dict[str, list[list[list[int]]]] = {}
    for fold in range(FOLDS[stage]):
        task = Eeg(contrast=stage, fold=fold)  # type: ignore[arg-type]
        chunk = next(task.stream("test", batch=1, length=10**6, seed=0))
        for name, said in task.guesses(chunk).items():
            meter = task.meters()["accuracy"]
            meter.update(torch.eye(2)[said], chunk)
            counts.setdefault(name, []).append(meter.state_dict()["matrix"])
    for name, own in counts.items():
        yield ["", name, "", "", "", *scores([own]), "", "", "", "", ""]


def line(rows: list[Row]) -> list[str]:
    """Return a row of the table from what the seeds of one setting gave."""
    s = rows[0]["setting"]
    times = sorted(time for row in rows for time in row["times"])
    missed, loss = sum(row["missed"] for row in rows), [sum(row["loss"]) / len(row["loss"]) for row in rows]
    median = f"{torch.tensor(times).quantile(0.5):.1f}" if times else ""
    features = s["options"].get("task.features", "signal")
    rate = s["options"].get("optim.lr", RATE)
    return [
        features, s.get("label", s["rule"]), str(s.get("length", "")), f"{rate:g}", str(s["passes"]),
        *scores([row["counts"] for row in rows]), median, f"{missed / (missed + len(times)):.2f}", spread(loss),
        f"{rows[0]['updates']:,}", spread([row["seconds"] for row in rows], 0),
    ]  # fmt: skip


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="eyes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    base = {"stage": arguments.stage}
    settings = [base | row | {"seed": seed} for row in STAGES[arguments.stage] for seed in range(arguments.seeds)]
    measured = run(measure, settings, arguments.out / "eeg.jsonl", arguments.jobs)
    lines = list(baselines(arguments.stage))
    for i in range(0, len(measured), arguments.seeds):
        lines.append(line(measured[i : i + arguments.seeds]))
    print(heading(f"python -m bench.eeg --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(f"{measured[0]['source']}; se: sqrt(p (1 - p) / n) of the accuracy; seconds, updates: of all folds\n")
    print(table(HEADER, lines))


if __name__ == "__main__":
    main()
