"""One update as pure functions of tensors: what the loop calls, as they are or compiled.

    predict   out and loss of a chunk
    learn     the same, and the gradient: dL/dtheta |_(h0 held) + dL/dh0 . Z
    move      state and trace, `advance` steps on

Nothing is changed but, by `move`, the memory of the trace, so that the caller may drop an update that is not finite.
Shapes: b streams, t new steps, w >= t steps read.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from .blocks.base import Tape
from .model import Model
from .rules.base import LearningRule
from .state import Tree, copy, cut, tree_map
from .stream import Chunk, Task

Function = TypeVar("Function", bound=Callable[..., object])


class Pass(NamedTuple):
    """What one chunk gives, no graph attached."""

    out: Tensor  # (b, t, d_out)
    loss: Tensor  # () nats
    norm: Tensor | None  # () of the whole gradient before clipping; None without learning
    good: Tensor  # () bool: all of it is finite
    gradients: list[Tensor]  # of the parameters that want one, in the model's order, clipped
    tapes: list[Tape]


def predict(model: Model, task: Task, x: Tensor, reset: Tensor | None, chunk: Chunk, state: Tree) -> Pass:
    """Return the pass of a chunk that nothing is learned from; x (b, w, ...) ends with the chunk's own steps."""
    with torch.no_grad():
        out, _, tapes = model(x, state, reset)
        out = out[:, -chunk.x.shape[1] :]
        loss = task.loss(out, chunk)
    return Pass(out, loss, None, torch.isfinite(out).all() & torch.isfinite(loss), [], tapes)


def learn(
    model: Model,
    task: Task,
    rule: LearningRule,
    clip: float | None,
    x: Tensor,
    reset: Tensor | None,
    chunk: Chunk,
    state: Tree,
    trace: Tree,
) -> Pass:
    """Return the pass of a labelled chunk; `clip` is the largest norm of the gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out, _, tapes = model(x, cut(state), reset)
    out = out[:, -chunk.x.shape[1] :]
    loss = task.loss(out, chunk)
    gradients = rule.gradients(loss, parameters, tapes, trace, chunk.x.shape[1])
    norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
    good = torch.isfinite(out.detach()).all() & torch.isfinite(loss.detach()) & torch.isfinite(norm)
    if clip is not None:
        scale = (clip / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        gradients = [gradient * scale for gradient in gradients]
    return Pass(out.detach(), loss.detach(), norm, good, gradients, tree_map(Tensor.detach, tapes))


def move(model: Model, rule: LearningRule, tapes: Sequence[Tape], trace: Tree, advance: int) -> tuple[Tree, Tree]:
    """Return state and trace `advance` steps after the tapes' start; the memory of the trace given is used again."""
    return copy(model.state_at(tapes, advance)), rule.carry(tapes, trace, advance)


def compiled(function: Function) -> Function:
    """Return the function as one graph of fused kernels, compiled anew for every shape it meets.

    Raises ValueError where this torch or this machine cannot.
    """
    settings = torch._dynamo.config
    if not hasattr(settings, "trace_autograd_ops"):
        raise ValueError(f"compile: torch {torch.__version__} cannot compile a gradient: install 2.13, or do without")
    settings.trace_autograd_ops = True  # read only while a graph is made
    settings.recompile_limit = max(settings.recompile_limit, 64)  # counted over all models of a process
    try:
        torch.compile(torch.neg)(torch.ones(1))
    except Exception as error:  # whatever a missing compiler makes of it
        raise ValueError(f"compile: {str(error).splitlines()[0]}: install g++, or do without") from error
    return cast(Function, torch.compile(function, fullgraph=True, dynamic=False))
