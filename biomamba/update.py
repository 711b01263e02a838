"""One update: predict, find the gradient, move state and trace on, take the optimiser's step.

    learn     out, loss, and the gradient dL/dtheta |_(h0 held) + dL/dh0 . Z, clipped; state and trace moved on
    predict   the same without a gradient
    update    one of the two, then the optimiser's step

learn and predict are functions of tensors, from which `compiled` makes graphs; they change nothing but the memory of
the trace, and that only where all is finite. Of several ranks each reads its own streams, and hears of the others'.
Shapes: b streams, t new steps, w >= t steps read.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from .blocks.base import Tape
from .model import Model
from .ngram import Reading
from .ranks import Ranks
from .rules.base import LearningRule
from .state import Tree, cut, where
from .step import Step
from .stream import Chunk, Task


class UpdateInput(NamedTuple):
    """What an update reads."""

    x: Tensor  # (b, w, ...) inputs, the new ones last; as all but chunk of a rank's own streams
    reset: Tensor | None  # (b, w); None where no sequence begins
    chunk: Chunk  # the new steps, of all ranks' streams
    state: Tree  # before x
    trace: Tree  # before x
    reading: Reading | None = None  # of the model's n-gram tables


class UpdateOutput(NamedTuple):
    """What an update gives, no graph attached; of all ranks' streams but for state and trace."""

    out: Tensor  # (b, t, d_out)
    loss: Tensor  # () nats
    spikes: Tensor  # () share of ones in what the out_proj of spiking blocks received; else nan
    # () bool: out, loss and learning signals are finite; where not, state and trace are as they were
    forward_finite: Tensor
    state: Tree  # where the next update begins
    trace: Tree
    norm: Tensor | None = None  # () of the whole gradient before clipping; None without learning
    # () bool: forward_finite, gradient and new weights are finite too; None without learning
    gradient_finite: Tensor | None = None
    gradients: Sequence[Tensor] = ()  # of the parameters that want one, in the model's order, clipped
    read: Sequence[Tensor] = ()  # gradients to what n-gram tables gave: (b, w, d) and (b, t, d_out)


def predict(
    model: Model, task: Task, rule: LearningRule, inputs: UpdateInput, advance: int, ranks: Ranks | None = None
) -> UpdateOutput:
    """Return the pass of a chunk that nothing is learned from; state and trace move on by `advance` steps."""
    new = inputs.chunk.x.shape[1]
    with torch.no_grad():
        out, _, tapes = model(inputs.x, inputs.state, inputs.reset, reading=inputs.reading)
        out, spikes = out[:, -new:], model.spikes(tapes, new)
        if ranks is not None:
            out, spikes, _ = ranks.say(out, spikes, finite([out]), len(inputs.chunk.x))
        loss = loss_of(task, out, inputs.chunk)
        forward_finite = finite([out, loss])
        trace = rule.advance_traces(tapes, inputs.trace, advance, forward_finite)
        state = _moved(model, tapes, inputs.state, advance, forward_finite)
        return UpdateOutput(out, loss, spikes.mean(), forward_finite, state, trace)


def pass_over(
    model: Model,
    rule: LearningRule,
    x: Tensor,
    reset: Tensor | None,
    state: Tree,
    trace: Tree,
    reading: Reading | None = None,
) -> tuple[Tree, Tree]:
    """Return state and trace behind x, which nobody scores; as they were where its outputs are not finite."""
    with torch.no_grad():
        out, after, tapes = model(x, state, reset, reading=reading)
        forward_finite = finite([out])
        return where(forward_finite, after, state), rule.advance_traces(tapes, trace, go=forward_finite)


