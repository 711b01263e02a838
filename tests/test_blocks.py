"""Laws of the blocks: `chunk` is t calls of `step`, streams do not see the future, drives are the Jacobian."""

import importlib.util
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from biomamba.blocks import BLOCKS as REGISTRY
from biomamba.ops.influence import contract_naive, influence_naive, shape
from biomamba.state import BlockState, copy, forget, leaves
from sizes import BATCH, BLOCKS, D_MODEL, EVERY, REAL, random_model, random_state, random_tokens

pytestmark = pytest.mark.usefixtures("float64")


def test_every_registered_block_is_under_the_laws() -> None:
    assert set(EVERY) == set(REGISTRY)
    assert {name for name in EVERY if REGISTRY[name].diagonal} == set(BLOCKS)


def close(got: Any, expected: Any) -> None:
    for (path, a), (_, b) in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, path=path: f"{path}: {text}")


@pytest.mark.parametrize("block", EVERY)
@pytest.mark.parametrize("t", [1, 2, 7, 30])
def test_chunk_is_t_steps(block: str, t: int) -> None:
    model = random_model(block)
    layer, state = model.blocks[0], random_state(model)[0]
    x = torch.randn(BATCH, t, D_MODEL)
    y, after, _ = layer.chunk(x, state)
    stepped = []
    for s in range(t):
        y_s, state = layer.step(x[:, s], state)
        stepped.append(y_s)
    close([y, after], [torch.stack(stepped, 1), state])


@pytest.mark.parametrize("block", EVERY)
@pytest.mark.parametrize("at", [1, 4, 11])
def test_split_chunk_is_the_whole_and_the_tape_knows_every_state(block: str, at: int) -> None:
    model = random_model(block, n_layers=2)
    x, _ = random_tokens(12)
    reset = torch.rand(BATCH, 12) < 0.2
    state = random_state(model)
    whole, end, tapes = model(x, state, reset)
    head, middle, _ = model(x[:, :at], state, reset[:, :at])
    tail, split_end, _ = model(x[:, at:], middle, reset[:, at:])
    close([whole, end], [torch.cat([head, tail], 1), split_end])
    close(model.state_at(tapes, at), middle)
    close(model.state_at(tapes, 0), state)
    close(model.state_at(tapes, 12), end)


@pytest.mark.parametrize("block", EVERY)
def test_nothing_depends_on_the_future(block: str) -> None:
    model = random_model(block, n_layers=2)
    x, _ = random_tokens(12)
    changed = x.clone()
    changed[:, 7] = (x[:, 7] + 1) % 11
    out, other = model(x, model.init_state(BATCH))[0], model(changed, model.init_state(BATCH))[0]
    close(out[:, :7], other[:, :7])
    assert not torch.allclose(out[:, 7:], other[:, 7:])


@pytest.mark.parametrize("block", EVERY)
def test_one_stream_with_a_reset_is_two_streams(block: str) -> None:
    model = random_model(block, n_layers=2)
    x, _ = random_tokens(12)
    reset = torch.zeros(BATCH, 12, dtype=torch.bool)
    reset[:, 5] = True
    out, end, _ = model(x, random_state(model), reset)
    fresh, fresh_end, _ = model(x[:, 5:], model.init_state(BATCH))
    close([out[:, 5:], end], [fresh, fresh_end])
    without = model(x, random_state(model))[0]
    assert not torch.allclose(out[:, 5:], without[:, 5:])


@pytest.mark.parametrize("block", BLOCKS)
def test_pull_back_is_what_autograd_brings_to_the_parameters(block: str) -> None:
    layer = random_model(block).blocks[0]
    effective, parameters = layer.effective(), dict(layer.named_parameters())
    gradients = {name: torch.randn_like(effective[name]) for name in layer.influences}
    wanted = torch.autograd.grad(
        list(effective.values()), list(parameters.values()), list(gradients.values()), allow_unused=True
    )
    for given in (gradients, dict([*gradients.items()][:2])):  # a rule may leave some out
        pairs = layer.pull_back(given)
        found = torch.autograd.grad(
            [tensor for tensor, _ in pairs], list(parameters.values()), [g for _, g in pairs], allow_unused=True
        )
        if given is gradients:
            none = [
                (name, a) for (name, a), b in zip(zip(parameters, found, strict=True), wanted, strict=True) if b is None
            ]
            assert all(a is None or not bool(a.any()) for _, a in none)
            close(
                [a for a, b in zip(found, wanted, strict=True) if b is not None], [b for b in wanted if b is not None]
            )
        assert any(a is not None and bool(a.any()) for a in found)


