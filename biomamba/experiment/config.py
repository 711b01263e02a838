"""One experiment as frozen dataclasses, from a YAML file with the command line on top.

    what was given  ->  names chosen from the registries  ->  the keys there are  ->  jsonargparse: types, help

Which options the sections task, model and rule have depends on the name chosen there: they are the arguments with
a default of what the name stands for. An option that only another name has is set aside, with a note, so that one
config serves all names. Everything is chosen by name: no key takes an import path.
"""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ..stream import Split
from .registry import PLUGGABLE, REGISTRIES, Registry

CONFIGS = Path(__file__).parents[1] / "configs"
CHOSEN_BY = {"task": "name", "model": "block", "rule": "name", "optim": "name"}


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

    block: which block is stacked
    d_model: width
    n_layers: blocks in the stack
    tied: the head uses the embedding's weights
    threshold: where blocks spike, so that out_proj receives 0 or 1; of a signal of mean square 1; null: real values
    steepness: of the surrogate derivative of a spike, 1 / (steepness distance + 1)^2
    spike_rate: the share of spikes that each block is drawn to; null: none
    spike_weight: how strongly, the weight of (share - spike_rate)^2 beside the loss
    """

    block: str = "mamba2"
    d_model: PositiveInt = 64
    n_layers: PositiveInt = 1
    tied: bool = False
    threshold: PositiveFloat | None = None
    steepness: PositiveFloat = 10.0
    spike_rate: PositiveFloat | None = None
    spike_weight: PositiveFloat = 1.0
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
    """The optimiser; what it has no use for is ignored (adam: momentum; sgd, rmsprop: betas).

    name: which optimiser
    lr: learning rate
    lr_end: learning rate at the end of the stream, reached in a straight line; null: it stays
    betas: decay of adam's two averages per update
    momentum: of sgd and rmsprop
    weight_decay: per update, as the optimiser defines it
    clip: largest norm of the gradient; null: no limit
    """

    name: str = "adam"
    lr: PositiveFloat = 3e-3
    lr_end: PositiveFloat | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = 1.0


@dataclass(frozen=True)
class StreamConfig:
    """How the task is read.

    split: which part of the data; a text: train (the first 90 %), valid (the rest), all; recordings: train, test
    batch: streams side by side
    length: time steps per update
    steps: time steps of each stream in all; null: to its end, for tasks that have one
    """

    split: Split = "all"
    batch: PositiveInt = 16
    length: PositiveInt = 8
    steps: PositiveInt | None = None


@dataclass(frozen=True)
class RunConfig:
    """Where it runs and what it leaves behind.

    dir: folder of the run; null: a fresh one under runs/
    seed: draws the weights and the simulated streams
    device: cpu, cuda, cuda:1, ...
    dtype: precision of weights, state and trace
    threads: of the processor; null: as torch chooses
    kernels: what does the work on traces: auto, torch, llvm (CPU), triton or mamba_ssm (GPU); auto's choice is printed
    compile: make one graph of the update: half a minute to begin with, then faster; needs g++
    report_every: time steps between two lines of metrics.jsonl
    save_every: seconds between two checkpoints; null: only when stopped and at the end
    baselines: score the untrained model and the task's baselines at the end
    held_out: score the task's held-out split with learning off at the end
    trackers: who is told beside metrics.jsonl: tensorboard, wandb, trackio, separated by commas; null: nobody
    resume: go on with the interrupted run in dir
    overwrite: start afresh in dir, whatever run it holds
    """

    dir: str | None = None
    seed: NonNegativeInt = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: PositiveInt | None = None
    kernels: str = "auto"
    compile: bool = False
    report_every: PositiveInt = 1000
    save_every: NonNegativeFloat | None = 60.0
    baselines: bool = True
    held_out: bool = False
    trackers: str | None = None
    resume: bool = False
    overwrite: bool = False


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
        "trackers",
        "resume",
        "overwrite",
    )
}


class Option(NamedTuple):
    """One key of the config or of a command."""

    type: Any
    default: Any
    help: str


class Parsed(NamedTuple):
    """What the files and the command line say."""

    config: Config
    command: Any  # the command's own options, where it has some
    notes: list[str]  # what was set aside


def parse(argv: Sequence[str], command: type | None = None, usage: str = "") -> Parsed:
    """Read `--config` (default: language) and the command line over it.

    command is a dataclass of further options that belong to no section. Raises ValueError, one line that names the
    key, and FileNotFoundError; prints the help and raises SystemExit where it is asked for.
    """
    typed = _command_line(argv)
    path = typed.pop("config", ["language"])
    written = _read(locate(" ".join(path)))
    names = {section: _chosen(section, REGISTRIES[section], written, typed) for section in CHOSEN_BY}
    options = _options(names, command)
    aside = _others(written, typed) - options.keys()
    for key in [*written, *typed]:
        if key not in options and key not in aside and key != "help":
            raise ValueError(_unknown(key, [*options, "config"]))
    parser = _parser(options, names, usage, command)
    if "help" in typed:
        parser.print_help()
        raise SystemExit(0)
    given = {key: value for key, value in written.items() if key in options}
    values = _typed(parser, given, typed, options)
    notes = [
        f"{key} is set aside: {_name_of(key, names)} has no such option" for key in [*written, *typed] if key in aside
    ]
    own = command(**{name: values[name] for name in inspect.signature(command).parameters}) if command else None
    return Parsed(_config(values), own, notes)


def packaged() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def locate(name: str) -> Path:
    """Return the file of a config that comes with the package, by its name, or the path that was given."""
    return CONFIGS / f"{name}.yaml" if name in packaged() else Path(name)


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Return the config as it is written in YAML: sections of plain values."""
    sections: dict[str, dict[str, Any]] = json.loads(json.dumps(asdict(config)))
    for section in sections.values():
        section |= section.pop("options", {})
    return sections