def learn(
    model: Model,
    task: Task,
    rule: LearningRule,
    inputs: UpdateInput,
    advance: int,
    clip: float | None,
    ranks: Ranks | None = None,
) -> UpdateOutput:
    """Return the pass of a labelled chunk; `clip` is the largest norm of the gradient."""
    parameters, (batch, new) = trainable_parameters(model), inputs.chunk.x.shape[:2]
    reading = inputs.reading and inputs.reading.leaves()
    out, _, tapes = model(inputs.x, cut(inputs.state), inputs.reset, rule.local, reading)
    out, spikes = out[:, -new:], model.spikes(tapes, new)
    if ranks is not None and model.spike_rate is not None:
        spikes = ranks.mean(spikes, len(out), batch)
    loss = loss_of(task, out if ranks is None else ranks.placed(out, batch), inputs.chunk)
    penalty = model.penalty(spikes)
    wanted = [*parameters, reading.embedding, reading.logits] if reading else parameters
    found, signals = rule.signals(loss if penalty is None else loss + penalty, wanted, tapes)
    inside, read = found[: len(parameters)], found[len(parameters) :]
    forward_finite = finite([out, loss, *(signal.h0 for signal in signals)])
    if ranks is not None:
        out, spikes, forward_finite = ranks.say(out, spikes, forward_finite, batch)
        loss = loss_of(task, out, inputs.chunk)
        forward_finite = forward_finite & torch.isfinite(loss)
    through, trace = rule.past(parameters, tapes, signals, inputs.trace, advance, new, forward_finite)
    gradients = [a if b is None else a + b for a, b in zip(inside, through, strict=True)]
    if ranks is not None:
        gradients, read = ranks.reduce(gradients, read, batch)
    norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
    if clip is not None:
        scale = scale_of(norm, clip)
        gradients = [gradient * scale for gradient in gradients]
    state = _moved(model, tapes, inputs.state, advance, forward_finite)
    shares, gradient_finite = spikes.mean().detach(), forward_finite & torch.isfinite(norm)
    return UpdateOutput(
        out.detach(), loss.detach(), shares, forward_finite, state, trace, norm, gradient_finite, gradients, read
    )


def update(
    model: Model,
    task: Task,
    rule: LearningRule,
    step: Step,
    clip: float | None,
    inputs: UpdateInput,
    advance: int,
    labelled: bool,
    ranks: Ranks | None = None,
) -> UpdateOutput:
    """Return the pass of a chunk, the weights having learned from it where it is labelled and all is finite."""
    if not labelled:
        return predict(model, task, rule, inputs, advance, ranks)
    output = learn(model, task, rule, inputs, advance, clip, ranks)
    return stepped_by(step, output)


def stepped_by(step: Step, output: UpdateOutput) -> UpdateOutput:
    """Return the pass of a labelled chunk after the optimiser's step, which is taken where all is finite."""
    gradient_finite = output.gradient_finite
    if gradient_finite is not None and bool(gradient_finite) and not step(output.gradients):
        return output._replace(gradient_finite=torch.zeros_like(gradient_finite))
    return output


def apply_gradients(optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Take the optimiser's step."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def loss_of(task: Task, out: Tensor, chunk: Chunk) -> Tensor:
    """Return the task's loss. Raises ValueError where it finds a label for which `out` has no number."""
    try:
        return task.loss(out, chunk)
    except IndexError as error:  # of torch's own losses, which check every label
        raise no_label(str(error).splitlines()[0], out.shape[-1]) from error


def no_label(found: str, d_out: int) -> ValueError:
    """Return the error that says which labels there can be."""
    return ValueError(
        f"y: {found} Expected labels from 0 to {d_out - 1}: give Model(d_out=...) for more, or other labels"
    )


def check_labels(chunk: Chunk, classes: int) -> None:
    """Raise ValueError for a label that is no class."""
    labels = chunk.y[chunk.mask]
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise no_label(f"Labels from {int(labels.min())} to {int(labels.max())}.", classes)


def trainable_parameters(model: Model) -> list[Tensor]:
    """Return the parameters that want a gradient, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def scale_of(norm: Tensor, clip: float) -> Tensor:
    """Return what a gradient of a norm is multiplied by, as in torch.nn.utils.clip_grad_norm_."""
    return (clip / (norm + 1e-6)).clamp(max=1.0)


def finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return () bool: no tensor holds an infinity or a NaN."""
    first, *others = (tensor.detach().sum() for tensor in tensors)
    return torch.isfinite(sum(others, first))


def _moved(model: Model, tapes: Sequence[Tape], before: Tree, advance: int, forward_finite: Tensor) -> Tree:
    """Return the state `advance` steps on where forward_finite, that before where not, in memory of its own."""
    return where(forward_finite, model.state_at(tapes, advance), before)