def test_forget_is_a_stream_that_has_seen_nothing() -> None:
    model = random_model("mamba2")
    state = random_state(model)
    which = torch.tensor([True, False, True])
    cleared = forget(state, which)
    for (_, got), (_, fresh), (_, old) in zip(
        leaves(cleared), leaves(model.init_state(BATCH)), leaves(state), strict=True
    ):
        assert torch.equal(got[which], fresh[which]) and torch.equal(got[~which], old[~which])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("resets", [False, True])
def test_the_trace_is_the_jacobian(block: str, resets: bool) -> None:
    """The trace of each effective parameter, brought to the true ones, is dh/dtheta by autograd."""
    model = random_model(block)
    layer, t = model.blocks[0], 6
    state = random_state(model)[0]
    x = torch.randn(BATCH, t, D_MODEL)
    reset = torch.rand(BATCH, t) < 0.3 if resets else None
    _, _, tape = layer.chunk(x, state, reset)
    drives, effective = layer.drives(tape), layer.effective()
    weights = torch.randn(BATCH, *layer.shape)

    parameters = dict(layer.named_parameters())
    last = (layer.chunk(x, state, reset)[1].ssm * weights).sum()
    expected = torch.autograd.grad(last, list(parameters.values()), allow_unused=True)
    # the same readout through the traces
    gradients = {}
    for name, axes in layer.influences.items():
        Z = torch.zeros(shape(axes, BATCH, *layer.shape, layer.fan_in.get(name, 0)))
        Z = influence_naive(Z, tape.log_a.detach(), reset, axes, drives[name])
        gradients[name] = contract_naive(weights, Z, axes)
    got = torch.autograd.grad(
        [effective[name] for name in gradients], list(parameters.values()), list(gradients.values()), allow_unused=True
    )
    reached = 0
    for name, mine, theirs in zip(parameters, got, expected, strict=True):
        theirs = torch.zeros_like(parameters[name]) if theirs is None else theirs
        mine = torch.zeros_like(theirs) if mine is None else mine
        if block == "mamba" and name == "in_proj.weight":
            assert float((mine - theirs).norm()) > 1e-6, "in_proj's x half is declared approximate"
            continue
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
        reached += float(theirs.norm()) > 0
    assert reached >= 4


@pytest.mark.parametrize("block", REAL)
def test_official_initialisation(block: str) -> None:
    layer = REGISTRY[block](32, **{"dt_min": 0.01, "dt_max": 0.02})
    bias = layer.dt_proj.bias if block == "mamba" else layer.dt_bias
    dt = torch.nn.functional.softplus(bias.detach())
    assert float(dt.min()) >= 0.01 and float(dt.max()) <= 0.02
    A = layer.A_log.detach().exp()
    if block == "mamba2":
        assert float(A.min()) >= 1 and float(A.max()) <= 16
    else:
        torch.testing.assert_close(A[0], torch.arange(1.0, 17.0, dtype=A.dtype))


def test_model_says_what_is_wrong() -> None:
    for wrong, words in [
        ({"vocab": 4, "d_in": 4, "d_out": 2}, "either vocab"),
        ({"vocab": 4, "d_out": 2, "block": "tcn"}, "'tcn', expected one of"),
        ({"vocab": 4, "d_out": 2, "tied": True}, "d_out equal to vocab"),
        ({"vocab": 4, "d_out": 2, "d_model": 6, "headdim": 5}, "headdim 5 does not divide"),
        ({"vocab": 4, "d_out": 2, "block": "mamba", "conv": "none"}, 'expected "exact" or "direct"'),
    ]:
        with pytest.raises(ValueError, match=words):
            biomamba.Model(**wrong)  # type: ignore[arg-type]


def test_real_valued_input_and_tied_head() -> None:
    model = biomamba.Model(d_in=5, d_out=3, d_model=8, block="diagonal")
    assert model(torch.randn(2, 4, 5), model.init_state(2))[0].shape == (2, 4, 3)
    tied = biomamba.Model(vocab=9, d_out=9, d_model=8, tied=True, block="diagonal")
    assert tied.head.weight is tied.encoder.weight
    assert isinstance(copy(tied.init_state(2))[0], BlockState)


def combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor,
    initial_states: Tensor,
    seq_idx: Tensor | None,
) -> Tensor:
    """What mamba_ssm documents of `mamba_chunk_scan_combined`: heads share B and C, sequences are numbered."""
    h, ys = initial_states, []
    for s in range(x.shape[1]):
        a = torch.exp(dt[:, s] * A)
        if seq_idx is not None:
            before = seq_idx[:, s - 1] if s else torch.zeros_like(seq_idx[:, 0])
            a = a.masked_fill((seq_idx[:, s] != before)[:, None], 0)
        h = a[..., None, None] * h + torch.einsum("bh,bhp,bn->bhpn", dt[:, s], x[:, s], B[:, s, 0])
        ys.append(torch.einsum("bhpn,bn->bhp", h, C[:, s, 0]) + D[:, None] * x[:, s])
    return torch.stack(ys, 1)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("installed", [False, True])
