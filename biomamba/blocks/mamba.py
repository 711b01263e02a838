"""Mamba-1, the selective SSM S6 (Gu and Dao 2023): the gates are read from the convolved input u.

    x, z = in_proj(input)                    u = silu(conv1d(x))
    r, B, C = x_proj(u)                      delta = softplus(dt_proj(r))
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t            A = -exp(A_log)
    out = out_proj((C_t . h_t + D u_t) silu(z))

With M = dt_proj @ x_proj[:r], delta and B are linear maps of u before the softplus, so the traces of M and of
the B rows carry x_proj and dt_proj exactly, and, read with u's slope to the conv taps, conv1d as well.
Only in_proj's x half would need [e, n, e, d]: it keeps the direct path through its own channel.
Shapes: d model width, e channels, n states, k conv taps, r dt_rank.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_positive, check_range, check_sizes
from ..ops.conv import conv, tap_mask
from ..ops.influence import Drive
from ..ops.scan import to_decay
from ..ops.ssm import readout
from ..state import BlockState
from .base import Block, Tape
from .conv import conv_drives, dsilu, kernel
from .init import dt_bias_init
from .lowrank import learned, seen


class Saved(NamedTuple):
    """What the drives need beside the states, no graph attached."""

    delta: Tensor  # (b, t, e) after the softplus
    delta_slope: Tensor  # (b, t, e) the softplus's derivative
    u: Tensor  # (b, t, e) what enters the SSM
    B: Tensor  # (b, t, n)
    raw: Tensor  # (b, k-1+t, e) x before the convolution
    slope: Tensor  # (b, t, e) silu'(conv)


class Mamba(Block):
    """The Mamba block with the official parameter names, shapes and initialisation.

    Exact under RTRL: A_log, D, dt_proj, x_proj, conv1d, in_proj's z half, out_proj.
    Approximate: in_proj's x half (own channel only); with conv="direct" conv1d too, which saves traces of
    2 e n e (k + 1) numbers per stream.
    """

    adaptable = True

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float | None = None,
        conv: Literal["exact", "direct"] = "exact",
        dt_scale: float = 1.0,
    ) -> None:
        """Draw the official initial weights.

        dt_rank defaults to d_model / 16, rounded up; dt_min and dt_max bound the initial step sizes; the
        initial decay rates of a channel's states are spaced evenly from A_min to A_max (default: d_state).
        dt_scale: of the initial weights that make the step size depend on the input; 1 is the official model's.
        Raises ValueError for an unknown `conv`, and for sizes and bounds below their least; TypeError for sizes that
        are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand)
        if dt_rank is not None:
            check_sizes(dt_rank=dt_rank)
        check_range("dt_min", "dt_max", dt_min, dt_max)
        check_range("A_min", "A_max", A_min, max(A_min, d_state) if A_max is None else A_max)
        check_positive("dt_scale", dt_scale)
        if conv not in ("exact", "direct"):
            raise ValueError(f'conv: got {conv!r}, expected "exact" or "direct"')
        e, n, r = expand * d_model, d_state, dt_rank or math.ceil(d_model / 16)
        self.d_model, self.taps, self.shape, self.rank = d_model, d_conv, (e, n), r
        self.in_proj = nn.Linear(d_model, 2 * e, bias=False)
        self.conv1d = nn.Conv1d(e, e, d_conv, groups=e)
        self.x_proj = nn.Linear(e, r + 2 * n, bias=False)
        self.dt_proj = nn.Linear(r, e)
        nn.init.uniform_(self.dt_proj.weight, -(r**-0.5), r**-0.5)
        self.dt_proj.weight.data *= dt_scale
        self.dt_proj.bias.data.copy_(dt_bias_init(e, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.linspace(A_min, A_max or float(n), n).log().repeat(e, 1))
        self.D = nn.Parameter(torch.ones(e))
        self.out_proj = nn.Linear(e, d_model, bias=False)
        self.influences = {
            "A_log": "en",
            "dt_proj.bias": "e",
            "delta": "ej",
            "B": "nj",
            "in_proj.x": "ej",
            "conv1d": "ek",
        }
        taps = d_conv + 1  # the bias is one more tap, on a constant input
        self.fan_in = {"delta": e, "B": e, "in_proj.x": d_model, "conv1d": taps}
        if conv == "exact":
            self.influences |= {"conv1d.delta": "ej", "conv1d.B": "nj"}
            self.fan_in |= {"conv1d.delta": e * taps, "conv1d.B": e * taps}

    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d)."""
        n = self.shape[1]
        inputs = torch.cat([state.conv, x_t.unsqueeze(1)], dim=1)
        x, z = self.in_proj(inputs).chunk(2, dim=-1)
        weight, bias = kernel(self.conv1d)
        u = F.silu((x.transpose(1, 2) * weight).sum(-1) + bias)
        low, B, C = self.x_proj(u).split([self.rank, n, n], dim=-1)
        delta = F.softplus(self.dt_proj(low)).unsqueeze(-1)
        h = torch.exp(-delta * self.A_log.exp()) * state.ssm + delta * B.unsqueeze(1) * u.unsqueeze(-1)
        y = (h * C.unsqueeze(1)).sum(-1) + self.D * u
        return self.out_proj(self.activate(self.pre_activation(y * F.silu(z[:, -1])))), BlockState(inputs[:, 1:], h)

    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape."""
        n, t = self.shape[1], x.shape[1]
        inputs = torch.cat([state.conv, x], dim=1)
        raw, z = self.in_proj(inputs).chunk(2, dim=-1)
        z = z[:, self.taps - 1 :]
        summed = conv(raw, *kernel(self.conv1d), tap_mask(reset, self.taps), self.backend)
        u = F.silu(summed)
        low, B, C = self.x_proj(u).split([self.rank, n, n], dim=-1)
        delta_raw = self.dt_proj(low)
        delta = F.softplus(delta_raw)
        log_a = -delta.unsqueeze(-1) * self.A_log.exp()
        h = self._selective_states(to_decay(log_a, reset), delta, u, B, state.ssm, local)
        y = readout(h, C, self.backend) + self.D * u
        pre_activation = self.pre_activation(y * F.silu(z))
        own = Saved(
            delta=delta.detach(),
            delta_slope=delta_raw.detach().sigmoid(),
            u=u.detach(),
            B=B.detach(),
            raw=raw.detach(),
            slope=dsilu(summed.detach()),
        )
        tape = Tape(state.ssm, h, log_a, reset, inputs, own, pre_activation)
        return self.out_proj(self.activate(pre_activation)), self.state_at(tape, t), tape

    def effective(self) -> dict[str, Tensor]:
        """Return what reaches the state.

        The taps reach delta and B of every channel through today's M and B rows, held there so that no
        factor of a product is counted twice.
        """
        low, B, _ = self.x_proj.weight.split([self.rank, *[self.shape[1]] * 2])
        M = self.dt_proj.weight @ low
        taps, bias = kernel(self.conv1d)
        conv1d = torch.cat([taps, bias.unsqueeze(1)], dim=1)
        effective = {
            "A_log": self.A_log,
            "dt_proj.bias": self.dt_proj.bias,
            "delta": M,
            "B": B,
            "in_proj.x": learned(self.in_proj).chunk(2)[0],
            "conv1d": conv1d,
        }
        if "conv1d.delta" in self.influences:
            effective["conv1d.delta"] = (M.detach().unsqueeze(-1) * conv1d).flatten(1)
            effective["conv1d.B"] = (B.detach().unsqueeze(-1) * conv1d).flatten(1)
        return effective

    @torch.no_grad()
    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return the drives; with d_delta_raw = (A a h_prev + B u) softplus', the derivative to delta_raw."""
        own = tape.own
        delta, u, B = own.delta.unsqueeze(-1), own.u.unsqueeze(-1), own.B.unsqueeze(2)
        decay_term = -self.A_log.exp() * (tape.h - delta * u * B)  # A a h_prev
        d_delta_raw = (decay_term + B * u) * own.delta_slope.unsqueeze(-1)
        to_B = (delta * u).expand_as(d_delta_raw)
        weight, _ = kernel(self.conv1d)
        in_proj, taps = conv_drives(
            delta * B, seen(self.in_proj, tape.inputs), own.raw, own.slope, weight, tap_mask(tape.reset, self.taps)
        )
        drives = {
            "A_log": Drive(delta * decay_term),
            "dt_proj.bias": Drive(d_delta_raw),
            "delta": Drive(d_delta_raw, own.u),
            "B": Drive(to_B, own.u),
            "in_proj.x": in_proj,
            "conv1d": taps,
        }
        if "conv1d.delta" in self.influences:
            assert taps.pre is not None
            drives["conv1d.delta"] = Drive(d_delta_raw, taps.pre.flatten(2))
            drives["conv1d.B"] = Drive(to_B, taps.pre.flatten(2))
        return drives
