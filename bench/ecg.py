"""Beats of patients never heard before: three protocols on MIT-BIH's DS2, by learning rule.

    python -m bench.ecg [--stage inter|adapt|inputs|rules] [--seeds 3] [--jobs 2] [--out runs/bench]

Every run learns DS1 by configs/ecg.yaml, but for what the table names, and is scored on the 22 records of DS2:

    inter     learning off
    adapt     learning on, each record from the weights of DS1, labels at least 10 beats late
    patient   learning on, each record from the weights of DS1, labels of its first five minutes alone

The stage `inter`, the quickest, scores two rules at the config's length, `rules` other lengths, `inputs` what each
part of the input is good for; `adapt` adds the other two protocols. Scores are of all beats, and of those after the
fifth minute, on which all three protocols can be compared.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.grid import Row, heading, run, spread, table
from biomamba import Report, checkpoint, evaluate
from biomamba.experiment.build import LONG, Experiment, make_task, task_of
from biomamba.experiment.config import Config
from biomamba.experiment.parse import parse
from biomamba.stream import Chunk, Meter, Task
from biomamba.tasks.ecg.files import RATE
from biomamba.tasks.ecg.task import Ecg

FILE = Path(__file__).parents[1] / "configs" / "ecg.yaml"
DELAY, MINUTES = 10, 5  # beats that labels are late in `adapt`, minutes labelled in `patient`
ADAPT_RATE = 1e-4  # of one patient: the rate that learned 22 at once forgets the others
ADAPT_LENGTH = 64  # steps per update of one patient, about a beat
NAMES = ["jk", "macro_f1", "S_sensitivity", "S_predictivity", "V_sensitivity", "V_predictivity", "kappa"]
HEADER = ["jk", "macro-F1 (N, S, V)", "Se S", "+P S", "Se V", "+P V", "kappa"]
STAGES: dict[str, list[Row]] = {
    "inter": [{"rule": rule, "length": 64} for rule in ("rtrl", "bptt")],
    "adapt": [{"rule": rule, "length": 64, "adapt": True} for rule in ("rtrl", "bptt")],
    "inputs": [{"rule": "rtrl", "length": 64, "without": part} for part in ("rhythm", "scale", "augment")],
    "rules": [
        *({"rule": rule, "length": 32} for rule in ("rtrl", "bptt", "rtrl_stdp")),
        *({"rule": rule, "length": 16} for rule in ("rtrl", "bptt", "rtrl_stdp")),
        *({"rule": rule, "length": 1} for rule in ("rtrl", "bptt")),
    ],
}
Scores = dict[str, dict[str, float]]  # {"all": {"jk": x}, "later": {"jk": y}}


class Both:
    """Meters of all beats and of those after the fifth minute."""

    def __init__(self, task: Task) -> None:
        """Start with nothing scored; `task` has records that begin together."""
        self.task, self.all, self.later = task, task.meters(), task.meters()

    def take(self, out: torch.Tensor, chunk: Chunk, at: int) -> None:
        """Score the predictions of a chunk that begins `at` steps after its records did."""
        assert isinstance(self.task, Ecg)  # noqa: S101 - narrows the type
        last = (torch.arange(chunk.x.shape[1]) + at + 1) * self.task.decimate - round(self.task.decision * RATE)
        score = torch.where(last > MINUTES * 60 * RATE, chunk.info["score"], -1)
        later = chunk._replace(info=chunk.info | {"score": score})
        for meters, of in ((self.all, chunk), (self.later, later)):
            for meter in meters.values():
                meter.update(out, of)

    def get(self) -> Scores:
        """Return the scores and the counts."""
        return {part: _scores(meters) for part, meters in (("all", self.all), ("later", self.later))}


def _scores(meters: dict[str, Meter]) -> dict[str, Any]:
    """Return the scores by name, with the matrix of counts."""
    return {name: meter.get() for name, meter in meters.items()} | {"counts": meters["accuracy"].state_dict()["matrix"]}


def measure(setting: Row) -> Row:
    """Return what a rule scores on DS2 after learning DS1, by protocol."""
    asked = ["--rule.name", setting["rule"], "--stream.length", str(setting["length"])]
    asked += ["--run.seed", str(setting["seed"])]
    asked += ["--rule.a_post", "0.2"] if setting["rule"] == "rtrl_stdp" else []
    if "without" in setting:
        asked += [f"--task.{setting['without']}", "false"]
    settings = parse(["--config", str(FILE), *asked]).config
    own = Experiment.from_config(settings)
    task = own.task
    row: Row = {"source": task.source, "untrained": _inter(settings, task, own.model)}
    began = time.perf_counter()
    last = deque(own.online(own.stream()), maxlen=1).pop()
    row |= {"learning": {name: meter.get() for name, meter in last.state.meters.items()}}
    row |= {"seconds": time.perf_counter() - began, "updates": last.state.updates}
    row["inter"] = _inter(settings, task, own.model)
    if setting["adapt"]:
        weights = checkpoint.weights(own.model)
        row["adapt"] = _each(settings, weights, 2, label_delay=DELAY)
        row["patient"] = _each(settings, weights, 1, labelled=float(MINUTES))
    return row


def _inter(settings: Config, task: Task, model: torch.nn.Module) -> Scores:
    """Return the scores of DS2 with learning off."""
    records = len(task.parts("test"))
    return _score(evaluate(task.stream("test", batch=records, length=LONG, seed=0), task, model), task)  # type: ignore[arg-type]


def _each(settings: Config, weights: checkpoint.Tensors, batch: int, **options: Any) -> Scores:
    """Return the scores of DS2 with learning on, each record from the same weights."""
    own = settings.task.options | options
    settings = replace(
        settings,
        task=replace(settings.task, options=own),
        optim=replace(settings.optim, lr=ADAPT_RATE, lr_end=None),
        stream=replace(settings.stream, split="test", batch=batch, length=ADAPT_LENGTH),
        run=replace(settings.run, seed=0),
    )
    task = task_of(settings)
    both = Both(task)
    for part in task.parts("test").values():
        adapted = Experiment.from_config(settings, part)
        checkpoint.load_weights(adapted.model, weights)
        _score(adapted.online(adapted.stream()), task, both)
    return both.get()


def _score(reports: Iterable[Report], task: Task, both: Both | None = None) -> Scores:
    """Return the scores of a loop over records that begin together."""
    both = both or Both(task)
    for report in reports:
        both.take(report.out, report.chunk, report.state.steps - report.chunk.x.shape[1])
    return both.get()


def baselines() -> Iterator[list[str]]:
    """Yield the rows of the trivial predictors, by protocol."""
    settings = parse(["--config", str(FILE)]).config
    for protocol, batch, options in (
        ("inter, adapt", 2, {"label_delay": DELAY}),
        ("patient", 1, {"labelled": float(MINUTES)}),
    ):
        for part, score_from in (("all", 0.0), ("later", float(MINUTES))):
            task = make_task("ecg", **settings.task.options | options | {"score_from": score_from})
            for name, scores in task.baseline("test", batch=batch, seed=0).items():
                yield [protocol, name, "", part, *(f"{scores[score]['all']:.3f}" for score in NAMES)]


def rows_of(measured: list[Row]) -> Iterator[list[str]]:
    """Yield a row for each protocol and part of what the seeds of one setting gave."""
    s = measured[0]["setting"]
    rule = f"{s['rule']} without {s['without']}" if "without" in s else s["rule"]
    for protocol in ("untrained", "inter", "adapt", "patient"):
        for part in ("all", "later"):
            if protocol in measured[0] and not (protocol == "patient" and part == "all"):
                got = [row[protocol][part] for row in measured]
                cells = [spread([0.0 if own[n] != own[n] else own[n] for own in got]) for n in NAMES]
                yield [protocol, rule, str(s["length"]), part, *cells]


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="inter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    settings = [
        {"adapt": False} | row | {"seed": seed} for row in STAGES[arguments.stage] for seed in range(arguments.seeds)
    ]
    measured = run(measure, settings, arguments.out / "ecg.jsonl", arguments.jobs)
    lines = list(baselines())
    for i in range(0, len(measured), arguments.seeds):
        lines += rows_of(measured[i : i + arguments.seeds])
    print(heading(f"python -m bench.ecg --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(f"{measured[0]['source']}; `later`: the beats after minute {MINUTES}\n")
    print(table(["protocol", "rule", "length", "beats", *HEADER], lines))


if __name__ == "__main__":
    main()
