"""Where weights begin: a finished run, a saved learner or official weights, with the sizes they have there.

folder -> sizes (ModelConfig) and weights; optimiser, state and trace begin anew
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path

import torch

from .. import checkpoint, pretrained
from ..model import Model
from ..saved import FILE
from ..stream import Spec, Task
from .config import ModelConfig
from .files import read

SPEC = Spec._fields
PADDED = 128  # tokens at most that official vocabularies are filled up by
OURS = ("backend", "feedback")  # arguments of the model that other sections hold


def sizes(own: ModelConfig) -> ModelConfig:
    """Return the section model with the sizes of what it begins from; as it is where that is nothing.

    Raises FileNotFoundError and ValueError where there is none.
    """
    if own.from_ is None:
        return own
    folder = Path(own.from_).expanduser()
    if (folder / FILE).is_file():
        _, facts = checkpoint.load(folder / FILE)
        with checkpoint.fitting(folder / FILE):
            found = dict(facts["model"]["arguments"])
    elif (folder / "config.yaml").is_file() and (folder / "model.safetensors").is_file():
        keys = read(folder / "config.yaml")
        found = {key.removeprefix("model."): value for key, value in keys.items() if key.startswith("model.")}
    elif (folder / "config.json").is_file():
        found = pretrained.arguments(folder)
    else:
        raise FileNotFoundError(
            f"model.from: {own.from_} has neither {FILE}, nor model.safetensors with config.yaml or config.json, "
            "expected a finished run, a saved learner or official weights"
        )
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    known = {field.name for field in fields(ModelConfig)} - {"options", "from_"}
    others = {*known, "from", *SPEC, *OURS}
    options = {name: value for name, value in found.items() if name not in others and value is not None}
    given = {name: found[name] for name in known if name in found}
    return replace(ModelConfig(), **given, options=options, from_=str(folder.absolute()))


def fitting(own: ModelConfig) -> AbstractContextManager[None]:
    """Return what makes one line of whatever sizes lead to that a file said, see `checkpoint.fitting`."""
    return nullcontext() if own.from_ is None else checkpoint.fitting(Path(own.from_))


@torch.no_grad()
def begin(model: Model, own: ModelConfig, task: Task) -> None:
    """Give a model of those sizes the weights.

    Raises ValueError where they are for other inputs or outputs than the task's.
    """
    folder = Path(own.from_ or "")
    if (folder / FILE).is_file():
        weights = checkpoint.under(checkpoint.load(folder / FILE)[0], "model.")
    elif (folder / "config.yaml").is_file():
        weights, _ = checkpoint.load(folder / "model.safetensors")
    else:
        weights = {name: tensor.clone() for name, tensor in pretrained.load_pretrained(folder).state_dict().items()}
    if any(name not in weights or weights[name].ndim != 2 for name in ("encoder.weight", "head.weight")):
        raise ValueError(
            f"model.from: {folder} holds no weights of an encoder and a head, expected a model of biomamba"
        )
    size = weights["encoder.weight"].shape  # of an embedding (vocab, d_model), of a linear encoder (d_model, d_in)
    has = {"d_out": len(weights["head.weight"])} | (
        {"d_in": size[1]} if "encoder.bias" in weights else {"vocab": size[0]}
    )
    wants = {name: size for name, size in task.spec._asdict().items() if size is not None}
    if (folder / "config.json").is_file() and 0 < has.get("vocab", 0) - wants.get("vocab", 0) < PADDED:
        weights |= {name: weights[name][: wants["vocab"]] for name in ("encoder.weight", "head.weight")}
        has = dict.fromkeys(has, wants["vocab"])  # official vocabularies are padded
    if has != wants:
        told = [", ".join(f"{name} {size}" for name, size in each.items()) for each in (has, wants)]
        raise ValueError(
            f"model.from: {folder} has {told[0]}, expected {told[1]}, as the task {type(task).__name__} has: "
            "give one that learned such a task"
        )
    if hasattr(task, "check_vocabulary"):
        task.check_vocabulary(_tokenizer(folder))
    if "random_feedback" in model.state_dict():  # of another run it is another matrix, of official weights none
        weights["random_feedback"] = model.random_feedback.clone()
    else:
        weights.pop("random_feedback", None)
    checkpoint.load_weights(model, weights)


def _tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer that weights were learned with; None where nobody says so."""
    if (folder / "config.yaml").is_file():
        named = read(folder / "config.yaml").get("task.tokenizer")
        return None if named is None else Path(str(named))
    return folder / "tokenizer.json" if (folder / "tokenizer.json").is_file() else None
