"""The online loop: predict, score, learn, one chunk of a stream after another.

Both loops are generators: printing, saving and stopping are the caller's. Memory does not grow with the stream.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from torch import Tensor

from . import threads as threading
from .fused import Fused, serves
from .inputs import check_parts, checked
from .learner import Learner, Report
from .loop_state import LoopState
from .model import Model
from .rules import BPTT
from .stream import Chunk, StatefulStream, Task
from .update import UpdateInput, predict


def online(
    stream: Iterable[Chunk], learner: Learner, state: LoopState | None = None, length: int | None = None
) -> Iterator[Report]:
    """Yield a report per chunk: predict, score, learn.

    state: where an earlier loop stopped (default: where the learner is, which begins anew the first time).
    length: steps of an update, where a chunk holds those of several: see `Learner.scan` (default: a chunk is one).
    Raises ValueError and TypeError for chunks and a state that the model cannot read, for a stream that waits for what
    is said where chunks hold several updates, and what `Learner.update` raises.
    """
    if state is not None:
        learner.resume(state)
    stream = StatefulStream.of(stream)
    if length is not None and stream.waits:
        raise ValueError(
            f"length: got {length}, but the stream depends on what is said at each update: give chunks of one update"
        )
    for chunk in checked(stream, learner.model, learner.streams):
        report = learner.update(chunk) if length is None else learner.scan(chunk, length)  # predicts, then learns
        score(report.out, chunk, report.state)  # of what was predicted before anything was learned
        stream.observe(report.out, chunk)
        yield report


def evaluate(
    stream: Iterable[Chunk], task: Task, model: Model, state: LoopState | None = None, threads: int | None = None
) -> Iterator[Report]:
    """Yield a report per chunk with learning off: predict, score.

    state, threads: as for `online` and `Learner`. Raises ValueError and TypeError as they do.
    """
    threading.check(threads)
    check_parts(task, model)
    if state is not None:
        state.check(model)
    stream, count, rule = StatefulStream.of(stream), None, BPTT(model._blocks())
    passes = Fused(model, task, rule) if serves(model, rule) else partial(predict, model, task, rule)
    for chunk in checked(stream, model, len(state.x) if state else None):
        state, new = state or LoopState.begin(chunk, task, model), chunk.x.shape[1]
        count = count or threading.resolve(threads, state.nbytes(new))
        with threading.using(count):
            reset = chunk.reset if bool(chunk.reset.any()) else None
            reading = model.read(chunk.x, state.context, reset)
            given = UpdateInput(chunk.x, reset, chunk, state.model_state, rule.init(len(chunk.x)), reading)
            output = passes(given, advance=new)
        score(output.out, chunk, state)
        stream.observe(output.out, chunk)
        state.model_state, state.steps = output.state, state.steps + new
        if bool(output.forward_finite):
            state.context = reading and reading.context_at(reset, new)
        yield Report(chunk, output.out, output.loss, None, output.spikes, state, count)


def score(out: Tensor, chunk: Chunk, state: LoopState) -> None:
    """Show the predictions to the meters."""
    for meter in state.meters.values():
        meter.update(out, chunk)
