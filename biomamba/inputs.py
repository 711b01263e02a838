"""What the loops are given: parts that belong together, and chunks as the model reads them.

    stream -> checked -> online()

A chunk costs a comparison of shapes with the chunk before; only another kind of chunk is looked at closely.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .checks import check_mask, check_tensor, counted
from .model import Model
from .rules.base import LearningRule
from .stream import Chunk, Task


def check_parts(task: Task, model: Model, rule: LearningRule | None = None, optimizer: Optimizer | None = None) -> None:
    """Raise ValueError where task, rule or optimiser are of another model, or a weight is not finite.

    A task without a `spec` is believed.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"the model's weight {name} is not finite: load or draw finite weights before learning")
    check_spec(task, model)
    if rule is not None and [*map(id, rule.blocks)] != [*map(id, model.blocks)]:
        raise ValueError(
            f"rule: of {counted(len(rule.blocks), 'block')}, not this model's, expected its {len(model.blocks)}: "
            f"give {type(rule).__name__}(model.blocks)"
        )
    if optimizer is not None:
        own = {id(parameter) for parameter in model.parameters()}
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        strange = sum(id(parameter) not in own for parameter in held)
        if strange:
            raise ValueError(
                f"optimizer: {strange} of its {len(held)} parameters are not this model's, expected none: "
                f"give {type(optimizer).__name__}(model.parameters(), ...)"
            )


def check_spec(task: Task, model: Model) -> None:
    """Raise ValueError where the model does not read what the task's streams bring, or has too few outputs."""
    spec = getattr(task, "spec", None)
    if spec is None:
        return
    tokens, inputs = isinstance(model.encoder, nn.Embedding), spec.vocab is not None
    has = f"vocab={model.encoder.num_embeddings}" if tokens else f"d_in={model.encoder.in_features}"
    wants = f"vocab={spec.vocab}" if inputs else f"d_in={spec.d_in}"
    enough = model.encoder.num_embeddings >= spec.vocab if tokens and inputs else has == wants
    if not enough:
        raise ValueError(f"model: of {has}, expected {wants} for the task {type(task).__name__}: give Model({wants})")
    if model.head.out_features < spec.d_out:
        raise ValueError(
            f"model: of d_out={model.head.out_features}, expected {spec.d_out} for the task {type(task).__name__}: "
            f"give Model(d_out={spec.d_out})"
        )


def checked(stream: Iterable[Chunk], model: Model, streams: int | None = None) -> Iterator[Chunk]:
    """Yield the chunks on the model's device, real values in its precision, each in one piece, as graphs want.

    streams: how many there must be (default: as many as in the first chunk).
    Raises ValueError or TypeError for chunks that the model cannot read, or of another number of streams.
    """
    weight, known = next(model.parameters()), None
    for chunk in stream:
        if not isinstance(chunk, Chunk):
            raise TypeError(f"stream: brought {type(chunk).__name__}, expected Chunk: give Chunk(x, y, mask, reset)")
        if not isinstance(chunk.info, dict):
            raise TypeError(f"info: got {type(chunk.info).__name__}, expected tensors by name: give {{name: tensor}}")
        x, y, mask, reset = chunk.x, chunk.y, chunk.mask, chunk.reset
        info = [(name, own.shape, own.dtype) for name, own in chunk.info.items()] if chunk.info else None
        kind = x.shape, x.dtype, y.shape, y.dtype, mask.shape, mask.dtype, reset.shape, reset.dtype, info
        if kind != known:
            streams = _check(chunk, model, weight, streams)
            known = kind
        yield _like(chunk, weight)


def _check(chunk: Chunk, model: Model, weight: Tensor, streams: int | None) -> int:
    """Raise where a chunk is not one that the model can read; return how many streams it has."""
    for name in ("x", "y", "mask", "reset"):
        check_tensor(name, getattr(chunk, name))
    for name, own in chunk.info.items():
        check_tensor(f"info[{name!r}]", own)
    model.check_input(_like(chunk, weight).x)
    b, t = chunk.x.shape[:2]
    if streams not in (None, b):
        raise ValueError(
            f"x: of {counted(b, 'stream')}, expected {streams}, as in the state or the chunk before: "
            "give each number of streams a loop of its own"
        )
    check_mask("mask", chunk.mask, b, t)
    check_mask("reset", chunk.reset, b, t)
    for name, own in {"y": chunk.y, **{f"info[{name!r}]": own for name, own in chunk.info.items()}}.items():
        if own.shape[:2] != (b, t):
            raise ValueError(
                f"{name}: got {tuple(own.shape)}, expected {(b, t)} and more axes, or none: give it for each step"
            )
    return b


def _like(chunk: Chunk, weight: Tensor) -> Chunk:
    """Return the chunk where and as the weight is."""
    device = weight.device
    if not all(tensor.device == device and tensor.is_contiguous() for tensor in (*chunk[:4], *chunk.info.values())):
        chunk = chunk.map(lambda tensor: tensor.to(device).contiguous())
    return chunk._replace(x=chunk.x.to(weight.dtype)) if chunk.x.is_floating_point() else chunk
