"""One experiment as frozen dataclasses: a section each, and how they are written."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt

from ..stream import Split


@dataclass(frozen=True)
class TaskConfig:
    """The stream and its scores; further options are the task's own.

    name: which task
    """

    name: str = "language"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The network; further options are the block's own.

    from: folder whose weights it begins with, in their sizes: a finished run, a saved learner or official ones
    block: which block is stacked
    d_model: width
    n_layers: blocks in the stack
    tied: the head uses the embedding's weights
    threshold: where blocks spike, so that out_proj receives 0 or 1; of a signal of mean square 1; null: real values
    steepness: of the surrogate derivative of a spike, 1 / (steepness distance + 1)^2
    spike_rate: the share of spikes that each block is drawn to; null: none
    spike_weight: how strongly, the weight of (share - spike_rate)^2 beside the loss
    timescales: shortest and longest time constant of the states at first, in steps; null: as dt_min to A_max say; auto:
        a third of the task's horizon and three times it, and as null where it states none or one of these is given
    encoder_bias: of the encoder's initial bias, for real values; with a large one, such as 4, the size of an input
        survives the norm before the first block, not its direction alone
    ngrams: lengths of contexts of tokens whose learned rows are added to the encoder's output; []: none
    ngram_logits: the same of rows that are added to the logits
    ngram_bits: of the number of rows for each length
    ngram_rates: learning rates of the two kinds of rows
    """

    from_: str | None = None
    block: str = "mamba2"
    d_model: PositiveInt = 64
    n_layers: PositiveInt = 1
    tied: bool = False
    threshold: PositiveFloat | None = None
    steepness: PositiveFloat = 10.0
    spike_rate: PositiveFloat | None = None
    spike_weight: PositiveFloat = 1.0
    timescales: tuple[PositiveFloat, PositiveFloat] | Literal["auto"] | None = "auto"
    encoder_bias: PositiveFloat = 1.0
    ngrams: tuple[PositiveInt, ...] = ()
    ngram_logits: tuple[PositiveInt, ...] = ()
    ngram_bits: PositiveInt = 15
    ngram_rates: tuple[PositiveFloat, PositiveFloat] = (5.0, 3.0)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RuleConfig:
    """How the past gets its share of the gradient; further options are the rule's own.

    name: which learning rule
    window: steps of exact credit through the whole stack, replayed at each update; null: the chunk
    feedback: how the learning signal comes back: symmetric (transposed weights) or random (fixed random ones)
    """

    name: str = "rtrl"
    window: PositiveInt | None = None
    feedback: Literal["symmetric", "random"] = "symmetric"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser; what it has no use for is ignored (adam: momentum; sgd, rmsprop: betas; rls: all but its own).

    name: which optimiser
    lr: learning rate
    schedule: constant, linear, cosine (both to lr_end), inverse_sqrt; null: linear where lr_end is given, else constant
    lr_end: learning rate at the end of the stream; null: a hundredth of lr where the schedule has an end
    warmup: time steps in which the learning rate rises to lr
    groups: factors of the learning rate by the ends of parameters' names, such as {A_log: 0.1}; null: 1
    betas: decay of adam's two averages per update
    momentum: of sgd and rmsprop
    weight_decay: per update, as the optimiser defines it
    clip: largest norm of the gradient; null: no limit
    average: decay per update of averaged weights, such as 0.999, which are scored beside these; null: none
    forgetting: of rls, the weight of a labelled step beside the one after it; 1: all count alike
    ridge: of rls, the weight of the distance to the weights that the head began with
    """

    name: str = "adam"
    lr: PositiveFloat = 3e-3
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] | None = None
    lr_end: PositiveFloat | None = None
    warmup: NonNegativeInt = 0
    groups: dict[str, NonNegativeFloat] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = 1.0
    average: OpenUnitInterval | None = None
    forgetting: PositiveFloat = 1.0
    ridge: PositiveFloat = 1.0


@dataclass(frozen=True)
class StreamConfig:
    """How the task is read.

    split: which part of the data; a text: train (the first 90 %), valid (the rest), all; recordings: train, test
    batch: streams side by side
    length: time steps per update
    together: updates made in one call where the data lies ready: the same numbers, quicker where `length` is small
    steps: time steps of each stream in all; null: to its end, for tasks that have one
    """

    split: Split = "all"
    batch: PositiveInt = 16
    length: PositiveInt = 8
    together: PositiveInt = 1
    steps: PositiveInt | None = None


@dataclass(frozen=True)
class RunConfig:
    """Where it runs and what it leaves behind.

    dir: folder of the run; null: a fresh one under runs/
    seed: draws the weights and the simulated streams
    device: cpu, cuda, cuda:1, ...
    dtype: precision of weights, state and trace
    threads: of the processor, at most as many as there are; null: as torch chooses
    backend: what does the work: auto (its choice is printed), torch, functional, llvm (CPU), triton, mamba_ssm (GPU)
    compile: make one graph of the update, for what no kernel knows, such as uoro: half a minute at first; needs g++
    report_every: time steps between two lines of metrics.jsonl
    save_every: seconds between two checkpoints; null: only when stopped and at the end
    baselines: score the untrained model and the task's baselines at the end
    held_out: score the task's held-out split with learning off at the end
    predictions: file of one JSON line for each prediction, written before it is learned from; -: standard output
    trackers: who is told beside metrics.jsonl: tensorboard, wandb, trackio, separated by commas; null: nobody
    resume: go on with the interrupted run in dir
    overwrite: start afresh in dir, whatever run it holds
    """

    dir: str | None = None
    seed: NonNegativeInt = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: PositiveInt | None = None
    backend: str = "auto"
    compile: bool = False
    report_every: PositiveInt = 1000
    save_every: NonNegativeFloat | None = 60.0
    baselines: bool = True
    held_out: bool = False
    predictions: str | None = None
    trackers: str | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse a seed that torch does not take, or from which no further ones can be counted."""
        if self.seed >= 2**63:
            raise ValueError(f"run.seed: got {self.seed}, expected a whole number below 2**63")


