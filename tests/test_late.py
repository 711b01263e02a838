"""Laws of late answers: any order gives what `online` gives, a delay is a learner that runs behind, memory is flat."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.loop_state import LoopState
from biomamba.metrics import labelled_cross_entropy
from biomamba.rows import Supervised
from biomamba.rules import RULES
from biomamba.state import copy, leaves, nbytes
from biomamba.stream import Spec

D_IN, CLASSES, STEPS = 3, 4, 40
BLOCKS: dict[str, dict[str, Any]] = {
    "mamba2": {"d_state": 5, "headdim": 4},
    "mamba": {"d_state": 3, "dt_rank": 2},
    "diagonal": {"d_state": 4},
}


class Held(torch.optim.Optimizer):
    """Weights are held, and gradients summed."""

    def __init__(self, parameters: Any, lr: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr})
        self.total = [torch.zeros_like(p) for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for own, p in zip(self.total, self.param_groups[0]["params"], strict=True):
            own += p.grad


def made(
    block: str = "mamba2", rule: str = "rtrl", optimizer: Any = torch.optim.Adam, n_layers: int = 1, **options: Any
) -> biomamba.Learner:
    torch.manual_seed(0)
    spec = Spec(d_in=D_IN, d_out=CLASSES)
    model = biomamba.Model(**spec._asdict(), d_model=6, n_layers=n_layers, block=block, **BLOCKS[block])
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    given = {"a_post": -0.5} if rule == "rtrl_stdp" else {}
    taught = optimizer(model.parameters(), lr=1e-2)
    return biomamba.Learner(
        Supervised(spec, "class"), model, RULES[rule](model.blocks, **given), taught, clip=None, **options
    )


def stream(steps: int = STEPS, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return x (n, d), y (n,)."""
    drawn = torch.Generator().manual_seed(seed)
    dtype = torch.get_default_dtype()
    return torch.randn(steps, D_IN, generator=drawn, dtype=dtype), torch.randint(CLASSES, (steps,), generator=drawn)


def chunks(x: Tensor, y: Tensor, known: Tensor | None = None, reset: Tensor | None = None) -> Iterator[biomamba.Chunk]:
    """Yield a stream of one step a chunk."""
    for t in range(len(x)):
        mask = torch.ones(1, 1, dtype=torch.bool) if known is None else known[t].view(1, 1)
        begins = torch.zeros(1, 1, dtype=torch.bool) if reset is None else reset[t].view(1, 1)
        yield biomamba.Chunk(x[t].view(1, 1, -1), y[t].view(1, 1), mask, begins)


