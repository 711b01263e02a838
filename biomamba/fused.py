"""An update of a stack of blocks by three kernels on the CPU, no graph made: the numbers of `update.update`.

    encoder -> forward -> the task's loss and its gradient to the outputs -> learn -> Adam's step

torch's autograd sees the loss alone; what lies between the encoder and the outputs goes back by formulas. That takes a
fifth of the time where chunks are small, and no compiler. `kinds` says which blocks and rules there are kernels for. It
serves what is usual: blocks that do not spike, float32 or float64; the rest is left to `update`. Shapes: b streams,
t steps, u of them new.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from .addresses import Addresses
from .blocks import Block
from .checks import check_mask
from .kinds import Kind, kind_of
from .model import Model
from .moments import Moments
from .ngram import Reading
from .ops.backend import bound, module
from .ranks import Ranks
from .rules import BPTT, RTRL, RTRLSTDP, STLLR
from .rules.base import LearningRule
from .state import BlockState, Tree, flat
from .step import Step
from .stream import Chunk, Task
from .update import UpdateInput, UpdateOutput, check_labels, finite, loss_of, predict, stepped_by, update

MULTIPLIED = 1 << 25  # multiply-adds of a chunk with the weights: above, two threads are quicker by torch's products
HELD = 1 << 26  # numbers of all layers' states in a chunk: above, torch keeps fewer where nothing is learned
BACKENDS = "auto", "llvm"
TRUE, FALSE = torch.tensor(True), torch.tensor(False)


class Work(NamedTuple):
    """Memory for chunks of one kind, used again from update to update, and the kernels bound to it."""

    kept: list[Tensor]
    signals: Tensor  # (l, b, e, n)
    calls: dict[tuple[str, bool], Callable[..., None]]

    def call(self, name: str, *tensors: Tensor, learns: bool = False) -> None:
        """Call a kernel, whose sizes are checked the first time; learns: with tensors that it does without else."""
        found = self.calls.get((name, learns))
        if found is None:
            found = self.calls[name, learns] = bound(name, *tensors)
        found(*tensors)


class Fused:
    """`update.update` of one model by kernels."""

    def __init__(
        self,
        model: Model,
        task: Task,
        rule: LearningRule,
        step: Step | None = None,
        clip: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Take what an update needs, of which `serves` is true; step: None where nothing is to be learned."""
        self.ranks = ranks
        self.model, self.task, self.rule, self.step, self.clip = model, task, rule, step, clip
        self.blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
        self.kind = cast(Kind, kind_of(self.blocks[0]))
        found = self.kind.tables(self.blocks[0])
        self.tables: list[Sequence[int]] = found.get(type(rule), [()] * len(found[RTRL]))
        self.modules = [*model.modules()]
        self.moments = Moments(step.optimizer, step.parameters, clip) if step else None
        self.mean = {"mean": TRUE, "batchmean": FALSE, None: None}[getattr(task, "reduction", None)]
        self.unchecked = 3  # labelled updates whose loss is still compared with the task's
        self.at = Addresses(model, self.kind)
        self.through = FALSE if rule.local else TRUE
        self.work: dict[Any, Work] = {}
        self.room: list[Tensor] = []  # the memory under it
        self.past: list[Tensor] = []  # state and trace as the last update left them: known to be of the right form
        self.stacked: list[Tensor] = []  # that state, conv and ssm of all layers
        self.options: tuple[list[list[float]], Tensor] = [], torch.empty(0)  # of Adam, by group

    def __call__(self, inputs: UpdateInput, advance: int, labelled: bool = False) -> UpdateOutput:
        """Return what `update.update` returns; see there."""
        if not self.takes(inputs.x, len(inputs.chunk.x)):
            if self.step is None:
                return predict(self.model, self.task, self.rule, inputs, advance, self.ranks)
            return update(self.model, self.task, self.rule, self.step, self.clip, inputs, advance, labelled, self.ranks)
        with torch.no_grad():
            return self._update(inputs, advance, self.step if labelled else None)

    def takes(self, x: Tensor, streams: int | None = None) -> bool:
        """Say whether the kernels read x (b, t, ...).

        So it is where x and the weights lie here, and are not large, and no hook looks at what a module gives.
        streams: of all ranks, who must all say the same (default: b).
        """
        weight, streams = self.model.head.weight, len(x) if streams is None else streams
        here = weight.device.type == x.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
        steps, states = streams * x.shape[1], len(self.blocks) * math.prod(self.blocks[0].shape)
        small = steps * states <= HELD and (steps * self.at.size <= MULTIPLIED or torch.get_num_threads() == 1)
        seen = any(own._forward_hooks or own._forward_pre_hooks or own._backward_hooks for own in self.modules)
        return here and small and not seen and all(block.backend in BACKENDS for block in self.blocks)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: addresses and memory are its own."""
        own = {"work": {}, "room": [], "past": [], "stacked": [], "at": Addresses(self.model, self.kind)}
        return self.__dict__ | own

    def predict(
        self, x: Tensor, state: Tree, reset: Tensor | None = None, reading: Reading | None = None
    ) -> tuple[Tensor, Tree]:
        """Return the outputs (b, t, d_out) for x, and the state behind it: what the model does, without a graph."""
        with torch.no_grad():
            self.model.check_input(x)
            self.model.check_state(state, len(x))
            self._find_weights()
            past = _stacked(state)
            out, work, given = self._forward(x, past, reset, reading, self._past([]), x.shape[1])
            return out, _apart(self._advance(work, given, x.shape[1], self._past([]), TRUE))

    def pass_over(self, x: Tensor, reset: Tensor | None, state: Tree, trace: Tree, reading: Reading | None) -> Tree:
        """Return the state behind x, which nobody scores, and move the trace there; see `update.pass_over`."""
        with torch.no_grad():
            self.model.check_state(state, len(x))
            self.rule.check_trace(trace, len(x))
            self._find_weights()
            traces, past = self._past(trace), _stacked(state)
            out, work, given = self._forward(x, past, reset, reading, traces, x.shape[1])
            return _apart(self._advance(work, given, x.shape[1], traces, torch.isfinite(out.sum())))

    def _forward(
        self,
        x: Tensor,
        past: list[Tensor],
        reset: Tensor | None,
        reading: Reading | None,
        traces: list[Tensor],
        new: int,
    ) -> tuple[Tensor, "Work", list[Tensor]]:
        """Return the outputs of the last `new` steps, the memory of the chunk, and what else its kernels are given."""
        if reset is not None:
            check_mask("reset", reset, *x.shape[:2])
        head, encoded = self.model.head.weight, self.model._encoded(x)
        if reading is not None:
            encoded = encoded + reading.embedding
        begins = reset.contiguous() if reset is not None else TRUE.new_empty(0)
        work, given = self._work(past[1], begins, traces, x.shape[1], new), [*past, begins]
        out = encoded.new_empty(len(x), new, len(head))
        top = head, self.model.norm_f.weight, self.at.weights
        work.call(self.kind.called("forward"), *top, encoded.contiguous(), *given, *work.kept, out)
        if reading is not None:
            out += reading.logits[:, -new:]
        return out, work, given

    def _advance(
        self, work: Work, given: list[Tensor], steps: int, traces: list[Tensor], go: Tensor, learns: bool = False
    ) -> list[Tensor]:
        """Return conv and ssm of all layers so many steps on, the traces moved as far, where go.

        learns: add what the signals of the chunk learn through the traces to its gradient.
        """
        after = [torch.empty_like(own) for own in given[:2]]
        given = [self.at.weights, *given, *work.kept, torch.tensor(steps), *traces, go]
        learned = [work.signals, self.at.gradients] if learns else [self.at.gradient[:0], self.at.weights[:0, 0]]
        work.call(self.kind.called("advance"), *given, *learned, *after, learns=learns)
        return after

    def _update(self, inputs: UpdateInput, advance: int, step: Step | None) -> UpdateOutput:
        """Return the pass of a chunk, and learn from it by a step, if any."""
        model, chunk, reading = self.model, inputs.chunk, inputs.reading
        model.check_input(inputs.x)
        self._find_weights()
        past, traces = self._state(inputs), self._past(inputs.trace)
        out, work, given = self._forward(inputs.x, past, inputs.reset, reading, traces, chunk.x.shape[1])
        nan, ranks, batch = out.new_full((), torch.nan), self.ranks, len(chunk.x)
        if step is None or self.moments is None:
            if ranks is not None:
                out = ranks.say(out, nan.expand(len(self.blocks)), finite([out]), batch).out
            loss = loss_of(self.task, out, chunk)
            go = torch.isfinite(out.sum() + loss)
            after = self._advance(work, given, advance, traces, go)
            state = self._remember(after, inputs.trace)
            return UpdateOutput(out, loss, nan, go, state, inputs.trace)
        loss, grad_out = self._loss(work, out, chunk)
        go = torch.isfinite(out.sum() + loss)
        grad_encoded, facts = out.new_empty(*inputs.x.shape[:2], past[0].shape[-1]), out.new_zeros(3)
        after = [torch.empty_like(own) for own in past]
        top = [model.head.weight, model.norm_f.weight, self.at.weights]
        moves = TRUE if ranks is None else FALSE  # no trace moves before all ranks have heard that everything is finite
        moved = [grad_out, torch.tensor(advance), *traces, self.through, moves, go]
        to = [self.at.gradients, self.at.gradient, self.at.of_head, self.at.of_norm, grad_encoded, work.signals]
        work.call(self.kind.called("learn"), *top, *given, *work.kept, *moved, *to, *after, facts)
        self._learn_encoder(inputs.x, grad_encoded)
        read = [grad_encoded, grad_out] if reading is not None else []
        if ranks is not None:
            out, _, go = ranks.say(out, nan.expand(len(self.blocks)), facts[0] > 0, batch)
            loss = loss_of(self.task, out, chunk)
            go = go & torch.isfinite(loss)
            after = self._advance(work, given, advance, traces, go, learns=True)
            (gradient,), read = ranks.reduce([self.at.gradient], read, batch)
            self.at.gradient.copy_(gradient)
            facts[0] = go
        state = self._remember(after, inputs.trace)
        if self._steps(self.moments):
            table, rates = self.at.averages(self.moments), self.moments.paced()
            work.call("adam.adam", self.at.gradient, table, rates, *self._adam(self.moments), facts)
            is_finite, norm, learned = facts.unbind()
            if learned:
                self.moments.counts[0] += 1
            return UpdateOutput(out, loss, nan, is_finite > 0, state, inputs.trace, norm, learned > 0, (), read)
        is_finite, norm = facts[0] > 0, torch.linalg.vector_norm(self.at.gradient)
        if self.clip is not None:
            self.at.gradient *= (self.clip / (norm + 1e-6)).clamp(max=1.0)
        gradients = [self.at.gradient_of[id(parameter)].clone() for parameter in step.parameters]
        output = UpdateOutput(
            out, loss, nan, is_finite, state, inputs.trace, norm, is_finite & norm.isfinite(), gradients, read
        )
        return stepped_by(step, output)

    def _loss(self, work: Work, out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient to the outputs: by a kernel where it is a cross entropy."""
        if self.mean is not None and self.ranks is None and of_classes(chunk):
            loss, gradient = out.new_empty(()), torch.empty_like(out)
            labels = chunk.y.contiguous(), chunk.mask.contiguous()
            work.call("cross_entropy.cross_entropy", out, *labels, self.mean, gradient, loss)
            if not math.isfinite(loss):
                loss_of(self.task, out, chunk)  # raises for a label that is no class
            elif not self.unchecked or self._is_reduction(loss, gradient, out, chunk):
                return loss, gradient
        return self._loss_of_task(out, chunk)

    def _loss_of_task(self, out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return the task's loss and its gradient to the outputs, which keep none."""
        with torch.enable_grad():
            leaf = out.detach().requires_grad_()
            loss = loss_of(self.task, leaf if self.ranks is None else self.ranks.placed(leaf, len(chunk.x)), chunk)
            (gradient,) = torch.autograd.grad(loss, [leaf], allow_unused=True, materialize_grads=True)
        return loss.detach(), gradient.contiguous()

    def _is_reduction(self, loss: Tensor, gradient: Tensor, out: Tensor, chunk: Chunk) -> bool:
        """Say whether the task's loss is what its `reduction` says.

        Where not, as in a task that inherits it and has a loss of its own, kernels leave the loss to the task from now.
        """
        self.unchecked -= 1
        found = self._loss_of_task(out, chunk)
        if all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip((loss, gradient), found, strict=True)):
            return True
        self.mean = None
        return False

    def _learn_encoder(self, x: Tensor, gradient: Tensor) -> None:
        """Add the encoder's gradient to where it lies, from that of what it said."""
        rows = gradient.flatten(0, 1)
        if isinstance(self.model.encoder, nn.Embedding):
            self.at.of_encoder.index_add_(0, x.flatten(), rows)
        else:
            self.at.of_encoder.addmm_(rows.T, x.flatten(0, 1))
            self.at.of_bias += rows.sum(0)

    def scans(self, chunk: Chunk) -> bool:
        """Say whether `scan` may be called now: the loss is a cross entropy, and Adam has its averages."""
        own = self.moments
        plain = self.mean is not None and not self.unchecked and self.ranks is None and of_classes(chunk)
        return plain and own is not None and self._steps(own)

    def scan(self, inputs: UpdateInput, length: int) -> tuple[UpdateOutput, list[list[float]]]:
        """Return the pass of a chunk of many updates of `length` steps each, and facts of each update.

        The output is the whole chunk's, its loss the mean of the updates'; facts are whether outputs, loss and signals
        were finite, the norm of the gradient, and whether weights were moved. Raises ValueError for labels that are no
        classes.
        """
        with torch.no_grad():
            return self._scan(inputs, length)

    def _scan(self, inputs: UpdateInput, length: int) -> tuple[UpdateOutput, list[list[float]]]:
        """Do that."""
        model, chunk, own, (b, steps) = self.model, inputs.chunk, self.moments, inputs.x.shape[:2]
        assert own is not None and self.mean is not None
        model.check_input(inputs.x)
        model.check_tokens(inputs.x)
        check_labels(chunk, model.head.out_features)
        self._find_weights()
        conv, ssm = past = [tensor.clone() for tensor in self._state(inputs)]
        traces, many = self._past(inputs.trace), steps // length

        def updates(tensor: Tensor) -> Tensor:
            """Return (b, steps, ...) as (updates, b, length, ...)."""
            apart: Tensor = tensor.unflatten(1, (many, length)).transpose(0, 1)
            return apart.contiguous()

        none, no_index, encoder = self.at.gradient[:0], torch.empty(0, dtype=torch.int64), model.encoder
        reset = TRUE.new_empty(0) if inputs.reset is None else updates(inputs.reset)
        if isinstance(encoder, nn.Linear):
            given, learned = [encoder.weight, encoder.bias, no_index, updates(inputs.x)], self.at.of_bias
        else:
            given, learned = [encoder.weight, none, updates(inputs.x.long()), none], none
        work = self._work(ssm, reset, traces, length, many)
        out, losses = ssm.new_empty(many, b, length, len(model.head.weight)), ssm.new_empty(many)
        facts = ssm.new_zeros(many, 3)
        to = [self.at.of_head, self.at.of_norm, self.at.of_encoder, learned, work.signals]
        labels = updates(chunk.y), updates(chunk.mask)
        top = [model.head.weight, model.norm_f.weight, self.at.weights]
        kept = [conv, ssm, *self.kind.like(self.blocks[0])]
        go = [*traces, self.through, self.mean, self.at.gradients, self.at.gradient]
        step = [self.at.averages(own), own.paced_ahead(many), *self._adam(own)]
        given = [*top, *given, *labels, reset, *kept, *go, *to, *step, out, losses, facts]
        work.call(self.kind.called("scan"), *given)
        found: list[list[float]] = facts.tolist()
        own.counts[0] += sum(taken for _, _, taken in found)
        said = out.transpose(0, 1).flatten(1, 2)
        all_finite = torch.tensor(all(row[0] for row in found))
        state = self._remember(past, inputs.trace)
        nan = out.new_full((), torch.nan)
        return UpdateOutput(said, losses.mean(), nan, all_finite, state, inputs.trace, facts[-1, 1]), found

    def _find_weights(self) -> None:
        """See to it that addresses and memory are those of the weights as they lie now."""
        if self.at.moved():
            like = self.at.gradient
            self.work, self.room, self.past, self.options = {}, [], [], ([], like)
            self.weighed = like.new_tensor(weighed(self.rule))
            self.largest = like.new_tensor(torch.inf if self.clip is None else self.clip)  # norm of the gradient

    def _past(self, trace: Tree) -> list[Tensor]:
        """Return what the kernels are given of what the rule remembers, and of how it is weighed."""
        own = flat(trace)
        tables: list[Sequence[int]] = self.tables if own else [()] * len(self.tables)
        like = own[0] if own and tables[0] else self.at.gradient
        return [*self.at.traces(own, tables), like.new_empty(0), *([self.weighed] if len(tables) > 1 else [])]

    def _state(self, inputs: UpdateInput) -> list[Tensor]:
        """Return conv and ssm of all layers, each in one piece. Raises where state or trace are not of this model."""
        if [*map(id, flat([inputs.state, inputs.trace]))] != [*map(id, self.past)]:
            self.model.check_state(inputs.state, len(inputs.x))
            self.rule.check_trace(inputs.trace, len(inputs.x))
            self.past = flat([inputs.state, inputs.trace])
            self.stacked = _stacked(inputs.state)
        return self.stacked

    def _remember(self, stacked: list[Tensor], trace: Tree) -> Tree:
        """Return the state that the next update begins with, and know it and the trace then."""
        state = _apart(stacked)
        self.past, self.stacked = flat([state, trace]), stacked
        return state

    def _steps(self, own: Moments) -> bool:
        """Say whether the optimiser's step is taken by our kernel: Adam's, once torch has made the averages."""
        optimizer = own.optimizer
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        usual = type(optimizer) is Adam and own.known and not hooked and own.find()
        return usual and self.at.knows(own)

    def _adam(self, own: Moments) -> list[Tensor]:
        """Return what the kernel of Adam's step is given beside the gradient and the rates."""
        options = [[1 - f.betas[0], f.betas[1], 1 - f.betas[1], f.eps, f.weight_decay] for f in own.formulas]
        if options != self.options[0]:
            self.options = options, self.at.gradient.new_tensor(options)
        return [self.options[1], self.largest, TRUE if own.bounded else FALSE]

    def _work(self, ssm: Tensor, reset: Tensor, traces: list[Tensor], t: int, new: int) -> Work:
        """Return the memory for chunks of this kind, which all kinds share."""
        (layers, b, e, n), k = ssm.shape, self.blocks[0].taps
        kind = b, t, new, len(reset), *((own.shape[:1], own.dtype) for own in traces)
        found = self.work.get(kind)
        if found is None:
            sizes = {"l": layers, "b": b, "t": t, "d": self.model.head.in_features, "k": k, "e": e, "n": n}
            sizes |= self.kind.sizes(self.blocks[0])
            kernels, evaluated = module(f"llvm.{self.kind.kernels}"), module("llvm.kernel").evaluated
            shapes = [[evaluated(word, sizes) for word in shape.split()] for shape in kernels.KEPT.values()]
            shapes.append([*ssm.shape])
            if len(self.room) != len(shapes) or any(
                own.numel() < math.prod(shape) for own, shape in zip(self.room, shapes, strict=True)
            ):
                self.work, self.room = {}, [ssm.new_empty(math.prod(shape)) for shape in shapes]
            each = zip(self.room, shapes, strict=True)
            *kept, signals = (own[: math.prod(shape)].view(shape) for own, shape in each)
            found = self.work[kind] = Work(kept, signals, {})
        return found


