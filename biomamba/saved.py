"""A learner as one file: everything it is made of as plain values, and everything it has learned as tensors.

    learner.save(folder) -> folder/learner.safetensors -> biomamba.load(folder), which goes on to the bit

The metadata says what to build: sizes of the model, the rule and the optimiser by name, the task by name and options.
"""

import inspect
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import __version__, checkpoint
from .blocks import BLOCKS
from .checks import dtype_name
from .rows import Rows, Supervised
from .updater import Updater

FILE, FORMAT = "learner.safetensors", 1
OPTIONS = ("window", "clip", "compile", "threads", "horizon", "max_drift")  # of the learner


class Snapshot(NamedTuple):
    """All that a learner has learned, and where it is in its stream."""

    tensors: checkpoint.Tensors
    facts: dict[str, Any]


def snapshot(learner: Updater) -> Snapshot:
    """Return all that a learner has learned, in memory of its own. Raises ValueError for one of several ranks."""
    if learner.ranks is not None:
        raise ValueError("learner: holds the streams of one rank, expected all of them: its run's checkpoint has them")
    rows, facts = learner.rows.state_dict()
    loop, loop_facts = checkpoint.collect(learner.model, learner.optimizer, learner.state)
    tensors = {f"rows.{name}": tensor for name, tensor in rows.items()} | loop
    tensors |= {f"origin.{i}": tensor for i, tensor in enumerate(learner.origin)}
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    return Snapshot(tensors, {"rows": facts, "loop": loop_facts, "frozen": learner.frozen})


def rollback(learner: Updater, snapshot: Snapshot) -> None:
    """Bring a learner back to where a snapshot was taken, to the bit. Raises ValueError where it is another's."""
    facts = snapshot.facts
    tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}  # which learning writes into
    own = learner.rows
    learner.rows = Rows.from_state(checkpoint.under(tensors, "rows."), facts["rows"])
    if (learner.rows.d_in, learner.rows.d_out, learner.rows.kind) != (own.d_in, own.d_out, own.kind):
        learner.rows = own
        raise ValueError("snapshot: of a learner of other inputs or outputs, expected this one's")
    state = checkpoint.restore(tensors, facts["loop"], learner.task, learner.model, learner.rule, learner.optimizer)
    learner.restart(state)
    learner.frozen = facts["frozen"]
    with torch.no_grad():
        for i, tensor in enumerate(learner.origin):
            tensor.copy_(tensors[f"origin.{i}"])


def write(learner: Updater, folder: Path) -> None:
    """Write a learner into a folder, which is made where it is not there.

    Raises ValueError for a block, rule or optimiser that cannot be made again by its name.
    """
    tensors, facts = snapshot(learner)
    facts |= {"format": FORMAT, "biomamba": __version__, "model": _model(learner), "task": _task(learner)}
    facts |= {"rule": _rule(learner), "optimizer": _optimizer(learner)}
    facts["fixed"] = [name for name, own in learner.model.named_parameters() if not own.requires_grad]
    facts["learner"] = {name: getattr(learner, name) for name in OPTIONS}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / FILE, tensors, facts)


def _model(learner: Updater) -> dict[str, Any]:
    """Return what the model is made with."""
    arguments = dict(learner.model.arguments)
    block = arguments["block"]
    if not isinstance(block, str):
        names = [name for name in BLOCKS.own if BLOCKS.own[name] is block]
        if not names:
            raise ValueError(
                f"block: {block.__name__} is a class without a name, expected one of {', '.join(BLOCKS)}: name it by "
                "an entry point of biomamba.blocks"
            )
        arguments["block"] = names[0]
    return {"arguments": arguments, "dtype": dtype_name(learner.model.head.weight.dtype)}


def _task(learner: Updater) -> dict[str, Any] | None:
    """Return what the task is made with; None where only its owner can make it."""
    task = learner.task
    if isinstance(task, Supervised):
        return {"name": None, "options": {"kind": task.kind}}
    if not is_dataclass(task) or isinstance(task, type):
        return None
    return {"name": type(task).__name__, "options": asdict(task)}


def _rule(learner: Updater) -> dict[str, Any]:
    """Return the rule's class and its options, each of which it keeps under its own name."""
    rule, options = learner.rule, dict[str, Any]()
    for name in inspect.signature(type(rule)).parameters:
        if name != "blocks":
            if not hasattr(rule, name):
                raise ValueError(f"rule: {type(rule).__name__} does not keep its option {name}: set self.{name}")
            value = getattr(rule, name)
            options[name] = dtype_name(value) if isinstance(value, torch.dtype) else value
    return {"name": type(rule).__name__, "options": options}


def _optimizer(learner: Updater) -> dict[str, Any]:
    """Return the optimiser's class, and the names of the parameters in each group."""
    names = {id(parameter): name for name, parameter in learner.model.named_parameters()}
    groups = [[names[id(own)] for own in group["params"]] for group in learner.optimizer.param_groups]
    return {"name": type(learner.optimizer).__name__, "groups": groups}
