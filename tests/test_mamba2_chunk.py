"""A Mamba-2 chunk by our kernels is the chunk by torch's operations: values, every gradient, what a rule reads."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from biomamba.blocks import Mamba2
from biomamba.ops.backend import call
from biomamba.state import leaves

SIZES = [  # streams, steps, width, states, headdim, expand, taps
    (1, 1, 16, 4, 8, 2, 4), (2, 7, 13, 3, 2, 2, 3), (3, 64, 24, 1, 6, 1, 1), (1, 5, 8, 16, 16, 2, 4),
    (1, 16, 96, 4, 8, 2, 4), (2, 63, 6, 2, 1, 1, 2),
]  # fmt: skip


def chunk_of(sizes: tuple[int, ...], backend: str, dtype: torch.dtype, resets: bool, local: bool) -> list[Tensor]:
    """Return what a chunk computes and leaves, and the gradients of a random readout, by a backend."""
    torch.manual_seed(0)
    b, t, d, n, headdim, expand, taps = sizes
    block = Mamba2(d, d_state=n, headdim=headdim, expand=expand, d_conv=taps).to(dtype)
    block.backend = backend
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, state = torch.randn(b, t, d, dtype=dtype).requires_grad_(), block.init_state(b)
    state = type(state)(*(torch.randn_like(own).requires_grad_() for own in state))
    reset = torch.rand(b, t) < 0.3 if resets else None
    y, after, tape = block.chunk(x, state, reset, local)
    loss = sum((own * torch.randn_like(own)).sum() for own in (y, *after))
    wanted = [*block.parameters(), x, *state, tape.h, tape.pre_activation]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [y, *after, *(own for _, own in leaves(tape._replace(reset=None)) if own is not None), *found]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_do_what_torch_does(sizes: tuple[int, ...], resets: bool, local: bool) -> None:
    ours, torchs = (chunk_of(sizes, backend, torch.float64, resets, local) for backend in ("llvm", "torch"))
    for own, expected in zip(ours, torchs, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_do_it_in_single_precision(sizes: tuple[int, ...]) -> None:
    ours = chunk_of(sizes, "llvm", torch.float32, True, False)
    torchs = chunk_of(sizes, "torch", torch.float32, True, False)
    for own, expected in zip(ours, torchs, strict=True):
        torch.testing.assert_close(own, expected, rtol=2e-4, atol=2e-4)


def test_what_is_not_finite_shows() -> None:
    """A NaN or an infinity in the inputs of one stream is seen there, and nowhere else."""
    block = Mamba2(16, d_state=4, headdim=8)
    for bad in (torch.nan, torch.inf):
        x = torch.randn(2, 5, 16)
        x[1, 2, 3] = bad
        y, _, tape = block.chunk(x, block.init_state(2))
        assert bool(y[0].isfinite().all()) and bool(y[1, :2].isfinite().all())
        assert not bool(y[1, 2].isfinite().any()) and not bool(tape.h[1, 4].isfinite().all())


def test_sizes_that_do_not_agree_are_refused() -> None:
    block = Mamba2(16, d_state=4, headdim=8)
    _, _, tape = block.chunk(torch.randn(2, 5, 16), block.init_state(2))
    h, weight = tape.h.detach(), block.norm.weight.detach()
    rows = torch.zeros(2, 5, 32)
    with pytest.raises(ValueError, match=r"mamba2_output: C is of shape \(2, 4, 4\), expected \(2, 5, 4\) \(b t n\)"):
        call("mamba2_chunk.mamba2_output", h, torch.zeros(2, 4, 4), rows, rows, block.D.detach(), weight, rows.clone(),
             torch.zeros(2, 5), rows.clone())  # fmt: skip
