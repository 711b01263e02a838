"""A graph without axes of size 1, and with gradients of few operations, gives the numbers of that it comes from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.deploy.decompose import table
from biomamba.deploy.formulas import Formulas
from biomamba.deploy.program import learning
from biomamba.deploy.squeeze import squeezed
from biomamba.pure import graph
from biomamba.rules import RULES
from sizes import REAL
from test_pure import learner, pure, stream

QUICK = [("mamba2", "rtrl", 1, 1), ("diagonal", "rtrl", 2, 3)]
RULED = [*((block, "rtrl") for block in REAL), *(("mamba2", rule) for rule in RULES if rule != "rtrl")]
EVERY = [(*own, streams, length) for own in RULED for streams, length in ((1, 1), (2, 3))]
CASES = [*QUICK, *(pytest.param(*own, marks=pytest.mark.slow) for own in EVERY if own not in QUICK)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block, rule, streams, length", CASES)
def test_a_squeezed_update_is_the_update(block: str, rule: str, streams: int, length: int) -> None:
    """On other numbers than those it was made with, with resets, without labels, and where something is not finite."""
    update, chunks, lr = pure(learner(block, rule)), stream(length, 4, streams), torch.tensor(1e-2)
    fused, update.backend = learning(update, update.memory(streams), chunks[0], lr), "unfused"
    made = learning(update, update.memory(streams), chunks[0], lr)
    own = squeezed(made.graph, [*made.inputs.values(), *made.carried.values()])
    assert len(own.graph.nodes) < len(made.graph.graph.nodes) * (0.75 if length == 1 else 1)
    carried = [held + 0.1 if held.is_floating_point() else held for held in made.carried.values()]
    for i, chunk in enumerate(chunks):
        reset = torch.full_like(chunk.reset, i == 2)
        mask = torch.full_like(chunk.mask, i != 1)
        if i == 3:
            carried = [torch.full_like(held, torch.nan) if held.is_floating_point() else held for held in carried]
        given = [*made.feed(chunk._replace(reset=reset, mask=mask), lr), *carried]
        expected, found = fused.graph(*given), own(*given)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, equal_nan=True)
        other = made.graph(*[t * 1.001 if t.is_floating_point() else t for t in given])
        assert i == 3 or not torch.allclose(other[0], found[0], rtol=1e-10)  # the numbers do tell
        carried = list(expected[len(made.outputs) :])


def in_place(x: Tensor) -> list[Tensor]:
    """Return a tensor that was written to, and a view that saw it."""
    y = x * 2
    view = y.view(-1)
    y.add_(1)
    return [view, y.squeeze(0)]


x, row, single = torch.arange(12.0).view(1, 3, 1, 4), torch.arange(4.0).view(1, 1, 4), torch.tensor([[0.3]])
OPERATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    "sums": lambda x, r, s: [
        x.sum((0, 2)),
        x.sum(1, keepdim=True),
        r.expand(3, 2, 4).sum((0, 1)),
        x.mean((2, 3)),
        x.amax(-1),
    ],
    "of all": lambda x, r, s: [x.sum(), s.sum(), (x > 2).any(), (s > 0).all(), (x > 2).all(3), (s > 0).sum(), s.mean()],
    "precision": lambda x, r, s: [
        x.sum(3, dtype=torch.float64),
        s * torch.tensor(2.0, dtype=torch.float64),
        s.view(torch.int32),
    ],
    "spread": lambda x, r, s: [
        r.expand(2, 3, 4) * s,
        s.expand(2, 3) + 1,
        r.unsqueeze(-1).expand(1, 1, 4, 2).reshape(8),
        s.expand(2, 1).T,
    ],
    "parts": lambda x, r, s: [
        x[:, 1:],
        x[0, -1],
        x[..., 1:2],
        x[:, :, 0, 3],
        x.flip(1),
        x.flip(0, 2),
        r.expand(2, 3, 4)[:, 1],
    ],
    "runs": lambda x, r, s: [x.cumsum(1), x.cumsum(2), s.unfold(1, 1, 1), row.unfold(2, 4, 1), x.unfold(3, 2, 1)],
    "frames": lambda x, r, s: [
        F.pad(r, [1, 0]),
        F.pad(r, [0, 0, 2, 1]),
        F.pad(s, [0, 0]),
        F.pad(s, [1, 1, 0, 2], value=3),
    ],
    "joined": lambda x, r, s: [
        torch.stack([s[0, 0], s.sum()]),
        torch.cat([x, x * 2], 2),
        torch.cat([r[:, :0], r], 1),
        torch.stack([r, r], 1),
        torch.cat([s, torch.zeros(1, 3)], 1),
    ],
    "turned": lambda x, r, s: [
        x.permute(3, 2, 1, 0),
        x.transpose(1, 3).transpose(0, 2).contiguous().transpose(1, 3),
        x[0, :, 0].t().t(),
        r.mT,
        s.sum().t(),
    ],
    "products": lambda x, r, s: [
        x[0, :, 0] @ r[0].T,
        r @ x[0, :, 0].T,
        s @ s,
        x[0].mT @ x[0],
        x[0, :, 0].T @ x[0, :, 0],
    ],
    "ones": lambda x, r, s: [x * 1, r / 1, s**1, x.long() / 1, s * 1.0 + 0],
    "filled": lambda x, r, s: [x * 0 + torch.ones_like(r), torch.zeros(2, 1, 3) + s, torch.full((1, 2), 7.0).sum(1)],
    "the same again": lambda x, r, s: [x, x.view(3, 4), r],
    "written to": lambda x, r, s: in_place(x),
    "of two": lambda x, r, s: [*x.max(3), *x.topk(2)],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_its_value(name: str) -> None:
    """And its shape and precision."""
    made = graph(lambda *given: OPERATIONS[name](*given), x, row, single)
    own = squeezed(made, [x, row, single])
    given = x.sin(), row.cos(), single * 2
    expected = OPERATIONS[name](*given)
    for a, b in zip(own(*given), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(own(x, row, single), expected, strict=True))


TOKENS, LABELS = torch.tensor([[3, 1, 3]]), torch.tensor([2, 0, -100, 4])
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "rms_norm": lambda v: F.rms_norm(v, (5,), torch.arange(5.0), 1e-3),
    "rms_norm without weights": lambda v: F.rms_norm(v, (5,)),
    "rms_norm of two axes": lambda v: F.rms_norm(v, (4, 5), None, 1e-3),
    "silu": F.silu,
    "softplus": lambda v: F.softplus(v * 30),
    "softplus, beta": lambda v: F.softplus(v, beta=2.0),
    "cross entropy, sum": lambda v: F.cross_entropy(v, LABELS, reduction="sum"),
    "cross entropy, mean": lambda v: F.cross_entropy(v, LABELS),
    "cross entropy, each": lambda v: F.cross_entropy(v, LABELS, reduction="none"),
    "cross entropy, a class ignored": lambda v: F.cross_entropy(v, LABELS.abs() % 5, ignore_index=2),
    "cross entropy, weights": lambda v: F.cross_entropy(v, LABELS, torch.arange(5.0) + 1),
    "cross entropy, smoothed": lambda v: F.cross_entropy(v, LABELS, label_smoothing=0.1),
    "embedding": lambda v: F.embedding(TOKENS, v),
    "embedding, padding": lambda v: F.embedding(TOKENS, v, padding_idx=3),
    "split": lambda v: torch.cat([part * i for i, part in enumerate(v.split(2, 1))], 1),
    "isfinite": lambda v: torch.where(torch.isfinite(v / v.round()), v, v * 2),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gradient_of_few_operations_is_torchs(name: str) -> None:
    """And the value."""

    def both(v: Tensor, by: Callable[[Tensor], Tensor]) -> list[Tensor]:
        v = v.detach().requires_grad_()
        value = by(v)
        (grad,) = torch.autograd.grad(value, v, torch.linspace(1, 2, value.numel()).to(value).view(value.shape))
        return [value.detach(), grad]

    function, v = FUNCTIONS[name], torch.linspace(-1.3, 1.7, 20).to(torch.float64).view(4, 5)
    with Formulas():
        made = graph(lambda v: both(v, function), torch.zeros_like(v), table=table())
    backward = [str(n.target) for n in made.graph.nodes if "backward" in str(n.target)]
    assert not backward
    found, expected = made(v), both(v, function)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(made(v * 1.01)[0], expected[0]) or not torch.allclose(made(v * 1.01)[1], expected[1])
