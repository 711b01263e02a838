"""Laws of the approximate rules: exact where their mathematics says so, their own formula elsewhere, and not RTRL."""

import math

import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.rules import BPTT, RTRL, STLLR, UORO, Factored, LearningRule
from biomamba.rules.uoro import signs
from biomamba.state import copy, leaves
from sizes import BATCH, BLOCKS, T, error, random_model, random_state, random_tokens, summed_gradient

pytestmark = pytest.mark.usefixtures("float64")
DECAY = 0.8


def reset_in(t: int = T) -> Tensor:
    """Return resets (b, t), some of them in a row."""
    reset = torch.rand(BATCH, t) < 0.05
    reset[0, 10:12] = True
    return reset


def one_decay() -> biomamba.Model:
    """Return a model whose single block forgets at the same rate everywhere, and pushes by a constant post."""
    model = random_model("diagonal")
    block = model.blocks[0]
    delta = torch.nn.functional.softplus(block.dt_bias.data[:1])
    block.dt_bias.data[:] = block.dt_bias.data[0]
    block.A_log.data[:] = (-torch.log(torch.tensor(DECAY)) / delta).log()
    return model


def worst(got: dict[str, Tensor], want: dict[str, Tensor], names: list[str]) -> float:
    return max(error(got[name], want[name]) for name in names)


@pytest.mark.parametrize("length", [1, 3, 17])
@pytest.mark.parametrize("rule_class", [Factored, STLLR])
def test_it_is_rtrl_for_one_decay_and_a_constant_post(rule_class: type[LearningRule], length: int) -> None:
    def rule(model: biomamba.Model, decay: float) -> LearningRule:
        if rule_class is Factored:
            return Factored(model.blocks)
        return STLLR(model.blocks, lambda_pre=decay, alpha_post=0.0)

    x, y = random_tokens()
    model, reset = one_decay(), reset_in()
    names = [name for name, _ in model.named_parameters() if name.startswith("blocks.")]
    exact = summed_gradient(model, RTRL(model.blocks), x, y, length, reset)
    assert worst(summed_gradient(model, rule(model, DECAY), x, y, length, reset), exact, names) < 1e-9
    truncated = summed_gradient(model, BPTT(model.blocks), x, y, length, reset)
    assert worst(truncated, exact, names) > 1e-2
    if rule_class is STLLR:  # the same where the decay of the trace is another
        assert worst(summed_gradient(model, rule(model, 0.5), x, y, length, reset), exact, names) > 1e-2
    model = random_model("diagonal")  # and where those of the states are
    exact = summed_gradient(model, RTRL(model.blocks), x, y, length, reset)
    assert worst(summed_gradient(model, rule(model, DECAY), x, y, length, reset), exact, names) > 1e-3


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [1, 4])
def test_factored_is_its_formula(block: str, length: int) -> None:
    """The trace of each input projection is post_t x sum_s (prod abar) pre_s, written out from the drives."""
    model = random_model(block)
    layer, rule = model.blocks[0], Factored(model.blocks)
    (x, _), reset = random_tokens(12), reset_in(12)
    state, trace = model.init_state(BATCH), rule.init(BATCH)
    for s in range(0, 12, length):
        _, after, tapes = model(x[:, s : s + length], biomamba.cut(state), reset[:, s : s + length])
        trace, state = rule.advance_traces(tapes, trace), copy(after)
    _, _, (tape,) = model(x, model.init_state(BATCH), reset)
    drives = layer.drives(tape)
    abar = tape.log_a.real.detach().exp().masked_fill(reset[..., None, None], 0).mean((2, 3))
    ones = torch.ones(BATCH, *layer.shape)
    for name, axes in layer.influences.items():
        drive = drives[name]
        if drive.pre is None:
            continue
        rows = drive.pre[:, -12:]
        sums = torch.zeros_like(rows)
        for s in range(12):
            before = sums[:, s - 1] if s else torch.zeros_like(rows[:, 0])
            sums[:, s] = abar[:, s].view(-1, *[1] * (before.ndim - 1)) * before + rows[:, s]
        now = sums[:, -1]
        if drive.taps is not None:
            k = drive.taps.shape[-1]
            now = torch.einsum("bck,bkj->bcj", drive.taps[:, -1], sums[:, -k:])
        elif now.ndim == 2:
            now = now.unsqueeze(1).expand(-1, layer.shape["en".index(axes[0])], -1)
        post = drive.post[:, -1] if axes[0] == "e" else drive.post[:, -1].transpose(1, 2)
        expected = torch.einsum("bcr,bcj->cj", post, now).detach()
        got = rule.gradient(layer, tape, biomamba.rules.base.Signal(ones, None, None), trace[0], 1)
        assert float(expected.norm()) > 0
        assert error(got[name], expected) < 1e-9, name


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [3, 17, T])
def test_stllr_does_not_depend_on_the_chunk_length(block: str, length: int) -> None:
    model = random_model(block)
    (x, y), reset, state = random_tokens(), reset_in(), random_state(model)
    rule = STLLR(model.blocks, lambda_pre=0.7, lambda_post=0.6, alpha_pre=0.9, alpha_post=0.5)
    each = summed_gradient(model, rule, x, y, 1, reset, state)
    cut = summed_gradient(model, rule, x, y, length, reset, state)
    names = [name for name in each if name.startswith("blocks.")]
    assert worst(cut, each, names) < 1e-9
    rtrl = summed_gradient(model, RTRL(model.blocks), x, y, 1, reset, state)
    assert worst(each, rtrl, names) > 1e-2


