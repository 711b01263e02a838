"""Laws of the loop: predict before learn, cut anywhere, nothing moves on bad input, memory does not grow."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.rules import BPTT, RTRL, RTRLSTDP, RULES
from biomamba.state import copy, leaves, nbytes
from biomamba.tasks.delay import Delay
from sizes import BATCH, BLOCKS, SummedLoss, chunks, random_model, random_tokens


def learner(block: str = "mamba2", rule: str = "rtrl", n_layers: int = 1, lr: float = 1e-2) -> tuple:
    model = random_model(block, n_layers)
    return model, RULES[rule](model.blocks), torch.optim.Adam(model.parameters(), lr=lr)


def weights(model: biomamba.Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rule", RULES)
def test_the_first_score_does_not_depend_on_the_rule(rule: str) -> None:
    x, y = random_tokens(8)
    model, learning, optimizer = learner(rule=rule)
    frozen = next(biomamba.evaluate(chunks(x, y, 4), SummedLoss(), model)).scores
    first = next(biomamba.online(chunks(x, y, 4), biomamba.Learner(SummedLoss(), model, learning, optimizer))).scores
    assert first == pytest.approx(frozen, rel=1e-6)  # kernels of a rule's own round otherwise


@pytest.mark.parametrize("block", BLOCKS)
def test_it_learns_and_evaluate_does_not(block: str) -> None:
    x, y = random_tokens(8)
    again = chunks(x, y, 4) * 60
    model, rule, optimizer = learner(block)
    before = weights(model)
    losses = [float(report.loss) for report in biomamba.evaluate(again, SummedLoss(), model)]
    assert same(weights(model), before)
    learned = [
        float(report.loss) for report in biomamba.online(again, biomamba.Learner(SummedLoss(), model, rule, optimizer))
    ]
    assert learned[0] == pytest.approx(losses[0], rel=1e-6)
    assert sum(learned[-2:]) < 0.5 * sum(losses[-2:])


@pytest.mark.parametrize("window", [None, 6])
def test_an_update_without_labels_moves_state_and_trace_only(window: int | None) -> None:
    x, y = random_tokens(12)
    silent = [chunk._replace(mask=torch.zeros_like(chunk.mask)) for chunk in chunks(x, y, 2)]
    model, rule, optimizer = learner(rule="rtrl_stdp")
    before = weights(model)
    *_, report = biomamba.online(silent, biomamba.Learner(SummedLoss(), model, rule, optimizer, window=window))
    assert same(weights(model), before)
    assert optimizer.state_dict()["state"] == {}
    assert report.state.updates == 0
    assert report.state.steps == 12
    assert math.isnan(report.scores["loss"])
    assert all(float(tensor.abs().sum()) > 0 for _, tensor in leaves([report.state.model_state, report.state.trace]))


def test_silence_then_label_is_exact() -> None:
    """Traces carried through unlabelled updates give the gradient of the whole sequence."""
    torch.set_default_dtype(torch.float64)
    try:
        x, y = random_tokens(12)
        cut = chunks(x, y, 1)
        stream = [chunk._replace(mask=chunk.mask & (s == 11)) for s, chunk in enumerate(cut)]
        whole = chunks(x, y, 12)[0]
        whole = whole._replace(mask=(torch.arange(12) == 11).expand(BATCH, 12))
        gradients = []
        for parts, rule in [(stream, RTRL), ([whole], BPTT), (stream, BPTT)]:
            model = random_model("mamba2")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            list(
                biomamba.online(parts, biomamba.Learner(SummedLoss(), model, rule(model.blocks), optimizer, clip=None))
            )
            gradients.append(model.blocks[0].in_proj.weight.grad)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(gradients[2], gradients[1], rtol=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


def test_clipping_bounds_the_step() -> None:
    x, y = random_tokens(4)
    for clip, bound in [(1e-3, 1e-3), (None, None)]:
        model = random_model("mamba2")
        before = weights(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        report = next(
            biomamba.online(
                chunks(x, y, 4), biomamba.Learner(SummedLoss(), model, RTRL(model.blocks), optimizer, clip=clip)
            )
        )
        moved = math.sqrt(sum(float((weights(model)[name] - before[name]).square().sum()) for name in before))
        assert moved == pytest.approx(bound if bound else float(report.norm), rel=1e-3)


def test_what_is_not_finite_moves_nothing() -> None:
    torch.manual_seed(0)
    model = biomamba.Model(d_in=3, d_out=7, d_model=6, d_state=4, headdim=4)
    rule, optimizer = RTRL(model.blocks), torch.optim.Adam(model.parameters())
    _, y = random_tokens(9)
    good = chunks(torch.randn(BATCH, 9, 3), y, 3)
    bad = good[1]._replace(x=torch.full_like(good[1].x, math.nan))
    loop = biomamba.online([good[0], bad, good[2]], biomamba.Learner(SummedLoss(), model, rule, optimizer))
    loop_state = next(loop).state
    before, held = weights(model), copy([loop_state.model_state, loop_state.trace])
    report = next(loop)
    assert (report.state.skipped, report.state.updates, report.norm) == (1, 1, None)
    assert same(weights(model), before)
    for (path, got), (_, want) in zip(leaves([loop_state.model_state, loop_state.trace]), leaves(held), strict=True):
        assert torch.equal(got, want), path
    assert next(loop).state.updates == 2
    assert not same(weights(model), before)


def test_endless_failure_is_said() -> None:
    model = biomamba.Model(d_in=3, d_out=7, d_model=6, d_state=4, headdim=4)
    _, y = random_tokens(1)
    bad = chunks(torch.full((BATCH, 1, 3), math.inf), y, 1) * 200
    with pytest.raises(FloatingPointError, match="100 updates in a row"):
        list(
            biomamba.online(
                bad, biomamba.Learner(SummedLoss(), model, RTRL(model.blocks), torch.optim.Adam(model.parameters()))
            )
        )


def test_weights_that_are_not_finite_are_refused() -> None:
    x, y = random_tokens(4)
    model, rule, optimizer = learner()
    model.blocks[0].D.data[0] = math.nan
    with pytest.raises(ValueError, match=r"blocks\.0\.D is not finite"):
        next(biomamba.online(chunks(x, y, 4), biomamba.Learner(SummedLoss(), model, rule, optimizer)))
    with pytest.raises(ValueError, match=r"blocks\.0\.D is not finite"):
        next(biomamba.evaluate(chunks(x, y, 4), SummedLoss(), model))


def test_a_window_shorter_than_a_chunk_is_refused() -> None:
    x, y = random_tokens(4)
    with pytest.raises(ValueError, match="got 3 steps, expected at least the 4"):
        next(biomamba.online(chunks(x, y, 4), biomamba.Learner(SummedLoss(), *learner(), window=3)))


@pytest.mark.parametrize("window", [None, 5])
def test_a_carry_goes_on_where_the_loop_stopped(window: int | None) -> None:
    x, y = random_tokens(24)
    stream = chunks(x, y, 2)
    whole, halves = learner(rule="rtrl_stdp"), learner(rule="rtrl_stdp")
    *_, straight = biomamba.online(stream, biomamba.Learner(SummedLoss(), *whole, window=window))
    *_, first = biomamba.online(stream[:5], biomamba.Learner(SummedLoss(), *halves, window=window))
    *_, second = biomamba.online(stream[5:], biomamba.Learner(SummedLoss(), *halves, window=window), state=first.state)
    assert same(weights(whole[0]), weights(halves[0]))
    assert straight.scores == second.scores


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("rule", RULES)
def test_carry_is_plain_tensors_of_constant_size(rule: str, window: int | None) -> None:
    x, y = random_tokens(40)
    sizes = []
    for report in biomamba.online(
        chunks(x, y, 2), biomamba.Learner(SummedLoss(), *learner(rule=rule, n_layers=2), window=window)
    ):
        loop_state = report.state
        for _, tensor in leaves([loop_state.model_state, loop_state.trace, loop_state.x, loop_state.reset]):
            assert tensor.grad_fn is None
            assert not tensor.requires_grad
        sizes.append(nbytes([loop_state.model_state, loop_state.trace, loop_state.x]))
    assert sizes[-1] == sizes[len(sizes) // 2]


@pytest.mark.parametrize("backend, copies", [("llvm", False), ("torch", True)])
def test_an_update_allocates_nothing_of_the_traces_size(backend: str, copies: bool) -> None:
    """By torch's profiler; torch's own operations, the control, need as much again."""
    x, y = random_tokens(6)
    model = random_model("mamba2", d_model=24, d_state=8, headdim=4, backend=backend)
    rule, optimizer = RTRL(model.blocks), torch.optim.Adam(model.parameters())
    loop = biomamba.online(chunks(x, y, 1), biomamba.Learner(SummedLoss(), model, rule, optimizer))
    for _ in range(4):
        next(loop)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        report = next(loop)
    largest = max(tensor.nbytes for _, tensor in leaves(report.state.trace))
    assert (max(event.self_cpu_memory_usage for event in seen.events()) >= largest) == copies


@pytest.mark.slow
def test_resident_memory_stays_flat() -> None:
    """Under 5 MB of growth between step 1,000 and step 20,000, one step per update."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from /proc, which this system does not have")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * 4096

    torch.manual_seed(0)
    model = biomamba.Model(vocab=21, d_out=8, d_model=16, d_state=4, headdim=4)
    task, at = Delay(delay=20), {}
    stream = task.stream("all", batch=4, length=1, seed=0)
    optimizer = torch.optim.Adam(model.parameters())
    for report in biomamba.online(stream, biomamba.Learner(task, model, RTRLSTDP(model.blocks, a_post=0.1), optimizer)):
        if report.state.steps in (1000, 20000):
            at[report.state.steps] = resident()
        if report.state.steps == 20000:
            break
    print(f"resident size grew by {(at[20000] - at[1000]) / 1e6:.2f} MB from step 1,000 to step 20,000")
    assert at[20000] - at[1000] < 5e6