def weighed(rule: LearningRule) -> list[float]:
    """Return a_post and its decay, a_pre and its decay, of rules that have them."""
    if isinstance(rule, STLLR):
        return [rule.alpha_post, rule.lambda_post, rule.alpha_pre, rule.lambda_pre]
    return [rule.a_post, rule.lam, 0.0, 0.0] if isinstance(rule, RTRLSTDP) else [0.0] * 4


def of_classes(chunk: Chunk) -> bool:
    """Say whether each step of a chunk has a class and a mask, as a cross entropy by a kernel reads them."""
    return chunk.y.dtype == torch.int64 and chunk.y.shape == chunk.mask.shape == chunk.x.shape[:2]


def _stacked(state: Tree) -> list[Tensor]:
    """Return conv and ssm of all layers, each in one piece."""
    return [torch.stack([getattr(own, name) for own in state]) for name in BlockState._fields]


def _apart(stacked: list[Tensor]) -> Tree:
    """Return a state from conv and ssm of all layers."""
    return [BlockState(*own) for own in zip(*stacked, strict=True)]


def serves(model: Model, rule: LearningRule) -> bool:
    """Say whether the kernels do all that an update of the model by the rule asks for, where all its weights learn."""
    plain = type(model) is Model and type(model.encoder) in (nn.Linear, nn.Embedding)
    usual = plain and type(model.head) is nn.Linear and model.feedback == "symmetric"
    kind, *others = {*map(kind_of, model.blocks)}
    if not usual or kind is None or others:
        return False
    of_rule = type(rule) is BPTT or type(rule) in kind.tables(model.blocks[0])
    return of_rule and getattr(rule, "influences", None) is None
