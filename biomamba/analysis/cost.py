"""What inference and learning cost: operations, memory, time and energy, of a model and a rule as the loop runs them.

    held  =  state + trace + activations        RTRL: the same for any stream; BPTT: activations grow with it

Operations are counted, see `operations`; their joules are an estimate. What hardware measures is reported apart.
Shapes: b streams, t new steps of an update.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import SGD, Optimizer

from ..learner import Learner
from ..loop import online
from ..loop_state import LoopState
from ..model import Model
from ..readout import RLS, update_readout
from ..rules import LearningRule
from ..state import flat, nbytes
from ..stream import Chunk, Task
from ..update import UpdateInput, apply_gradients, learn, trainable_parameters
from .energy import measured, wait
from .operations import Counter, Operations, place

REPEATS = 5  # calls that are timed


@dataclass(frozen=True)
class Cost:
    """What a model and its learning cost; joules are estimates, but for the measured ones.

    inference: operations per time step and stream, with what the model notes for a rule as it runs
    learning: of a whole update, prediction and optimiser included, per new time step and stream
    trace_bytes: what the rule remembers of all streams
    state_bytes: what the model remembers of all streams
    activation_bytes: what autograd keeps of an update for its backward pass, beside weights, state and trace
    inference_joules: estimate, per time step and stream
    learning_joules: estimate, per new time step and stream
    inference_seconds: per time step of all streams, median of a few chunks
    learning_seconds: per new time step of all streams, median of a few updates
    measured_joules: of learning, per new time step and stream; None: nothing there measures it
    """

    inference: Operations
    learning: Operations
    trace_bytes: int
    state_bytes: int
    activation_bytes: int
    inference_joules: float
    learning_joules: float
    inference_seconds: float
    learning_seconds: float
    measured_joules: float | None


@dataclass(frozen=True)
class Held:
    """What learning a stream holds at most, weights and gradients apart."""

    label: str
    steps: int  # of the stream
    state_bytes: int
    trace_bytes: int
    activation_bytes: int


class Activations(saved_tensors_hooks):
    """Notes what autograd saves inside its `with`, each piece of memory once, but for what is known."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Take the tensors that are held anyway."""
        super().__init__(self._keep, lambda tensor: tensor)
        self.known = {place(tensor) for tensor in known}
        self.kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its place

    def _keep(self, tensor: Tensor) -> Tensor:
        if place(tensor) not in self.known:
            self.kept[place(tensor)] = tensor.untyped_storage()
        return tensor

    @property
    def nbytes(self) -> int:
        """Bytes so far."""
        return sum(storage.nbytes() for storage in self.kept.values())


@dataclass
class Loop:
    """An online loop under way, to which the same chunk comes again and again."""

    model: Model
    task: Task
    rule: LearningRule
    optimizer: Optimizer
    clip: float | None
    inputs: UpdateInput

    def infer(self) -> None:
        """Read the new steps without learning."""
        chunk = self.inputs.chunk
        with torch.no_grad():
            self.model(chunk.x, self.inputs.state, None if self.inputs.reset is None else chunk.reset)

    def update(self) -> None:
        """Learn once."""
        new = self.inputs.chunk.x.shape[1]
        if isinstance(self.optimizer, RLS):
            output = update_readout(self.model, self.task, self.rule, self.optimizer, self.inputs, new, labelled=True)
        else:
            output = learn(self.model, self.task, self.rule, self.inputs, new, self.clip)
            apply_gradients(self.optimizer, trainable_parameters(self.model), output.gradients)
        self.inputs = self.inputs._replace(state=output.state, trace=output.trace)


def measure(
    model: Model,
    task: Task,
    rule: LearningRule,
    optimizer: Optimizer,
    chunk: Chunk,
    window: int | None = None,
    clip: float | None = 1.0,
) -> Cost:
    """Return what it costs to read and to learn from `chunk`, once streams of such chunks are under way.

    The chunk is learned from again and again; then weights and optimiser are put back as they were, gradients cleared.
    Raises ValueError for a chunk without a label, a window shorter than the chunk, and the backend mamba_ssm, whose
    work torch does not see; FloatingPointError where an update is not finite.
    """
    check(rule, chunk)
    with restored(model, optimizer):
        loop = under_way(model, task, rule, optimizer, chunk, window, clip)
        new, samples, device = chunk.x.shape[1], chunk.mask.numel(), loop.inputs.x.device
        inference, learning = counted(loop.infer) / samples, counted(loop.update) / samples
        saved = Activations([*model.parameters(), *flat([loop.inputs.state, loop.inputs.trace])])
        with saved:
            loop.update()
        joules = measured(loop.update, device)
        return Cost(
            inference=inference,
            learning=learning,
            trace_bytes=nbytes(loop.inputs.trace),
            state_bytes=nbytes(loop.inputs.state),
            activation_bytes=saved.nbytes,
            inference_joules=inference.joules,
            learning_joules=learning.joules,
            inference_seconds=seconds(loop.infer, device) / new,
            learning_seconds=seconds(loop.update, device) / new,
            measured_joules=None if joules is None else joules / samples,
        )


