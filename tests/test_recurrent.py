"""Laws of the blocks without a trace: torch's own cells, closed forms, credit by the window, and who may teach them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import biomamba
from biomamba.blocks import BLOCKS as REGISTRY
from biomamba.blocks import GRU, LSTM, EchoState, GatedDelta
from biomamba.cli.main import main
from biomamba.rows import Supervised
from biomamba.rules import BPTT, RULES
from biomamba.state import BlockState
from sizes import (
    BATCH,
    D_MODEL,
    UNTRACED,
    SummedLoss,
    chunks,
    error,
    random_model,
    random_state,
    random_tokens,
    summed_gradient,
    windowed_gradient,
)

TINY = ["--config", "delay", "--config", str(Path(__file__).parent / "tiny.yaml")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name, official", [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_gated_networks_are_those_of_torch(name: str, official: Any) -> None:
    """States and gradients, from a state that remembers something; not with another bias of one gate."""
    layer, x = random_model(name).blocks[0], torch.randn(BATCH, 9, D_MODEL)
    e, own = layer.shape[0], official(D_MODEL, layer.shape[0], batch_first=True)
    state = random_state(random_model(name))[0]
    weights = dict(layer.named_parameters())
    own.load_state_dict({f"{key}_l0": weights[key] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    before = [part.unsqueeze(0).contiguous() for part in state.ssm.unbind(-1)]
    expected, _ = own(x, tuple(before) if name == "lstm" else before[0])
    _, _, tape = layer.chunk(x, state)
    torch.testing.assert_close(tape.h[..., 0], expected, rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad(tape.h[..., 0].square().sum(), layer.weight_hh)[0]
    theirs = torch.autograd.grad(expected.square().sum(), own.weight_hh_l0)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        layer.bias_ih[e : 2 * e] += 0.1
    assert not torch.allclose(layer.chunk(x, state)[2].h[..., 0], expected)  # control


@pytest.mark.parametrize("block", [GRU, LSTM])
def test_gates_keep_the_state_as_long_as_is_asked(block: Any) -> None:
    """With no input and nothing known, z of a GRU and f of an LSTM are 1 - 1/T, T from 1 to `longest` steps."""
    torch.manual_seed(0)
    kept = []
    for longest in (None, 100):
        layer = block(64, longest=longest)
        e = layer.shape[0]
        kept.append(1 / (1 - (layer.bias_ih + layer.bias_hh)[e : 2 * e].sigmoid()))
    assert kept[0].max() < 5 < 60 < kept[1].max() < 100 + 1e-3 and kept[1].min() > 1
    with pytest.raises(ValueError, match="longest: got 2, expected steps, 3 or more"):
        block(4, longest=2)


def delta(layer: GatedDelta, x: Tensor, state: BlockState) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return what drives the delta rule, and every S (b, t, h, p, n)."""
    given = layer.driven(torch.cat([state.conv, x], dim=1), None)
    return given, layer.chunk(x, state)[2].h.unflatten(2, (layer.heads, -1))


@pytest.mark.usefixtures("float64")
def test_the_delta_rule_is_its_closed_form() -> None:
    """S_t = sum_s beta_s v_s k_s^T prod_(r > s) alpha_r (I - beta_r k_r k_r^T), and S_0 through all of them."""
    model = random_model("gated_delta")
    layer, state, x = model.blocks[0], random_state(model)[0], torch.randn(BATCH, 7, D_MODEL)
    (_, k, v, alpha, beta, _), S = delta(layer, x, state)
    eye = torch.eye(layer.shape[1])
    through = alpha[..., None, None] * (eye - beta[..., None, None] * k.unsqueeze(-1) * k.unsqueeze(-2))
    written = beta[..., None, None] * v.unsqueeze(-1) * k.unsqueeze(-2)
    without_gate = eye - beta[..., None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)

    def closed(through: Tensor) -> Tensor:
        total = state.ssm.unflatten(1, (layer.heads, -1))
        for r in range(7):
            total = total @ through[:, r]
        for s in range(7):
            term = written[:, s]
            for r in range(s + 1, 7):
                term = term @ through[:, r]
            total = total + term
        return total

    torch.testing.assert_close(S[:, -1], closed(through), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(S[:, -1], closed(without_gate), rtol=1e-3)  # control


@pytest.mark.usefixtures("float64")
def test_the_delta_rule_descends_on_what_the_memory_says_wrong() -> None:
    """S_t = S - beta d/dS |S k - v|^2 / 2 at S = alpha S_(t-1); v k^T alone, as in linear attention, is not."""
    model = random_model("gated_delta")
    layer, state, x = model.blocks[0], random_state(model)[0], torch.randn(BATCH, 1, D_MODEL)
    (_, k, v, alpha, beta, _), after = delta(layer, x, state)
    k, v, alpha, beta = k[:, 0], v[:, 0], alpha[:, 0, :, None, None], beta[:, 0, :, None, None]
    S = (alpha * state.ssm.unflatten(1, (layer.heads, -1))).detach().requires_grad_()
    loss = ((S @ k.unsqueeze(-1)).squeeze(-1) - v).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, S)
    torch.testing.assert_close(after[:, 0], S - beta * gradient, rtol=1e-10, atol=1e-12)
    added = S + beta * v.unsqueeze(-1) * k.unsqueeze(-2)
    assert not torch.allclose(after[:, 0], added, rtol=1e-3)  # control