def test_the_chunk_of_mamba_ssm_is_ours(resets: bool, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, the state before the chunk included; by the package's kernel or by what it documents."""
    if installed and not (torch.cuda.is_available() and importlib.util.find_spec("mamba_ssm")):
        pytest.skip("mamba_ssm is not installed, or has no GPU to run on")
    if not installed:
        module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
        monkeypatch.setattr(module, "mamba_chunk_scan_combined", combined, raising=False)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    device, dtype = ("cuda", torch.float32) if installed else ("cpu", torch.float64)
    model = random_model("mamba2").to(device, dtype)
    layer, reset = model.blocks[0], torch.rand(BATCH, 9, device=device) < 0.3
    x, results = torch.randn(BATCH, 9, D_MODEL, device=device, dtype=dtype), []
    before = random_state(model)[0]
    for backend in ("torch", "mamba_ssm"):
        layer.backend = backend
        state = biomamba.cut(before)
        y, after, tape = layer.chunk(x, state, reset if resets else None)
        gradients = torch.autograd.grad(y.square().sum(), [*layer.parameters(), state.ssm, state.conv])
        results.append([y, after.ssm, tape.h, *gradients])
    tolerance = 1e-3 if installed else 1e-9
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)


def test_mamba_ssm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    model = random_model("mamba2", backend="mamba_ssm")
    with pytest.raises(ImportError, match=r'pip install "biomamba\[mamba\]"'):
        model(torch.zeros(1, 2, dtype=torch.long), model.init_state(1))
    with pytest.raises(ValueError, match="no learning signal of single steps"):
        biomamba.rules.RTRLSTDP(model.blocks)


