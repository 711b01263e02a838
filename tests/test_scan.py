"""Laws of the ops: every fast op equals its naive twin, values and gradients to every input."""

import pytest
import torch

from biomamba.blocks.base import Drive
from biomamba.ops.conv import conv, conv_naive, fold, reach, windows
from biomamba.ops.influence import arrive, contract_naive, cross, decay_ahead, influence_naive, shape
from biomamba.ops.scan import scan, scan_naive

TIMES = [1, 2, 7, 63, 64]
KERNELS = ["torch", "numba"]
pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("kernels", KERNELS)
def test_scan_is_its_naive_twin(t: int, wide: bool, kernels: str) -> None:
    def scan_fast(a: torch.Tensor, b: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        return scan(a, b, h0, kernels)

    a, b, h0 = torch.rand(3, t, 4, 5 if wide else 1), torch.randn(3, t, 4, 5), torch.randn(3, 4, 5)
    weights = torch.randn(3, t, 4, 5)
    results = []
    for function in (scan_naive, scan_fast):
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


def drive(axes: str, taps: bool, t: int, n: int) -> Drive:
    b, e, j, k = 3, 4, 33, 4
    c = e if axes[0] == "e" else n
    post = torch.randn(b, t, e, n)
    if axes in ("e", "en"):
        return Drive(post)
    if axes[1] == "k":
        return Drive(post, torch.randn(b, t, c, k))
    if not taps:
        return Drive(post, torch.randn(b, t, j))
    return Drive(post, torch.randn(b, k - 1 + t, j), torch.randn(b, t, c, k))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(
    "axes, taps", [*((axes, False) for axes in ("e", "en", "ej", "nj", "ek", "nk")), ("ej", True), ("nj", True)]
)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("n, decays", [(5, 5), (5, 1), (2, 1)])
def test_cross_is_its_naive_twin(
    kernels: str, t: int, axes: str, taps: bool, resets: bool, n: int, decays: int
) -> None:
    """One pass gives both the gradient before the chunk and the trace after it; where told to stay, it stays."""
    push = drive(axes, taps, t, n)
    log_a, signal = -torch.rand(3, t, 4, decays), torch.randn(3, 4, n)
    reset = torch.rand(3, t) < 0.2 if resets else None
    Z = torch.randn(shape(axes, 3, 4, n, 4 if axes[-1] == "k" else 33))
    gradient, after = contract_naive(signal, Z, axes), influence_naive(Z.clone(), log_a, reset, axes, push)
    kept, ahead = Z.clone(), decay_ahead(log_a, reset)
    arrived = arrive(push, ahead, axes)
    (got,) = cross([kept], [axes], [arrived], ahead.start, signal, torch.tensor(True), kernels)
    torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(kept, after, rtol=1e-9, atol=1e-12)
    kept = Z.clone()
    cross([kept], [axes], [arrived], ahead.start, signal, torch.tensor(False), kernels)
    assert torch.equal(kept, Z)


def test_decay_ahead_survives_what_underflows() -> None:
    log_a = torch.full((1, 64, 1, 1), -40.0)
    ahead = decay_ahead(log_a)
    assert bool(torch.isfinite(ahead.step).all())
    torch.testing.assert_close(ahead.step[0, -2], torch.tensor([[-40.0]]).exp())