@pytest.mark.usefixtures("float64")
def test_the_reservoir_is_its_formula_and_forgets_how_it_began() -> None:
    torch.manual_seed(0)
    x, forgotten = torch.randn(BATCH, 200, 30), []
    for radius in (0.8, 2.5):
        layer = EchoState(30, spectral_radius=radius, leak=0.7, input_scale=0.1)
        assert abs(float(torch.linalg.eigvals(layer.W).abs().max()) - radius) < 1e-9
        state, other = (BlockState(x[:, :0], torch.randn(BATCH, 30, 1)) for _ in range(2))
        h = state.ssm[..., 0]
        for s in range(5):
            h = 0.3 * h + 0.7 * torch.tanh(x[:, s] @ layer.W_in.T + h @ layer.W.T)
        _, after, _ = layer.chunk(x[:, :5], state)
        torch.testing.assert_close(after.ssm[..., 0], h, rtol=1e-10, atol=1e-12)
        forgotten.append(float((layer.chunk(x, state)[0] - layer.chunk(x, other)[0])[:, -1].norm()))
    assert forgotten[0] < 1e-6 < 1e-2 < forgotten[1]
    assert not [parameter for parameter in layer.parameters() if parameter.requires_grad]
    for given, line in (
        ({"leak": 0.0}, "leak: got 0.0, expected a share above 0, at most 1"),
        ({"spectral_radius": -1.0}, "spectral_radius: got -1.0, expected a number above 0"),
    ):
        with pytest.raises(ValueError, match=line):
            EchoState(4, **given)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block", UNTRACED)
@pytest.mark.parametrize("n_layers, length", [(1, 1), (2, 4)])
def test_a_window_of_everything_is_bptt(block: str, n_layers: int, length: int) -> None:
    model = random_model(block, n_layers)
    (x, y), reset = random_tokens(20), torch.rand(BATCH, 20) < 0.1
    full = summed_gradient(model, BPTT(model.blocks), x, y, 20, reset)
    windowed = windowed_gradient(model, BPTT(model.blocks), x, y, length, 20, reset)
    short = windowed_gradient(model, BPTT(model.blocks), x, y, length, length, reset)
    for name in full:
        assert error(windowed[name], full[name]) < 1e-9, name
    assert max(error(short[name], full[name]) for name in full) > 1e-3


@pytest.mark.parametrize("block", UNTRACED)
@pytest.mark.parametrize("rule", [name for name in RULES if name != "bptt"])
def test_rules_that_keep_traces_refuse_blocks_that_have_none(block: str, rule: str) -> None:
    model = random_model(block)
    with pytest.raises(ValueError, match=f"keeps traces, which {REGISTRY[block].__name__} does not have"):
        RULES[rule](model.blocks)
    RULES["bptt"](model.blocks)  # control
    RULES[rule](random_model("mamba2").blocks)


def test_a_config_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--model.block", "gru"]) == 2
    said = capsys.readouterr().err
    assert "rule: RTRL keeps traces" in said and "give bptt" in said and said.count("\n") == 1


@pytest.mark.parametrize("block", UNTRACED)
@pytest.mark.parametrize("feedback, threshold", [("symmetric", None), ("random", 0.5)])
def test_what_was_saved_goes_on_to_the_bit(block: str, feedback: str, threshold: float | None, tmp_path: Path) -> None:
    """With spikes and random feedback too; what is fixed stays as it was drawn, all else learns."""
    x, y = random_tokens(24)
    stream = [chunk._replace(y=chunk.x % 7) for chunk in chunks(x, y, 4)]
    model = random_model(block, 2, feedback=feedback, threshold=threshold)
    began = {name: own.clone() for name, own in model.state_dict().items()}
    task = Supervised(model.spec, "class")
    learner = biomamba.Learner(task, model, BPTT(model.blocks), torch.optim.Adam(model.parameters(), 0.01), window=8)
    for _ in biomamba.online(stream[:3], learner):
        pass
    learner.save(tmp_path)
    straight = [report.out for report in biomamba.online(stream[3:], learner)]
    again = biomamba.load(tmp_path)
    resumed = [report.out for report in biomamba.online(stream[3:], again)]
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, began[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("block", UNTRACED)
def test_fidelity_and_costs_count_them(block: str) -> None:
    from biomamba.analysis import cost
    from biomamba.analysis.fidelity import fidelity

    model, (x, y) = random_model(block), random_tokens(16)
    rule, stream = BPTT(model.blocks), chunks(x, y, 4)
    near = fidelity(model, SummedLoss(), rule, iter(stream), 16)
    assert near["all"]["cosine"] > 1 - 1e-6
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    counted = cost.measure(model, SummedLoss(), rule, optimizer, stream[0], 8)
    assert counted.trace_bytes == 0 and counted.learning.joules > counted.inference.joules > 0