@pytest.mark.parametrize("block", REAL)
def test_time_constants_begin_between_the_two_that_are_given(block: str) -> None:
    """1 / -log a of an input of 0: the steps after which 1 / e of a state is left, log-uniform over the channels."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"dt_rank": 2} if block == "mamba" else {"headdim": 1} if block == "mamba2" else {}
    model = biomamba.Model(vocab=5, d_out=5, d_model=64, block=block, d_state=3, timescales=(10, 1000), **options)
    _, _, tapes = model(torch.zeros(1, 1, dtype=torch.int64), model.init_state(1))
    first: Any = model.blocks[0]
    bias = first.dt_proj.bias if block == "mamba" else first.dt_bias
    tau = (1 / F.softplus(bias)).detach()
    assert tau.min() >= 10 * 0.999 and tau.max() <= 1000 * 1.001
    assert torch.equal(first.A_log.detach(), torch.zeros_like(first.A_log))
    assert abs(float(tau.log().mean()) - math.log(100)) < 0.5 and float(tau.log().std()) > 0.9
    assert bool((tapes[0].log_a < 0).all())
    official = biomamba.Model(vocab=5, d_out=5, d_model=64, block=block, d_state=3, **options)
    assert official.blocks[0].A_log.detach().any()  # control


@pytest.mark.parametrize("scales", [(0.5, 10), (20, 10), (1, math.inf)])
def test_time_constants_that_make_no_sense_are_one_line(scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"timescales: got .*, expected steps, 1 <= shortest <= longest") as error:
        biomamba.Model(vocab=5, d_out=5, d_model=4, block="diagonal", timescales=scales)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("block", ["mamba", "mamba2"])
def test_step_sizes_differ_more_between_inputs_where_their_weights_begin_larger(block: str) -> None:
    drawn = []
    for scale in (1.0, 4.0):
        torch.manual_seed(0)
        drawn.append(biomamba.Model(vocab=9, d_out=5, d_model=16, block=block, d_state=3, dt_scale=scale))
    plain, scaled = ({key: own.clone() for key, own in model.state_dict().items()} for model in drawn)
    name = "blocks.0.dt_proj.weight" if block == "mamba" else "blocks.0.in_proj.weight"
    rows = slice(None) if block == "mamba" else slice(-len(plain["blocks.0.dt_bias"]), None)
    assert torch.equal(scaled[name][rows], 4 * plain[name][rows])
    scaled[name][rows] /= 4
    for key, weights in plain.items():
        assert torch.equal(scaled[key], weights)
    spread = []
    for model in drawn:
        x = torch.arange(9).unsqueeze(0)
        spread.append(float(model(x, model.init_state(1))[2][0].log_a.detach().abs().log().std(1).mean()))
    assert spread[1] > 2 * spread[0]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("block", ["mamba", "mamba2"])
def test_a_scale_of_step_sizes_that_makes_no_sense_is_one_line(block: str, scale: float) -> None:
    with pytest.raises(ValueError, match=r"dt_scale: got .*, expected a number above 0, finite: give") as error:
        biomamba.Model(vocab=5, d_out=5, d_model=4, block=block, dt_scale=scale)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 10**400])
@pytest.mark.parametrize("name", ["threshold", "steepness", "encoder_bias", "D_init"])
def test_numbers_that_no_weight_can_have_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got .*, expected a finite number: give one such as 1"):
        biomamba.Model(d_in=2, d_out=5, d_model=4, **{"threshold": 1.0} | {name: value})
    x = torch.zeros(1, 1, 2)
    model = biomamba.Model(d_in=2, d_out=5, d_model=4, threshold=10**30)  # more than a whole number of torch's
    assert model(x, model.init_state(1))[0].isfinite().all()


@pytest.mark.parametrize("rope_fraction", [0.5, 1.0])
def test_mamba3_is_the_rotary_form_of_the_paper(rope_fraction: float) -> None:
    """B and C turned by the sum of all angles so far, pairs of neighbours, and a state that only fades."""
    layer = random_model("mamba3", d_state=8, rope_fraction=rope_fraction).blocks[0]
    x = torch.randn(BATCH, 9, D_MODEL)
    z, u, B, C, dt, A, share, angle = layer.in_proj(x).split(layer.sizes, dim=-1)
    dt, share = F.softplus(dt + layer.dt_bias), share.sigmoid()
    A = -F.softplus(A).clamp(min=1e-4)
    theta = (math.pi * dt.unsqueeze(-1) * torch.tanh(angle).unsqueeze(2)).cumsum(1)  # (b, t, h, angles)

    def turned(own: Tensor) -> Tensor:
        own = own.clone()
        even, odd = own[..., 0 : 2 * theta.shape[-1] : 2].clone(), own[..., 1 : 2 * theta.shape[-1] : 2].clone()
        own[..., 0 : 2 * theta.shape[-1] : 2] = even * theta.cos() - odd * theta.sin()
        own[..., 1 : 2 * theta.shape[-1] : 2] = even * theta.sin() + odd * theta.cos()
        return own

    k = turned(layer.B_norm(B).unsqueeze(2) + layer.B_bias.squeeze(1))
    q = turned(layer.C_norm(C).unsqueeze(2) + layer.C_bias.squeeze(1))
    u = u.unflatten(-1, (-1, layer.headdim))
    h, ys = torch.zeros(BATCH, u.shape[2], layer.headdim, 8), []
    into = u.unsqueeze(-1) * k.unsqueeze(3)
    for s in range(9):
        a, d, part = ((own[:, s, :, None, None]) for own in ((A * dt).exp(), dt, share))
        before = into[:, s - 1] if s else torch.zeros_like(h)
        h = a * h + (1 - part) * d * a * before + part * d * into[:, s]
        ys.append((h * q[:, s].unsqueeze(2)).sum(-1) + layer.D[:, None] * u[:, s])
    expected = layer.out_proj(torch.stack(ys, 1).flatten(2) * F.silu(z))
    got, _, _ = layer.chunk(x, layer.init_state(BATCH))
    close(got, expected)
    layer.in_proj.weight.data[-angle.shape[-1] :] *= 2
    assert not torch.allclose(layer.chunk(x, layer.init_state(BATCH))[0], expected, rtol=1e-3)  # control


def test_mamba3_says_which_sizes_it_takes() -> None:
    for given, line in (
        ({"d_state": 5}, "d_state: got 5, expected an even number, 2 or more that rotate: give 6"),
        ({"d_state": 2}, "d_state: got 2, expected an even number, 2 or more that rotate: give 4"),
        ({"rope_fraction": 0.3}, "rope_fraction: got 0.3, expected 0.5 or 1"),
        ({"headdim": 5}, "headdim 5 does not divide"),
    ):
        with pytest.raises(ValueError, match=line):
            biomamba.blocks.Mamba3(6, **{"d_state": 4, "headdim": 4} | given)
    for what, block in (("compile", "mamba3"), ("export", "mamba3")):
        with pytest.raises(ValueError, match=f"{what}: Mamba3 has complex states, of which torch makes no graph"):
            random_model(block).check_graphs(what)
    random_model("mamba2").check_graphs("compile")  # control
    with pytest.raises(ValueError, match="timescales: got 10 100, but the rates of Mamba3 depend on the input"):
        random_model("mamba3", timescales=(10, 100))
