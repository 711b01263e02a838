"""A step that would leave a weight that is not finite is taken back: weights and optimiser as before, and counted."""

import copy
import math
from typing import Any

import pytest
import torch

import biomamba
from biomamba.compiled import Compiled
from biomamba.moments import Moments
from biomamba.rules import RTRL
from biomamba.step import Step
from sizes import SummedLoss, chunks, random_model, random_tokens

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "fused adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
}
RATES = [math.inf, 1e38, 1e308]


class Labelled(SummedLoss):
    """The same loss in a form whose shapes do not depend on the labels."""

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        """Return the sum, nats."""
        return biomamba.metrics.labelled_cross_entropy(out, chunk)


def everything(parameters: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Return a copy of weights and the optimiser's state."""
    return copy.deepcopy([[p.detach() for p in parameters], optimizer.state_dict()])


def flat(tree: Any) -> list[Any]:
    """Return every leaf of it, with the keys."""
    if isinstance(tree, dict):
        return [leaf for key, branch in tree.items() for leaf in [key, *flat(branch)]]
    return [leaf for branch in tree for leaf in flat(branch)] if isinstance(tree, list | tuple) else [tree]


def same(a: Any, b: Any) -> bool:
    """Say whether two are equal to the bit."""
    a, b = flat(a), flat(b)
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("rate", [math.inf, 1e308])
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_taken_back_to_the_bit(name: str, steps_before: int, rate: float) -> None:
    """At the first step too, which makes the optimiser's averages; what follows is as if it had not been."""
    runs = []
    for bad in (False, True):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(5))]
        optimizer = OPTIMIZERS[name](parameters, lr=0.1)
        step = Step(optimizer, parameters)
        gradients = [[torch.randn_like(p) for p in parameters] for _ in range(6)]
        for gradient in gradients[:steps_before]:
            assert step(gradient)
        if bad:
            before = everything(parameters, optimizer)
            optimizer.param_groups[0]["lr"] = rate
            assert not step(gradients[4])
            optimizer.param_groups[0]["lr"] = 0.1
            assert same(everything(parameters, optimizer), before)
        assert step(gradients[5])
        runs.append(everything(parameters, optimizer))
    assert same(*runs)
    assert same(runs[0], runs[0]) and not same(runs[0], before)  # control: a step is noticed


def test_an_optimizer_that_puts_others_in_the_place_of_its_averages_is_taken_back() -> None:
    class Replacing(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1, "seen": 0})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                group["seen"] += 1
                for p in group["params"]:
                    own = self.state[p]
                    own["sum"] = own.get("sum", 0) + p.grad
                    own["count"] = own.get("count", 0) + 1
                    p.data -= group["lr"] * own["sum"]

    parameter = torch.nn.Parameter(torch.randn(4))
    optimizer = Replacing([parameter])
    step = Step(optimizer, [parameter])
    assert step([torch.ones(4)])
    before = everything([parameter], optimizer)
    assert not step([torch.full((4,), math.inf)])
    assert same(everything([parameter], optimizer), before)
    assert step([torch.ones(4)]) and not same(everything([parameter], optimizer), before)


def test_another_error_of_the_optimizer_is_the_users() -> None:
    parameter = torch.nn.Parameter(torch.randn(4))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.step = lambda: (_ for _ in ()).throw(RuntimeError("mine"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="mine"):
        Step(optimizer, [parameter])([torch.ones(4)])


def learned(name: str, rate: float, compiled: bool = False) -> tuple[biomamba.Model, list[biomamba.Report], Any]:
    """Return the model after a short stream, with its reports, and all it and the optimiser held before."""
    model = random_model("mamba2", backend="torch")
    optimizer = OPTIMIZERS[name](model.parameters(), lr=rate)
    before = everything(model.parameters(), optimizer)
    stream = chunks(*random_tokens(8), 2) * 5
    reports = list(
        biomamba.online(stream, biomamba.Learner(Labelled(), model, RTRL(model.blocks), optimizer, compile=compiled))
    )
    return model, reports, (before, everything(model.parameters(), optimizer))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["adam", "fused adam", "adamw", "momentum", "rmsprop"])
