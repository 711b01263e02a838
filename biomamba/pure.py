"""One update as a pure function of tensors, the optimiser's step too: what is compiled, exported and batched.

    result = update(memory, chunk, lr)      memory = weights, moments, step, state, trace       result.memory: the next

Nothing is written to what was given, and no operator of ours is called (the backend functional), so that torch.func
may batch it over many learners and `graph` may take it down as torch operations alone.
Shapes: b streams, t steps, w >= t steps read, e channels, n states, k conv taps, d model width.

    weights   {name: as the model's parameter}
    moments   {exp_avg, exp_avg_sq} with Adam, {momentum_buffer} with SGD and momentum: of each group of the optimiser
              one vector, the numbers of its weights one after the other, in the model's order
    step      () float64: updates that Adam has taken; SGD, which does not ask, leaves it
    state     a `BlockState` for each block: conv (b, k - 1, d), ssm (b, e, n)
    trace     a tree for each block, as the rule keeps it: of RTRL {influence: as `ops.influence` says}
    chunk     x (b, t) int64 or (b, t, d_in), y (b, t, ...), mask and reset (b, t) bool
    lr        () learning rate, of the optimiser's quickest group where there are several
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import SGD, Adam, Optimizer

from .blocks.base import Block
from .model import Model
from .rules.base import LearningRule
from .state import Tree, copy, flat, tree_map
from .stream import Chunk, Task
from .update import UpdateInput, UpdateOutput, finite, learn, predict, scale_of, trainable_parameters

MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("exp_avg", "exp_avg_sq"),
    SGD: ("momentum_buffer",),
}
RARE = {
    "amsgrad": False,
    "maximize": False,
    "nesterov": False,
    "dampening": 0,
    "decoupled_weight_decay": False,
}  # options that the formula leaves out


class Formula(NamedTuple):
    """An optimiser's step, as torch.optim's documentation defines it."""

    kind: type[Optimizer]
    betas: tuple[float, float] | None
    eps: float | None
    weight_decay: float
    momentum: float | None

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of the averages it keeps of each weight."""
        return () if self.kind is SGD and not self.momentum else MOMENTS[self.kind]

    def rates(self, lr: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `stepped` takes at update s = step + 1: for Adam lr / (1 - b1^s) and 1 / sqrt(1 - b2^s)."""
        if self.betas is None:
            return lr, lr
        first, second = (1 - beta ** (step + 1) for beta in self.betas)
        return (lr / first).to(lr.dtype), second.rsqrt().to(lr.dtype)

    def stepped(
        self, rates: Sequence[Tensor], weight: Tensor, gradient: Tensor, moments: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return weight and moments after a step; rates are those of `rates`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * weight
        if self.kind is SGD:
            moment = self.momentum * moments[0] + gradient if self.momentum else gradient
            return [weight - rates[0] * moment, *([moment] if self.momentum else [])]
        assert self.betas is not None and self.eps is not None
        first = moments[0].lerp(gradient, 1 - self.betas[0])
        second = self.betas[1] * moments[1] + (1 - self.betas[1]) * gradient * gradient
        return [weight - rates[0] * first / (second.sqrt() * rates[1] + self.eps), first, second]


def formulas_of(optimizer: Optimizer) -> tuple[Formula, ...]:
    """Return the formula of each of the optimiser's groups."""
    kind, groups = type(optimizer), optimizer.param_groups
    return tuple(
        Formula(kind, own.get("betas"), own.get("eps"), own["weight_decay"], own.get("momentum")) for own in groups
    )


def group_of(optimizer: Optimizer, learning: Sequence[Tensor]) -> list[int]:
    """Return the number of the group that each parameter belongs to."""
    groups = enumerate(optimizer.param_groups)
    held = {id(parameter): number for number, group in groups for parameter in group["params"]}
    return [held.get(id(parameter), 0) for parameter in learning]


def has_formula(optimizer: Optimizer, learning: Sequence[Tensor]) -> bool:
    """Say whether `Formula` knows the optimiser's step, and it steps just these parameters."""
    groups = optimizer.param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    ours = type(optimizer) in MOMENTS and held == {*map(id, learning)}
    usual = all(group.get(name, value) == value for group in groups for name, value in RARE.items())
    return ours and usual and len({bool(group.get("momentum", True)) for group in groups}) == 1


class Memory(NamedTuple):
    """All that a learner carries from update to update, plain tensors."""

    weights: dict[str, Tensor]
    moments: dict[str, list[Tensor]]
    step: Tensor
    state: Tree
    trace: Tree


class Result(NamedTuple):
    """What an update gives."""

    out: Tensor  # (b, t, d_out) predictions, made before learning from the chunk
    loss: Tensor  # () nats
    norm: Tensor  # () of the gradient before clipping
    finite: Tensor  # () bool: out, loss and learning signals are; where not, the memory is as it was
    learned: Tensor  # () bool: some step was labelled, and gradient and new weights are finite too
    memory: Memory


class Update(nn.Module):
    """`update.learn` and `update.predict` as a module, so that weights can be given from outside."""

    def __init__(self, model: Model, task: Task, rule: LearningRule, clip: float | None) -> None:
        """Take what an update needs."""
        super().__init__()
        self.model, self.task, self.rule, self.clip = model, task, rule, clip
        self.names, self.parameters_of_model = zip(*model.named_parameters(), strict=True)

    def forward(self, inputs: UpdateInput, advance: int, labelled: bool) -> UpdateOutput:
        """Return the pass of a chunk."""
        if labelled:
            return learn(self.model, self.task, self.rule, inputs, advance, self.clip)
        return predict(self.model, self.task, self.rule, inputs, advance)

    def with_weights(self, weights: Sequence[Tensor], *given: Any) -> UpdateOutput:
        """Return what `forward` does by other weights than the model's, in the order of its parameters."""
        fresh = [
            weight.detach().requires_grad_(parameter.requires_grad)
            for weight, parameter in zip(weights, self.parameters_of_model, strict=True)
        ]
        named = {f"model.{name}": weight for name, weight in zip(self.names, fresh, strict=True)}
        return cast(UpdateOutput, functional_call(self, named, given))


class PureUpdate:
    """An update of a model by a rule and an optimiser's formula, as a function of tensors."""

    def __init__(
        self,
        task: Task,
        model: Model,
        rule: LearningRule,
        optimizer: Optimizer,
        clip: float | None = 1.0,
        resets: bool = True,
        backend: str = "functional",
    ) -> None:
        """Take what belongs together, and leave it as it is.

        resets: False where no sequence ever begins anew, which makes a smaller graph; `chunk.reset` is not read then.
        backend: functional or unfused, see `ops.backend`.
        Raises ValueError for a model with n-gram tables, which lie outside, and for an optimiser other than Adam and
        SGD with their usual options.
        """
        if model.ngrams is not None:
            raise ValueError("model: has n-gram tables, which learn outside of the update: give one without ngrams")
        if not has_formula(optimizer, trainable_parameters(model)):
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, expected Adam or SGD on all parameters that "
                "learn, without amsgrad, maximize, nesterov and dampening: give torch.optim.Adam(model.parameters())"
            )
        self.model, self.optimizer, self.resets, self.backend = model, optimizer, resets, backend
        self.whole, self._silent = Update(model, task, rule, None), Update(model, cast(Task, _Silent()), rule, None)
        self.rule, self.clip, self.formulas = rule, clip, formulas_of(optimizer)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.lr = max(rates)  # of the quickest group; the others are slower by these factors
        self.factors = [rate / self.lr if self.lr else 1.0 for rate in rates]
        self.learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        own = zip(self.learning, group_of(optimizer, trainable_parameters(model)), strict=True)
        each = [*own]
        self.members = [[name for name, group in each if group == number] for number in range(len(self.formulas))]

    def memory(self, batch: int, state: Tree = None, trace: Tree = None) -> Memory:
        """Return what model and optimiser hold now, in memory of its own, with a state and trace (default: zeros)."""
        weights: dict[str, Tensor] = dict(self.model.named_parameters())
        step = max(float(self.optimizer.state.get(weights[name], {}).get("step", 0)) for name in self.learning)
        moments = {
            key: [self._moment(key, names, weights) for names in self.members] for key in self.formulas[0].moments
        }
        state = self.model.init_state(batch) if state is None else state
        trace = self.rule.init(batch) if trace is None else trace
        number = torch.tensor(step, dtype=torch.float64, device=next(iter(weights.values())).device)
        return cast(Memory, tree_map(torch.Tensor.contiguous, copy(Memory(weights, moments, number, state, trace))))

    def _moment(self, key: str, names: Sequence[str], weights: dict[str, Tensor]) -> Tensor:
        """Return an average of a group's weights, zero where there is none yet."""
        held = [(weights[name], self.optimizer.state.get(weights[name], {}).get(key)) for name in names]
        return _one([torch.zeros_like(weight) if own is None else own for weight, own in held], self.model.head.weight)

    @torch.no_grad()
    def restore(self, memory: Memory) -> tuple[Tree, Tree]:
        """Give model and optimiser what a memory holds; return state and trace, in memory of their own."""
        named = dict(self.model.named_parameters())
        for name, weight in memory.weights.items():
            named[name].copy_(weight)
        for number, names in enumerate(self.members):
            parts = {key: _apart(own[number], [named[name] for name in names]) for key, own in memory.moments.items()}
            for i, name in enumerate(names):
                own = {key: each[i].clone() for key, each in parts.items()}
                if self.formulas[0].kind is Adam:
                    own["step"] = memory.step.to(torch.float32).cpu()
                self.optimizer.state[named[name]] = own
        return copy(memory.state), copy(memory.trace)

    def __call__(self, memory: Memory, chunk: Chunk, lr: Tensor) -> Result:
        """Predict, and learn where a step is labelled: what `Learner.update` does without a window."""
        inputs = UpdateInput(chunk.x, chunk.reset if self.resets else None, chunk, memory.state, memory.trace)
        weights = [memory.weights[name] for name in self.whole.names]
        with functional(self.model, self.backend):
            output = self.whole.with_weights(weights, inputs, chunk.x.shape[1], True)
        each = dict(zip(self.learning, output.gradients, strict=True))
        gradients = [_one([each[name] for name in names], lr) for names in self.members]
        norm = torch.linalg.vector_norm(torch.cat(gradients))
        if self.clip is not None:
            scale = scale_of(norm, self.clip)
            gradients = [gradient * scale for gradient in gradients]
        stepped = list[list[Tensor]]()
        before = [[_one([memory.weights[name] for name in names], lr)] for names in self.members]
        for number, (formula, factor, gradient) in enumerate(zip(self.formulas, self.factors, gradients, strict=True)):
            rates = formula.rates(lr if factor == 1 else lr * factor, memory.step)
            before[number] += [own[number] for own in memory.moments.values()]
            stepped.append(formula.stepped(rates, before[number][0], gradient, before[number][1:]))
        learned = output.forward_finite & torch.isfinite(norm) & chunk.mask.any() & finite([own[0] for own in stepped])
        step = torch.where(learned, memory.step + 1, memory.step) if self.formulas[0].betas else memory.step
        pairs = [zip(new, old, strict=True) for new, old in zip(stepped, before, strict=True)]
        kept = [[torch.where(learned, now, then) for now, then in each] for each in pairs]
        weights_after = dict(memory.weights)
        for names, own in zip(self.members, kept, strict=True):
            weights_after |= zip(names, _apart(own[0], [memory.weights[name] for name in names]), strict=True)
        moments_after = {key: [own[i + 1] for own in kept] for i, key in enumerate(memory.moments)}
        after = Memory(weights_after, moments_after, step, output.state, output.trace)
        return Result(output.out, output.loss, norm, output.forward_finite, learned, after)

    def advance(self, memory: Memory, x: Tensor, reset: Tensor) -> Result:
        """Predict, and move state and trace on: what `__call__` does where no step is labelled, with less work."""
        none = torch.zeros_like(reset)
        chunk = Chunk(x, none, none, reset)
        inputs = UpdateInput(x, reset if self.resets else None, chunk, memory.state, memory.trace)
        weights = [memory.weights[name] for name in self.whole.names]
        with functional(self.model, self.backend):
            output = self._silent.with_weights(weights, inputs, x.shape[1], False)
        after = memory._replace(state=output.state, trace=output.trace)
        loss, nothing = output.loss, torch.zeros_like(output.forward_finite)
        return Result(output.out, loss, loss, output.forward_finite, nothing, after)

    def predict(self, weights: dict[str, Tensor], state: Tree, x: Tensor, reset: Tensor) -> tuple[Tensor, Tree]:
        """Return the predictions (b, t, d_out) for x, and the state after it."""
        with functional(self.model, self.backend), torch.no_grad():
            given = x, state, reset if self.resets else None
            out, after, _ = functional_call(self.model, weights, given)
        return out, after


def _one(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the numbers of all tensors, one after the other."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors]) if tensors else like.new_empty(0)


def _apart(whole: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of which `whole` holds the numbers."""
    parts = whole.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


class _Silent:
    """A task without a loss."""

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return 0."""
        return out.new_zeros(())


@contextmanager
def functional(model: Model, backend: str = "functional") -> Iterator[None]:
    """Have the model's blocks write to nothing they are given, by one of `ops.backend.FUNCTIONAL`."""
    blocks = cast(list[Block], list(model.blocks))
    before = [block.backend for block in blocks]
    try:
        for block in blocks:
            block.backend = backend
        yield
    finally:
        for block, backend in zip(blocks, before, strict=True):
            block.backend = backend


def graph(
    function: Callable[..., Tree], *given: Tree, table: dict[Any, Callable[..., Any]] | None = None
) -> GraphModule:
    """Return the function as a graph of torch operations; it takes and gives the trees' tensors as `state.flat` does.

    table: operations to be taken apart, and how.
    """

    def whole(*tensors: Tensor) -> list[Tensor]:
        rest = iter(tensors)
        return flat(function(*tree_map(lambda _: next(rest), [*given])))

    return make_fx(whole, table, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat([*given]))
