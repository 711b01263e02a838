"""`biomamba compare`: the same streams learned by several rules, from the same weights where these have one shape.

    settings (rules x lengths x windows x varied)  ->  tuning runs, a value for each  ->  scored runs  ->  table, page

Runs are processes that share nothing but the folder: each may be interrupted and taken up again by itself.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from ..experiment.run import find_run_dir
from ..loop import evaluate
from ..report import exports, page
from ..report.data import damage
from ..report.text import compare_table, gather, loud, plot, verdicts
from ..report.verdict import verdict
from ..rules import RULES, LearningRule
from ..stream import Chunk
from .tuning import Tuned, candidates, choose
from .variants import create_comparison_dir, gradient_row, short, untraced, watched, with_seeds

GROUNDS = ("task.", "model.", "stream.")  # sections that baselines depend on


@dataclass(frozen=True)
class Compare(Tuned):
    """Learn the same streams by several rules, each run a process of its own.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    vary: KEY=v1,v2,... of any value of the config, several after each other: every combination is a setting
    tune: KEY=v1,v2,... of any value of the config: each setting gets the best of its tuning runs, scored on other seeds
    tune_seeds: how many for each value, counted from run.seed + 1000
    tune_on: whole streams, or the first tenth of their steps
    score: by which settings are tuned and told apart, over the whole stream; null: the task's first
    reference: label of the setting that others are compared with, seed by seed; null: the first of bptt, else the first
    seeds: how many, counted from run.seed
    jobs: runs at the same time
    launcher: where runs go: local, processes of this machine; submitit, jobs of its scheduler (Slurm)
    launcher_options: of submitit, such as {slurm_partition: gpu, timeout_min: 600}; null: a day and a thread a run
    costs: count operations, memory, time and energy of each setting at the end
    fidelity: steps of each stream on which the gradients are compared with full BPTT's at the end; 0: not at all
    """

    seeds: PositiveInt = 3
    reference: str | None = None
    jobs: PositiveInt = 1
    launcher: Literal["local", "submitit"] = "local"
    launcher_options: dict[str, str | int] | None = None
    costs: bool = True
    fidelity: NonNegativeInt = 256


def run(argv: Sequence[str]) -> int:
    """Run every setting and seed as a process of its own, and put them in one table."""
    compare(argv)
    return 0


def compare(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """Do what the command says; return the folder, and what comes of it, a line for each kind of stream."""
    parsed = parse(argv, Compare, "compare ")
    settings, asked = parsed.config, parsed.command
    found = candidates(argv, asked, settings)
    first = Experiment.from_config(next(iter(next(iter(found.values())).values())))
    if asked.reference is not None and asked.reference not in found:
        raise ValueError(f"reference: got {asked.reference!r}, expected one of {', '.join(found)}")
    folder = create_comparison_dir(settings, "compare")
    print(f"{settings.task.name}: {loud(first.task.source)}")
    tuned = f", each tuned with {asked.tune_seeds} seeds before" if asked.tune else ""
    for line in untraced(asked, settings):
        print(line)
    print(f"{len(found)} settings, {asked.seeds} seeds each{tuned}; {folder}", flush=True)
    with Lock(folder):
        elsewhere = asked.launcher == "submitit"
        threads = settings.run.threads or (1 if elsewhere else max(1, (os.cpu_count() or 1) // asked.jobs))
        cluster = Cluster(folder / "jobs", threads, asked.launcher_options or {}) if elsewhere else None
        start = cluster.launch if cluster else None
        learning = partial(learn, folder=folder, at_once=asked.jobs, threads=threads, launch=start)
        plan, tuning = choose(found, asked, partial(learning, folder=folder / "tuning"))
        about = grounds(plan)
        firsts = {text: label for label, text in reversed([*about.items()])}
        seeds = {label: with_seeds(own, asked.seeds) for label, own in plan.items()}
        scored = {
            f"{label}-seed{one.run.seed}": replace(one, run=replace(one.run, baselines=firsts[about[label]] == label))
            for label, own in seeds.items()
            for one in own
        }
        done = learning(scored)
    runs = {label: [done[f"{label}-seed{one.run.seed}"] for one in own] for label, own in seeds.items()}
    with damage(folder):
        result = gather(runs, about)
        if tuning is not None:
            result["tuning"] = tuning
        try:
            result["statistics"] = verdict(runs, grounds(plan, ("task.", "stream.")), asked.score, asked.reference)
        except ImportError as error:
            print(error)
    if asked.fidelity:
        result["fidelity"] = compare_gradients(plan, runs, about, asked.fidelity)
    if asked.costs:
        add_costs(result, plan)
    log.write(folder / "compare.json", log.to_json(result))
    with damage(folder):
        print(compare_table(result))
    keys = [word.partition("=")[0] for word in (*asked.vary, *asked.tune)]
    for write in (
        partial(exports.write, folder, result, keys),
        partial(plot, folder / "compare.png", result),
        partial(page.write, folder / "report.html", [folder]),
    ):
        try:
            with damage(folder):
                write()
        except ImportError as error:
            print(error)
    others = ("compare.json", "table.csv", "table.tex", "runs.csv", "runs.parquet", "compare.svg", "compare.pdf")
    print(f"{folder}: {', '.join(name for name in others if (folder / name).exists())}")
    page_there = (folder / "report.html").exists()
    print(f"{folder}/{'report.html' if page_there else 'compare.json'}")
    return folder, verdicts(result)


def learn(
    plan: Mapping[str, Config],
    tolerant: bool = False,
    *,
    folder: Path,
    at_once: int,
    threads: int,
    launch: Callable[[Sequence[str], Path], jobs.Job] | None,
) -> dict[str, Path]:
    """Learn every run of a plan that is not finished, and return their folders by name.

    tolerant: a run that comes to nothing, as of too high a rate, stops no other and is not among those returned.
    threads: of each run. launch: starts a command, see `jobs.run_all`.
    Raises ValueError where a folder holds another run, ChildProcessError where one fails.
    """
    folder.mkdir(exist_ok=True)
    commands: dict[str, list[str]] = {}
    for name, one in plan.items():
        own = folder / name
        begun = one.run.resume and (own / "config.yaml").exists()
        settings = replace(one, run=replace(one.run, dir=str(own), threads=threads, resume=begun))
        if begun and (find_run_dir(settings) / "summary.json").exists():
            continue
        log.write(folder / f"{name}.yaml", config.to_yaml(settings))
        commands[name] = jobs.command("train", "--config", str(folder / f"{name}.yaml"))
    jobs.run_all(commands, folder, at_once, tolerant, launch)
    return {name: folder / name for name in plan if (folder / name / "summary.json").exists()}


def grounds(plan: Mapping[str, Config], sections: tuple[str, ...] = GROUNDS) -> dict[str, str]:
    """Return, by setting, in what some sections differ from others', in words: by default those of its baselines."""
    values = {
        label: {key: value for key, value in config.flatten(config.to_dict(own)).items() if key.startswith(sections)}
        for label, own in plan.items()
    }
    keys = dict.fromkeys(key for own in values.values() for key in own if key != "stream.length")
    differ = [key for key in keys if len({str(own.get(key)) for own in values.values()}) > 1]
    return {
        label: ", ".join(f"{short(key, differ)} {own[key]}" for key in differ if key in own)
        for label, own in values.items()
    }


def compare_gradients(
    plan: Mapping[str, Config], runs: Mapping[str, Sequence[Path]], about: Mapping[str, str], segment: int
) -> dict[str, Any]:
    """Return how near each setting's gradient comes to full BPTT's, with weights that the first of its kind learned."""
    teachers = {text: runs[label][0] for label, text in reversed([*about.items()])}
    rows = []
    for label, own in watched(plan, "fidelity"):
        segment = min(segment, Experiment.from_config(own).total)
        weights, _ = checkpoint.load(teachers[about[label]] / "model.safetensors")
        rows.append(gradient_row(label, own, weights, segment))
    learned = ", ".join(folder.name for folder in dict.fromkeys(teachers[text] for text in about.values()))
    streams = next(iter(plan.values())).stream.batch
    return {"steps": segment, "streams": streams, "weights": f"learned by {learned}", "rows": rows}


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
            except (ImportError, ValueError) as error:
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
