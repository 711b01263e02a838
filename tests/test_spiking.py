"""Laws of spiking blocks and of random feedback: exactness holds, out_proj sees 0 and 1, no weight is transported."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from bench.window import change, fitted
from biomamba.ops.spike import spike, surrogate_grad
from biomamba.rules import BPTT, RTRL, RTRLSTDP, STLLR, UORO, Factored, LearningRule
from sizes import BATCH, BLOCKS, T, error, random_model, random_state, random_tokens, summed_gradient, windowed_gradient

pytestmark = pytest.mark.usefixtures("float64")
SPIKING: dict[str, Any] = {"threshold": 0.5}


def promised(block: str, name: str) -> bool:
    """Say whether RTRL is promised exact for this parameter."""
    return name.startswith("blocks.") and not (block == "mamba" and "in_proj" in name)


def test_the_surrogate_derivative_is_its_formula() -> None:
    u = torch.tensor([-3.0, 0.49, 0.5, 0.51, 7.0], requires_grad=True)
    s = spike(u, 0.5, 10.0)
    assert s.tolist() == [0, 0, 0, 1, 1]
    s.backward(torch.arange(1.0, 6.0))
    expected = torch.arange(1.0, 6.0) / (10 * (u.detach() - 0.5).abs() + 1) ** 2
    torch.testing.assert_close(u.grad, expected, rtol=1e-14, atol=0)
    assert float(surrogate_grad(torch.tensor(1e3), 0.5, 10.0)) > 0


@pytest.mark.parametrize("block", BLOCKS)
def test_out_proj_receives_spikes_and_the_share_is_theirs(block: str) -> None:
    model = random_model(block, n_layers=2, **SPIKING)
    x, _ = random_tokens()
    seen: list[Tensor] = []
    for each in model.blocks:
        each.out_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    _, _, tapes = model(x, model.init_state(BATCH))
    assert all(set(spikes.unique().tolist()) == {0.0, 1.0} for spikes in seen)
    torch.testing.assert_close(model.spikes(tapes, T), torch.stack([spikes.mean() for spikes in seen]))
    late = torch.stack([spikes[:, -7:].mean() for spikes in seen])
    torch.testing.assert_close(model.spikes(tapes, 7), late)
    graded = random_model(block, n_layers=2)
    assert graded.spikes(graded(x, graded.init_state(BATCH))[2], T).isnan().all()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_chunk_is_its_steps(block: str) -> None:
    model = random_model(block, **SPIKING)
    layer, x = model.blocks[0], torch.randn(BATCH, 9, model.blocks[0].d_model)
    state = layer.init_state(BATCH)
    whole, _, _ = layer.chunk(x, state)
    for s in range(9):
        y, state = layer.step(x[:, s], state)
        torch.testing.assert_close(y, whole[:, s], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [1, 3, 17])
def test_rtrl_is_bptt_for_a_spiking_block(block: str, length: int) -> None:
    model = random_model(block, **SPIKING)
    (x, y), reset, state = random_tokens(), torch.rand(BATCH, T) < 0.05, random_state(model)
    full = summed_gradient(model, BPTT(model.blocks), x, y, T, reset, state)
    exact = summed_gradient(model, RTRL(model.blocks), x, y, length, reset, state)
    truncated = summed_gradient(model, BPTT(model.blocks), x, y, length, reset, state)
    checked = [name for name in full if promised(block, name)]
    for name in checked:
        assert error(exact[name], full[name]) < 1e-9, name
    assert max(error(truncated[name], full[name]) for name in checked) > 1e-2


@pytest.mark.parametrize("block", BLOCKS)
def test_a_window_of_everything_is_bptt_for_spiking_blocks(block: str) -> None:
    model = random_model(block, n_layers=3, **SPIKING)
    x, y = random_tokens(20)
    full = summed_gradient(model, BPTT(model.blocks), x, y, 20)
    windowed = windowed_gradient(model, RTRL(model.blocks), x, y, 4, 20)
    assert all(error(windowed[name], full[name]) < 1e-9 for name in full)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule_class", [RTRLSTDP, STLLR])
def test_the_traces_of_spiking_blocks_do_not_depend_on_the_length(block: str, rule_class: type[LearningRule]) -> None:
    model = random_model(block, **SPIKING)
    (x, y), reset = random_tokens(), torch.rand(BATCH, T) < 0.05
    rule = RTRLSTDP(model.blocks, a_post=0.4) if rule_class is RTRLSTDP else STLLR(model.blocks, alpha_post=0.4)
    each = summed_gradient(model, rule, x, y, 1, reset)
    cut = summed_gradient(model, rule, x, y, 7, reset)
    for name in each:
        if promised(block, name):
            assert error(cut[name], each[name]) < 1e-9, name


@pytest.mark.parametrize("block", BLOCKS)
def test_the_non_causal_half_of_a_spiking_block_is_its_formula(block: str) -> None:
    """The signal comes through the potential's derivative to h without psi, and psi stands with the post instead."""
    model, t, lam = random_model(block, **SPIKING), 8, 0.6
    layer, (x, y) = model.blocks[0], random_tokens(t)
    rule = RTRLSTDP(model.blocks, a_post=1.0, lam=lam)
    out, _, (tape,) = model(x, biomamba.cut(model.init_state(BATCH)))
    loss = F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum")
    _, (signal,) = rule.signals(loss, list(model.parameters()), [tape])
    to_u, to_h = torch.autograd.grad(loss, [tape.pre_activation, tape.h], retain_graph=True)
    slope = surrogate_grad(tape.pre_activation.detach(), 0.5, layer.steepness)
    (bare,) = torch.autograd.grad(tape.pre_activation, tape.h, to_u / slope)
    torch.testing.assert_close(signal.h, to_h)
    torch.testing.assert_close(signal.raw_signal, bare)
    assert error(signal.raw_signal, to_h) > 1e-2
    with torch.no_grad():
        half = rule.gradient(layer, tape, signal._replace(h0=0 * signal.h0), rule.init(BATCH)[0], t)
    checked = 0
    for name in layer.fan_in:
        post, pre, taps = layer.drives(tape)[name]
        if taps is not None or pre.ndim == 4:
            continue
        expected, R = torch.zeros_like(half[name]), torch.zeros_like(post[:, 0])
        for s in range(t):
            R = lam * (R + slope[:, s - 1].unsqueeze(-1) * post[:, s - 1]) if s else R
            product = bare[:, s] * R
            expected += torch.einsum(
                "bc,bj->cj", product.sum(-1 if layer.influences[name][0] == "e" else -2), pre[:, s]
            )
        assert error(half[name], expected) < 1e-9, name
        checked += 1
    assert checked


