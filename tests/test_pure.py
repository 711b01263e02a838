"""The pure update is the learner's, and changes nothing it is given."""

from typing import Any

import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.metrics import labelled_cross_entropy
from biomamba.pure import Memory, PureUpdate, graph
from biomamba.rules import RULES
from biomamba.state import flat, leaves
from sizes import REAL, SummedLoss, random_model, random_tokens

pytestmark = pytest.mark.usefixtures("float64")
STREAMS = 2
OPTIMIZERS: dict[str, Any] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.5),
    "groups": lambda parameters: torch.optim.Adam(
        [{"params": parameters[1::2], "lr": 1e-3}, {"params": parameters[::2], "weight_decay": 0.1}], lr=1e-2
    ),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
}


class Labelled(SummedLoss):
    """The same loss in a form whose shapes do not depend on the labels."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the sum, nats."""
        return labelled_cross_entropy(out, chunk)


def stream(length: int, updates: int, streams: int = STREAMS) -> list[biomamba.Chunk]:
    """Return chunks with resets and with steps, and whole chunks, that are not labelled."""
    torch.manual_seed(1)
    found = []
    for i in range(updates):
        x, y = random_tokens(length, streams)
        mask = torch.rand(streams, length) < (0.6 if i % 3 else 0.0)
        found.append(biomamba.Chunk(x, y, mask, torch.rand(streams, length) < 0.1))
    return found


def learner(block: str, rule: str = "rtrl", optimizer: str = "adam", **options: Any) -> biomamba.Learner:
    """Return a learner."""
    model = random_model(block, **options)
    learning = RULES[rule](model.blocks, **({"a_post": 0.2} if rule == "rtrl_stdp" else {}))
    return biomamba.Learner(Labelled(), model, learning, OPTIMIZERS[optimizer]([*model.parameters()]))  # type: ignore[arg-type]


def pure(own: biomamba.Learner, resets: bool = True) -> PureUpdate:
    """Return the learner's update as a function."""
    return PureUpdate(own.task, own.model, own.rule, own.optimizer, own.clip, resets)


CASES = [
    *((block, "rtrl", "adam", length, layers) for block in REAL for length, layers in ((1, 1), (3, 2))),
    *(("mamba2", rule, "sgd", 2, 1) for rule in RULES),
    ("diagonal", "rtrl", "plain sgd", 2, 1),
    ("diagonal", "rtrl", "groups", 2, 1),
]


@pytest.mark.parametrize("block, rule, optimizer, length, layers", CASES)
def test_a_pure_update_is_the_learners(block: str, rule: str, optimizer: str, length: int, layers: int) -> None:
    """And leaves model, optimiser and what it was given as they were, and goes on from where a learner is."""
    chunks, own = stream(length, 24), learner(block, rule, optimizer, n_layers=layers)
    apart, outs = learner(block, rule, optimizer, n_layers=layers), []
    reports = biomamba.online(chunks, own)
    for _ in range(4):
        outs.append(next(reports).out)
    update = pure(own)
    assert own.state is not None
    memory = update.memory(STREAMS, own.state.model_state, own.state.trace)
    learned = []
    for chunk in chunks[4:]:
        before = [tensor.clone() for tensor in flat(memory)]
        result = update(memory, chunk, torch.tensor(1e-2))
        assert all(torch.equal(a, b) for a, b in zip(flat(memory), before, strict=True))
        memory = result.memory
        outs.append(result.out)
        learned.append(bool(result.learned))
    assert any(learned) and not all(learned)
    for out, report in zip(outs, biomamba.online(chunks, apart), strict=True):
        torch.testing.assert_close(out, report.out, rtol=1e-9, atol=1e-9)
    assert apart.state is not None
    same(memory, pure(apart).memory(STREAMS, apart.state.model_state, apart.state.trace))
    state, trace = update.restore(memory)
    same(memory, update.memory(STREAMS, state, trace))


def same(memory: Memory, other: Memory) -> None:
    """Raise unless two memories are of the same form and hold nearly the same numbers."""
    found, expected = dict(leaves(memory)), dict(leaves(other))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_what_is_not_finite_moves_nothing() -> None:
    own = learner("mamba2")
    update, chunk = pure(own), stream(3, 2)[1]
    memory = update.memory(STREAMS)
    memory.state[0].ssm[:] = torch.nan
    result = update(memory, chunk, torch.tensor(1e-2))
    assert not result.finite and not result.learned
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(flat(memory), flat(result.memory), strict=True)
    )
    result = update(update.memory(STREAMS), chunk, torch.tensor(torch.inf))  # the step, not the gradient
    assert result.finite and not result.learned and result.memory.step == 0


def test_a_graph_without_resets_is_smaller_and_does_not_read_them() -> None:
    own, (_, chunk) = learner("mamba2"), stream(3, 2)
    chunk = chunk._replace(reset=torch.ones_like(chunk.reset))
    many, few = (
        graph(update, update.memory(STREAMS), chunk, torch.tensor(1e-2)) for update in (pure(own), pure(own, False))
    )
    assert len(few.graph.nodes) < len(many.graph.nodes)
    rates = torch.tensor(1e-2)
    never = pure(own)(pure(own).memory(STREAMS), chunk._replace(reset=torch.zeros_like(chunk.reset)), rates)
    without, resetting = (own(own.memory(STREAMS), chunk, rates) for own in (pure(own, False), pure(own)))
    assert torch.equal(without.out, never.out)
    assert not torch.allclose(resetting.out, never.out)


def test_what_has_no_formula_is_refused() -> None:
    model = random_model("diagonal")
    for optimizer in (torch.optim.RMSprop(model.parameters()), torch.optim.Adam(model.parameters(), amsgrad=True)):
        with pytest.raises(ValueError, match="expected Adam or SGD on all parameters"):
            PureUpdate(Labelled(), model, RULES["rtrl"](model.blocks), optimizer)  # type: ignore[arg-type]
    tables = random_model("diagonal", ngrams=(2,), ngram_bits=4)
    with pytest.raises(ValueError, match="n-gram tables, which learn outside"):
        PureUpdate(Labelled(), tables, RULES["rtrl"](tables.blocks), torch.optim.Adam(tables.parameters()))  # type: ignore[arg-type]
