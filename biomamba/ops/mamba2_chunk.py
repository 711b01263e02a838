"""A chunk of a Mamba-2 block between its two projections, by our kernels: two on the way, two on the way back.

    states(projected, ...)   z, x, B, C, dt -> every state, and what is read from them and remembered of them
    output(states, ...)      norm(y silu(z)), y_t = C_t . h_t + D x_t

`blocks.mamba2` has the definition. Shapes: b streams, t steps, e channels in g heads, n states, k conv taps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backend import call


class States(NamedTuple):
    """Every state of a chunk, what reads them, and what a rule wants to know of it (without a graph)."""

    h: Tensor  # (b, t, e, n)
    x: Tensor  # (b, t, e) what enters the SSM
    C: Tensor  # (b, t, n)
    gate: Tensor  # (b, t, e) silu(z)
    B: Tensor  # (b, t, n)
    delta: Tensor  # (b, t, g) after the softplus
    delta_slope: Tensor  # (b, t, g) the softplus's derivative
    log_a: Tensor  # (b, t, g)
    slope: Tensor  # (b, t, e + n) silu'(conv) of x, B


def states(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    h0: Tensor,
    reset: Tensor | None,
    local: bool,
) -> States:
    """Return the states of a chunk, from the projections of its inputs and of the k - 1 before it.

    projected (b, k-1+t, 2 e + 2 n + g); weight (e + 2 n, k) and bias of the convolution; dt_bias and A_log (g,);
    h0 (b, e, n); reset (b, t) bool, None where no sequence begins. local: no gradient goes from a state to the one
    before it.
    """
    made = _States.apply(projected, weight, bias, dt_bias, A_log, h0, reset, local)  # type: ignore[no-untyped-call]
    return States(*made)


def output(states: States, D: Tensor, weight: Tensor) -> Tensor:
    """Return what the last projection receives (b, t, e); D (g,), weight (e,) of the norm."""
    out: Tensor = _Output.apply(states.h, states.C, states.x, states.gate, D, weight)  # type: ignore[no-untyped-call]
    return out


class _States(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        weight: Tensor,
        bias: Tensor,
        dt_bias: Tensor,
        A_log: Tensor,
        h0: Tensor,
        reset: Tensor | None,
        local: bool,
    ) -> tuple[Tensor, ...]:
        (b, e, n), g, t = h0.shape, len(A_log), projected.shape[1] - weight.shape[1] + 1
        reset = projected.new_empty(0, dtype=torch.bool) if reset is None else reset.contiguous()
        projected, weight, h0 = projected.contiguous(), weight.contiguous(), h0.contiguous()
        sizes = (e, n), (g,), (g,), (g,), (e,), (n,), (e + n,), (n,), (e,), (n + e,)
        made = [projected.new_empty(b, t, *size) for size in sizes]
        call("mamba2_chunk.mamba2_states", projected, weight, bias, dt_bias, A_log, h0, reset, *made)
        h, delta, delta_slope, log_a, x, B, slope, C, gate, slope_out = made
        ctx.save_for_backward(projected, weight, A_log, h0, reset, h, delta, delta_slope, log_a, x, B, slope, slope_out)
        ctx.local = local
        ctx.mark_non_differentiable(B, delta, delta_slope, log_a, slope)
        return h, x, C, gate, B, delta, delta_slope, log_a, slope

    @staticmethod
    def backward(
        ctx: Any, grad_h: Tensor, grad_x: Tensor, grad_C: Tensor, grad_gate: Tensor, *others: Tensor
    ) -> tuple[Tensor | None, ...]:
        projected, weight, A_log, h0, reset, *saved = ctx.saved_tensors
        b, g = len(h0), len(A_log)
        through = reset.new_full((), not ctx.local)
        grads = [like.new_empty(like.shape) for like in (projected, h0)]
        sums = [projected.new_empty(b, *size) for size in (weight.shape, weight.shape[:1], (g,), (g,))]
        given = (each.contiguous() for each in (grad_h, grad_x, grad_C, grad_gate))
        call(
            "mamba2_chunk.mamba2_states_adjoint",
            *(projected, weight, A_log, h0, reset, through, *saved, *given, grads[0], *sums, grads[1]),
        )
        return grads[0], *(over_streams(each) for each in sums), grads[1], None, None


class _Output(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        given = tuple(tensor.contiguous() for tensor in given)
        h = given[0]
        y, scale, out = (h.new_empty(size) for size in (h.shape[:3], h.shape[:2], h.shape[:3]))
        call("mamba2_chunk.mamba2_output", *given, y, scale, out)
        ctx.save_for_backward(*given, y, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, ...]:
        given = ctx.saved_tensors
        b = len(given[0])
        grads = [tensor.new_empty(tensor.shape) for tensor in given[:4]]
        sums = [tensor.new_empty(b, len(tensor)) for tensor in given[4:6]]
        call("mamba2_chunk.mamba2_output_adjoint", *given, grad_out.contiguous(), *grads, *sums)
        return *grads, *(over_streams(each) for each in sums)


def over_streams(each: Tensor) -> Tensor:
    """Return the sum of what each stream gives (b, ...)."""
    return each.squeeze(0) if len(each) == 1 else each.sum(0)