@pytest.mark.parametrize("a_post, lam", [(-0.5, 0.9), (0.3, 0.6)])
def test_a_pair_of_spikes_draws_the_window_of_stdp(a_post: float, lam: float) -> None:
    """a^dt for pre before post, a_post lam^|dt| for post before pre, and both decays can be read off it."""
    decay, before, after = 0.93, [1, 2, 7, 20, 50], [-50, -20, -7, -2, -1]
    causal, late = ([change(dt, decay, a_post, lam) for dt in dts] for dts in (before, after))
    assert causal == pytest.approx([decay**dt for dt in before], rel=1e-9)
    assert late == pytest.approx([a_post * lam**-dt for dt in after], rel=1e-9)
    assert abs(fitted(before, causal) / decay - 1) < 0.01 and abs(fitted(after, late) / lam - 1) < 0.01
    assert change(3, decay, 0.0, lam) == pytest.approx(decay**3) and abs(change(-3, decay, 0.0, lam)) < 1e-9


@pytest.mark.parametrize("block", BLOCKS)
def test_the_penalty_draws_the_rate(block: str) -> None:
    """Its gradient is that of the share's distance, at the block's own parameters and nowhere above."""
    model = random_model(block, spike_rate=0.9, spike_weight=2.0, **SPIKING)
    x, _ = random_tokens()
    _, _, tapes = model(x, model.init_state(BATCH))
    penalty = model.penalty(model.spikes(tapes, T))
    assert penalty is not None
    share = model.spikes(tapes, T).detach()
    assert 0 < float(share) < 0.9
    torch.testing.assert_close(penalty.detach(), 2 * (share - 0.9).square().sum())
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    moved = dict(zip([name for name, _ in model.named_parameters()], gradients, strict=True))
    assert moved["head.weight"] is None and moved["blocks.0.out_proj.weight"] is None
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= 0.3 * (gradient if gradient is not None else 0)
    _, _, tapes = model(x, model.init_state(BATCH))
    assert float(model.spikes(tapes, T).detach()) > float(share)
    assert random_model(block, **SPIKING).penalty(model.spikes(tapes, T)) is None


