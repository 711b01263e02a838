"""The laws that every task, block and rule owes, as checks that anyone can run on their own.

    check_task(MyTask())        check_block(MyBlock, d_state=4)        check_rule(MyRule)

Each raises AssertionError, one line that says which law is broken and where. They take seconds.
Shapes: b streams, t steps.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import Block, Tape
from .model import Model
from .ops.influence import contract_naive, influence_naive, shape
from .rules import LearningRule
from .state import BlockState, Tree, copy, cut, leaves, tree_map
from .stream import Benchmark, Chunk, Spec, StatefulStream, Task, join

VOCAB, D_OUT, D_MODEL = 11, 7, 6  # of the models a rule is checked on
SIZES: dict[str, dict[str, Any]] = {
    "diagonal": {},
    "mamba": {"dt_rank": 2},
    "mamba2": {"headdim": 4},
    "mamba3": {"headdim": 4},
}


def check_task(task: Task, *, batch: int = 2, steps: int = 64, lengths: Sequence[int] = (1, 7), seed: int = 0) -> None:
    """Check streams, loss and meters of a task, and what it says of itself where it is a `Benchmark`.

    steps: how many of each split are looked at; some must have a label. lengths: of chunks, in ascending order.
    """
    name = type(task).__name__
    bench = Benchmark.of(task)
    _law(isinstance(task.spec, Spec), f"{name}.spec: is no Spec(d_out, vocab or d_in)")
    _law((task.spec.vocab is None) != (task.spec.d_in is None), f"{name}.spec: gives not exactly one of vocab and d_in")
    if isinstance(task, Benchmark):
        _check_benchmark(task, batch, seed)
    for split in bench.splits:
        ask = _Ask(task, split, batch, seed, f"{name}, split {split}")
        known = bench.steps(split, batch=batch, seed=seed)
        whole = _check_stream(ask, steps if known is None else min(steps, known), lengths)
        _check_loss(task, whole, ask.about)
        _check_meters(task, whole, lengths[-1], ask.about)
    _law(not Chunk._field_defaults["info"], f"{name}: wrote into the default of Chunk.info, which all chunks share")


class _Ask(NamedTuple):
    """A stream to ask for."""

    task: Task
    split: str
    batch: int
    seed: int
    about: str

    def begin(self, length: int, start: int = 0) -> StatefulStream:
        """Return the stream from a step on."""
        own = self.task.stream(self.split, batch=self.batch, length=length, seed=self.seed, start=start)
        return StatefulStream.of(own)

    def take(self, stream: StatefulStream, steps: int, length: int) -> Chunk:
        """Return the next steps of a stream, each chunk of which was checked and answered by the same answers."""
        chunks, done = list[Chunk](), 0
        for chunk in stream:
            _check_chunk(chunk, self, length)
            chunks.append(chunk.map(Tensor.clone))  # a stream may fill its own memory anew
            stream.observe(_answer(chunk, self.task.spec.d_out), chunk)
            done += chunk.x.shape[1]
            if done >= steps:
                break
        _law(done >= steps, f"{self.about}: the stream ended after {done} steps, expected {steps} or more")
        return join(chunks).between(0, steps)


def _check_stream(ask: _Ask, steps: int, lengths: Sequence[int]) -> Chunk:
    """Return the first steps, the same for every length, every start and every time of asking."""
    length = lengths[-1]
    whole = ask.take(ask.begin(length), steps, length)
    again = ask.take(ask.begin(length), steps, length)
    differs = _difference(whole, again)
    _law(not differs, f"{ask.about}: two streams of the same seed differ in {differs}")
    half = max(1, steps // 2 // length) * length
    for length in lengths:
        one = ask.take(ask.begin(length), steps, length)
        differs = _difference(whole, one)
        _law(
            not differs, f"{ask.about}: {differs} depends on the length of the chunks, {length} or {lengths[-1]} steps"
        )
        if half < steps:
            first = ask.begin(length)
            ask.take(first, half, length)
            late = ask.begin(length, half)
            late.load_state_dict({key: tensor.clone() for key, tensor in first.state_dict().items()})
            differs = _difference(whole.between(half), ask.take(late, steps - half, length))
            _law(not differs, f"{ask.about}: started at step {half} with the state saved there, {differs} is another")
    return whole


def _check_chunk(chunk: Chunk, ask: _Ask, length: int) -> None:
    """Check the form of one chunk."""
    about, spec = ask.about, ask.task.spec
    _law(isinstance(chunk, Chunk), f"{about}: the stream brought {type(chunk).__name__}, expected Chunk")
    size = chunk.mask.shape
    _law(len(size) == 2 and size[0] == ask.batch, f"{about}: mask is {tuple(size)}, expected ({ask.batch}, steps)")
    _law(1 <= size[1] <= length, f"{about}: a chunk has {size[1]} steps, expected 1 to {length}, as asked")
    if spec.vocab is not None:
        _law(chunk.x.shape == size, f"{about}: x is {tuple(chunk.x.shape)}, expected {tuple(size)}")
        _law(chunk.x.dtype == torch.int64, f"{about}: x is {chunk.x.dtype}, expected torch.int64")
        inside = bool(((chunk.x >= 0) & (chunk.x < spec.vocab)).all())
        _law(inside, f"{about}: x holds tokens outside 0 to {spec.vocab - 1}, the vocabulary")
    else:
        _law(
            chunk.x.shape == (*size, spec.d_in), f"{about}: x is {tuple(chunk.x.shape)}, expected {(*size, spec.d_in)}"
        )
        _law(chunk.x.is_floating_point(), f"{about}: x is {chunk.x.dtype}, expected real values")
        _law(bool(chunk.x.isfinite().all()), f"{about}: x holds values that are not finite")
    for name in ("mask", "reset"):
        own = getattr(chunk, name)
        _law(own.dtype == torch.bool and own.shape == size, f"{about}: {name} is not {tuple(size)} of bool")
    for name, own in {"y": chunk.y, **{f"info[{key!r}]": tensor for key, tensor in chunk.info.items()}}.items():
        _law(
            own.shape[:2] == size, f"{about}: {name} is {tuple(own.shape)}, expected {tuple(size)} and more, or no axes"
        )


def _check_loss(task: Task, whole: Chunk, about: str) -> None:
    """Check that the loss is a finite scalar of the labelled steps alone, which reaches them all together."""
    _law(bool(whole.mask.any()), f"{about}: none of {whole.mask.shape[1]} steps has a label: check more steps")
    out = _drawn(*whole.mask.shape, task.spec.d_out).requires_grad_()
    for chunk, what in ((whole, "loss"), (whole._replace(mask=torch.zeros_like(whole.mask)), "loss without a label")):
        out.grad = None
        loss = task.loss(out, chunk)
        _law(loss.shape == (), f"{about}: {what} is {tuple(loss.shape)}, expected a scalar")
        _law(bool(loss.isfinite()), f"{about}: {what} is {loss.item()}, expected a finite number")
        _law(loss.requires_grad, f"{about}: {what} has no graph to the predictions")
        loss.backward()
        gradient = torch.zeros_like(out) if out.grad is None else out.grad
        _law(bool(gradient.isfinite().all()), f"{about}: the gradient of the {what} is not finite")
        _law(not gradient[~chunk.mask].any(), f"{about}: the {what} depends on predictions where mask is false")
        if chunk is whole:
            _law(bool(gradient.any()), f"{about}: the loss does not depend on the predictions")
            if task.spec.vocab is not None:  # n-gram tables learn a step at a time
                _check_steps(task, whole, out.detach(), gradient, about)
        else:
            _law(loss.item() == 0, f"{about}: {what} is {loss.item()}, expected 0")


def _check_steps(task: Task, whole: Chunk, out: Tensor, gradient: Tensor, about: str) -> None:
    """Check that the loss is made of the losses of single steps, all by one factor: their mean, sum, or such."""
    factors = list[float]()
    for i, s in torch.nonzero(whole.mask)[:8].tolist():
        alone = out[i : i + 1, s : s + 1].clone().requires_grad_()
        loss = task.loss(alone, whole.map(lambda field, i=i, s=s: field[i : i + 1, s : s + 1]))  # type: ignore[misc]
        (own,) = torch.autograd.grad(loss, alone)
        factor = float((own[0, 0] * gradient[i, s]).sum() / (own * own).sum())
        far = float((gradient[i, s] - factor * own[0, 0]).norm() / gradient[i, s].norm())
        _law(far < 1e-3, f"{about}: the loss of step {s} in a chunk is another than that of the step alone")
        factors.append(factor)
    same = max(factors) - min(factors) <= 1e-3 * max(factors)
    _law(same, f"{about}: the loss weights its steps otherwise in a chunk than each alone: expected one factor for all")


def _check_meters(task: Task, whole: Chunk, length: int, about: str) -> None:
    """Check that scoring in pieces, saved and loaded between them as JSON, is scoring the whole."""
    out = _drawn(*whole.mask.shape, task.spec.d_out)
    expected, meters = task.meters(), task.meters()
    _law(bool(expected), f"{about}: there are no meters")
    fresh = {name: meter.get() for name, meter in expected.items()}
    given, seen = whole.map(Tensor.clone), out.clone()
    for meter in expected.values():
        meter.update(out, whole)
    differs = _difference(whole, given) or ("the predictions" if not torch.equal(out, seen) else "")
    _law(not differs, f"{about}: a meter changed {differs}, which it is shown")
    for name, meter in meters.items():
        _law(_equal(meter.get(), fresh[name]), f"{about}: meter {name} of a second set knows what the first was shown")
    for start in range(0, out.shape[1], length):
        for meter in meters.values():
            meter.update(out[:, start : start + length], whole.between(start, start + length))
        saved = {name: meter.state_dict() for name, meter in meters.items()}
        try:
            saved = json.loads(json.dumps(saved))
        except TypeError as error:
            raise AssertionError(f"{about}: the state of the meters is no JSON: {error}") from error
        meters = task.meters()
        for name, meter in meters.items():
            meter.load_state_dict(saved[name])
    for name, meter in meters.items():
        parts, once = meter.get(), expected[name].get()
        _law(isinstance(once, float), f"{about}: meter {name} gives {type(once).__name__}, expected float")
        _law(
            _equal(parts, once),
            f"{about}: meter {name} is {parts} scored in pieces, saved between them, {once} at once",
        )


def _check_benchmark(task: Benchmark, batch: int, seed: int) -> None:
    """Check what a task says of itself."""
    name, splits, meters = type(task).__name__, task.splits, task.meters()
    _law(len(splits) > 0, f"{name}.splits: is empty")
    _law(task.held_out in splits, f"{name}.held_out: is {task.held_out}, expected one of {', '.join(splits)}")
    _law(bool(task.source) and "\n" not in task.source, f"{name}.source: is no line of text")
    seconds = task.step_seconds
    _law(seconds is None or seconds > 0, f"{name}.step_seconds: is {seconds}, expected None or seconds above 0")
    horizon = task.horizon
    _law(horizon is None or horizon >= 1, f"{name}.horizon: is {horizon}, expected None or 1 step or more")
    for split in splits:
        steps = task.steps(split, batch=batch, seed=seed)
        _law(steps is None or steps >= 1, f"{name}.steps: gives {steps} for split {split}, expected 1 or more, or None")
        for label, scores in task.baseline(split, batch=batch, seed=seed, steps=min(200, steps or 200)).items():
            odd = scores.keys() - meters.keys()
            _law(not odd, f"{name}.baseline: {label} has scores that no meter has: {', '.join(sorted(odd))}")
            whole = all({"all", "last_tenth"} <= own.keys() for own in scores.values())
            _law(whole, f"{name}.baseline: {label} lacks all or last_tenth of a score")
        for part in task.parts(split).values():
            _law(hasattr(part, "stream"), f"{name}.parts: of split {split} holds what is no task")


def check_block(
    block: type[Block], *, d_model: int = D_MODEL, batch: int = 3, approximate: Collection[str] = (), **options: Any
) -> None:
    """Check a block, its options given: streaming, resets, and its drives against autograd, all in float64.

    Of one that is not diagonal there are no drives.

    approximate: parameters whose drives are declared not to be exact.
    """
    with _float64():
        own = block(d_model, **options)
        _shaken(own)
        about = block.__name__
        empty = own.init_state(batch)
        for path, tensor in leaves(empty):
            _law(len(tensor) == batch, f"{about}.init_state: {path} is not of {batch} streams")
            _law(not tensor.any(), f"{about}.init_state: {path} is not 0")
        x, before = _drawn(batch, 9, d_model), tree_map(lambda tensor: _drawn(*tensor.shape), empty)
        _check_streaming(own, x, before, about)
        for reset in (None, _drawn(batch, 9) < -0.5) if own.diagonal else ():
            _check_drives(own, x, before, reset, approximate, about)


def _check_streaming(own: Block, x: Tensor, before: BlockState, about: str) -> None:
    """Check that a chunk is its steps, its parts, blind to the future, and after a reset a new stream."""
    batch, t, _ = x.shape
    y, after, tape = own.chunk(x, before)
    stepped, state = list[Tensor](), before
    for s in range(t):
        y_s, state = own.step(x[:, s], state)
        stepped.append(y_s)
    _near([y, after], [torch.stack(stepped, 1), state], f"{about}.chunk: is not {t} calls of step:")
    reset, at = _drawn(batch, t) < -0.5, t // 2
    y, after, tape = own.chunk(x, before, reset)
    head, middle, _ = own.chunk(x[:, :at], before, reset[:, :at])
    tail, end, _ = own.chunk(x[:, at:], middle, reset[:, at:])
    _near([y, after], [torch.cat([head, tail], 1), end], f"{about}.chunk: in two parts is not the whole:")
    for steps, expected in ((0, before), (at, middle), (t, after)):
        _near(own.state_at(tape, steps), expected, f"{about}.state_at: {steps} steps on is not the state there:")
    changed = torch.cat([x[:, :at], x[:, at:] + 1], dim=1)
    _near(own.chunk(changed, before, reset)[0][:, :at], y[:, :at], f"{about}.chunk: depends on the future:")
    begins = torch.zeros(batch, t, dtype=torch.bool)
    begins[:, at] = True
    y, after, _ = own.chunk(x, before, begins)
    fresh = own.chunk(x[:, at:], own.init_state(batch))
    _near([y[:, at:], after], [*fresh[:2]], f"{about}.chunk: what was before a reset is remembered:")


def _check_drives(
    own: Block, x: Tensor, before: BlockState, reset: Tensor | None, approximate: Collection[str], about: str
) -> None:
    """Check that the traces made of the drives are the Jacobian of the state by autograd."""
    _, after, tape = own.chunk(x, before, reset)
    effective, influences = own.effective(), own.influences
    _law(effective.keys() == influences.keys(), f"{about}.effective: names other than influences does")
    weights = _drawn(*after.ssm.shape)
    named = dict(own.named_parameters())
    wanted = torch.autograd.grad((after.ssm * weights).sum(), list(named.values()), allow_unused=True)
    gradients = _through_traces(own, tape, reset, weights)
    for name, gradient in gradients.items():
        sizes = tuple(effective[name].shape), tuple(gradient.shape)
        _law(sizes[0] == sizes[1], f"{about}: {name} is {sizes[0]}, the trace of its drive makes it {sizes[1]}")
    got = torch.autograd.grad(
        [effective[name] for name in gradients], list(named.values()), list(gradients.values()), allow_unused=True
    )
    resets = "" if reset is None else " with resets"
    for name, mine, theirs in zip(named, got, wanted, strict=True):
        if theirs is not None and bool(theirs.any()):
            _law(mine is not None, f"{about}.effective: misses {name}, which reaches the state")
        if name not in approximate and mine is not None:
            theirs = torch.zeros_like(mine) if theirs is None else theirs
            _near(mine, theirs, f"{about}.drives: the trace of {name}{resets} is not dh/d{name} by autograd:")


def _through_traces(own: Block, tape: Tape, reset: Tensor | None, weights: Tensor) -> dict[str, Tensor]:
    """Return the gradient of weights . h (the last state) to each effective parameter, through its trace."""
    drives, found = own.drives(tape), {}
    for name, axes in own.influences.items():
        Z = weights.new_zeros(shape(axes, len(weights), *own.shape, own.fan_in.get(name, 0)))
        Z = influence_naive(Z, tape.log_a.detach(), reset, axes, drives[name])
        found[name] = contract_naive(weights, Z, axes)
    return found


def check_rule(rule: type[LearningRule], *, batch: int = 3, rtol: float = 1e-9, **options: Any) -> None:
    """Check a rule, its options given, on two layers of each block of the library, in float64.

    rtol: how much of a gradient may depend on what was before a reset, relative: of rules that forget nearly all.
    """
    with _float64():
        for block, sizes in SIZES.items():
            model = Model(vocab=VOCAB, d_out=D_OUT, d_model=D_MODEL, n_layers=2, block=block, d_state=4, **sizes)
            _shaken(model)
            learner = _Learner(model, rule(model.blocks, **options), f"{rule.__name__} with {block}")  # type: ignore[arg-type]
            _check_trace(learner, batch)
            other = learner._replace(rule=rule(model.blocks, **options))  # type: ignore[arg-type]
            _check_resumed(learner, other, batch)
            _check_gradient(learner, batch)
            _check_streams(learner, batch, rtol)


class _Past(NamedTuple):
    """What goes from one chunk to the next."""

    state: Tree
    trace: Tree


class _Learner(NamedTuple):
    """A model and a rule."""

    model: Model
    rule: LearningRule
    about: str

    def begin(self, batch: int) -> _Past:
        """Return the past of streams that have seen nothing."""
        return _Past(self.model.init_state(batch), self.rule.init(batch))

    def learn(
        self, x: Tensor, past: _Past, reset: Tensor | None = None, advance: int | None = None, silent: bool = False
    ) -> tuple[Tensor, _Past]:
        """Return the gradient of a chunk, flat, and the past after it, or `advance` steps on; silent: of no loss."""
        self.model.zero_grad()
        out, _, tapes = self.model(x, cut(past.state), reset, self.rule.local)
        loss = out.sum() * 0 if silent else _loss(out, x)
        trace = self.rule.backward(loss, tapes, copy(past.trace), advance)
        after = copy(self.model.state_at(tapes, x.shape[1] if advance is None else advance))
        return torch.cat([_flat(p.grad, p) for p in self.model.parameters()]), _Past(after, trace)


def _check_trace(learner: _Learner, batch: int) -> None:
    """Check that a trace keeps its form, has no graph and begins with nothing."""
    about, past = learner.about, learner.begin(batch)
    form = {path: (tensor.shape, tensor.dtype) for path, tensor in leaves(past.trace)}
    _law(len(past.trace) == len(learner.model.blocks), f"{about}: init gives not one tree for each block")
    for path, (size, _) in form.items():
        _law(size[0] == batch, f"{about}: init gives {path} of {tuple(size)}, expected {batch} streams on its axis 0")
    for silent in (False, True, False):
        _, past = learner.learn(_tokens(batch, 5), past, silent=silent)
        after = {path: (tensor.shape, tensor.dtype) for path, tensor in leaves(past.trace)}
        _law(after == form, f"{about}: the trace after a chunk is of another form than init gives")
        graphs = [path for path, tensor in leaves(past.trace) if tensor.requires_grad]
        _law(not graphs, f"{about}: the trace has a graph at {', '.join(graphs)}")
        finite = all(bool(tensor.isfinite().all()) for _, tensor in leaves(past.trace))
        _law(finite, f"{about}: the trace is not finite after a chunk")


def _check_gradient(learner: _Learner, batch: int) -> None:
    """Check that with nothing past the gradient is autograd's, and that a trace moves as far as it is told to.

    A local rule has its own gradient inside a chunk too; it must be finite.
    """
    about, x = learner.about, _tokens(batch, 8)
    got, past = learner.learn(x, learner.begin(batch))
    if learner.rule.local:
        _law(bool(got.isfinite().all()), f"{about}: the gradient is not finite")
    else:
        out, _, _ = learner.model(x, cut(learner.model.init_state(batch)))
        own = list(learner.model.parameters())
        wanted = torch.autograd.grad(_loss(out, x), own, allow_unused=True)
        expected = torch.cat([_flat(gradient, p) for gradient, p in zip(wanted, own, strict=True)])
        _near(got, expected, f"{about}: with nothing past the gradient is not autograd's inside the chunk:")
    for steps in (0, 3, 8):
        _, moved = learner.learn(x, past, advance=steps, silent=True)
        alone = learner.learn(x[:, :steps], past, silent=True)[1] if steps else past
        _near(moved.trace, alone.trace, f"{about}: the trace {steps} of 8 steps on is not that of those steps alone:")


def _check_streams(learner: _Learner, batch: int, rtol: float) -> None:
    """Check that streams do not mix, and that a reset ends what was before it."""
    about, x = learner.about, _tokens(batch, 6)
    _, past = learner.learn(x, learner.begin(batch))
    changed = x.clone()
    changed[0] = (x[0] + 1) % VOCAB
    _, other = learner.learn(changed, learner.begin(batch))
    rest = [tree_map(lambda tensor: tensor[1:], own.trace) for own in (past, other)]
    _near(rest[1], rest[0], f"{about}: the trace of a stream depends on another stream:")
    _, other = learner.learn((x + 1) % VOCAB, learner.begin(batch))
    begins = torch.zeros(batch, 6, dtype=torch.bool)
    begins[:, 0] = True
    gradients = []
    for own in (past, other):
        _, after = learner.learn(x, own, begins)
        gradients.append(learner.learn(x, after)[0])
    far = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    _law(far <= rtol, f"{about}: the gradient depends on what was before a reset: {far:.1e} of it, expected {rtol:.0e}")


def _check_resumed(learner: _Learner, other: _Learner, batch: int) -> None:
    """Check that state and trace are all that a rule remembers."""
    x = _tokens(batch, 5)
    _, past = learner.learn(x, learner.begin(batch))
    saved = copy(past)
    straight, after = learner.learn(x, past)
    again, resumed = other.learn(x, saved)
    same = torch.equal(straight, again) and _same(after, resumed)
    _law(same, f"{learner.about}: resumed from state and trace by a rule made anew, it goes on otherwise")


def _law(holds: bool, broken: str) -> None:
    """Raise AssertionError where a law is broken."""
    if not holds:
        raise AssertionError(broken)


def _near(got: Tree, expected: Tree, broken: str) -> None:
    """Raise AssertionError where two trees of float64 differ by more than rounding."""
    for (path, a), (_, b) in zip(leaves(got), leaves(expected), strict=True):
        _law(a.shape == b.shape, f"{broken} {path or 'it'} is {tuple(a.shape)}, expected {tuple(b.shape)}")
        if not torch.allclose(a, b, rtol=1e-9, atol=1e-11):
            raise AssertionError(f"{broken} {path or 'it'} differs by {float((a - b).detach().abs().max()):.1e}")


def _same(one: Tree, other: Tree) -> bool:
    """Return whether two trees are equal to the bit."""
    return all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(one), leaves(other), strict=True))


def _difference(one: Chunk, other: Chunk) -> str:
    """Return the name of the first field in which two chunks are not equal to the bit (NaN is NaN); "" for none."""
    a, b = dict(leaves(one)), dict(leaves(other))
    if a.keys() != b.keys():
        return "the names in info"
    return next((n for n in a if a[n].dtype != b[n].dtype or not torch.equal(_filled(a[n]), _filled(b[n]))), "")


def _filled(tensor: Tensor) -> Tensor:
    """Return a tensor with another number for NaN."""
    return tensor.nan_to_num(nan=0.123456789) if tensor.is_floating_point() else tensor


def _equal(a: float, b: float) -> bool:
    """Return whether two scores are the same but for rounding; nan is nan."""
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def _answer(chunk: Chunk, d_out: int) -> Tensor:
    """Return predictions (b, t, d_out) that are a function of x alone, the same for chunks of any length."""
    x = chunk.x if chunk.x.ndim == 2 else chunk.x[..., 0]
    spread = x.double()[..., None] * torch.arange(1, d_out + 1) * 0.37
    return (4 * (spread - spread.floor())).float()


def _drawn(*size: int) -> Tensor:
    """Return normal numbers, the same for each size."""
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def _tokens(batch: int, t: int) -> Tensor:
    """Return tokens (b, t), the same for each size."""
    return torch.randint(VOCAB, (batch, t), generator=torch.Generator().manual_seed(t))


def _loss(out: Tensor, x: Tensor) -> Tensor:
    """Return a loss on predictions: of the token before, to begin with."""
    return F.cross_entropy(out.flatten(0, 1), x.roll(1, 1).flatten() % D_OUT, reduction="sum")


def _flat(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Return a gradient as a vector; zero where there is none."""
    return torch.zeros_like(like).flatten() if gradient is None else gradient.flatten()


def _shaken(module: torch.nn.Module) -> None:
    """Move every parameter off its initial value."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@contextmanager
def _float64() -> Iterator[None]:
    """Compute in float64, weights drawn by a seed of their own; both are put back."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
