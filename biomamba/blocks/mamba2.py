"""Mamba-2 (Dao and Gu 2024): one scalar decay per head, all projections taken from the block's input.

    z, x, B, C, dt = in_proj(input)          x, B, C = silu(conv1d(x, B, C))
    delta = softplus(dt + dt_bias)           a = exp(delta A),  A = -exp(A_log)
    h_t = a_t h_{t-1} + delta_t B_t x_t      y_t = C_t . h_t + D x_t
    out = out_proj(norm(y silu(z)))

The gates depend on the block's input alone, so dh_t/dh_{t-1} stays diagonal and the trace of every
parameter is exact, the convolution included: the conv state keeps block inputs, not their projections.
With g groups each e / g channels share a B and a C, and are normed by themselves; the trace of a group's B is of its
channels alone. Shapes: d model width, e = h p channels in h heads of p, n states, k conv taps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_finite, check_headdim, check_positive, check_range, check_sizes
from ..ops.backend import resolve
from ..ops.conv import conv, tap_mask
from ..ops.influence import Drive
from ..ops.mamba2 import Given, contract_and_advance_mamba2
from ..ops.mamba2_chunk import output, states
from ..ops.scan import to_decay
from ..ops.ssd import ssd
from ..ops.ssm import readout, selective_scan
from ..state import BlockState, tree_map
from .base import Block, Tape
from .conv import conv_drives, dsilu, kernel
from .init import dt_bias_init
from .lowrank import LowRank, learned, seen


class Saved(NamedTuple):
    """What the drives need beside the states, no graph attached."""

    delta: Tensor  # (b, t, heads) after the softplus
    delta_slope: Tensor  # (b, t, heads) the softplus's derivative
    x: Tensor  # (b, t, e) what enters the SSM
    B: Tensor  # (b, t, g n)
    raw: Tensor  # (b, k-1+t, e + g n) the projections x, B before the convolution
    slope: Tensor  # (b, t, e + g n) silu'(conv) of x, B


class GroupedRMSNorm(nn.RMSNorm):
    """RMS norm of each of some groups of channels by itself."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        """Begin with weights of 1."""
        super().__init__(channels, eps=eps)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., e) normed."""
        if self.groups == 1:
            return super().forward(x)
        parts = x.unflatten(-1, (self.groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class Mamba2(Block):
    """The Mamba-2 block with the official parameter names, shapes and initialisation.

    Exact under RTRL: every parameter.
    """

    adaptable = True

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float = 16.0,
        ngroups: int = 1,
        dt_scale: float = 1.0,
        D_init: float = 1.0,
    ) -> None:
        """Draw the official initial weights.

        dt_min and dt_max bound the initial step sizes, A_min and A_max the initial decay rates (per unit step).
        ngroups: how many groups of heads have a B and a C of their own.
        dt_scale: of the initial weights that make the step size depend on the input; 1 is the official model's.
        D_init: of D, what of a step's input passes the state by; 1 is the official model's. With 0 a block says at
        first what it remembers, and nothing else.
        Raises ValueError where headdim does not divide expand * d_model, or ngroups the heads, and for sizes and bounds
        below their least; TypeError for sizes that are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, headdim=headdim, ngroups=ngroups)
        check_range("dt_min", "dt_max", dt_min, dt_max)
        check_range("A_min", "A_max", A_min, A_max)
        check_positive("dt_scale", dt_scale)
        check_finite(D_init=D_init)
        e, n = expand * d_model, d_state
        headdim = check_headdim(headdim, e)
        if e // headdim % ngroups:
            raise ValueError(
                f"ngroups {ngroups} does not divide the {e // headdim} heads: choose a divisor of them, or 1"
            )
        self.d_model, self.taps, self.shape, self.headdim = d_model, d_conv, (e, n), headdim
        self.ngroups, gn = ngroups, ngroups * n
        self.sizes = [e, e, gn, gn, e // headdim]  # z, x, B, C, dt
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.in_proj.weight.data[-self.sizes[-1] :] *= dt_scale
        self.conv1d = nn.Conv1d(e + 2 * gn, e + 2 * gn, d_conv, groups=e + 2 * gn)
        self.dt_bias = nn.Parameter(dt_bias_init(e // headdim, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.empty(e // headdim).uniform_(A_min, A_max).log())
        self.D = nn.Parameter(torch.full((e // headdim,), float(D_init)))
        self.norm = GroupedRMSNorm(e, ngroups, eps=1e-5)
        self.out_proj = nn.Linear(e, d_model, bias=False)
        self.influences = {"A_log": "e", "dt_bias": "e", "in_proj.dt": "ej", "in_proj.x": "ej"}
        self.influences |= dict.fromkeys(self._of_groups("in_proj.B"), "nj") | {"conv1d.x": "ek"}
        self.influences |= dict.fromkeys(self._of_groups("conv1d.B"), "nk")
        inputs = {"in_proj": d_model, "conv1d": d_conv + 1}
        self.fan_in = {name: inputs[name.partition(".")[0]] for name in self.influences if "." in name}
        if ngroups > 1:
            channels = [slice(i * e // ngroups, (i + 1) * e // ngroups) for i in range(ngroups)]
            for name in ("in_proj.B", "conv1d.B"):
                self.reach = self.reach | dict(zip(self._of_groups(name), channels, strict=True))

    def _of_groups(self, name: str) -> list[str]:
        """Return the names of a parameter's influences, one for each group."""
        return [name] if self.ngroups == 1 else [f"{name}.{i}" for i in range(self.ngroups)]

    def _by_group(self, own: Tensor) -> Tensor:
        """Return a B or C (..., g n) as (..., e, n); of a single group (..., 1, n)."""
        n = self.shape[1]
        apart = own.view(*own.shape[:-1], self.ngroups, n)
        return apart if self.ngroups == 1 else apart.repeat_interleave(self.shape[0] // self.ngroups, -2)

    def per_channel(self, head: Tensor, dim: int = -1) -> Tensor:
        """Return values of heads h as values of channels e."""
        return head.repeat_interleave(self.headdim, dim)

    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d)."""
        inputs = torch.cat([state.conv, x_t.unsqueeze(1)], dim=1)
        z, x, B, C, dt = self.in_proj(inputs).split(self.sizes, dim=-1)
        weight, bias = kernel(self.conv1d)
        taps = torch.cat([x, B, C], dim=-1).transpose(1, 2) * weight
        x, B, C = F.silu(taps.sum(-1) + bias).split(self.sizes[1:4], dim=-1)
        delta = F.softplus(dt[:, -1] + self.dt_bias)
        a = self.per_channel(torch.exp(-delta * self.A_log.exp()))
        drive = (self.per_channel(delta) * x).unsqueeze(-1) * self._by_group(B)
        h = a.unsqueeze(-1) * state.ssm + drive
        y = (h * self._by_group(C)).sum(-1) + self.per_channel(self.D) * x
        return self.out_proj(self.activate(self.norm(y * F.silu(z[:, -1])))), BlockState(inputs[:, 1:], h)

    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape."""
        (e, n), t = self.shape, x.shape[1]
        gn = self.ngroups * n
        inputs = torch.cat([state.conv, x], dim=1)
        if self.ngroups == 1 and self.backend != "mamba_ssm" and resolve(self.backend, x.device.type) == "llvm":
            return self._chunk_by_kernels(inputs, state, reset, local)
        # one product for all, though z and dt have no use for the rows before the chunk
        z, raw, dt = self.in_proj(inputs).split([e, e + 2 * gn, self.sizes[-1]], dim=-1)
        z, dt = z[:, self.taps - 1 :], dt[:, self.taps - 1 :]
        summed = conv(raw, *kernel(self.conv1d), tap_mask(reset, self.taps), self.backend)
        u, B, C = F.silu(summed).split([e, gn, gn], dim=-1)
        delta_raw = dt + self.dt_bias
        delta = F.softplus(delta_raw)
        log_a = (-delta * self.A_log.exp()).unsqueeze(-1)  # of heads
        a = to_decay(log_a, reset)
        wide_B, wide_C = (B, C) if self.ngroups == 1 else (self._by_group(B), self._by_group(C))
        if self.backend == "mamba_ssm":  # gives y alone: the states are for the rule, and carry no gradient
            heads = len(x), t, -1, self.headdim
            h0 = state.ssm.view(len(x), -1, self.headdim, n)
            of_groups = len(x), t, self.ngroups, n
            given = B.reshape(of_groups), C.reshape(of_groups), self.D, h0, reset
            y = ssd(u.reshape(heads), delta, -self.A_log.exp(), *given).flatten(2)
            with torch.no_grad():
                h = selective_scan(a, delta, u, wide_B, state.ssm)
        else:
            h = self._selective_states(a, delta, u, wide_B, state.ssm, local)
            y = readout(h, wide_C, self.backend) + self.per_channel(self.D) * u
        own = Saved(
            delta=delta.detach(),
            delta_slope=delta_raw.detach().sigmoid(),
            x=u.detach(),
            B=B.detach(),
            raw=raw.detach()[..., : e + gn],
            slope=dsilu(summed.detach()[..., : e + gn]),
        )
        pre_activation = self.norm(y * F.silu(z))
        tape = Tape(state.ssm, h, self.per_channel(log_a, 2), reset, inputs, own, pre_activation)
        return self.out_proj(self.activate(pre_activation)), self.state_at(tape, t), tape

    def _chunk_by_kernels(
        self, inputs: Tensor, state: BlockState, reset: Tensor | None, local: bool
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return the same by our kernels for the CPU, which do all that stands between the two projections."""
        (e, n), t = self.shape, inputs.shape[1] - self.taps + 1
        projected = self.in_proj(inputs)
        found = states(projected, *kernel(self.conv1d), self.dt_bias, self.A_log, state.ssm, reset, local)
        own = Saved(
            delta=found.delta,
            delta_slope=found.delta_slope,
            x=found.x.detach(),
            B=found.B,
            raw=projected.detach()[..., e : 2 * e + n],
            slope=found.slope,
        )
        pre_activation = output(found, self.D, self.norm.weight)
        log_a = self.per_channel(found.log_a.unsqueeze(-1), 2)
        tape = Tape(state.ssm, found.h, log_a, reset, inputs, own, pre_activation)
        return self.out_proj(self.activate(pre_activation)), self.state_at(tape, t), tape

    def effective(self) -> dict[str, Tensor]:
        """Return what reaches the state, per channel e or state n."""
        e, gn = self.shape[0], self.sizes[2]
        _, x, B, _, dt = learned(self.in_proj).split(self.sizes)
        taps, bias = kernel(self.conv1d)
        conv1d = torch.cat([taps, bias.unsqueeze(1)], dim=1)
        return {
            "A_log": self.per_channel(self.A_log),
            "dt_bias": self.per_channel(self.dt_bias),
            "in_proj.dt": self.per_channel(dt, 0),
            "in_proj.x": x,
            **self._apart("in_proj.B", B),
            "conv1d.x": conv1d[:e],
            **self._apart("conv1d.B", conv1d[e : e + gn]),
        }

    def _apart(self, name: str, rows: Tensor) -> dict[str, Tensor]:
        """Return the rows (g n, ...) of each group by name."""
        return dict(zip(self._of_groups(name), rows.split(self.shape[1]), strict=True))

    def pull_back(self, gradients: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the gradients of the parameters: sums over the channels of a head, and rows put in their place."""
        if self.ngroups > 1 or self._is_part(gradients):
            return super().pull_back(gradients)
        (e, n), k = self.shape, self.taps
        rows, z = gradients["in_proj.x"], self.in_proj.weight.new_zeros(e, self.d_model)
        conv1d = torch.cat([gradients["conv1d.x"], gradients["conv1d.B"], rows.new_zeros(n, k + 1)])
        of_dt = self._by_head(gradients["in_proj.dt"])
        return [
            (self.A_log, self._by_head(gradients["A_log"])),
            (self.dt_bias, self._by_head(gradients["dt_bias"])),
            (self.in_proj.weight, torch.cat([z, rows, gradients["in_proj.B"], z.new_zeros(n, self.d_model), of_dt])),
            (self.conv1d.weight, conv1d[:, :k].unsqueeze(1)),
            (kernel(self.conv1d)[1], conv1d[:, k]),
        ]

    def _is_part(self, influences: Mapping[str, Tensor]) -> bool:
        """Say whether these are not all influences of whole weights."""
        return len(influences) < len(self.influences) or isinstance(self.in_proj, LowRank)

    def _by_head(self, channels: Tensor) -> Tensor:
        """Return the sum over each head's channels of values (e, ...): the adjoint of `per_channel`."""
        summed: Tensor = channels.view(-1, self.headdim, *channels.shape[1:]).sum(1)
        return summed

    @torch.no_grad()
    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return the drives; with d_delta_raw = (A a h_prev + B x) softplus', the derivative to dt."""
        (e, n), own = self.shape, tape.own
        delta, delta_slope = (self.per_channel(each).unsqueeze(-1) for each in (own.delta, own.delta_slope))
        x, B = own.x.unsqueeze(-1), self._by_group(own.B)
        decay_term = -self.per_channel(self.A_log.exp()).unsqueeze(-1) * (tape.h - delta * x * B)  # A a h_prev
        d_delta_raw = (decay_term + B * x) * delta_slope
        mask = tap_mask(tape.reset, self.taps)
        weight, _ = kernel(self.conv1d)
        gn, inputs = self.sizes[2], seen(self.in_proj, tape.inputs)
        raw_x, raw_B = own.raw.split([e, gn], dim=-1)
        slope_x, slope_B = own.slope.split([e, gn], dim=-1)
        drives_x = conv_drives(delta * B, inputs, raw_x, slope_x, weight[:e], mask)
        post, found = (delta * x).expand_as(d_delta_raw), dict[str, Drive]()
        each = zip(raw_B.split(n, -1), slope_B.split(n, -1), weight[e : e + gn].split(n), strict=True)
        for i, (raw, slope, taps) in enumerate(each):
            projected, tapped = conv_drives(self._reaching(post, i), inputs, raw, slope, taps, mask)
            found |= {self._of_groups("in_proj.B")[i]: projected, self._of_groups("conv1d.B")[i]: tapped}
        return {
            "A_log": Drive(delta * decay_term),
            "dt_bias": Drive(d_delta_raw),
            "in_proj.dt": Drive(d_delta_raw, inputs[:, self.taps - 1 :].detach()),
            "in_proj.x": drives_x[0],
            "conv1d.x": drives_x[1],
            **found,
        }

    def _reaching(self, post: Tensor, group: int) -> Tensor:
        """Return the post (b, t, e, n) of a group's B, zero in other groups' channels."""
        if self.ngroups == 1:
            return post
        apart = torch.zeros_like(post)
        channels = self.reach[f"in_proj.B.{group}"]
        apart[:, :, channels] = post[:, :, channels]
        return apart

    @torch.no_grad()
    def contract_and_advance(
        self, tape: Tape, trace: dict[str, Tensor], signal: Tensor, go: Tensor
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the gradients and the traces moved; our kernel for the CPU works out the drives on the way."""
        by_kernels = resolve(self.backend, signal.device.type) == "llvm"
        if self.ngroups > 1 or not by_kernels or self._is_part(trace):
            return super().contract_and_advance(tape, trace, signal, go)
        (e, n), own, Z = self.shape, tape.own, [trace[name] for name in self.influences]
        given = Given(
            h=tape.h,
            signal=signal,
            log_a=tape.log_a[:, :, :: self.headdim, 0],
            delta=own.delta,
            delta_slope=own.delta_slope,
            x=own.x,
            B=own.B,
            raw=own.raw,
            slope=own.slope,
            inputs=tape.inputs,
            weight=kernel(self.conv1d)[0][: e + n].T,
            A=-self.A_log.exp(),
            reset=tape.reset,
        )
        given = tree_map(lambda tensor: tensor.detach().contiguous(), given)
        return contract_and_advance_mamba2(Z, given, go), trace
