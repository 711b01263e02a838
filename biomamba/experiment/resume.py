"""What a run goes on from: the checkpoint in its folder, given to an experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import checkpoint
from ..inputs import checked
from ..loop_state import LoopState
from . import config
from .build import Experiment
from .digest import Digest

CHECKPOINT = "checkpoint.safetensors"


class Resumed(NamedTuple):
    """Where a run was at its last checkpoint."""

    state: LoopState | None = None  # None: it had not begun
    stream_state: checkpoint.Tensors = {}  # noqa: RUF012 - nobody writes into it
    facts: dict[str, Any] = {}  # noqa: RUF012 - the same
    digest: Digest | None = None  # of what it has read


def resumed(experiment: Experiment, folder: Path, take: Callable[[dict[str, Any]], None] | None = None) -> Resumed:
    """Give weights, optimiser, averages and random numbers of a folder's checkpoint to an experiment; return the rest.

    take: is given the facts before, so that what it raises leaves the weights as they were.
    Raises ValueError where file, config or data do not fit.
    """
    if not (folder / CHECKPOINT).exists():
        return Resumed()
    path, task = folder / CHECKPOINT, experiment.task
    tensors, facts = checkpoint.load(path)
    if not isinstance(facts, dict) or "config" not in facts:
        raise ValueError(f"{path} is no checkpoint: restore it, or begin anew")
    with checkpoint.fitting(path):
        given = config.flatten(config.to_dict(experiment.config))
        differs = config.difference(config.flatten(facts["config"]), given)
        if differs:
            raise ValueError(f"{differs}; the run in {folder} learned otherwise: put it back, or begin a new run")
        if facts["source"] != task.source:
            raise ValueError(f"task: the run learned from {facts['source']!r}, given is {task.source!r}")
        digest, stateful = Digest.load(facts["digest"]), bool(facts["stateful"])
    if task.replayable and not stateful:
        again = checked(experiment.stream(steps=digest.steps), experiment.model)
        if not digest.fits(again):
            raise ValueError(f"task: {task.source} holds other data than the run began with: give those")
    with checkpoint.fitting(path):
        if take is not None:
            take(facts)
        if experiment.average:
            experiment.average.restore(tensors, facts["average"])
        torch.Generator().set_state(tensors["rng"])  # which raises for what is no state
        own = experiment.learner
        state = checkpoint.restore(tensors, facts["loop"], own.task, own.model, own.rule, own.optimizer)
        torch.set_rng_state(tensors["rng"])
    return Resumed(state, checkpoint.under(tensors, "stream."), facts, digest)