def memory_by_length(
    label: str,
    model: Model,
    task: Task,
    rule: LearningRule,
    chunk: Chunk,
    length: int | None = None,
    steps: Sequence[int] = (16, 64, 256),
    window: int | None = None,
) -> list[Held]:
    """Return what learning the first so many `steps` of `chunk` holds, one row for each number.

    length: steps per update; None: the whole stream in one, which is what BPTT needs for credit over all of it.
    It runs the online loop at learning rate 0, and clears the gradients.
    Raises ValueError where the chunk is shorter than that, and as `measure` does.
    """
    check(rule, chunk)
    if max(steps) > chunk.x.shape[1]:
        raise ValueError(f"steps: got {max(steps)}, expected at most the {chunk.x.shape[1]} steps of the chunk")
    return [held(label, model, task, rule, pieces(chunk, total, length or total), window) for total in steps]


def held(label: str, model: Model, task: Task, rule: LearningRule, chunks: Sequence[Chunk], window: int | None) -> Held:
    """Return the most that the online loop holds along the chunks."""
    loop_state = LoopState.begin(chunks[0], task, model, rule)
    optimizer, most = SGD(model.parameters(), lr=0.0), 0
    learner = Learner(task, model, rule, optimizer, window)
    learner.without_kernels()  # whose memory is used again; a graph tells what backpropagation must keep
    reports = online(chunks, learner, state=loop_state)
    for _ in chunks:
        saved = Activations([*model.parameters(), *flat([loop_state.model_state, loop_state.trace])])
        with saved:
            next(reports)
        most = max(most, saved.nbytes)
    optimizer.zero_grad()
    return Held(label, loop_state.steps, nbytes(loop_state.model_state), nbytes(loop_state.trace), most)


def pieces(chunk: Chunk, total: int, length: int) -> list[Chunk]:
    """Return the first `total` steps of a chunk, cut into chunks of `length` in memory of their own."""
    cuts = (chunk.between(start, min(start + length, total)) for start in range(0, total, length))
    return [cut.map(Tensor.clone) for cut in cuts]


def check(rule: LearningRule, chunk: Chunk) -> None:
    """Raise ValueError where there would be nothing to count, or it would not be inputs."""
    if not bool(chunk.mask.any()):
        raise ValueError("chunk: got none with a label, expected at least one labelled step, as learning begins there")
    if any(block.backend == "mamba_ssm" for block in rule.blocks):
        raise ValueError("backend: got mamba_ssm, whose operations torch does not see: give auto")


@contextmanager
def restored(model: Model, optimizer: Optimizer) -> Iterator[None]:
    """Put weights and optimiser back as they were, and clear the gradients."""
    weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        optimizer.zero_grad()


def under_way(
    model: Model,
    task: Task,
    rule: LearningRule,
    optimizer: Optimizer,
    chunk: Chunk,
    window: int | None,
    clip: float | None,
) -> Loop:
    """Return the loop after so many updates from the chunk that the window is full and moves."""
    new = chunk.x.shape[1]
    chunks = [chunk] * (2 + math.ceil((window or new) / new))
    *_, report = online(chunks, Learner(task, model, rule, optimizer, window, clip))
    if report.norm is None:
        raise FloatingPointError("an update from the chunk is not finite: lower the learning rate or clip the gradient")
    loop_state = report.state
    x, reset = (
        torch.cat([loop_state.x, report.chunk.x], dim=1),
        torch.cat([loop_state.reset, report.chunk.reset], dim=1),
    )
    inputs = UpdateInput(
        x, reset if bool(reset.any()) else None, report.chunk, loop_state.model_state, loop_state.trace
    )
    return Loop(model, task, rule, optimizer, clip, inputs)


def counted(call: Callable[[], None]) -> Operations:
    """Return the operations of a call."""
    counter = Counter()
    with counter:
        call()
    return counter.total


def seconds(call: Callable[[], None], device: torch.device) -> float:
    """Return how long a call takes, the median of a few."""
    took = []
    for _ in range(REPEATS):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        took.append(time.perf_counter() - began)
    return statistics.median(took)