def recalled(rule: str, **options: Any) -> float:
    """Return the accuracy late in store-recall over 4 to 8 steps, behind the reach of the convolution.

    One step per update, mean of three seeds.
    """
    scores = []
    for seed in range(3):
        torch.manual_seed(seed)
        task = Delay(delay=8)
        model = biomamba.Model(vocab=21, d_out=8, d_model=48, d_state=8, headdim=1, **options)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        stream = task.stream("all", batch=8, length=1, seed=seed)
        last = task.meters()["accuracy"]
        for report in biomamba.online(stream, biomamba.Learner(task, model, RULES[rule](model.blocks), optimizer)):
            if report.state.steps > 4500:
                last.update(report.out, report.chunk)
            if report.state.steps == 5000:
                break
        scores.append(last.get())
    print(rule, options, scores)
    return sum(scores) / 3


@pytest.mark.slow
def test_rtrl_learns_to_recall_and_truncation_does_not() -> None:
    assert recalled("rtrl") > 0.9
    assert recalled("bptt") < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, least",
    [
        ({"feedback": "random"}, 0.7),
        ({"threshold": 1.0}, 0.35),  # spikes learn the same more slowly
        ({"threshold": 1.0, "feedback": "random"}, 0.35),
    ],
)
def test_random_feedback_and_spikes_learn_to_recall(options: dict[str, Any], least: float) -> None:
    assert recalled("rtrl", **options) > least
    assert recalled("bptt", **options) < 0.25


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_weights_may_stop_learning_and_begin_again(compiled: bool) -> None:
    torch.manual_seed(0)
    task = Delay(delay=2)
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, d_state=2, headdim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    learner = biomamba.Learner(task, model, RULES["rtrl"](model.blocks), optimizer, compile=compiled)  # type: ignore[arg-type]
    stream = task.stream("all", batch=4, length=4, seed=0)

    def moved(steps: int) -> set[str]:
        before = {name: own.detach().clone() for name, own in model.named_parameters()}
        for _, _ in zip(range(steps), biomamba.online(stream, learner), strict=False):
            pass
        return {name for name, own in model.named_parameters() if not torch.equal(own, before[name])}

    every = {name for name, _ in model.named_parameters()}
    assert moved(10) == every  # control
    model.head.weight.requires_grad_(False)
    assert moved(10) == every - {"head.weight"}
    model.head.weight.requires_grad_(True)
    assert moved(10) == every
