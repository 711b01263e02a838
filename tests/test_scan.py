"""Laws of the ops: every fast op equals its naive twin, values and gradients to every input."""

import pytest
import torch

from biomamba.blocks.base import Drive
from biomamba.ops.conv import conv, conv_naive, fold, reach, windows
from biomamba.ops.influence import decay_ahead, influence, influence_naive
from biomamba.ops.scan import scan, scan_naive

TIMES = [1, 2, 7, 63, 64]
pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("wide", [True, False])
def test_scan_is_its_naive_twin(t: int, wide: bool) -> None:
    a, b, h0 = torch.rand(3, t, 4, 5 if wide else 1), torch.randn(3, t, 4, 5), torch.randn(3, 4, 5)
    weights = torch.randn(3, t, 4, 5)
    results = []
    for function in (scan_naive, scan):
        inputs = [tensor.clone().requires_grad_() for tensor in (a, b, h0)]
        h = function(*inputs)
        results.append([h, *torch.autograd.grad((h * weights).sum(), inputs)])
    for naive, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)
    assert float(results[0][3].abs().max()) > 0, "the law says nothing if no gradient reaches h0"


@pytest.mark.parametrize("t", TIMES)
def test_scan_passes_gradcheck(t: int) -> None:
    if t > 7:
        pytest.skip("numerical derivatives of a long scan take minutes; its twin above is compared at this length")
    a, b, h0 = torch.rand(2, t, 2, 1), torch.randn(2, t, 2, 3), torch.randn(2, 2, 3)
    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in (a, b, h0)])


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("resets", [False, True])
def test_conv_is_its_naive_twin(t: int, taps: int, resets: bool) -> None:
    x, weight, bias = torch.randn(3, taps - 1 + t, 5), torch.randn(5, taps), torch.randn(5)
    within = reach(torch.rand(3, t) < 0.3, taps) if resets else None
    results = []
    for function in (conv_naive, conv):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        out = function(*inputs, within)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for naive, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)


def test_no_tap_reaches_behind_a_reset() -> None:
    x, weight, bias = torch.randn(1, 3 + 8, 2), torch.randn(2, 4), torch.zeros(2)
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 5] = True
    cut = conv(x, weight, bias, reach(reset, 4))
    fresh = torch.cat([torch.zeros(1, 3, 2), x[:, 3 + 5 :]], dim=1)
    torch.testing.assert_close(cut[:, 5:], conv(fresh, weight, bias))
    torch.testing.assert_close(cut[:, :5], conv(x, weight, bias)[:, :5])
    assert not torch.allclose(cut[:, 5:], conv(x, weight, bias)[:, 5:])


def test_fold_is_the_transpose_of_windows() -> None:
    x, post, taps = torch.randn(2, 3 + 7, 5), torch.randn(2, 7, 5), torch.randn(2, 7, 5, 4)
    forward = ((windows(x, 4, None) * taps).sum(-1) * post).sum()
    torch.testing.assert_close((fold(post, taps) * x).sum(), forward)


def drive(kind: str, axes: str, t: int) -> Drive:
    b, e, n, j, k = 3, 4, 5, 6, 4
    c = e if axes[0] == "e" else n
    post = torch.randn(b, t, e, n)
    if kind == "none":
        return Drive(post)
    if kind == "shared":
        return Drive(post, torch.randn(b, t, j))
    if kind == "own":
        return Drive(post, torch.randn(b, t, c, j))
    return Drive(post, torch.randn(b, k - 1 + t, j), torch.randn(b, t, c, k))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(
    "kind,axes", [("none", "e"), ("none", "en")] + [(k, a) for k in ("shared", "own", "taps") for a in ("ej", "nj")]
)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("n", [5, 1])
def test_influence_is_its_naive_twin(t: int, kind: str, axes: str, resets: bool, n: int) -> None:
    push = drive(kind, axes, t)
    log_a = -torch.rand(3, t, 4, n)
    reset = torch.rand(3, t) < 0.2 if resets else None
    shape = (3, 4, 5) if axes[0] == "e" else (3, 5, 4)
    Z = torch.randn(*shape, *([6] if len(push) and push.pre is not None else []))
    naive = influence_naive(Z.clone(), log_a, reset, axes, *push)
    fast = influence(Z.clone(), decay_ahead(log_a, reset), axes, *push)
    torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)


def test_decay_ahead_survives_what_underflows() -> None:
    log_a = torch.full((1, 64, 1, 1), -40.0)
    ahead = decay_ahead(log_a)
    assert bool(torch.isfinite(ahead.step).all())
    torch.testing.assert_close(ahead.step[0, -2], torch.tensor([[-40.0]]).exp())
