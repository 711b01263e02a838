"""The linear recurrence of `ops.scan` for the GPU, and its adjoint: a program per stream and block of states."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import OPTIONS

BLOCK = 128  # numbers that a program of a scan carries


@triton.jit
def forward(a, b, h0, h, steps, m, n, a_b, a_t, a_e, a_n, BLOCK: tl.constexpr):
    """Write h_t = a_t h_{t-1} + b_t; b and h are (b, t, m), h0 (b, m), m = e n; a (b, t, e, n) is read by strides."""
    i, x = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = x < m
    a += i * a_b + x // n * a_e + x % n * a_n
    b += i * steps * m + x
    h += i * steps * m + x
    now = tl.load(h0 + i * m + x, mask=inside, other=0)
    for _ in range(steps):
        now = tl.load(a, mask=inside, other=0) * now + tl.load(b, mask=inside, other=0)
        tl.store(h, now, mask=inside)
        a += a_t
        b += m
        h += m


@triton.jit
def backward(a, grad_h, h0, h, grad_a, grad_b, after, steps, m, n, a_b, a_t, a_e, a_n, BLOCK: tl.constexpr):
    """Write the adjoint, last step first: see `scan._adjoint`. Shapes as above; grad_h, grad_a and grad_b are as h."""
    i, x = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = x < m
    a += i * a_b + tl.cast(steps - 1, tl.int64) * a_t + x // n * a_e + x % n * a_n
    last = (i * steps + steps - 1) * m + x
    grad_h += last
    h += last - m  # the state before the step
    grad_a += last
    grad_b += last
    v = tl.load(grad_h, mask=inside, other=0)
    for _ in range(steps - 1):
        tl.store(grad_b, v, mask=inside)
        tl.store(grad_a, v * tl.load(h, mask=inside, other=0), mask=inside)
        grad_h -= m
        v = tl.load(a, mask=inside, other=0) * v + tl.load(grad_h, mask=inside, other=0)
        a -= a_t
        h -= m
        grad_a -= m
        grad_b -= m
    tl.store(grad_b, v, mask=inside)
    tl.store(grad_a, v * tl.load(h0 + i * m + x, mask=inside, other=0), mask=inside)
    tl.store(after + i * m + x, tl.load(a, mask=inside, other=0) * v, mask=inside)


def scan(a: Tensor, b: Tensor, h0: Tensor, h: Tensor) -> None:
    """Write every h_t (b, t, e, n)."""
    launch(forward, a, b.contiguous(), h0.contiguous(), h)


def scan_adjoint(
    a: Tensor, grad_h: Tensor, h0: Tensor, h: Tensor, grad_a: Tensor, grad_b: Tensor, after: Tensor
) -> None:
    """Write dL/da before it is summed over the axes on which a is 1, dL/db and dL/dh0."""
    launch(backward, a, grad_h.contiguous(), h0.contiguous(), h.contiguous(), grad_a, grad_b, after)


def launch(kernel: Any, a: Tensor, b: Tensor, *others: Tensor) -> None:
    """Launch a kernel with a program per stream and block of states; all but a lie in one piece."""
    streams, steps, e, n = b.shape
    with torch.cuda.device_of(b):
        kernel[triton.cdiv(e * n, BLOCK), streams](
            *(a, b, *others, steps, e * n, n, *a.expand_as(b).stride()), BLOCK=BLOCK, **OPTIONS
        )
