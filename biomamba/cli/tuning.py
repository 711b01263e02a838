"""The values that each setting of a comparison is given: chosen on seeds of their own, scored on others."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from jsonargparse.typing import PositiveInt

from ..experiment import files
from ..experiment.build import steps_to_take, task_of
from ..experiment.config import Config, flatten, to_dict
from ..metrics import direction
from ..report.verdict import chosen_score
from .variants import Variants, keyed_values, short, variants, with_seeds, written

FIRST = 1000  # tuning seeds are so far from those that are scored: more of these may be asked for later
TENTH = 10


@dataclass(frozen=True)
class Tuned(Variants):
    """Settings that are tuned before they are scored; `compare` says what each option means."""

    tune: tuple[str, ...] = ()
    tune_seeds: PositiveInt = 2
    tune_on: Literal["whole", "tenth"] = "whole"
    score: str | None = None


class Learn(Protocol):
    """Learns every run of a plan; `compare.learn` with all but the plan given."""

    def __call__(self, plan: Mapping[str, Config], tolerant: bool = False) -> Mapping[str, Path]:
        """Return the folder of each run by its name; tolerant: without those that came to nothing."""


def candidates(argv: Sequence[str], asked: Tuned, base: Config) -> dict[str, dict[str, Config]]:
    """Return, for each setting, the configs to choose from by what differs in them, such as `lr 0.001`.

    A setting whose rule, block or task has none of the keys has one config, by "". Raises ValueError for what
    cannot be.
    """
    tuned = keyed_values("tune", asked.tune)
    found: dict[str, dict[str, Config]] = {}
    for values in itertools.product(*tuned.values()):
        given = [f"--{key}={value}" for key, value in zip(tuned, values, strict=True)]
        for label, config in variants([*argv, *given], asked, base).items():
            there = flatten(to_dict(config))
            named = [f"{short(key, tuned)} {v}" for key, v in zip(tuned, values, strict=True) if key in there]
            found.setdefault(label, {})[", ".join(named)] = config
    return found


def choose(found: Mapping[str, Mapping[str, Config]], asked: Tuned, learn: Learn) -> tuple[dict[str, Config], Any]:
    """Return the config that each setting is scored with, and how it was chosen, None where nothing was tuned.

    learn: learns the runs of a plan and returns their folders. Raises ValueError where it is not known which way a
    score is better, and where none of a setting's runs comes to anything.
    """
    if not asked.tune:
        return {label: next(iter(own.values())) for label, own in found.items()}, None
    plan = {
        run_name(label, name, one): one
        for label, own in found.items()
        if len(own) > 1
        for name, config in own.items()
        for one in tuning_runs(config, asked)
    }
    folders = learn(plan, tolerant=True)
    score, chosen, rows = asked.score, dict[str, Config](), {}
    for label, own in found.items():
        if len(own) == 1:
            (chosen[label],) = own.values()
            continue
        reached: dict[str, float | None] = {}
        for name, config in own.items():
            runs = [folders.get(run_name(label, name, one)) for one in tuning_runs(config, asked)]
            summaries = [files.read_json(run / "summary.json") for run in runs if run]
            if summaries:
                score = chosen_score(summaries[0]["scores"], score)
            reached[name] = _mean(summaries, len(runs), score) if score else None
        usable = {name: value for name, value in reached.items() if value is not None}
        if not usable or score is None:
            raise ValueError(
                f"tune: no run of {label} came to a score, expected one: give other values of {asked.tune}"
            )
        best = max(usable, key=lambda name: usable[name] * direction(score))
        chosen[label] = own[best]
        names = list(own)
        at_edge = len(asked.tune) == 1 and len(own) > 2 and best in (names[0], names[-1])
        rows[label] = {"chosen": best, "reached": reached, "edge": at_edge}
    return chosen, {
        "keys": list(asked.tune),
        "score": score,
        "on": _on(next(iter(chosen.values())), asked),
        "rows": rows,
    }


def tuning_runs(config: Config, asked: Tuned) -> list[Config]:
    """Return the runs that a config is judged by: without baselines, of a tenth of the steps where so asked."""
    stream = config.stream
    if asked.tune_on == "tenth":
        total = steps_to_take(task_of(config), stream.split, stream.batch, config.run.seed, stream.steps)
        stream = replace(stream, steps=max(stream.length, total // TENTH))
    run = replace(config.run, baselines=False, held_out=False)
    return with_seeds(replace(config, stream=stream, run=run), asked.tune_seeds, FIRST)


def run_name(label: str, name: str, config: Config) -> str:
    """Return what the run of a setting with what `name` says is called."""
    return f"{label}-{written(name)}-seed{config.run.seed}"


def _mean(summaries: Sequence[Mapping[str, Any]], runs: int, score: str) -> float | None:
    """Return the mean of a score over the whole streams; None where a run is missing or has none."""
    values = [summary["scores"][score]["all"] for summary in summaries]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if len(known) == runs else None


def _on(config: Config, asked: Tuned) -> str:
    """Say on what the values were chosen."""
    seeds = ", ".join(str(one.run.seed) for one in with_seeds(config, asked.tune_seeds, FIRST))
    part = "the first tenth of the stream" if asked.tune_on == "tenth" else "the whole stream"
    return f"{part}, seed{'s' if asked.tune_seeds > 1 else ''} {seeds}"
