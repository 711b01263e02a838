"""Functional kernels: an update is a function of tensors, for torch.func, for many learners and for exporting."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

import biomamba
from biomamba.metrics import labelled_cross_entropy
from biomamba.pure import Formula, Update
from biomamba.rules import RULES
from biomamba.state import flat, tree_map
from biomamba.update import UpdateInput
from sizes import REAL, SummedLoss, random_model, random_state, random_tokens

pytestmark = pytest.mark.usefixtures("float64")
LEARNERS, STREAMS = 3, 2
OPTIMIZERS: dict[str, Any] = {
    "adam": (Formula(torch.optim.Adam, (0.9, 0.999), 1e-8, 0.1, 0), (1e-2, 1.1), 2),
    "sgd": (Formula(torch.optim.SGD, None, None, 0, 0.9), (1e-2, 0.0), 1),
}


class Labelled(SummedLoss):
    """The same loss in a form whose shapes do not depend on the labels."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the sum, nats."""
        return labelled_cross_entropy(out, chunk)


def update(
    block: str, rule: str, t: int, backend: str = "functional", optimizer: str = "adam", resets: bool = False
) -> tuple[Callable[..., list[Tensor]], list[Tensor]]:
    """Return an update with its optimiser's formula as a function of tensors alone, and such tensors."""
    model = random_model(block, backend=backend)
    options = {"a_post": 0.2} if rule == "rtrl_stdp" else {}
    learning, (formula, rates, averages) = RULES[rule](model.blocks, **options), OPTIMIZERS[optimizer]
    parameters = [*model.parameters()]
    whole, (x, y) = Update(model, Labelled(), learning, 1.0), random_tokens(t, STREAMS)
    mask = torch.ones(STREAMS, t, dtype=torch.bool)
    reset = (torch.rand(STREAMS, t) < 0.4) & mask if resets else None
    trace = tree_map(lambda z: torch.randn_like(z) if z.is_floating_point() else z + 3, learning.init(STREAMS))
    template = [
        [parameter.detach() for parameter in parameters],
        [[torch.rand_like(p) for _ in range(averages)] for p in parameters],
        UpdateInput(x, reset, biomamba.Chunk(x, y, mask, ~mask), random_state(model, STREAMS), trace),
    ]

    def function(*tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        weights, moments, inputs = tree_map(lambda _: next(given), template)
        passed = whole.with_weights(weights, inputs, t, True)
        new = []
        for weight, gradient, own in zip(weights, passed.gradients, moments, strict=True):
            new += formula.stepped([torch.tensor(rate) for rate in rates], weight, gradient, own)
        return [passed.out, passed.loss, passed.gradient_finite, *new, *flat([passed.state, passed.trace])]

    return function, flat(template)


def written(graph: GraphModule) -> list[str]:
    """Return the operations of a graph that write to what it was given, and those of ours."""
    given = {node for node in graph.graph.nodes if node.op == "placeholder"}
    for node in graph.graph.nodes:  # a view of what was given is what was given
        if node.op == "call_function" and "view" in str(node.target) and given & {*node.all_input_nodes}:
            given.add(node)
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        schema = getattr(node.target, "_schema", None)  # none of what Python itself does, such as taking an item
        writes = schema is not None and any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
        if str(node.target).startswith("biomamba") or (writes and given & {*node.all_input_nodes}):
            found.append(str(node.target))
    return found


def differing(graph: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    """Return the largest difference."""
    return max(
        (float((a.double() - b.double()).abs().max()) for a, b in zip(graph, plain, strict=True) if a.numel()),
        default=0.0,
    )


def moved(tensor: Tensor, learner: int) -> Tensor:
    """Return the tensor for another learner: other numbers, and tokens and labels at other steps."""
    if tensor.is_floating_point():
        return tensor + 0.1 * torch.rand_like(tensor)
    return tensor.roll(learner, -1) if tensor.ndim == 2 else tensor + learner


CASES = [
    *((block, "rtrl", t, "adam") for block in REAL for t in (1, 3)),
    *(("mamba2", rule, 3, "sgd") for rule in RULES),
]


@pytest.mark.parametrize("block, rule, t, optimizer", CASES)
def test_a_graph_of_an_update_writes_to_nothing_it_was_given(block: str, rule: str, t: int, optimizer: str) -> None:
    """And gives what other kernels give; of these, whose graph is the control, a part is ours or writes."""
    function, tensors = update(block, rule, t, optimizer=optimizer, resets=t > 1)
    before = [tensor.clone() for tensor in tensors]
    graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    assert written(graph) == []
    got = graph(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert differing(got, function(*tensors)) < 1e-12
    torch.manual_seed(0)
    other, _ = update(block, rule, t, "torch", optimizer, t > 1)
    copies = [tensor.clone() for tensor in tensors]
    assert differing(got, other(*copies)) < 1e-9
    control = make_fx(other, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    ours = written(control)
    assert bool(ours) == (t > 1 or rule == "rtrl"), ours


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batched form of some operations
@pytest.mark.parametrize("block, rule, t, optimizer", CASES)
def test_many_learners_at_once_are_one_by_one(block: str, rule: str, t: int, optimizer: str) -> None:
    """Each with its own weights, averages, state, trace and stream, under torch.func.vmap."""
    function, tensors = update(block, rule, t, optimizer=optimizer)
    graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    each = []
    for _ in range(LEARNERS):
        each.append([moved(tensor, len(each)) for tensor in tensors])
    together = torch.func.vmap(graph)(*(torch.stack(own) for own in zip(*each, strict=True)))
    for i, own in enumerate(each):
        assert differing([tensor[i] for tensor in together], function(*own)) < 1e-9
    assert not torch.allclose(together[0][0], together[0][1]), "the learners are the same"


@pytest.mark.parametrize("block", REAL)
def test_they_learn_in_the_loop_like_others(block: str) -> None:
    found = []
    for backend in ("torch", "functional"):
        model = random_model(block, n_layers=2, backend=backend)
        torch.manual_seed(1)
        (x, y), mask = random_tokens(12, STREAMS), torch.ones(STREAMS, 3, dtype=torch.bool)
        parts = [biomamba.Chunk(x[:, s : s + 3], y[:, s : s + 3], mask, ~mask) for s in range(0, 12, 3)]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        *_, report = biomamba.online(parts, biomamba.Learner(Labelled(), model, RULES["rtrl"](model.blocks), optimizer))
        assert report.state.updates == 4
        found.append([*(p.detach() for p in model.parameters()), *flat([report.state.model_state, report.state.trace])])
    assert differing(*found) < 1e-9
