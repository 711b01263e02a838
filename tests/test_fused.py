"""An update by kernels is the update by torch's operations: outputs, weights, averages, state and traces."""

import copy
import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

import biomamba
from biomamba import fused, updater
from biomamba.metrics import CrossEntropy, labelled_cross_entropy
from biomamba.state import flat
from biomamba.stream import Chunk, Spec

SIZES = [  # streams, steps, width, states, headdim (of Mamba the rank of step sizes), layers, taps
    (1, 1, 16, 4, 8, 2, 4), (2, 7, 13, 3, 2, 1, 3), (1, 5, 8, 16, 16, 3, 4), (3, 20, 24, 1, 6, 1, 1),
    (1, 16, 96, 4, 8, 2, 4), (5, 1, 12, 2, 4, 2, 2), (9, 3, 6, 2, 1, 1, 2),
]  # fmt: skip
RULES = {
    "rtrl": biomamba.rules.RTRL, "bptt": biomamba.rules.BPTT,
    "rtrl_stdp": partial(biomamba.rules.RTRLSTDP, a_post=0.7, lam=0.6),
    "stllr": partial(biomamba.rules.STLLR, lambda_pre=0.7, lambda_post=0.4, alpha_pre=0.8, alpha_post=0.3),
}  # fmt: skip
STEPS = {"dt_min": 0.1, "dt_max": 1.0}  # smaller ones hardly write into the state, and no trace would be seen
BLOCKS: dict[str, dict[str, Any]] = {
    "mamba2": {"block": "mamba2"} | STEPS,
    "mamba": {"block": "mamba"} | STEPS,
    "mamba direct": {"block": "mamba", "conv": "direct"} | STEPS,
}
SERVED = [("mamba2", rule) for rule in RULES] + [("mamba", "rtrl"), ("mamba", "bptt"), ("mamba direct", "rtrl")]
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {},
    "ngrams": {"ngrams": [2, 3], "ngram_logits": [1, 2], "reduction": "mean"},
    "values": {"tokens": False},
    "sgd": {"sgd": True, "reduction": "batchmean"},
    "unclipped": {"clip": None},
}
CASES = [  # the last options have nothing to do with blocks
    (block, rule, options)
    for block, rule in SERVED
    for options in (OPTIONS if block == "mamba2" else [*OPTIONS][:3] if block == "mamba" else [*OPTIONS][:1])
]
VOCAB, VALUES, OUT = 11, 3, 7


class Labels:
    """A task of classes, from tokens or from values."""

    def __init__(self, tokens: bool, reduction: str | None = None) -> None:
        self.spec = Spec(OUT, vocab=VOCAB) if tokens else Spec(OUT, d_in=VALUES)
        self.reduction = reduction

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        mean = self.reduction == "mean"
        return labelled_cross_entropy(out, chunk) / (chunk.mask.sum().clamp(min=1) if mean else len(out))

    def meters(self) -> dict[str, Any]:
        return {"loss": CrossEntropy()}


def learner(
    sizes: Sequence[int],
    rule: str = "rtrl",
    tokens: bool = True,
    sgd: bool = False,
    dtype: torch.dtype = torch.float64,
    clip: float | None = 1.0,
    lr: float = 1e-2,
    reduction: str | None = None,
    horizon: int = 64,
    block: str = "mamba2",
    **options: Any,
) -> biomamba.Learner:
    _, _, d, n, width, layers, taps = sizes
    torch.manual_seed(0)
    options |= BLOCKS[block] | ({"headdim": width} if block == "mamba2" else {"dt_rank": width})
    options |= {"vocab": VOCAB} if tokens else {"d_in": VALUES}
    model = biomamba.Model(d_out=OUT, d_model=d, d_state=n, n_layers=layers, d_conv=taps, **options).to(dtype)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=0.01)
    if sgd:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trace = RULES[rule](model.blocks)
    return biomamba.Learner(Labels(tokens, reduction), model, trace, optimizer, clip=clip, horizon=horizon)