@pytest.mark.parametrize("block", BLOCKS)
def test_stllr_without_traces_is_the_immediate_gradient_at_any_length(block: str) -> None:
    model = random_model(block, n_layers=2)
    (x, y), reset = random_tokens(), reset_in()
    rule = STLLR(model.blocks, lambda_pre=0.0, alpha_post=0.0)
    immediate = summed_gradient(model, BPTT(model.blocks), x, y, 1, reset)
    assert worst(summed_gradient(model, rule, x, y, 1, reset), immediate, list(immediate)) < 1e-9
    top = [name for name in immediate if name.startswith("blocks.1.")]  # below, conv taps reach back within a chunk
    assert worst(summed_gradient(model, rule, x, y, 12, reset), immediate, top) < 1e-9
    assert worst(summed_gradient(model, BPTT(model.blocks), x, y, 12, reset), immediate, top) > 1e-2


@pytest.mark.parametrize("block", BLOCKS)
def test_the_halves_of_stllr_are_its_formula(block: str) -> None:
    """sum_t g_t (alpha_pre post_t x_t + alpha_post R_t pre_t) from the drives, all inputs of a channel written out."""
    model, t = random_model(block), 10
    layer, (x, y), reset = model.blocks[0], random_tokens(t), reset_in(t)
    rule = STLLR(model.blocks, lambda_pre=0.7, lambda_post=0.6, alpha_pre=0.9, alpha_post=0.5)
    out, _, (tape,) = model(x, biomamba.cut(model.init_state(BATCH)), reset, local=True)
    loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum")
    g, own = torch.autograd.grad(loss, [tape.h, layer.in_proj.weight], retain_graph=True)
    drives = layer.drives(tape)
    for name in layer.fan_in:
        drive, axes = drives[name], layer.influences[name]
        if drive.taps is not None:
            continue  # traces of the inputs, not of what a channel receives: another formula
        axis_first = (lambda z: z.transpose(-1, -2)) if axes[0] == "n" else (lambda z: z)
        post, signal = axis_first(drive.post), axis_first(g)
        pre = drive.pre if drive.pre.ndim == 4 else drive.pre.unsqueeze(2).expand(-1, -1, post.shape[2], -1)
        expected, X, R = 0.0, torch.zeros_like(pre[:, 0]), torch.zeros_like(post[:, 0])
        for s in range(t):
            keep = (~reset[:, s]).to(x.dtype if x.is_floating_point() else post.dtype)[:, None, None]
            X = 0.7 * keep * X + pre[:, s]
            R = 0.6 * keep * (R + post[:, s - 1]) if s else R
            expected = expected + torch.einsum("bcr,bcr,bcj->cj", signal[:, s], post[:, s], 0.9 * X - pre[:, s])
            expected = expected + 0.5 * torch.einsum("bcr,bcr,bcj->cj", signal[:, s], R, pre[:, s])
        signals = biomamba.rules.base.Signal(tape.h0, g, g)
        got = rule.gradient(layer, tape, signals, rule.init(BATCH)[0], t)
        assert error(got[name], expected) < 1e-9, name
    assert float(own.norm()) > 0


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule_class", [Factored, STLLR, UORO])
def test_traces_start_anew_at_a_reset(block: str, rule_class: type[LearningRule]) -> None:
    """A stream reset in the middle is two streams; uoro draws by the stream, so its draws are not compared."""
    model = random_model(block)
    rule = rule_class(model.blocks)
    x, y = random_tokens(24, batch=1)
    reset = torch.zeros(1, 24, dtype=torch.bool)
    reset[0, 12] = True
    first = summed_gradient(model, rule, x[:, :12], y[:, :12], 4)
    second = summed_gradient(model, rule, x[:, 12:], y[:, 12:], 4)
    one = summed_gradient(model, rule, x, y, 4, reset)
    blind = summed_gradient(model, rule, x, y, 4)
    names = [name for name in one if name.startswith("blocks.")]
    two = {name: first[name] + second[name] for name in names}
    if rule_class is not UORO:
        assert worst(one, two, names) < 1e-9
    else:
        trace, state = rule.init(1), model.init_state(1)
        _, after, tapes = model(x[:, :12], biomamba.cut(state))
        trace, state = rule.advance_traces(tapes, trace), copy(after)
        _, _, tapes = model(x[:, 12:13], biomamba.cut(state), reset[:, 12:13])
        h = rule.advance_traces(tapes, trace)[0]["h"]
        assert float(h.abs().std()) < 1e-12 * float(h.abs().mean())  # all of it new signs: nothing of before
    assert worst(blind, two, names) > 1e-3


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [1, 3])
def test_uoro_is_unbiased(block: str, length: int) -> None:
    """One stream copied 2,000 times, each with its own signs: the mean gradient is RTRL's within its standard error."""
    copies, groups, t = 100, 20, 9
    model = random_model(block, d_state=4 if block == "mamba3" else 2)
    x, y = random_tokens(t, batch=1)
    exact = summed_gradient(model, RTRL(model.blocks), x, y, length)
    many = x.expand(copies, -1), y.expand(copies, -1)
    drawn = [summed_gradient(model, UORO(model.blocks, seed), *many, length) for seed in range(groups)]
    off, truncated = [], summed_gradient(model, BPTT(model.blocks), x, y, length)
    for name in [n for n in exact if n.startswith("blocks.") and not torch.equal(exact[n], truncated[n])]:
        means = torch.stack([gradient[name] / copies for gradient in drawn])
        standard_error = means.std(0) / math.sqrt(groups)
        off.append(((means.mean(0) - exact[name]) / (standard_error + 1e-12)).flatten())
        assert error(means[0], exact[name]) > 1e-6, name  # a single draw is not exact
    z = torch.cat(off)
    assert float(z.square().mean()) < 1.5  # 19/17 for a t distribution of 19 degrees of freedom
    biased = torch.cat([((g - exact[n]) / (exact[n].abs() + 1e-3)).flatten() for n, g in truncated.items()])
    assert float(biased.abs().max()) > 0.1


