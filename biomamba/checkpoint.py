"""Checkpoints: all that learning needs to go on bit for bit, in one safetensors file, nothing pickled.

    checkpoint.safetensors = tensors: weights, optimiser state, the loop's state, trace and window
                           + metadata: counters, meters and plain optimiser values as JSON, and a checksum over all

The file is written aside and takes the place of an old one only when it is whole on the disk.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from .durable import replacing
from .loop_state import LoopState
from .model import Model
from .rules.base import LearningRule
from .state import Tree, leaves, tree_map
from .stream import Task

Tensors = dict[str, Tensor]
COUNTERS = ("steps", "updates", "skipped", "base")  # of the loop's state


def save(path: Path, tensors: Tensors, facts: Any = None) -> None:
    """Write tensors and facts (anything JSON can hold) so that at every moment `path` is a whole file, old or new.

    Raises OSError where it cannot be written, on a full disk say; what was there stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    with replacing(path) as beside:
        # one entry only: of several, each file would have an order of its own, and equal runs unequal files
        try:
            save_file(tensors, beside, metadata={"facts": f"{_checksum(tensors, text)} {text}"})
        except SafetensorError as error:  # its own kind, for what the system refused
            raise OSError(f"{path} cannot be written, what was there stays ({error}): make room on the disk") from error


def load(path: Path) -> tuple[Tensors, Any]:
    """Return tensors (on the CPU) and facts. Raises FileNotFoundError, and ValueError for a damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # cloned into aligned memory: a matrix product may round differently on a tensor that begins anywhere
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore a copy, or begin again") from error
    checksum, _, text = metadata.get("facts", "").partition(" ")
    if checksum != str(_checksum(tensors, text)):
        raise ValueError(f"{path} is damaged (its checksum does not fit): restore a copy, or begin again")
    return tensors, json.loads(text)


def weights(model: Model) -> Tensors:
    """Return the weights by name, each in memory of its own, even where two names share one."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise ValueError, one line that names the file, for whatever it leads to where it holds something else."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} does not hold what goes on here ({told}): restore a copy, or begin again") from error


def load_weights(model: Model, saved: Tensors) -> None:
    """Give the model saved weights. Raises ValueError where they are another model's."""
    check_weights(model, saved)
    model.load_state_dict(saved)


def check_weights(model: Model, saved: Tensors) -> None:
    """Raise ValueError where saved weights are another model's."""
    own = model.state_dict()
    for name in [*own, *saved]:
        rows = slice(1 if name.startswith("ngrams.") else 0, None)  # of n-grams, those that were learned are there
        if name not in own or name not in saved or own[name].shape[rows] != saved[name].shape[rows]:
            raise ValueError(f"weight {name} does not fit the model: expected the weights of this config")


def collect(model: Model, optimizer: Optimizer, loop_state: LoopState | None) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the facts that `restore` needs; loop_state None: before the first update."""
    tensors = {f"model.{name}": tensor for name, tensor in weights(model).items()}
    state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        plain[str(index)] = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    facts: dict[str, Any] = {"optimizer": {"state": plain, "groups": state["param_groups"]}}
    if loop_state is None:
        return tensors, facts
    return tensors | loop_tensors(loop_state), facts | loop_facts(loop_state)


def restore(
    tensors: Tensors, facts: dict[str, Any], task: Task, model: Model, rule: LearningRule, optimizer: Optimizer
) -> LoopState | None:
    """Put weights and optimiser back, and return the loop's state; None where it had not begun.

    Raises ValueError or TypeError where weights, state or trace are of another model and rule, and what `fitting`
    makes one line of; the weights are then as they were.
    """
    weights = under(tensors, "model.")
    check_weights(model, weights)
    loop_state = restored_loop(tensors, facts, task, model, rule) if "loop.x" in tensors else None
    state = {int(index): dict(values) for index, values in facts["optimizer"]["state"].items()}
    for key, tensor in under(tensors, "optimizer.").items():
        index, _, name = key.partition(".")
        state[int(index)][name] = tensor
    groups = [
        {name: tuple(own) if isinstance(own, list) and name != "params" else own for name, own in group.items()}
        for group in facts["optimizer"]["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    load_weights(model, weights)  # last: where anything does not fit, they are as they were
    return loop_state


def loop_tensors(loop_state: LoopState) -> Tensors:
    """Return the tensors of a loop's state."""
    tensors = {"loop.x": loop_state.x, "loop.reset": loop_state.reset}
    tensors |= {} if loop_state.context is None else {"loop.context": loop_state.context}
    tensors |= dict(leaves(loop_state.model_state, "loop.state")) | dict(leaves(loop_state.trace, "loop.trace"))
    return tensors | dict(leaves(loop_state.live, "loop.live"))


def loop_facts(loop_state: LoopState) -> dict[str, Any]:
    """Return the counters, open steps and meters of a loop's state."""
    facts: dict[str, Any] = {name: getattr(loop_state, name) for name in COUNTERS}
    facts["waiting"] = [list(own) for own in loop_state.waiting.items()]
    return facts | {"meters": {name: meter.state_dict() for name, meter in loop_state.meters.items()}}


def restored_loop(
    tensors: Tensors, facts: dict[str, Any], task: Task, model: Model, rule: LearningRule | None = None
) -> LoopState:
    """Return the state of a loop; rule: None of one that learns nothing."""
    device, batch = next(model.parameters()).device, len(tensors["loop.x"])
    meters = task.meters()
    for name in meters.keys() & facts["meters"].keys():
        meters[name].load_state_dict(facts["meters"][name])
    began = model.init_state(batch)
    loop_state = LoopState(
        model_state=_fill(began, "loop.state", tensors),
        trace=_fill(rule.init(batch) if rule else [], "loop.trace", tensors),
        x=tensors["loop.x"].to(device),
        reset=tensors["loop.reset"].to(device),
        meters=meters,
        context=tensors["loop.context"].to(device) if "loop.context" in tensors else None,
        live=_fill(began, "loop.live", tensors) if any(name.startswith("loop.live") for name in tensors) else None,
        waiting=dict(map(tuple, facts["waiting"])),
        **{name: facts[name] for name in COUNTERS},
    )
    loop_state.check(model, rule)
    return loop_state


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fill(tree: Tree, path: str, tensors: Tensors) -> Tree:
    """Return the tree with every tensor replaced by the one saved under its path."""
    saved = iter([tensors[name] for name, _ in leaves(tree, path)])
    return tree_map(lambda tensor: next(saved).to(tensor.device), tree)


def _checksum(tensors: Tensors, text: str) -> int:
    """Return the CRC-32 of the text and of every tensor's name and bytes."""
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