def chunks(sizes: Sequence[int], count: int, tokens: bool, resets: bool, dtype: torch.dtype) -> list[Chunk]:
    """Return chunks some of whose steps are labelled, one of them without any."""
    generator, (b, t) = torch.Generator().manual_seed(1), sizes[:2]
    found = []
    for i in range(count):
        x = torch.randint(VOCAB, (b, t), generator=generator)
        values = torch.randn(b, t, VALUES, generator=generator, dtype=dtype)
        mask = torch.rand(b, t, generator=generator) < 0.7
        reset = torch.rand(b, t, generator=generator) < (0.2 if resets else 0.0)
        y = torch.randint(OUT, (b, t), generator=generator)
        found.append(Chunk(x if tokens else values, y, mask & torch.tensor(i % 5 != 3), reset))
    return found


def course(own: biomamba.Learner, given: Sequence[Chunk]) -> list[Tensor]:
    """Return all that an update says, and what is left at the end."""
    said: list[Tensor] = []
    for chunk in given:
        report = own.update(chunk)
        said += [report.out, report.loss, *([] if report.norm is None else [report.norm])]
    state = own.state
    assert state is not None
    moments = flat([*own.optimizer.state.values()])
    return [*said, *(p.detach() for p in own.model.parameters()), *moments, *flat([state.model_state, state.trace])]