def test_uoro_signs_are_fair_independent_and_repeatable() -> None:
    chunks = torch.arange(500)
    drawn = signs(0, 0, chunks, (20, 5)).flatten(1).double()
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(drawn.mean())) < 4 / math.sqrt(drawn.numel())
    products = drawn.T @ drawn / len(drawn)
    assert float((products - torch.eye(100)).abs().max()) < 5 / math.sqrt(len(drawn))
    rows = drawn @ drawn.T / drawn.shape[1]
    assert float((rows - torch.eye(500)).abs().max()) < 6 / math.sqrt(drawn.shape[1])
    assert torch.equal(signs(0, 0, chunks, (20, 5)), signs(0, 0, chunks, (20, 5)))
    for other in (signs(1, 0, chunks, (20, 5)), signs(0, 1, chunks, (20, 5)), signs(0, 0, chunks + 1, (20, 5))):
        assert 0.4 < float((other == signs(0, 0, chunks, (20, 5))).double().mean()) < 0.6


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule_class", [Factored, STLLR, UORO])
def test_memory_is_less_and_does_not_grow(block: str, rule_class: type[LearningRule]) -> None:
    model = random_model(block, d_state=8, **({"headdim": 4} if block == "mamba2" else {}))
    rule, state = rule_class(model.blocks), model.init_state(BATCH)
    trace = rule.init(BATCH)
    before = biomamba.state.nbytes(trace)
    for length in (1, 5, 2):
        x, _ = random_tokens(length)
        out, after, tapes = model(x, biomamba.cut(state), None, rule.local)
        trace, state = rule.backward(out.square().sum(), tapes, trace), copy(after)
        assert all(tensor.grad_fn is None and not tensor.requires_grad for _, tensor in leaves([state, trace]))
    assert biomamba.state.nbytes(trace) == before
    assert before < 0.7 * biomamba.state.nbytes(RTRL(model.blocks).init(BATCH))


@pytest.mark.parametrize("rule_class", [Factored, STLLR, UORO])
def test_nothing_moves_where_go_is_false(rule_class: type[LearningRule]) -> None:
    model = random_model("mamba2")
    rule = rule_class(model.blocks)
    x, _ = random_tokens(5)
    _, _, tapes = model(x, model.init_state(BATCH))
    start = rule.advance_traces(tapes, rule.init(BATCH))
    held = rule.advance_traces(tapes, copy(start), go=torch.tensor(False))
    moved = rule.advance_traces(tapes, copy(start))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(held), leaves(start), strict=True))
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(moved), leaves(start), strict=True))


def test_stllr_refuses_a_decay_that_does_not_decay() -> None:
    with pytest.raises(ValueError, match=r"lambda_pre .*got 1\.0, expected 0 <= lambda_pre < 1"):
        STLLR(random_model("mamba2").blocks, lambda_pre=1.0)