def to_yaml(config: Config) -> str:
    """Return the config as YAML, every value given."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def difference(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return one line on the first key that makes another experiment of `new`; None where there is none."""
    before, after = _flat(old), _flat(new)
    for key in [*before, *after]:
        if key not in FREE and before.get(key) != after.get(key):
            return f"{key}: the run has {before.get(key)!r}, given is {after.get(key)!r}"
    return None


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` that the function takes."""
    return {name: value for name, value in values.items() if name in inspect.signature(function).parameters}


def _command_line(argv: Sequence[str]) -> dict[str, list[str]]:
    """Return the words after each `--key`, or `--key=word`. Raises ValueError for words that follow no key."""
    typed: dict[str, list[str]] = {}
    key = None
    for word in argv:
        if word in ("-h", "--help"):
            typed["help"] = []
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            typed[key] = [value] if equals else []
        elif key is None:
            raise ValueError(f"got {word!r}, expected options such as --run.seed 3")
        else:
            typed[key].append(word)
    return typed


def _read(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file, such as run.seed. Raises ValueError and FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}, expected a YAML file or one of {', '.join(packaged())}")
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict):
        raise ValueError(f"config: {path} holds no keys, expected sections such as run: {{seed: 0}}")
    return _flat(sections)


def _flat(sections: Mapping[Any, Any]) -> dict[str, Any]:
    """Return {"run.seed": 0} for {"run": {"seed": 0}}; an empty section has no keys."""
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        if isinstance(values, Mapping):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        elif values is not None or section not in SECTIONS:
            flat[str(section)] = values
    return flat


def _chosen(section: str, registry: Registry, written: Mapping[str, Any], typed: Mapping[str, Sequence[str]]) -> str:
    """Return the name a section gives. Raises ValueError where the registry does not have it."""
    key = f"{section}.{CHOSEN_BY[section]}"
    default = inspect.signature(SECTIONS[section]).parameters[CHOSEN_BY[section]].default
    name = " ".join(typed[key]) if key in typed else written.get(key) or default
    if name not in list(registry):
        close = difflib.get_close_matches(str(name), registry, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{key}: got {name!r}, expected one of {', '.join(registry)}{hint}")
    return str(name)


def _options(names: Mapping[str, str], command: type | None) -> dict[str, Option]:
    """Return every key there is: the command's own, the sections', and those of what the names stand for."""
    options = _arguments(command, "") if command else {}
    for section, cls in SECTIONS.items():
        options |= _arguments(cls, f"{section}.")
        if section != "optim" and section in names:
            options |= _arguments(REGISTRIES[section][names[section]], f"{section}.")
    return options


def _arguments(function: Callable[..., Any], prefix: str) -> dict[str, Option]:
    """Return the arguments with a default, with the lines `name: text` of the docstrings as help."""
    docs = inspect.cleandoc(function.__doc__ or "")
    told = dict(re.findall(r"^(\w+): (.+)$", docs, re.MULTILINE))
    return {
        prefix + name: Option(argument.annotation, argument.default, told.get(name, f"of {function.__name__}"))
        for name, argument in inspect.signature(function, eval_str=True).parameters.items()
        if name != "options" and argument.default is not argument.empty
    }


def _others(written: Mapping[str, Any], typed: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the options of all tasks, blocks and rules: of packages, those whose names are given."""
    found: set[str] = set()
    for section, registry in PLUGGABLE.items():
        key = f"{section}.{CHOSEN_BY[section]}"
        given = {written.get(key), *typed.get(key, ()), *re.findall(r"[^\s,]+", " ".join(typed.get(f"{section}s", ())))}
        added = [registry[name] for name in registry.added if name in given]
        for entry in [*registry.own.values(), *added]:
            found |= _arguments(entry, f"{section}.").keys()
    return found


def _name_of(key: str, names: Mapping[str, str]) -> str:
    """Return `model.block mamba` for a key of the section model."""
    section = key.partition(".")[0]
    return f"{section}.{CHOSEN_BY[section]} {names[section]}"


def _unknown(key: str, known: Iterable[str]) -> str:
    """Return the line for a key that does not exist."""
    known = list(known)
    section = key.partition(".")[0]
    if key in SECTIONS:
        return f"{key}: is a section, expected its keys, such as {next(k for k in known if k.startswith(key + '.'))}"
    close = [k for k in known if k.endswith(f".{key}")] or difflib.get_close_matches(key, known, 1, cutoff=0.8)
    if close:
        return f"{key}: unknown key; did you mean {close[0]}?"
    there = [k for k in known if k.startswith(section + ".")] if section in SECTIONS else SECTIONS
    return f"{key}: unknown key; expected one of {', '.join(there)}"


def _parser(
    options: Mapping[str, Option],
    names: Mapping[str, str],
    usage: str,
    command: type | None,
) -> ArgumentParser:
    """Return jsonargparse's parser of the keys, with a help that names what there is to choose from."""
    parser = ArgumentParser(
        prog="biomamba", usage=f"biomamba {usage}[--section.key value ...]", exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config",
        default=SUPPRESS,
        help="YAML file, or the name of one that comes with biomamba (default: language)",
    )
    titles = {"": inspect.getdoc(command) if command else "", **{s: inspect.getdoc(cls) for s, cls in SECTIONS.items()}}
    groups = {}
    for section, text in titles.items():
        about = (text or "").splitlines()[:1]
        if section in names:
            about.append(f"{CHOSEN_BY[section]}: {', '.join(REGISTRIES[section])}.")
        if section in names and section != "optim":
            about.append(f"Of {names[section]}: {_about(REGISTRIES[section][names[section]])}")
        groups[section] = parser.add_argument_group(section or "this command", " ".join(about))
    for key, option in options.items():
        group = groups[key.rpartition(".")[0]]
        group.add_argument(f"--{key}", type=option.type, default=option.default, help=option.help)
    return parser


def _about(entry: Callable[..., Any]) -> str:
    """Return what a task, block or rule says of itself and of its arguments."""
    init = entry.__init__.__doc__ if "__init__" in vars(entry) else ""
    return " ".join(((entry.__doc__ or "").split("\n\n")[0] + " " + (init or "")).split())


def _token(key: str, words: Sequence[str], type_: Any) -> str:
    """Return one argument for jsonargparse: several words make a list of words; a lone `--flag` is true."""
    if type_ == tuple[str, ...] and not (len(words) == 1 and words[0].startswith("[")):
        return f"--{key}={json.dumps(list(words))}"
    if not words and type_ is bool:
        return f"--{key}=true"
    if len(words) != 1:
        raise ValueError(f"{key}: got {' '.join(words) or 'nothing'}, expected one value")
    return f"--{key}={words[0]}"


def _typed(
    parser: ArgumentParser,
    written: Mapping[str, Any],
    typed: Mapping[str, Sequence[str]],
    options: Mapping[str, Option],
) -> dict[str, Any]:
    """Return every key's value, of its type; null stands for the default where it is no value."""
    tokens = [_token(key, words, options[key].type) for key, words in typed.items() if key in options]
    given = written
    try:
        parsed = parser.parse_object(dict(written))
        given = {key: " ".join(words) for key, words in typed.items()}
        parsed = parser.parse_args(tokens, namespace=parsed)
    except ArgumentError as error:
        message = " ".join(str(error.message).split())
        key = next(iter(re.findall(r'Parser key "(.+?)"', message)), "")
        if key not in options:
            raise ValueError(message) from None
        raise ValueError(f"{key}: got {given.get(key)!r}, expected {_describe(options[key].type)}") from None
    values = {key: parsed[key] for key in options}
    for key, option in options.items():
        if values[key] is None and type(None) not in get_args(option.type):
            values[key] = option.default
    return values


def _describe(type_: Any) -> str:
    """Return a type in words."""
    if get_origin(type_) is Literal or type(None) in get_args(type_):
        return " or ".join(_describe(part) for part in get_args(type_))
    words = {type(None): "null", bool: "true or false", PositiveInt: "a whole number above 0"}
    words |= {NonNegativeInt: "a whole number, 0 or more", PositiveFloat: "a number above 0"}
    words |= {NonNegativeFloat: "a number, 0 or more", int: "a whole number", float: "a number", str: "text"}
    return words.get(type_) or str(type_) if not isinstance(type_, str) else type_


def _config(values: Mapping[str, Any]) -> Config:
    """Return the sections as dataclasses."""
    sections = {}
    for section, cls in SECTIONS.items():
        own = {key.removeprefix(f"{section}."): value for key, value in values.items() if key.startswith(f"{section}.")}
        fields = accepted(cls, own)
        rest = {name: value for name, value in own.items() if name not in fields}
        sections[section] = cls(**fields, **({"options": rest} if section in ("task", "model", "rule") else {}))
    return Config(**sections)