def by_torch(patch: pytest.MonkeyPatch) -> None:
    """Have updates made by torch's operations."""
    patch.setattr(updater, "serves", lambda model, rule: False)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("block, rule, named", CASES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_do_what_torch_does(
    sizes: Sequence[int],
    block: str,
    rule: str,
    resets: bool,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = OPTIONS[named]
    given = chunks(sizes, 8, options.get("tokens", True), resets, torch.float64)
    ours = learner(sizes, rule, block=block, **options)
    assert isinstance(ours._plain, fused.Fused)
    found = course(ours, given)
    by_torch(monkeypatch)
    theirs = learner(sizes, rule, block=block, **options)
    assert not isinstance(theirs._plain, fused.Fused)
    for own, expected in zip(found, course(theirs, given), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_law_can_fail(block: str) -> None:
    """Control: a trace that was lost, whichever it is, as all else stays, is seen in the weights."""
    given = chunks(SIZES[1], 8, True, False, torch.float64)
    for name in learner(SIZES[1], block=block).model.blocks[0].influences:
        whole, lost = (learner(SIZES[1], block=block) for _ in range(2))
        course(whole, given[:4])
        course(lost, given[:4])
        assert lost.state is not None
        lost.state.trace[0][name].zero_()
        course(whole, given[4:])
        course(lost, given[4:])
        weights = zip(whole.model.parameters(), lost.model.parameters(), strict=True)
        assert max(float((a - b).detach().abs().max()) for a, b in weights) > 5e-7, name


def test_the_half_of_stdp_is_in_what_is_compared() -> None:
    """Control: with and without it weights differ, and so do they where its trace is lost."""
    given = chunks(SIZES[1], 8, True, True, torch.float64)
    found = [learner(SIZES[1], "rtrl_stdp") for _ in range(3)]
    found[1].rule.a_post = 0.0
    for own in found:
        course(own, given[:4])
    assert found[2].state is not None
    for trace in found[2].state.trace:
        for Q in trace["Q"].values():
            Q.zero_()
    for own in found:
        course(own, given[4:])
    weights = [torch.cat([parameter.detach().flatten() for parameter in own.model.parameters()]) for own in found]
    assert all(float((weights[0] - others).abs().max()) > 1e-4 for others in weights[1:])


def test_without_its_half_stdp_is_rtrl_to_the_bit() -> None:
    given = chunks(SIZES[1], 8, True, True, torch.float32)
    plain, without = learner(SIZES[1], dtype=torch.float32), learner(SIZES[1], "rtrl_stdp", dtype=torch.float32)
    without.rule.a_post = 0.0
    course(plain, given)
    course(without, given)
    assert isinstance(without._plain, fused.Fused)
    for own, one in zip(plain.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(own, one)


@pytest.mark.parametrize("block, rule", SERVED)
def test_windows_and_late_answers(block: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """State and trace move by fewer steps than are read, or by none; answers come late, out of order or never."""

    def windowed() -> list[Tensor]:
        said = list[Tensor]()
        for streams in (1, 3):
            own = learner((streams, 3, *SIZES[1][2:]), rule, block=block)
            own.window = 8
            said += course(own, chunks((streams, 3), 9, True, True, torch.float64))
        return said

    def late() -> list[Tensor]:
        own = learner((1, 1, *SIZES[3][2:]), rule, tokens=False, horizon=7, block=block)
        order, said = torch.Generator().manual_seed(5), list[Tensor]()
        for i in range(40):
            said.append(own.predict(torch.randn(VALUES, generator=order, dtype=torch.float64), id=i, reset=i == 17).out)
            ticket = i - int(torch.randint(9, (), generator=order))
            if ticket >= 0 and i % 3:
                own.learn(ticket, ticket % OUT)
        own.settle()
        return [*said, *course(own, [])]

    found = [*windowed(), *late()]
    by_torch(monkeypatch)
    for own, expected in zip(found, [*windowed(), *late()], strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block, rule", SERVED)
def test_single_precision(block: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = chunks(SIZES[4], 6, True, True, torch.float32)
    found = course(learner(SIZES[4], rule, dtype=torch.float32, block=block), given)
    by_torch(monkeypatch)
    theirs = course(learner(SIZES[4], rule, dtype=torch.float32, block=block), given)
    for own, expected in zip(found, theirs, strict=True):
        torch.testing.assert_close(own, expected, rtol=2e-3, atol=2e-3)


def test_windows_of_several_streams_are_taken_by_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the test above compares what it says it does."""

    def forbidden(*given: object) -> None:
        raise AssertionError("by torch's operations")

    monkeypatch.setattr(fused, "update", forbidden)
    own = learner((3, 3, *SIZES[1][2:]))
    own.window = 8
    course(own, chunks((3, 3), 9, True, True, torch.float64))


def test_a_tied_head_learns_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding is the head: its gradient is a sum."""

    def tied() -> biomamba.Learner:
        own = learner(SIZES[0])
        model = biomamba.Model(vocab=OUT, d_out=OUT, d_model=16, d_state=4, headdim=8, tied=True).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        task = Labels(True)
        task.spec = Spec(OUT, vocab=OUT)
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.2
        return biomamba.Learner(task, model, type(own.rule)(model.blocks), optimizer)

    given = [chunk._replace(x=chunk.x % OUT) for chunk in chunks((2, 5), 8, True, False, torch.float64)]
    found = course(tied(), given)
    by_torch(monkeypatch)
    for own, expected in zip(found, course(tied(), given), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_memory_that_is_used_again_is_written_first(block: str) -> None:
    """NaN in all of it changes nothing."""
    given = chunks(SIZES[1], 6, True, True, torch.float64)
    clean, dirty = (learner(SIZES[1], block=block) for _ in range(2))
    expected = course(clean, given)
    said = list[Tensor]()
    for chunk in given:
        report = dirty.update(chunk)
        said += [report.out]
        for work in dirty._plain.work.values():
            for tensor in (*work.kept, work.signals, dirty._plain.at.gradient):
                tensor.fill_(torch.nan)
    found = course(dirty, [])
    for own, one in zip(found, expected[-len(found) :], strict=True):
        assert torch.equal(own, one)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tokens", [True, False])
def test_what_is_not_finite_moves_nothing(tokens: bool, block: str) -> None:
    sizes = SIZES[1]
    given = chunks(sizes, 4, tokens, False, torch.float64)
    own = learner(sizes, tokens=tokens, block=block)
    course(own, given[:3])
    before = [tensor.clone() for tensor in course(own, [])]
    bad = given[3]._replace(mask=torch.ones_like(given[3].mask))
    if tokens:
        own.model.head.weight.data[0, 0] = torch.nan
    else:
        bad.x[0, 2, 1] = torch.inf
    report = own.update(bad)
    assert report.norm is None and own.state is not None and own.state.skipped == 1
    if tokens:
        own.model.head.weight.data.copy_(before[[*own.model.state_dict()].index("head.weight")])
    after = course(own, [])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_step_that_leaves_a_weight_not_finite_is_not_taken() -> None:
    own = learner(SIZES[0], clip=None, lr=1e-2)
    given = chunks(SIZES[0], 4, True, False, torch.float64)
    course(own, given[:3])
    before = [parameter.detach().clone() for parameter in own.model.parameters()]
    for group in own.optimizer.param_groups:
        group["lr"] = float("inf")
    assert own.update(given[1]).norm is None
    assert all(torch.equal(a, b) for a, b in zip(before, own.model.parameters(), strict=True))
    for group in own.optimizer.param_groups:
        group["lr"] = 1e-2
    assert own.update(given[1]).norm is not None


@pytest.mark.parametrize("block", ["mamba2", "mamba"])
def test_weights_and_averages_may_come_to_lie_elsewhere(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads or moves them between updates is followed."""

    def moved() -> list[Tensor]:
        own, given = learner(SIZES[4], block=block), chunks(SIZES[4], 6, True, False, torch.float64)
        course(own, given[:3])
        own.optimizer.load_state_dict(own.optimizer.state_dict())
        for parameter in own.model.parameters():
            parameter.data = parameter.data.clone() * 0.9
        assert own.state is not None
        own.state.trace = [{name: Z.clone() for name, Z in trace.items()} for trace in own.state.trace]
        return course(own, given[3:])

    found = moved()
    by_torch(monkeypatch)
    for own, expected in zip(found, moved(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_threads_change_nothing(block: str) -> None:
    given, before = chunks(SIZES[4], 5, True, False, torch.float32), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(course(learner(SIZES[4], dtype=torch.float32, block=block), given))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"block": "diagonal"}, {"block": "mamba2", "headdim": 4, "ngroups": 2}]
    + [
        {"block": block} | others
        for block in ("mamba", "mamba2")
        for others in ({"threshold": 1.0}, {"feedback": "random"}, {"lora": 2})
    ],
    ids=str,
)
def test_what_the_kernels_do_not_know_is_left_to_torch(options: dict[str, Any]) -> None:
    model = biomamba.Model(vocab=VOCAB, d_out=OUT, d_model=8, d_state=4, **options)
    assert not fused.serves(model, biomamba.rules.RTRL(model.blocks))


def test_rules_that_the_kernels_do_not_know_are_left_to_torch() -> None:
    model = biomamba.Model(vocab=VOCAB, d_out=OUT, d_model=8, d_state=4, block="mamba")
    assert fused.serves(model, biomamba.rules.RTRL(model.blocks))
    assert not fused.serves(model, biomamba.rules.RTRL(model.blocks, influences=["A_log"]))
    assert not fused.serves(model, biomamba.rules.RTRLSTDP(model.blocks))


@pytest.mark.parametrize("block", BLOCKS)
def test_traces_kept_in_half_precision(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are rounded once an update, whoever moves them; control: rounded at the end alone they are others."""

    def halved(dtype: str | None) -> biomamba.Learner:
        own = learner(SIZES[1], dtype=torch.float32, block=block)
        rule = biomamba.rules.RTRL(own.model.blocks, trace_dtype=dtype)
        return biomamba.Learner(own.task, own.model, rule, torch.optim.SGD(own.model.parameters(), lr=0.1), clip=1.0)

    given = chunks((2, 1), 16, True, False, torch.float32)
    ours, whole = halved("bfloat16"), halved(None)
    assert isinstance(ours._plain, fused.Fused)
    course(ours, given)
    course(whole, given)
    by_torch(monkeypatch)
    theirs = halved("bfloat16")
    course(theirs, given)
    assert ours.state is not None and theirs.state is not None and whole.state is not None
    unrounded = list[Tensor]()
    for own, one, exact in zip(*(flat(by.state.trace) for by in (ours, theirs, whole)), strict=True):
        assert own.dtype == torch.bfloat16
        assert (own == one).float().mean() > 0.95
        unrounded.append((own == exact.to(own.dtype)).flatten())
    assert torch.cat(unrounded).float().mean() < 0.9


def test_a_frozen_part_is_left_to_torch() -> None:
    own = learner(SIZES[0])
    own.model.encoder.weight.requires_grad_(False)
    before = own.model.encoder.weight.detach().clone()
    course(own, chunks(SIZES[0], 3, True, False, torch.float64))
    assert torch.equal(before, own.model.encoder.weight)
    assert not isinstance(own._plain, fused.Fused)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"tokens": False}, {"rule": "bptt"}, {"rule": "rtrl_stdp"}, {"rule": "stllr"}, {"clip": None}),
        *({"block": "mamba"}, {"block": "mamba", "rule": "bptt", "tokens": False}, {"block": "mamba direct"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[1], SIZES[4]], ids=str)
def test_many_updates_in_one_call_are_one_after_another(
    sizes: Sequence[int], options: dict[str, Any], resets: bool
) -> None:
    """The same updates, some without a label, the last one shorter; and goes on from there."""
    b, t = sizes[:2]
    tokens = options.get("tokens", True)
    each = chunks((b, t), 13, tokens, resets, torch.float64)
    if t > 1:
        each[-1] = each[-1].map(lambda tensor: tensor[:, : t - 1])
    whole = Chunk(*(torch.cat([chunk[i] for chunk in each], dim=1) for i in range(4)))
    by_one, at_once = (learner(sizes, reduction="mean", **options) for _ in range(2))
    expected = [by_one.update(chunk) for chunk in each]
    report = at_once.scan(whole, t)
    torch.testing.assert_close(report.out, torch.cat([own.out for own in expected], dim=1), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(report.loss, torch.stack([own.loss for own in expected]).mean(), rtol=1e-8, atol=1e-10)
    assert by_one.state is not None and at_once.state is not None
    for name in ("steps", "updates", "skipped", "base"):
        assert getattr(by_one.state, name) == getattr(at_once.state, name)
    more = chunks((b, t), 3, tokens, resets, torch.float64)
    for own, one in zip(course(at_once, more), course(by_one, more), strict=True):
        torch.testing.assert_close(own, one, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_updates_were_made_in_one_call(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the test above compares what it says it does."""
    own, calls = learner(SIZES[0], reduction="mean", block=block), list[int]()
    before = type(own)._scan
    monkeypatch.setattr(type(own), "_scan", lambda *given: calls.append(given[1].x.shape[1]) or before(*given))
    each = chunks(SIZES[0], 13, True, False, torch.float64)
    own.scan(Chunk(*(torch.cat([chunk[i] for chunk in each], dim=1) for i in range(4))), 1)
    assert calls and calls[0] >= 8  # all but the first, in which losses are compared and averages are made
    del calls[:]
    plain = learner(SIZES[0])  # its loss might be any
    plain.scan(Chunk(*(torch.cat([chunk[i] for chunk in each], dim=1) for i in range(4))), 1)
    assert not calls


def test_an_update_among_many_that_is_not_finite_is_left_out() -> None:
    given = chunks((1, 12), 1, False, False, torch.float64)[0]._replace(mask=torch.ones(1, 12, dtype=torch.bool))
    given.x[0, 9, 1] = torch.inf
    found = []
    for scans in (False, True):
        own = learner(SIZES[0], tokens=False, reduction="mean")
        if scans:
            own.scan(given, 1)
        else:
            for s in range(12):
                own.update(given.map(lambda tensor, s=s: tensor[:, s : s + 1]))  # type: ignore[misc]
        assert own.state is not None and own.state.skipped == 1
        found.append(course(own, []))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_a_label_that_is_no_class_is_refused_before_anything_moves() -> None:
    given = chunks((1, 12), 1, True, False, torch.float64)[0]._replace(mask=torch.ones(1, 12, dtype=torch.bool))
    for scans in (False, True):
        own = learner(SIZES[0], reduction="mean")
        own.scan(given, 1)
        before = [tensor.clone() for tensor in course(own, [])]
        bad = given._replace(y=given.y.clone())
        bad.y[0, 0] = OUT
        with pytest.raises(ValueError, match=f"Expected labels from 0 to {OUT - 1}"):
            own.scan(bad, 1) if scans else own.update(bad)
        assert all(torch.equal(a, b) for a, b in zip(before, course(own, []), strict=True))


def test_a_loss_that_is_not_what_its_reduction_says_is_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may inherit a reduction and have a loss of its own."""

    def trebled() -> list[Tensor]:
        own = learner(SIZES[1], reduction="mean")
        own.task.loss = lambda out, chunk: labelled_cross_entropy(out, chunk) * 3  # type: ignore[method-assign]
        return course(own, chunks(SIZES[1], 6, True, False, torch.float64))

    found = trebled()
    by_torch(monkeypatch)
    for own, expected in zip(found, trebled(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


def test_what_is_large_or_elsewhere_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many states of many layers, weights of another precision, a backend asked for by name."""
    own, x = learner(SIZES[1]), torch.zeros(2, 7, dtype=torch.int64)
    assert isinstance(own._plain, fused.Fused) and own._plain.takes(x)
    states = 2 * 7 * own.model.blocks[0].shape[0] * own.model.blocks[0].shape[1]
    for limit, taken in ((states, True), (states - 1, False)):
        monkeypatch.setattr(fused, "HELD", limit)
        assert own._plain.takes(x) is taken
    monkeypatch.undo()
    own.model.blocks[0].backend = "torch"
    assert not own._plain.takes(x)
    given = chunks(SIZES[1], 12, True, False, torch.float64)
    whole = Chunk(*(torch.cat([chunk[i] for chunk in given], dim=1) for i in range(4)))
    own, other = (learner(SIZES[1], reduction="batchmean") for _ in range(2))
    own.model.blocks[0].backend = other.model.blocks[0].backend = "torch"
    torch.testing.assert_close(own.scan(whole, 7).out, torch.cat([other.update(c).out for c in given], 1))


@pytest.mark.parametrize("block", ["mamba2", "mamba"])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_addresses_and_averages_of_its_own(how: Any, block: str) -> None:
    """Estimators of river and scikit-learn are copied and pickled: both go on, and neither moves the other."""
    given = chunks(SIZES[1], 10, True, False, torch.float64)
    own, alone = (learner(SIZES[1], block=block) for _ in range(2))
    course(own, given[:5])
    course(alone, given[:5])
    twin = how(own)
    expected = course(alone, given[5:])
    for one in (own, twin):
        assert all(torch.equal(a, b) for a, b in zip(course(one, given[5:]), expected, strict=True))


@pytest.mark.parametrize("reduction", [None, "mean"])
def test_labels_and_resets_of_other_sizes_are_refused_each_time(reduction: str | None) -> None:
    """A kernel's sizes were checked at its first call: what a user gives is looked at in every one."""
    given = chunks(SIZES[1], 8, True, True, torch.float64)
    own = learner(SIZES[1], reduction=reduction)
    course(own, given[:5])
    before = [tensor.clone() for tensor in course(own, [])]
    good = given[5]._replace(mask=torch.ones_like(given[5].mask))
    good.reset[0, 0] = True
    short = {name: getattr(good, name)[:, :-2] for name in ("y", "mask", "reset")}
    for bad in (good._replace(**{name: tensor}) for name, tensor in short.items()):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            own.update(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, course(own, []), strict=True))


def test_a_hook_sees_what_a_block_gives() -> None:
    """Whoever looks at a module of torch's by a hook is shown it, at the next update."""
    given = chunks(SIZES[1], 4, True, False, torch.float64)
    own, seen = learner(SIZES[1]), list[Any]()
    course(own, given[:2])
    hook = own.model.norm_f.register_forward_hook(lambda *found: seen.append(found[-1]))
    own.update(given[2])
    hook.remove()
    own.update(given[3])
    assert len(seen) == 1


def test_updates_by_kernels_and_in_a_graph_may_take_turns() -> None:
    """Chunks of another length go by kernels where others are compiled: Adam counts the steps of both."""
    each = [chunks((1, t, *SIZES[1][2:]), 9, True, False, torch.float64)[i] for i, t in enumerate((3, 3, 5) * 3)]
    plain, turns = learner(SIZES[1]), learner(SIZES[1])
    turns.compile = True
    turns._build_update()
    expected, found = course(plain, each), course(turns, each)
    for own, one in zip(found, expected, strict=True):
        torch.testing.assert_close(own, one, rtol=1e-8, atol=1e-10)
    steps = {float(state["step"]) for state in turns.optimizer.state.values()}
    assert turns.state is not None and steps == {float(turns.state.updates)}
