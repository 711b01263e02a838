"""Write a learner to one file that other programs run, and prove it before the file keeps its name.

    learner -> `program` -> onnx | aoti, by torch.export -> a few updates against torch -> FILE

FILE.json beside it says what it is called with, FILE.safetensors holds what is carried at first (suffixes replaced).
"""

import importlib
import itertools
import json
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..inputs import checked
from ..learner import Learner
from ..pure import PureUpdate
from ..stream import Chunk
from .program import Named, Program, largest_difference, learning, predicting, trials

SUFFIXES = {"onnx": ".onnx", "aoti": ".pt2"}
MODULES = {"onnx": "onnxruntime", "aoti": "aoti"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "aoti": ()}


def export(
    learner: Learner,
    chunks: Iterable[Chunk],
    file: str | Path,
    to: str = "onnx",
    learns: bool = True,
    resets: bool = True,
    updates: int = 20,
) -> dict[str, Any]:
    """Write the learner to a file, and return what its JSON says.

    chunks: of a stream like those to come: the first says batch, length and what a chunk holds, the first `updates` are
    what the file is tried on against torch, some of them without labels, with resets, and with a value not finite.
    to: onnx, or aoti (AOTInductor's package). learns: False for the prediction alone, the weights in the file.
    resets: False leaves out the input `reset`, which makes the file smaller and faster.
    State and traces are the learner's where it has as many streams as the chunks and no open steps, else zero.
    Raises ValueError for what cannot be exported (n-gram tables, a window, a max_drift, an optimiser other than Adam
    and SGD, a loss that is no graph) and where the file does not give torch's numbers; ImportError where a package is
    missing.
    """
    file = Path(file)
    if to not in SUFFIXES:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(SUFFIXES)}")
    if file.suffix != SUFFIXES[to]:
        raise ValueError(f"file: got {file.name}, expected a name ending in {SUFFIXES[to]} for {to}")
    if learns and (learner.window is not None or learner.max_drift is not None or learner.frozen):
        raise ValueError(
            "learner: has a window or a max_drift, or is frozen, which no file does: give one without, or learns=False"
        )
    learner.model.check_graphs("export")
    missing = [name for name in NEEDS[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'to: {to} needs {", ".join(missing)}: pip install "biomamba[export]"')
    target = importlib.import_module(f".{MODULES[to]}", __package__)
    tried = [*itertools.islice(checked(chunks, learner.model), updates)]
    if not tried:
        raise ValueError("chunks: got none, expected at least one: give those of task.stream(...)")
    parts = learner.task, learner.model, learner.rule, learner.optimizer, learner.clip
    update = PureUpdate(*parts, resets, backend="unfused")
    streams, own = len(tried[0].x), learner.state
    goes_on = own is not None and learner.streams == streams and not own.x.shape[1]
    past = [own.model_state, own.trace] if own is not None and goes_on else [None, None]
    memory, lr = update.memory(streams, *past), update.lr
    rate = torch.tensor(lr, dtype=learner.model.head.weight.dtype)
    made = learning(update, memory, tried[0], rate) if learns else predicting(update, memory, tried[0])
    carried, inputs = [f"next.{name}" for name in made.carried], [*made.inputs, *made.carried]
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = Path(folder, file.name)
        given = [*made.inputs.values(), *made.carried.values()]
        target.write(made.graph, given, inputs, [*made.outputs, *carried], beside)
        worst = _prove(made, target.load(beside), trials(tried, resets), rate, to)
        facts = {
            "biomamba": __version__,
            "torch": torch.__version__,
            "target": to,
            "learns": learns,
            "inputs": _described(made.inputs),
            "outputs": _described(made.outputs),
            "carried": [own | {"output": f"next.{own['name']}"} for own in _described(made.carried)],
            "lr": lr,
            "proof": {"updates": len(tried), "largest_difference": worst},
        }
        file.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        save_file({name: own.contiguous() for name, own in made.carried.items()}, file.with_suffix(".safetensors"))
        beside.replace(file)
    return facts


def _prove(made: Program, run: Any, chunks: Iterable[Chunk], lr: Tensor, to: str) -> float:
    """Return how far the target is from torch at most. Raises ValueError where that is too far."""
    worst = largest_difference(made, run, chunks, lr)
    allowed = 1e-9 if lr.dtype == torch.float64 else 1e-4
    if not worst <= allowed:
        raise ValueError(
            f"export: {to} differs from torch by {worst:.1e}, expected at most {allowed:.0e}: nothing was written"
        )
    return worst


def _described(tensors: Named) -> list[dict[str, Any]]:
    """Return names, shapes and precisions."""
    return [
        {"name": name, "shape": [*own.shape], "dtype": str(own.dtype).removeprefix("torch.")}
        for name, own in tensors.items()
    ]
