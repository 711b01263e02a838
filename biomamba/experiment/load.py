"""A learner from a folder: a saved learner, or a finished or interrupted run.

    learner.safetensors            what `Learner.save` wrote                      -> goes on to the bit
    config.yaml, checkpoint, ...   what `biomamba train` wrote, at its last save  -> goes on to the bit

Nothing is pickled, and no name in a file stands for code: blocks, rules, optimisers and tasks are those that are known.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import optim

from .. import checkpoint
from ..inputs import check_spec
from ..learner import Learner
from ..model import Model
from ..rows import Rows, Supervised
from ..rules import RULES
from ..rules.base import LearningRule
from ..saved import FILE, FORMAT, OPTIONS, Snapshot, rollback
from ..stream import RowFormat, Task
from .build import build_learner, task_of
from .config import accepted
from .parse import parse
from .registry import OPTIMIZERS, TASKS


def load(folder: str | Path, task: Task | None = None, lr: float | None = None, **options: Any) -> Learner:
    """Return the learner in a folder: one that was saved, or that of a run, as it was when it was last saved.

    task: in the place of a task of one's own, which no file can hold. lr: learning rate from here on. options: those
    of `Learner` that shall be others, such as horizon, max_drift or threads.
    A run of several streams goes on with them in `online`; `predict` begins a stream of its own.
    Raises FileNotFoundError where there is no learner, ValueError for files that are damaged or do not fit, and what
    `Learner` raises.
    """
    folder = Path(folder)
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"{unknown[0]}: is no option of a learner, expected one of lr, {', '.join(OPTIONS)}")
    if (folder / FILE).is_file():
        learner = _saved(folder / FILE, task, options)
    elif (folder / "config.yaml").is_file():
        learner = _run(folder, task, options)
    else:
        official = (folder / "config.json").is_file()
        hint = "biomamba.load_pretrained reads official weights" if official else "give another"
        raise FileNotFoundError(f"{folder}: no {FILE} and no config.yaml, expected a saved learner or a run: {hint}")
    for group in learner.optimizer.param_groups if lr is not None else ():
        group["lr"] = lr * group.get("factor", 1.0)
    return learner


def _saved(path: Path, task: Task | None, options: dict[str, Any]) -> Learner:
    """Return the learner of a file."""
    tensors, facts = checkpoint.load(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"{path}: is no learner of format {FORMAT}, expected what learner.save wrote: save it anew")
    with checkpoint.fitting(path):
        return _made(tensors, facts, task, options)


def _made(tensors: checkpoint.Tensors, facts: dict[str, Any], task: Task | None, options: dict[str, Any]) -> Learner:
    """Return the learner that a file tells of."""
    arguments = {name: _tuple(value) for name, value in facts["model"]["arguments"].items()}
    if arguments["n_layers"] > len(tensors):
        raise ValueError(
            f"n_layers: got {arguments['n_layers']}, expected as many as the file has blocks: save it anew"
        )
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        sizes = {name: own.shape for name, own in Model(**arguments).named_parameters()}
    for name, shape in sizes.items():  # before memory is asked for
        if f"model.{name}" not in tensors or tensors[f"model.{name}"].shape != shape:
            raise ValueError(f"weight {name} is not {tuple(shape)}, as the file's own sizes say: save it anew")
    with torch.random.fork_rng(devices=[]):
        model = Model(**arguments).to(dtype=getattr(torch, facts["model"]["dtype"]))
    for name in facts.get("fixed", ()):
        model.get_parameter(name).requires_grad_(False)
    rows = Rows.from_state(checkpoint.under(tensors, "rows."), facts["rows"])
    task = task or _task(facts["task"], model)
    rule = _rule(facts["rule"]["name"])(model.blocks, **facts["rule"]["options"])  # type: ignore[arg-type]
    own = {name: value for name, value in facts["learner"].items() if name in OPTIONS} | options
    learner = Learner(task, model, rule, _optimizer(facts["optimizer"], model), rows=rows, **own)
    rollback(learner, Snapshot(tensors, facts))
    return learner


def _run(folder: Path, task: Task | None, options: dict[str, Any]) -> Learner:
    """Return the learner of a run."""
    config = parse(["--config", str(folder / "config.yaml")]).config
    config = replace(config, model=replace(config.model, from_=None))  # the run has weights of its own
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        learner = build_learner(config, task or task_of(config), **options)
        weights, _ = checkpoint.load(folder / "model.safetensors")
        checkpoint.load_weights(learner.model, weights)
    else:
        tensors, facts = checkpoint.load(path)
        with checkpoint.fitting(path):
            if task is None and "rows" in facts:  # the data need not be there
                rows = Rows.of_format(RowFormat(**facts["rows"] | {"state": checkpoint.under(tensors, "rows.")}))
                task, options = Supervised(rows.spec, rows.kind), {"rows": rows, **options}
        learner = build_learner(config, task or task_of(config), **options)
        parts = learner.task, learner.model, learner.rule, learner.optimizer
        with checkpoint.fitting(path):
            learner.restart(checkpoint.restore(tensors, facts["loop"], *parts))
    learner.set_origin()
    return learner


def _task(facts: dict[str, Any] | None, model: Model) -> Task:
    """Return the task that a file names."""
    if facts is None:
        raise ValueError("task: the learner was taught by a task of its owner's, expected it: load(folder, task=...)")
    name, options = facts["name"], {name: _tuple(value) for name, value in facts["options"].items()}
    if name is None:
        return Supervised(model.spec, options["kind"])
    for known in TASKS:
        if getattr(TASKS[known], "__name__", None) == name:
            task: Task = TASKS[known](**options)
            check_spec(task, model)
            return task
    raise ValueError(f"task: got {name}, which is not installed, expected it: load(folder, task={name}(...))")


def _rule(name: str) -> type[LearningRule]:
    """Return the rule of a class's name."""
    for known in RULES:
        if RULES[known].__name__ == name:
            return RULES[known]
    raise ValueError(f"rule: got {name}, expected one of {', '.join(RULES)}: install what has it")


def _optimizer(facts: dict[str, Any], model: Model) -> optim.Optimizer:
    """Return the optimiser that a file names, its options at their defaults until they are restored."""
    known = {kind.__name__: kind for kind in OPTIMIZERS.values()}
    own = known.get(facts["name"]) or getattr(optim, facts["name"], None)
    if not (isinstance(own, type) and issubclass(own, optim.Optimizer)):
        raise ValueError(f"optimizer: got {facts['name']}, expected one of torch.optim: save with one of these")
    named = dict(model.named_parameters())
    groups = [{"params": [named[name] for name in group]} for group in facts["groups"]]
    return own(groups, **accepted(own, {"lr": 1e-3}))


def _tuple(value: Any) -> Any:
    """Return a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value