@dataclass(frozen=True)
class Config:
    """One experiment."""

    task: TaskConfig
    model: ModelConfig
    rule: RuleConfig
    optim: OptimConfig
    stream: StreamConfig
    run: RunConfig


SECTIONS: dict[str, type] = {
    "task": TaskConfig,
    "model": ModelConfig,
    "rule": RuleConfig,
    "optim": OptimConfig,
    "stream": StreamConfig,
    "run": RunConfig,
}
FREE = {
    f"run.{name}"
    for name in (
        "dir",
        "threads",
        "report_every",
        "save_every",
        "baselines",
        "held_out",
        "predictions",
        "trackers",
        "resume",
        "overwrite",
    )
}


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Return the config as it is written in YAML: sections of plain values."""
    sections: dict[str, dict[str, Any]] = json.loads(json.dumps(asdict(config)))
    named = {section: {key_of(name): value for name, value in own.items()} for section, own in sections.items()}
    for section in named.values():
        section |= section.pop("options", {})
    return named


def key_of(name: str) -> str:
    """Return the key of a field, which may be a word that Python keeps for itself: from, of from_."""
    return name.removesuffix("_")


def to_yaml(config: Config) -> str:
    """Return the config as YAML, every value given."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return one line on the first key that makes another experiment of `after`; None where there is none.

    Both as `flatten` returns them.
    """
    for key in [*before, *after]:
        if key not in FREE and before.get(key) != after.get(key):
            return f"{key}: the run has {before.get(key)!r}, given is {after.get(key)!r}"
    return None


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` that the function takes."""
    return {name: value for name, value in values.items() if name in inspect.signature(function).parameters}


def flatten(sections: Mapping[Any, Any]) -> dict[str, Any]:
    """Return {"run.seed": 0} for {"run": {"seed": 0}}; an empty section has no keys."""
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        if isinstance(values, Mapping):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        elif values is not None or section not in SECTIONS:
            flat[str(section)] = values
    return flat


def from_values(values: Mapping[str, Any]) -> Config:
    """Return the sections as dataclasses."""
    sections = {}
    for section, cls in SECTIONS.items():
        own = {key.removeprefix(f"{section}."): value for key, value in values.items() if key.startswith(f"{section}.")}
        fields = {name: own[key_of(name)] for name in inspect.signature(cls).parameters if key_of(name) in own}
        rest = {name: value for name, value in own.items() if name not in map(key_of, fields)}
        sections[section] = cls(**fields, **({"options": rest} if section in ("task", "model", "rule") else {}))
    return Config(**sections)
