"""Laws of the ops: every fast op equals its naive twin, values and gradients to every input."""

from collections.abc import Iterator

import pytest
import torch

from biomamba.blocks.mamba2 import Mamba2
from biomamba.ops.backend import resolve
from biomamba.ops.conv import conv, conv_naive, fold, tap_mask, windows
from biomamba.ops.influence import (
    Drive,
    contract_and_advance,
    contract_and_advance_functional,
    contract_naive,
    decay_products,
    discount_to_end,
    influence_naive,
    shape,
)
from biomamba.ops.scan import scan, scan_naive
from biomamba.ops.ssm import readout, selective_scan
from biomamba.state import BlockState

TIMES = [1, 2, 7, 63, 64]
AXES = [*((axes, False) for axes in ("e", "en", "ej", "nj", "ek", "nk")), ("ej", True), ("nj", True)]  # and taps
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=["torch", "functional", "llvm, 1 thread", "llvm, 2 threads", "triton"])
def backend(request: pytest.FixtureRequest, all_threads: None) -> Iterator[str]:
    """Name all kernels in turn; new tensors lie where they work: triton's on a GPU, else its interpreter runs them."""
    name, _, threads = request.param.partition(", ")
    torch.set_num_threads(int(threads[:1] or 1))
    device = "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"
    try:
        resolve(name, device)
    except ValueError as reason:
        pytest.skip(str(reason))
    with torch.device(device):
        yield name


