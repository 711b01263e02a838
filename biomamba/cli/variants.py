"""What `compare` and `fidelity` share: the settings they go through, and how near a gradient comes on each."""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import checkpoint
from ..analysis.fidelity import fidelity
from ..experiment.build import Experiment
from ..experiment.config import Config
from ..experiment.parse import parse
from ..experiment.run import next_run_dir


@dataclass(frozen=True)
class Variants:
    """Settings that differ in the rule, the length and the window; `compare` and `fidelity` say what each means."""

    rules: str = "rtrl,bptt"
    lengths: str | None = None
    windows: str | None = None


def variants(argv: Sequence[str], asked: Variants, base: Config) -> dict[str, list[Config]]:
    """Return, by label, the config of every seed. Raises ValueError where one of them cannot be."""
    lengths = words(asked.lengths or str(base.stream.length))
    windows = words(asked.windows or str(base.rule.window or "none"))
    plan: dict[str, list[Config]] = {}
    for rule, length, window in itertools.product(words(asked.rules), lengths, windows):
        none = window in ("none", "null")
        given = ["--rule.name", rule, "--stream.length", length, "--rule.window", "null" if none else window]
        variant = parse([*argv, *given], type(asked)).config
        if variant.rule.window is None or variant.rule.window >= variant.stream.length:
            label = f"{rule}-length{length}" + ("" if none else f"-window{window}")
            seeds = range(base.run.seed, base.run.seed + getattr(asked, "seeds", 1))
            plan[label] = [replace(variant, run=replace(variant.run, seed=seed)) for seed in seeds]
    if not plan:
        raise ValueError(f"windows: got {asked.windows}, expected at least one not shorter than a length")
    return plan


def words(text: str) -> list[str]:
    """Return what stands between the commas."""
    return [word.strip() for word in text.split(",")]


def watched(plan: Mapping[str, Config], what: str) -> Iterator[tuple[str, Config]]:
    """Yield the settings by label, with a bar on a terminal and lines elsewhere."""
    for label, variant in tqdm(plan.items(), desc=what, disable=None):
        if not sys.stderr.isatty():
            print(f"{what} of {label} ...", flush=True)
        yield label, variant


def gradient_row(
    label: str, settings: Config, weights: checkpoint.Tensors, segment: int, start: int = 0
) -> dict[str, Any]:
    """Return how near a rule's gradient comes to full BPTT's on a segment of the stream, and of what rule it is."""
    own, rule = Experiment.from_config(settings), settings.rule
    checkpoint.load_weights(own.model, weights)
    found = fidelity(own.model, own.task, own.learner.rule, own.stream(start, segment), rule.window)
    named = {"rule": rule.name, "length": settings.stream.length, "window": rule.window}
    return {"label": label, **named, "depth": settings.model.n_layers, **found}


def create_comparison_dir(settings: Config, what: str) -> Path:
    """Make the folder of a comparison. Raises FileExistsError where it is in use."""
    if settings.run.dir is None:
        return next_run_dir(f"{what}-{settings.task.name}")
    folder = Path(settings.run.dir)
    if folder.exists() and any(folder.iterdir()) and not (settings.run.overwrite or settings.run.resume):
        raise FileExistsError(
            f"run.dir: {folder} is not empty: give another folder, --run.resume true to go on with it, "
            "or --run.overwrite true to lose what it holds"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