class Sum(Supervised):
    """The loss summed over the steps."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        return labelled_cross_entropy(out, chunk)


def weights(learner: biomamba.Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def shuffled(delay: int, steps: int = STEPS, seed: int = 0) -> Iterator[list[int]]:
    """Yield for each step the steps whose answers come behind it: in random order, none more than `delay` late."""
    draw, left = np.random.default_rng(seed), list[int]()
    for t in range(steps):
        left.append(t)
        now = [s for s in left if draw.random() < 0.2 or s <= t - delay or t == steps - 1]
        draw.shuffle(now)
        left = [s for s in left if s not in now]
        yield now


def gradient(learner: biomamba.Learner, exact: bool = True) -> Tensor:
    """Return what the answers summed to, of the parameters that RTRL promises exact, or of all others."""
    optimizer, own = learner.optimizer, []
    assert isinstance(optimizer, Held)
    for (name, _), total in zip(learner.model.named_parameters(), optimizer.total, strict=True):
        dropped = name.startswith("encoder") or (
            name.endswith("in_proj.weight") and learner.model.arguments["block"] == "mamba"
        )
        if dropped != exact:
            own.append(total.flatten())
    return torch.cat(own)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule", ["rtrl", "rtrl_stdp", "bptt"])
def test_answers_in_any_order_leave_the_weights_of_online(
    rule: str, block: str, window: int | None, float64: None, threads: int
) -> None:
    """Weights held: what every answer asks for is summed, to be taken at the end. One step in four has no answer."""
    x, y = stream()
    known, reset = torch.arange(STEPS) % 4 != 1, torch.arange(STEPS) == 23
    at_once, late = (made(block, rule, Held, window=window, horizon=12) for _ in range(2))
    for _ in biomamba.online(chunks(x, y, known, reset), at_once):
        pass
    order = []
    for t, now in enumerate(shuffled(11)):
        late.predict(x[t], id=f"row {t}", reset=bool(reset[t]))
        for s in now:
            if known[s]:
                assert late.learn(f"row {s}", int(y[s]))
                order.append(s)
    assert order != sorted(order)
    (ours, wider), (theirs, narrower) = ([gradient(own, exact) for exact in (True, False)] for own in (late, at_once))
    error = (ours - theirs).norm() / theirs.norm()
    assert (error > 1e-6) if rule == "bptt" else (error < 1e-10)  # bptt, the control, truncates elsewhere
    assert late.state is not None and at_once.state is not None
    assert late.state.updates == at_once.state.updates == int(known.sum())
    if rule == "rtrl":  # what RTRL drops between chunks is nearer to the whole where steps were held
        whole = made(block, "bptt", Held)
        chunk = biomamba.Chunk(x[None], y[None], known[None], reset[None])
        chunk_loss = Sum(whole.model.spec, "class")
        for _ in biomamba.online(
            [chunk], biomamba.Learner(chunk_loss, whole.model, whole.rule, whole.optimizer, clip=None)
        ):
            pass
        full = gradient(whole, exact=False)
        assert (wider - full).norm() < 0.9 * (narrower - full).norm()
        assert (gradient(whole) - ours).norm() < 1e-10 * ours.norm()


def test_a_delay_leaves_the_weights_of_a_learner_that_runs_behind(float64: None) -> None:
    """The protocol of `ecg` with label_delay: a live row predicts, a late row is learned from, weights are shared."""
    x, y = stream(60)
    lag, known = 7, torch.arange(60) % 3 == 0
    behind, late, wrong = (made(horizon=lag + 1) for _ in range(3))
    quiet = torch.zeros(1, lag, D_IN)
    x2 = torch.stack([x, torch.cat([quiet[0], x])[: len(x)]])
    y2 = torch.stack([y, torch.cat([torch.zeros(lag).long(), y])[: len(y)]])
    learned = torch.stack([torch.zeros(60).bool(), torch.cat([torch.zeros(lag).bool(), known])[:60]])
    reset = torch.zeros(2, 60, dtype=torch.bool)
    reset[:, 0] = reset[1, lag] = True
    rows = [
        biomamba.Chunk(x2[:, t : t + 1], y2[:, t : t + 1], learned[:, t : t + 1], reset[:, t : t + 1])
        for t in range(60)
    ]
    for _ in biomamba.online(rows, behind):
        pass
    for t in range(60):
        late.predict(x[t])
        wrong.predict(x[t])
        s = t - lag
        if s >= 0 and known[s]:
            assert late.learn(s, int(y[s]))
        if s >= 1 and known[s - 1]:  # control: one step later, and it is not the same
            wrong.learn(s, int(y[s - 1]))
    far = (weights(behind) - weights(made())).norm()
    assert (weights(late) - weights(behind)).norm() < 1e-10 * far
    assert (weights(wrong) - weights(behind)).norm() > 1e-2 * far


@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("window", [None, 4])
def test_answers_at_once_are_online_to_the_bit(window: int | None, compile_: bool) -> None:
    x, y = stream()
    at_once, late = (made(window=window, compile=compile_) for _ in range(2))
    outs = [report.out[0, 0] for report in biomamba.online(chunks(x, y), at_once)]
    for t in range(STEPS):
        prediction = late.predict(x[t])
        if window is None:  # a window is replayed under today's weights: its first steps are of the model's own kernels
            assert torch.allclose(prediction.out, outs[t], rtol=1e-5, atol=1e-6)
        late.learn(prediction, int(y[t]))
    assert torch.equal(weights(late), weights(at_once))


def test_the_live_state_is_a_replay_under_todays_weights() -> None:
    x, y = stream()
    learner = made(horizon=STEPS)
    for t in range(20):
        learner.predict(x[t])
    stale = learner.predict_one(x[20])
    before = learner.predict_proba_one(x[20])
    assert stale == max(before, key=before.__getitem__)
    for s in (3, 17, 9):
        assert learner.learn(s, int(y[s]))
    out, _, _ = learner.model(x[None, :21], learner.model.init_state(1))
    assert torch.allclose(learner.predict(x[20]).out, out[0, -1], rtol=1e-5, atol=1e-6)
    assert learner.predict_proba_one(x[21]) != before


def test_several_steps_at_once_are_those_steps_one_by_one(float64: None) -> None:
    x, y = stream()
    single, several = (made(optimizer=Held, horizon=20) for _ in range(2))
    for t in range(0, STEPS, 5):
        for s in range(t, t + 5):
            last = single.predict(x[s], reset=s == 15)
        prediction = several.predict(x[t : t + 5], reset=t == 15)
        assert prediction.id == last.id == t + 4
        assert torch.allclose(prediction.out, last.out, rtol=1e-9)
        assert not several.learn(t + 3, int(y[t]))  # inside: it has no ticket
        assert single.learn(last, int(y[t])) and several.learn(prediction, int(y[t]))
    assert (gradient(single) - gradient(several)).norm() < 1e-9 * gradient(single).norm()


def held(learner: biomamba.Learner) -> list[Any]:
    """Return copies of all that an answer may change."""
    assert learner.state is not None
    loop = [learner.state.model_state, learner.state.trace, learner.state.x, learner.state.live]
    optimizer = learner.optimizer.state_dict()["state"]
    return [weights(learner), *(tensor for _, tensor in leaves(copy([loop, optimizer]))), [*learner.state.waiting]]


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(one, other) if isinstance(one, Tensor) else one == other for one, other in zip(a, b, strict=True)
    )


def test_what_comes_too_late_twice_or_never_was_says_so_and_changes_nothing() -> None:
    x, _ = stream()
    learner = made(horizon=6)
    for t in range(20):
        learner.predict(x[t], id=f"{t}")
    assert learner.learn("15", 1)
    before = held(learner)
    for ticket in ("13", "15", "20", 15, None, ["15"]):
        answer = learner.learn(ticket, 2)  # type: ignore[arg-type]
        assert not answer and "no open step" in answer.reason and "6 steps" in answer.reason
        assert same(held(learner), before)
    assert learner.learn("14", 2)
    assert not same(held(learner), before)  # control


def test_what_is_no_row_and_no_answer_changes_nothing() -> None:
    x, _ = stream()
    learner = made()
    for t in range(5):
        learner.predict(x[t], id=f"{t}")
    learner.learn("2", 1)
    before = held(learner)
    for row in (x[0, :2], ["a", 1, 2], {"a": "b"}, None, "text", np.zeros((2, 2)), np.zeros((0, 3))):
        with pytest.raises((ValueError, TypeError), match="x"):
            learner.predict(row)
    for answer in (4, None, float("nan"), [1, 2], "unknown"):
        with pytest.raises((ValueError, TypeError), match="y: got"):
            learner.learn("3", answer)
    with pytest.raises(ValueError, match="waits for its answer already"):
        learner.predict(x[5], id="3")
    with pytest.raises(TypeError, match="expected text or a whole number"):
        learner.predict(x[5], id=("a",))
    assert same(held(learner), before)


def test_answers_that_are_not_finite_change_no_weight() -> None:
    x, y = stream()
    learner = made(optimizer=torch.optim.SGD)
    for t in range(5):
        learner.predict(x[t])
    learner.optimizer.param_groups[0]["lr"] = float("inf")
    before = weights(learner)
    answer = learner.learn(3, int(y[3]))
    assert not answer and "not finite" in answer.reason
    assert torch.equal(weights(learner), before)
    learner.optimizer.param_groups[0]["lr"] = 0.1
    assert learner.learn(4, int(y[4])) and not torch.equal(weights(learner), before)


@pytest.mark.parametrize("answered", [0.0, 0.3, 1.0])
def test_memory_is_bounded_by_the_horizon(answered: float) -> None:
    x, y = stream(400)
    learner, draw, sizes = made(horizon=20, window=3), np.random.default_rng(0), list[int]()
    for t in range(400):
        learner.predict(x[t])
        if t >= 10 and draw.random() < answered:
            learner.learn(t - 10, int(y[t - 10]))
        state = learner.state
        assert state is not None
        assert len(state.waiting) <= 20 and state.x.shape[1] <= 20 + 32 + 3
        sizes.append(nbytes([state.trace, state.model_state]))
    assert len(set(sizes)) == 1


def test_frozen_learns_nothing_and_goes_on_where_it_is() -> None:
    x, y = stream()
    frozen, learner = made(), made()
    frozen.freeze()
    for t in range(10):
        for own in (frozen, learner):
            own.predict(x[t])
        answer = frozen.learn(t, int(y[t]))
        assert not answer and "frozen" in answer.reason
    assert torch.equal(weights(frozen), weights(made()))
    list(biomamba.online(chunks(x, y), frozen))
    assert torch.equal(weights(frozen), weights(made()))
    frozen.unfreeze()
    list(biomamba.online(chunks(x, y), frozen))
    assert not torch.equal(weights(frozen), weights(made()))


def test_a_budget_of_drift_is_kept_and_without_one_it_is_passed() -> None:
    x, y = stream()
    free, bound = made(), made(max_drift=0.02)
    for learner in (free, bound):
        assert learner.drift() == 0
        for t in range(STEPS):
            learner.learn_one(x[t], int(y[t]))
    assert free.drift() > 0.04
    assert 0.019 < bound.drift() <= 0.02 * (1 + 1e-5)


def test_a_rollback_is_to_the_bit_and_may_be_taken_twice() -> None:
    x, y = stream()
    learner = made(window=3)
    for t in range(10):
        learner.predict(x[t])
        learner.learn(max(0, t - 4), int(y[t]))
    kept, before = learner.snapshot(), held(learner)
    outs = []
    for _ in range(3):
        assert same(held(learner), before)
        own = []
        for t in range(10, 20):
            own.append(learner.predict(x[t]).out)
            learner.learn(t - 3, int(y[t]))
        outs.append(torch.stack(own))
        assert not same(held(learner), before)
        learner.rollback(kept)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_online_goes_on_where_predict_was() -> None:
    x, y = stream()
    whole, halves = made(), made()
    reports = [report.out for report in biomamba.online(chunks(x, y), whole)]
    for t in range(20):
        halves.learn_one(x[t], int(y[t]))
    again = [report.out for report in biomamba.online(chunks(x[20:], y[20:]), halves)]
    assert torch.equal(torch.stack(again), torch.stack(reports[20:]))
    assert isinstance(halves.state, LoopState) and not halves.state.waiting
    assert not halves.learn(19, 1)
