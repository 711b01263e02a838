"""What `compare` and `fidelity` share: the settings they go through, and how near a gradient comes on each."""

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..analysis.fidelity import fidelity
from ..blocks import BLOCKS
from ..experiment.build import Experiment
from ..experiment.config import FREE, Config, flatten, to_dict
from ..experiment.parse import parse
from ..experiment.run import next_run_dir
from ..rules import RULES

OTHERWISE = {"rule.name": "rules", "stream.length": "lengths", "rule.window": "windows", "run.seed": "seeds"}


@dataclass(frozen=True)
class Variants:
    """Settings that differ in the rule, the length, the window and what is varied; the commands say what each means."""

    rules: str = "rtrl,bptt"
    lengths: str | None = None
    windows: str | None = None
    vary: tuple[str, ...] = ()


def variants(argv: Sequence[str], asked: Variants, base: Config) -> dict[str, Config]:
    """Return every setting's config by its label, such as rtrl-length8-lr0.01.

    A setting whose rule, block or task has no such option as is varied stands there once; one whose rule keeps traces
    that its block does not have is left out, see `untraced`. Raises ValueError where one of them cannot be.
    """
    lengths = words(asked.lengths or str(base.stream.length))
    windows = words(asked.windows or str(base.rule.window or "none"))
    varied = keyed_values("vary", asked.vary)
    plan: dict[str, Config] = {}
    for rule, length, window, *values in itertools.product(words(asked.rules), lengths, windows, *varied.values()):
        none = window in ("none", "null")
        given = ["--rule.name", rule, "--stream.length", length, "--rule.window", "null" if none else window]
        given += [f"--{key}={value}" for key, value in zip(varied, values, strict=True)]
        variant = parse([*argv, *given], type(asked)).config
        if variant.rule.window is not None and variant.rule.window < variant.stream.length:
            continue
        if _is_untraced(rule, variant.model.block):
            continue
        label = f"{rule}-length{length}" + ("" if none else f"-window{window}")
        there = flatten(to_dict(variant))
        for key, value in zip(varied, values, strict=True):
            label += f"-{short(key, varied)}{written(value)}" if key in there else ""
        if plan.setdefault(label, variant) != variant:
            raise ValueError(f"vary: two settings are called {label}: give values that differ in their letters")
    if not plan:
        for line in untraced(asked, base):
            raise ValueError(f"{line}: give --rules bptt")
        raise ValueError(f"windows: got {asked.windows}, expected at least one not shorter than a length")
    return plan


def untraced(asked: Variants, base: Config) -> list[str]:
    """Return a line for each rule asked for that keeps traces, with a block that has none."""
    blocks = keyed_values("vary", asked.vary).get("model.block", [base.model.block])
    return [
        f"rule {rule} keeps traces, which block {block} does not have: left out"
        for block in blocks
        for rule in words(asked.rules)
        if _is_untraced(rule, block)
    ]


def _is_untraced(rule: str, block: str) -> bool:
    """Say whether a rule keeps traces that a block does not have."""
    return RULES[rule].keeps_traces and not BLOCKS[block].diagonal


def words(text: str) -> list[str]:
    """Return what stands between the commas, those inside of brackets apart."""
    return [word.strip() for word in re.split(r",(?![^\[{]*[\]}])", text)]


def keyed_values(option: str, given: Iterable[str]) -> dict[str, list[str]]:
    """Return {key: values} for words such as optim.lr=1e-4,3e-4. Raises ValueError for those that are otherwise."""
    found: dict[str, list[str]] = {}
    for word in given:
        key, _, values = word.partition("=")
        if not key or not all(words(values)):
            raise ValueError(f"{option}: got {word!r}, expected KEY=v1,v2,... such as optim.lr=1e-3,3e-3")
        if key in OTHERWISE:
            raise ValueError(f"{option}: got {key}: give --{OTHERWISE[key]} {values}")
        if key in FREE or key in found:
            why = "which changes no score" if key in FREE else "twice"
            raise ValueError(f"{option}: got {key} {why}, expected another key of a config, such as optim.lr")
        found[key] = words(values)
    return found


def written(text: str) -> str:
    """Return text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)


def short(key: str, among: Iterable[str]) -> str:
    """Return a key without its section, where no other of them ends so."""
    last = key.rpartition(".")[2]
    return last if [own.rpartition(".")[2] for own in among].count(last) == 1 else key


def with_seeds(settings: Config, count: int, first: int = 0) -> list[Config]:
    """Return a setting once for each seed, counted from `first` beyond its own."""
    seeds = range(settings.run.seed + first, settings.run.seed + first + count)
    return [replace(settings, run=replace(settings.run, seed=seed)) for seed in seeds]


def watched(plan: Mapping[str, Config], what: str) -> Iterator[tuple[str, Config]]:
    """Yield the settings by label, with a bar on a terminal and lines elsewhere."""
    for label, variant in tqdm(plan.items(), desc=what, disable=None):
        if not sys.stderr.isatty():
            print(f"{what} of {label} ...", flush=True)
        yield label, variant


def gradient_row(
    label: str, settings: Config, weights: checkpoint.Tensors, segment: int, start: int = 0, updates: int | None = None
) -> dict[str, Any]:
    """Return how near a rule's gradient comes to full BPTT's on a segment of the stream, and of what rule it is.

    updates: after which the weights were so; None where that is not known. On the CPU in float64, which tells more of
    small gaps.
    """
    if settings.run.device == "cpu":
        settings = replace(settings, run=replace(settings.run, dtype="float64"))
    own, rule = Experiment.from_config(settings), settings.rule
    checkpoint.load_weights(own.model, weights)
    stream = (chunk.map(lambda tensor: _of_type(tensor, own.model.head.weight)) for chunk in own.stream(start, segment))
    found = fidelity(own.model, own.task, own.learner.rule, stream, rule.window)
    named = {"rule": rule.name, "length": settings.stream.length, "window": rule.window}
    return {"label": label, **named, "depth": settings.model.n_layers, "updates": updates, **found}


def _of_type(tensor: Tensor, like: Tensor) -> Tensor:
    """Return real values in the precision of the weights, and others as they are."""
    return tensor.to(like.dtype) if tensor.is_floating_point() else tensor


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
