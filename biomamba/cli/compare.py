"""`biomamba compare`: the same streams learned from the same weights by several rules."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from .. import checkpoint
from ..analysis import cost, neurobench
from ..experiment import config, jobs, log
from ..experiment.build import LONG, Experiment
from ..experiment.cluster import Cluster
from ..experiment.config import Config
from ..experiment.lock import Lock
from ..experiment.parse import parse
from ..loop import evaluate
from ..report import page
from ..report.text import compare_table, gather, plot
from ..rules import RULES, LearningRule
from ..stream import Chunk
from .variants import Variants, create_comparison_dir, gradient_row, variants, watched


@dataclass(frozen=True)
class Compare(Variants):
    """Learn the same streams from the same weights by several rules, each run a process of its own.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    seeds: how many, counted from run.seed
    jobs: runs at the same time
    launcher: where runs go: local, processes of this machine; submitit, jobs of its scheduler (Slurm)
    launcher_options: of submitit, such as {slurm_partition: gpu, timeout_min: 600}; null: a day and a thread a run
    costs: count operations, memory, time and energy of each setting at the end
    fidelity: steps of each stream on which the gradients are compared with full BPTT's at the end; 0: not at all
    """

    seeds: PositiveInt = 3
    jobs: PositiveInt = 1
    launcher: Literal["local", "submitit"] = "local"
    launcher_options: dict[str, str | int] | None = None
    costs: bool = True
    fidelity: NonNegativeInt = 256


def run(argv: Sequence[str]) -> int:
    """Run every rule, length, window and seed as a process of its own, and put them in one table."""
    parsed = parse(argv, Compare, "compare ")
    settings, at_once, elsewhere = parsed.config, parsed.command.jobs, parsed.command.launcher == "submitit"
    plan = variants(argv, parsed.command, settings)
    Experiment.from_config(next(iter(plan.values()))[0])
    folder = create_comparison_dir(settings, "compare")
    threads = settings.run.threads or (1 if elsewhere else max(1, (os.cpu_count() or 1) // at_once))
    cluster = Cluster(folder / "jobs", threads, parsed.command.launcher_options or {}) if elsewhere else None
    first, runs = next(iter(plan)), dict[str, list[Path]]()
    commands: dict[str, list[str]] = {}
    with Lock(folder):
        for label, seeds in plan.items():
            for variant in seeds:
                name = f"{label}-seed{variant.run.seed}"
                begun = settings.run.resume and (folder / name / "config.yaml").exists()
                own = replace(
                    variant.run, dir=str(folder / name), threads=threads, resume=begun, baselines=label == first
                )
                log.write(folder / f"{name}.yaml", config.to_yaml(replace(variant, run=own)))
                commands[name] = jobs.command("train", "--config", str(folder / f"{name}.yaml"))
                runs.setdefault(label, []).append(folder / name)
        jobs.run_all(commands, folder, at_once, cluster.launch if cluster else None)
    result = gather(runs)
    firsts = {label: seeds[0] for label, seeds in plan.items()}
    if segment := parsed.command.fidelity:
        weights, _ = checkpoint.load(runs[first][0] / "model.safetensors")
        segment = min(segment, Experiment.from_config(settings).total)
        rows = [gradient_row(label, own, weights, segment) for label, own in watched(firsts, "fidelity")]
        result["fidelity"] = {
            "steps": segment,
            "streams": settings.stream.batch,
            "weights": f"learned by {runs[first][0].name}",
            "rows": rows,
        }
    if parsed.command.costs:
        add_costs(result, firsts)
    log.write(folder / "compare.json", log.to_json(result))
    print(compare_table(result))
    try:
        plot(folder / "compare.png", result)
        page.write(folder / "report.html", [folder])
        print(f"{folder}/report.html")
    except ImportError as error:
        print(error)
    print(f"{folder}/compare.json")
    return 0


def add_costs(result: dict[str, Any], plan: Mapping[str, Config]) -> None:
    """Add to a comparison what each of its settings costs, and what memory each holds by the stream's length."""
    result["memory"] = []
    for label, settings in watched(plan, "cost"):
        own = Experiment.from_config(settings)
        model, task, rule = own.model, own.task, own.learner.rule
        window, clip = settings.rule.window, settings.optim.clip
        chunk = labelled_chunk(own, settings.stream.length)
        measured = cost.measure(model, task, rule, own.learner.optimizer, chunk, window, clip)
        result["settings"][label]["cost"] = asdict(measured)
        if settings.model.threshold is not None:
            try:
                result["settings"][label]["neurobench"] = neurobench.metrics(model, chunk)
            except ImportError as error:
                print(error)
        long = labelled_chunk(own, min(LONG, own.total))
        held: dict[str, tuple[LearningRule, int | None, int | None]] = {label: (rule, settings.stream.length, window)}
        if not result["memory"]:
            held["BPTT of the whole stream"] = RULES["bptt"](rule.blocks), None, None
        for name, (by, length, back) in held.items():
            lengths = [n for n in (16, 64, LONG) if (length or 1) <= n <= long.x.shape[1]]
            if lengths:
                rows = cost.memory_by_length(name, model, task, by, long, length, lengths, back)
                result["memory"] += map(asdict, rows)


def labelled_chunk(experiment: Experiment, length: int) -> Chunk:
    """Return the first chunk of `length` steps that holds a label; the model is as before."""
    own, task = experiment.config, experiment.task
    stream = task.stream(own.stream.split, batch=own.stream.batch, length=length, seed=own.run.seed)
    for report in evaluate(stream, task, experiment.model):
        if bool(report.chunk.mask.any()) and report.chunk.x.shape[1] == length:
            return report.chunk
    raise ValueError(f"stream.length: got {length}, but no chunk of that length holds a label")