def walled(tensor: torch.Tensor, wall: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tensor in the middle of NaN, and all of it."""
    whole = torch.full((tensor.numel() + 2 * wall,), torch.nan, dtype=tensor.dtype)
    return whole[wall:-wall].view(tensor.shape).copy_(tensor), whole


def crossed(
    Z: torch.Tensor, axes: str, arrived: Drive, decay: torch.Tensor, signal: torch.Tensor, go: bool, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient, and the trace at the end of the chunk: in the memory given, unless by functional kernels."""
    if backend != "functional":
        (gradient,) = contract_and_advance([Z], [axes], [arrived], decay, signal, torch.tensor(go), backend)
        return gradient, Z
    before = Z.clone()
    (gradient,), (after,) = contract_and_advance_functional([Z], [axes], [arrived], decay, signal, torch.tensor(go))
    assert torch.equal(Z, before), "functional kernels wrote to what they were given"
    return gradient, after


def ordered(x: torch.Tensor) -> torch.Tensor:
    """Return the place of each bfloat16 among all of them."""
    bits = x.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("wide", [True, False])
def test_scan_is_its_naive_twin(t: int, wide: bool, backend: str) -> None:
    def scan_fast(a: torch.Tensor, b: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        return scan(a, b, h0, backend)

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


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("b", [1, 3])
def test_scan_uses_only_what_was_written(backend: str, b: int) -> None:
    sizes = (b, 7, 30, 1), (b, 7, 30, 5), (b, 30, 5)
    inputs = [walled(torch.randn(size))[0].requires_grad_() for size in sizes]
    results = []
    for h in (scan_naive(*inputs), scan(*inputs, backend)):
        results.append([h, *torch.autograd.grad(h.square().sum(), inputs)])
    for naive, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)


def walk_naive(
    a: torch.Tensor, delta: torch.Tensor, u: torch.Tensor, B: torch.Tensor, C: torch.Tensor, h0: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `selective_scan` and `read` do, from their definitions."""
    a, delta = (heads.repeat_interleave(u.shape[2] // heads.shape[2], 2) for heads in (a, delta))
    h = scan_naive(a, torch.einsum("bte,bte,btn->bten", delta, u, B), h0)
    return h, torch.einsum("bten,btn->bte", h, C)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("b, e, heads, n", [(1, 4, 4, 5), (3, 7, 1, 1), (3, 4, 2, 16), (2, 3, 3, 33)])
@pytest.mark.parametrize("wide", [True, False])
def test_recur_and_read_are_a_scan_and_a_product(
    t: int, b: int, e: int, heads: int, n: int, wide: bool, backend: str
) -> None:
    """Values, and gradients to every input, with some that arrive at the states themselves, as learning rules ask."""
    sizes = (b, t, heads, n if wide else 1), (b, t, heads), (b, t, e), (b, t, n), (b, t, n), (b, e, n)
    given = [walled(torch.randn(size))[0] for size in sizes]
    on_h, on_y = torch.randn(b, t, e, n), torch.randn(b, t, e)
    results = []
    for fast in (False, True):
        a, delta, u, B, C, h0 = inputs = [tensor.clone().requires_grad_() for tensor in given]
        if fast:
            h = selective_scan(a, delta, u, B, h0, backend)
            y = readout(h, C, backend)
        else:
            h, y = walk_naive(*inputs)
        results.append([h, y, *torch.autograd.grad((h * on_h).sum() + (y * on_y).sum(), inputs)])
    for naive, got in zip(*results, strict=True):
        torch.testing.assert_close(got, naive, rtol=1e-9, atol=1e-9)
    assert float(results[0][-1].abs().max()) > 0, "the law says nothing if no gradient reaches h0"


@pytest.mark.parametrize("t", TIMES)
def test_scan_passes_gradcheck(t: int) -> None:
    if t > 7:
        pytest.skip("numerical derivatives of a long scan take minutes; its twin above is compared at this length")
    a, b, h0 = torch.rand(2, t, 2, 1), torch.randn(2, t, 2, 3), torch.randn(2, 2, 3)
    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in (a, b, h0)])


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("resets", [False, True])
def test_conv_is_its_naive_twin(t: int, taps: int, resets: bool, backend: str) -> None:
    x, weight, bias = torch.randn(3, taps - 1 + t, 5), torch.randn(5, taps), torch.randn(5)
    mask = tap_mask(torch.rand(3, t) < 0.3, taps) if resets else None
    results = []
    for fast in (False, True):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        out = conv(*inputs, mask, backend) if fast else conv_naive(*inputs, mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for naive, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)


def test_no_tap_reaches_behind_a_reset() -> None:
    x, weight, bias = torch.randn(1, 3 + 8, 2), torch.randn(2, 4), torch.zeros(2)
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 5] = True
    cut = conv(x, weight, bias, tap_mask(reset, 4))
    fresh = torch.cat([torch.zeros(1, 3, 2), x[:, 3 + 5 :]], dim=1)
    torch.testing.assert_close(cut[:, 5:], conv(fresh, weight, bias))
    torch.testing.assert_close(cut[:, :5], conv(x, weight, bias)[:, :5])
    assert not torch.allclose(cut[:, 5:], conv(x, weight, bias)[:, 5:])


def test_fold_is_the_transpose_of_windows() -> None:
    x, post, taps = torch.randn(2, 3 + 7, 5), torch.randn(2, 7, 5), torch.randn(2, 7, 5, 4)
    forward = ((windows(x, 4, None) * taps).sum(-1) * post).sum()
    torch.testing.assert_close((fold(post, taps) * x).sum(), forward)


def drive(axes: str, taps: bool, t: int, n: int, e: int = 4, j: int = 33, b: int = 3) -> Drive:
    k = 4
    c = e if axes[0] == "e" else n
    post = torch.randn(b, t, e, n)
    if axes in ("e", "en"):
        return Drive(post)
    if axes[1] == "k":
        return Drive(post, torch.randn(b, t, c, k))
    if not taps:
        return Drive(post, torch.randn(b, t, j))
    return Drive(post, torch.randn(b, k - 1 + t, j), torch.randn(b, t, c, k))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("axes, taps", AXES)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("n, decays", [(5, 5), (5, 1), (2, 1)])
def test_cross_is_its_naive_twin(
    backend: str, t: int, axes: str, taps: bool, resets: bool, n: int, decays: int
) -> None:
    """One pass gives both the gradient before the chunk and the trace after it; where told to stay, it stays."""
    if backend == "triton" and not torch.cuda.is_available() and (t == 64 or (n, decays) == (5, 1)):
        pytest.skip("triton's interpreter takes its time, and the kernel sees nothing new in these sizes")
    push = drive(axes, taps, t, n)
    log_a, signal = -torch.rand(3, t, 4, decays), torch.randn(3, 4, n)
    reset = torch.rand(3, t) < 0.2 if resets else None
    Z = torch.randn(shape(axes, 3, 4, n, 4 if axes[-1] == "k" else 33))
    gradient, after = contract_naive(signal, Z, axes), influence_naive(Z.clone(), log_a, reset, axes, push)
    kept, ahead = Z.clone(), decay_products(log_a, reset)
    arrived = discount_to_end(push, ahead, axes)
    got, moved = crossed(kept, axes, arrived, ahead.start, signal, True, backend)
    torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved, after, rtol=1e-9, atol=1e-12)
    _, moved = crossed(Z.clone(), axes, arrived, ahead.start, signal, False, backend)
    assert torch.equal(moved, Z)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("t", [1, 7])
@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("axes, taps", AXES)
def test_cross_uses_only_what_was_written(backend: str, t: int, b: int, axes: str, taps: bool) -> None:
    """No tile holds all of these traces; a number from beyond one, or from before it is written, would be NaN."""
    e, n, j = {"ej": 6, "nj": 40}.get(axes, 130), 5, 130
    push = drive(axes, taps, t, n, e, j, b)
    log_a, signal = -torch.rand(b, t, e, n), torch.randn(b, e, n)
    Z = torch.randn(shape(axes, b, e, n, 4 if axes[-1] == "k" else j))
    gradient, after = contract_naive(signal, Z, axes), influence_naive(Z, log_a, None, axes, push)
    kept, whole = walled(Z)
    ahead = decay_products(log_a)
    arrived = Drive(*(x if x is None else walled(x)[0] for x in discount_to_end(push, ahead, axes)))
    got, moved = crossed(kept, axes, arrived, ahead.start, signal, True, backend)
    torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved, after, rtol=1e-9, atol=1e-12)
    assert int(whole.isfinite().sum()) == Z.numel(), "it wrote beyond the trace"


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory", "all_threads")
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(
    "b, d, n, taps, threads, resets, dtype",
    [
        (1, 3, 5, 4, 1, False, torch.float64),
        (3, 20, 5, 3, 1, True, torch.float64),
        (3, 16, 5, 3, 1, True, torch.float64),
        (3, 9, 33, 4, 2, False, torch.float64),
        (1, 9, 33, 1, 2, True, torch.float64),
        (3, 9, 16, 6, 3, True, torch.float64),
        (3, 24, 16, 4, 1, True, torch.bfloat16),
        (2, 24, 4, 4, 4, True, torch.bfloat16),
    ],
)
def test_a_mamba2_block_crosses_a_chunk_without_writing_its_drives(
    b: int, d: int, n: int, taps: int, threads: int, resets: bool, t: int, dtype: torch.dtype
) -> None:
    """our kernel works them out on the way; by torch they are written out, and `contract_and_advance` takes them."""
    exact = dtype == torch.float64
    torch.set_default_dtype(torch.float64 if exact else torch.float32)
    block = Mamba2(d, d_state=n, d_conv=taps, headdim=d)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = BlockState(torch.randn(b, taps - 1, d), torch.randn(b, 2 * d, n))
    *_, tape = block.chunk(torch.randn(b, t, d), state, torch.rand(b, t) < 0.3 if resets else None)
    signal = torch.randn(b, 2 * d, n)
    sizes = {name: shape(axes, b, 2 * d, n, block.fan_in.get(name, 0)) for name, axes in block.influences.items()}
    before = {name: torch.randn(size).to(dtype) for name, size in sizes.items()}
    results = []
    torch.set_num_threads(threads)
    for block.backend in ("torch", "llvm"):
        traces = {name: walled(Z) for name, Z in before.items()}
        trace = {name: trace for name, (trace, _) in traces.items()}
        block.contract_and_advance(tape, trace, signal, torch.tensor(False))
        assert all(torch.equal(trace[name], Z) for name, Z in before.items())
        results.append(block.contract_and_advance(tape, trace, signal, torch.tensor(True)))
        assert all(int(whole.isfinite().sum()) == Z.numel() for Z, whole in traces.values()), "it wrote beyond a trace"
    (expected, after), (got, moved) = results
    for name, naive, fast in zip(block.influences, expected, got, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-9 if exact else 1e-4, atol=1e-9 if exact else 1e-4)
        close = 1e-9 if exact else 2**-6
        torch.testing.assert_close(moved[name], after[name], rtol=close, atol=close)
        assert not torch.allclose(after[name], before[name], rtol=2**-3, atol=2**-3), "the law says nothing if Z stays"


def test_a_trace_that_does_not_lie_in_one_piece_is_an_error() -> None:
    block = Mamba2(3, d_state=5, headdim=3)
    block.backend = "llvm"
    *_, tape = block.chunk(torch.randn(1, 1, 3), block.init_state(1))
    sizes = {name: shape(axes, 1, 6, 5, block.fan_in.get(name, 0)) for name, axes in block.influences.items()}
    trace = {name: torch.randn(size) for name, size in sizes.items()}
    block.contract_and_advance(tape, trace, torch.randn(1, 6, 5), torch.tensor(True))  # control: these do
    trace["in_proj.x"] = trace["in_proj.x"].transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ValueError, match=r"x of shape \(1, 6, 5, 3\) is not contiguous"):
        block.contract_and_advance(tape, trace, torch.randn(1, 6, 5), torch.tensor(True))


@pytest.mark.parametrize("t", [1, 7])
@pytest.mark.parametrize("axes, taps", AXES)
def test_a_trace_may_be_kept_in_bfloat16(backend: str, t: int, axes: str, taps: bool) -> None:
    """Only what is stored is rounded: to a unit after one step; a chunk may be rounded before its products too."""
    push = Drive(*(x if x is None else x.float() for x in drive(axes, taps, t, 5)))
    log_a, signal = -torch.rand(3, t, 4, 5).float(), torch.randn(3, 4, 5).float()
    exact = torch.randn(shape(axes, 3, 4, 5, 4 if axes[-1] == "k" else 33)).float()
    Z = exact.bfloat16()
    gradient, after = contract_naive(signal, Z.float(), axes), influence_naive(Z.float(), log_a, None, axes, push)
    kept, ahead = Z.clone(), decay_products(log_a)
    got, kept = crossed(kept, axes, discount_to_end(push, ahead, axes), ahead.start, signal, True, backend)
    torch.testing.assert_close(got, gradient, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(contract_naive(signal, exact, axes), gradient, rtol=1e-4, atol=1e-4), "Z was not rounded"
    apart = (ordered(kept) - ordered(after.bfloat16())).abs()
    if t == 1:
        assert int(apart.max()) <= 1
    torch.testing.assert_close(kept.float(), after, rtol=2**-7, atol=2**-7)
    assert int((ordered(kept) - ordered(Z)).abs().max()) > 100, "the law says nothing if Z does not move"


def test_decay_ahead_survives_what_underflows() -> None:
    log_a = torch.full((1, 64, 1, 1), -40.0)
    ahead = decay_products(log_a)
    assert bool(torch.isfinite(ahead.step).all())
    torch.testing.assert_close(ahead.step[0, -2], torch.tensor([[-40.0]]).exp())