@pytest.mark.parametrize("options", [{}, SPIKING])
@pytest.mark.parametrize("block", BLOCKS)
def test_random_feedback_reaches_every_part_by_its_own_matrix(block: str, options: dict[str, Any]) -> None:
    model = random_model(block, n_layers=2, feedback="random", **options)
    same = random_model(block, n_layers=2, **options)
    same.load_state_dict({name: w for name, w in model.state_dict().items() if name != "random_feedback"})
    (x, y), parts = random_tokens(), {}
    for i, part in enumerate([model.encoder, *model.blocks, model.norm_f]):
        out_of = part.out_proj if i in (1, 2) else part
        out_of.register_forward_hook(lambda _, given, out, i=i: parts.update({i: out}))
    out, _, _ = model(x, model.init_state(BATCH))
    assert torch.equal(out, same(x, same.init_state(BATCH))[0])
    loss = F.cross_entropy(out.flatten(0, 1), y.flatten())
    to_out, *to_parts = torch.autograd.grad(loss, [out, *(parts[i] for i in range(4))], retain_graph=True)
    for F_l, gradient in zip(model.random_feedback, to_parts, strict=True):
        torch.testing.assert_close(gradient, to_out @ F_l)
    symmetric = summed_gradient(same, BPTT(same.blocks), x, y, T)
    random = summed_gradient(model, BPTT(model.blocks), x, y, T)
    assert error(random["head.weight"], symmetric["head.weight"]) < 1e-9
    assert all(error(random[name], symmetric[name]) > 1e-2 for name in random if name != "head.weight")


def test_feedback_is_drawn_after_the_weights() -> None:
    drawn = []
    for feedback in ("symmetric", "random"):
        torch.manual_seed(0)
        drawn.append(biomamba.Model(vocab=11, d_out=7, d_model=8, n_layers=2, feedback=feedback))
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in drawn), strict=True))
    F_l = drawn[1].random_feedback
    assert F_l.shape == (4, 7, 8) and 0.5 < float(F_l.var() * 7) < 2


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [1, 7])
def test_random_feedback_makes_traces_exact_at_any_depth(block: str, length: int) -> None:
    """No credit crosses blocks, so none is lost where a chunk is cut; with symmetric feedback some is."""
    model = random_model(block, n_layers=3, feedback="random")
    x, y = random_tokens()
    full = summed_gradient(model, BPTT(model.blocks), x, y, T)
    rtrl = summed_gradient(model, RTRL(model.blocks), x, y, length)
    for name in full:
        if promised(block, name) or not name.startswith("blocks."):
            assert error(rtrl[name], full[name]) < 1e-9, name
    same = random_model(block, n_layers=3)
    full, rtrl = (
        summed_gradient(same, rule, x, y, cut) for rule, cut in [(BPTT(same.blocks), T), (RTRL(same.blocks), length)]
    )
    assert max(error(rtrl[name], full[name]) for name in full if name.startswith("blocks.0.")) > 1e-6


@pytest.mark.parametrize("rule_class", [BPTT, RTRL, RTRLSTDP, Factored, STLLR, UORO])
def test_every_rule_learns_from_a_spiking_model_with_random_feedback(rule_class: type[LearningRule]) -> None:
    """The loop runs, everything stays finite, and every parameter moves."""
    from sizes import SummedLoss, chunks

    model = random_model("mamba2", n_layers=2, feedback="random", spike_rate=0.3, **SPIKING)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    x, y = random_tokens(24)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for report in biomamba.online(
        chunks(x, y, 3, None), biomamba.Learner(SummedLoss(), model, rule_class(model.blocks), optimizer)
    ):
        assert 0 <= float(report.spikes) <= 1
    assert report.state.updates == 8 and report.state.skipped == 0
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="feedback: got 'fixed', expected one of symmetric, random"):
        random_model("mamba2", feedback="fixed")
    with pytest.raises(ValueError, match=r"spike_rate: got 0\.1 for blocks that do not spike"):
        random_model("mamba2", spike_rate=0.1)