def test_no_rate_leaves_a_weight_that_is_not_finite(name: str, rate: float) -> None:
    model, reports, (before, after) = learned(name, rate)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    loop_state = reports[-1].state
    assert loop_state.skipped >= 19 and loop_state.updates + loop_state.skipped == 20
    if loop_state.updates == 0:
        assert same(before[0], after[0]) and not after[1]["state"]
        assert all(report.norm is None for report in reports)
    _, fine, _ = learned(name, 0.1 if name == "momentum" else 1e-2)  # control
    assert fine[-1].state.skipped == 0 and float(fine[-1].loss) < 0.8 * float(fine[3].loss)


@pytest.mark.parametrize("name", ["adam", "momentum"])
@pytest.mark.parametrize("rate", RATES)
def test_the_same_inside_a_graph(name: str, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that is made, though not compiled, from a stream that learns before the rate is lost."""
    kinds, make = [], Compiled._make

    def noted(self: Compiled, kind: Any, seen: Any) -> Any:
        kinds.append(kind)
        return make(self, kind, seen)

    monkeypatch.setattr(Compiled, "_make", noted)
    monkeypatch.setattr("biomamba.compiled.compile_graph", lambda graph, given: torch.no_grad()(graph))
    _lose_the_rate(name, rate)
    assert [kind.bounded for kind in kinds] == [True, False], "a usual rate needs no look at the weights, this one does"


@pytest.mark.slow
def test_the_same_compiled() -> None:
    _lose_the_rate("adam", math.inf)


def _lose_the_rate(name: str, rate: float) -> None:
    results = []
    for compiled in (False, True):
        model = random_model("mamba2", backend="torch")
        optimizer = OPTIMIZERS[name](model.parameters(), lr=1e-2)
        stream = chunks(*random_tokens(8), 2) * 3
        seen = []
        for report in biomamba.online(
            stream, biomamba.Learner(Labelled(), model, RTRL(model.blocks), optimizer, compile=compiled)
        ):
            seen.append((report.state.updates, report.state.skipped))
            if report.state.steps == 8:
                before, optimizer.param_groups[0]["lr"] = everything(model.parameters(), optimizer), rate
            if report.state.steps == 10:
                optimizer.param_groups[0]["lr"] = 1e-2
                undone = report.state.skipped == 1
                assert not undone or same(flat(before)[0:5], flat(everything(model.parameters(), optimizer))[0:5])
                assert undone or rate == 1e38  # whose step may be finite
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        results.append((seen, [p.detach() for p in model.parameters()], undone))
    (plain, its_weights, undone), (fused, weights, _) = results
    assert plain == fused
    if undone:
        for a, b in zip(its_weights, weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer, options",
    [
        (torch.optim.Adam, {"lr": 1e3, "betas": (0.999, 0.9999)}),
        (torch.optim.Adam, {"lr": 1e3, "eps": 1e-12, "weight_decay": 1e3}),
        (torch.optim.SGD, {"lr": 1e3, "momentum": 0.999, "weight_decay": 1e-3}),
    ],
)
def test_what_is_called_bounded_stays_finite(optimizer: Any, options: dict[str, Any]) -> None:
    """At the very edge, from weights and averages at theirs; beyond it, it is not called so."""
    model = random_model("mamba2")
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 9e14)
    stepping = optimizer(model.parameters(), **options)
    clip = 1e3
    moments = Moments(stepping, [*model.parameters()], clip)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    stepping.step()
    for own in stepping.state.values():
        for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if name in own:
                own[name].fill_(0 if name == "exp_avg_sq" else 9e14)
    group = stepping.param_groups[0]
    assert moments.find() and moments._is_bounded(group)
    for i in range(300):
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, (-1) ** (i // 7) * (clip if i % 3 else 1e-30))
        stepping.step()
        assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
    assert not any(moments._is_bounded({**group, "lr": rate}) for rate in (math.inf, math.nan, 2e3))
    assert not moments._is_bounded({**group, "weight_decay": 2e3})
    moments.tensors = []
    with torch.no_grad():
        model.head.weight.fill_(1e16)
    assert moments.find() and not moments._is_bounded(group)
