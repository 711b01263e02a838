"""Mamba-3 (arXiv 2603.15569), one input and output a head: a trapezoidal rule, and states that rotate.

    z, x, B, C, dt, A, l, angle = in_proj(input)             dt = softplus(dt + dt_bias)    A = -softplus(A) <= -1e-4
    k = norm(B) + B_bias    q = norm(C) + C_bias             l = sigmoid(l)       a = exp(dt (A - i pi tanh(angle)))
    h_t = a_t (h_{t-1} + (1 - l_t) dt_t x_{t-1} k_{t-1}) + l_t dt_t x_t k_t
    out = out_proj((Re(conj(q_t) h_t) + D x_t) silu(z))

The rotation that the paper puts into B and C (rotary embedding by the sum of all angles so far) lies in the state here:
the same outputs, and one complex diagonal recurrence whose gates depend on the input alone, so that the trace of every
parameter is exact. A sum of angles as a state would need a trace that never fades. The conv state keeps the last input,
of which x_{t-1} and k_{t-1} are made. Rows 2i and 2i + 1 of B and C make a complex number, as in the official block;
the state holds n / 2 of them, real parts first (`ops.pairs`), of which the first rope_fraction rotate.

The norm mixes all of B, so a row of B reaches every state: its trace is (b, e, n, n d), n times those of other
projections. Shapes: d model width, e = h p channels in h heads of p, n states, m = n / 2.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_headdim, check_range, check_sizes
from ..ops.influence import Drive
from ..ops.pairs import times, to_complex, to_pairs
from ..ops.scan import scan_naive, to_decay
from ..state import BlockState
from .base import Block, Tape
from .init import dt_bias_init

EPS = 1e-5  # of the norms of B and C
SLOWEST = 1e-4  # decay rate


class Terms(NamedTuple):
    """What the recurrence is made of, of a chunk and, of x and B, the step before it; per channel e, not per head."""

    dt: Tensor  # (b, t, e, 1)
    dt_slope: Tensor  # (b, t, e, 1) the softplus's derivative
    A: Tensor  # (b, t, e, 1)
    A_slope: Tensor  # (b, t, e, 1) dA / d(what in_proj gives)
    share: Tensor  # (b, t, e, 1) l, of the step itself in the trapezoid
    turn: Tensor  # (b, t, 1, m) tanh(angle), 0 of those that do not rotate
    x: Tensor  # (b, 1+t, e, 1)
    B: Tensor  # (b, 1+t, 1, n) before the norm
    size: Tensor  # (b, 1+t, 1, 1) root mean square of B
    k: Tensor  # (b, 1+t, e, n)
    log_a: Tensor  # (b, t, e, m) complex
    kept: Tensor  # (b, t, 1, 1) 0 where a new sequence begins, else 1


class Mamba3(Block):
    """The Mamba-3 block, of rank 1, with the official parameter names. Exact under RTRL: every parameter.

    It runs by torch operations; graphs of `run.compile` and exports do not take its complex numbers.
    """

    graphs = False

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: int = 2,
        headdim: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        rope_fraction: float = 0.5,
    ) -> None:
        """Draw the official initial weights; dt_min and dt_max bound the initial step sizes.

        rope_fraction: of the states that rotate, 0.5 or 1.
        Raises ValueError where headdim does not divide expand * d_model, where d_state is odd, and for sizes and bounds
        below their least; TypeError for sizes that are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, expand=expand, headdim=headdim)
        check_range("dt_min", "dt_max", dt_min, dt_max)
        e, n = expand * d_model, d_state
        headdim = check_headdim(headdim, e)
        if rope_fraction not in (0.5, 1):
            raise ValueError(f"rope_fraction: got {rope_fraction}, expected 0.5 or 1")
        if n % 2 or n * rope_fraction < 2:
            raise ValueError(
                f"d_state: got {n}, expected an even number, 2 or more that rotate: give {max(4, n + n % 2)}"
            )
        heads = e // headdim
        self.d_model, self.taps, self.shape, self.headdim = d_model, 2, (e, n), headdim
        self.sizes = [e, e, n, n, heads, heads, heads, int(n * rope_fraction) // 2]  # z, x, B, C, dt, A, l, angle
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.dt_bias = nn.Parameter(dt_bias_init(heads, dt_min, dt_max))
        self.B_bias, self.C_bias = (nn.Parameter(torch.ones(heads, 1, n)) for _ in "BC")
        self.B_norm, self.C_norm = (nn.RMSNorm(n, eps=EPS) for _ in "BC")
        self.D = nn.Parameter(torch.ones(heads))
        self.out_proj = nn.Linear(e, d_model, bias=False)
        self.influences = {"dt_bias": "e", **dict.fromkeys(("in_proj.dt", "in_proj.A", "in_proj.l"), "ej")}
        self.influences |= {"in_proj.angle": "nj", "in_proj.x": "ej", "in_proj.x.before": "ej"}
        self.influences |= dict.fromkeys(("B_bias.re", "B_bias.im", "B_norm.re", "B_norm.im"), "en")
        self.influences |= {f"in_proj.B.{part}{when}": "nj" for part in ("re", "im") for when in ("", ".before")}
        self.influences |= {"in_proj.B.norm": "ej", "in_proj.B.norm.before": "ej"}
        self.fan_in = {name: d_model for name, axes in self.influences.items() if axes[1:] == "j"}
        self.fan_in |= dict.fromkeys(("in_proj.B.norm", "in_proj.B.norm.before"), n * d_model)

    def per_channel(self, head: Tensor, dim: int = -1) -> Tensor:
        """Return values of heads h as values of channels e."""
        return head.repeat_interleave(self.headdim, dim)

    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d)."""
        now = self.in_proj(x_t).split(self.sizes, dim=-1)
        before = self.in_proj(state.conv[:, 0]).split(self.sizes, dim=-1)
        z, x, B, C, dt, A, share, angle = now
        dt = self.per_channel(F.softplus(dt + self.dt_bias)).unsqueeze(-1)
        a = torch.exp(dt * self.per_channel(-F.softplus(A).clamp(min=SLOWEST)).unsqueeze(-1))
        share = self.per_channel(share.sigmoid()).unsqueeze(-1)
        phi = -math.pi * dt * torch.tanh(self._padded(angle)).unsqueeze(1)
        k = [self.per_channel(self.B_norm(b).unsqueeze(1) + self.B_bias.squeeze(1), 1) for b in (B, before[2])]
        into = [_parts(u.unsqueeze(-1) * own) for u, own in zip((x, before[1]), k, strict=True)]
        re, im = (state.ssm + (1 - share) * dt * into[1]).chunk(2, -1)
        turned = torch.cat([phi.cos() * re - phi.sin() * im, phi.sin() * re + phi.cos() * im], -1)
        h = a * turned + share * dt * into[0]
        q = self.per_channel(self.C_norm(C).unsqueeze(1) + self.C_bias.squeeze(1), 1)
        y = (h * _parts(q)).sum(-1) + self.per_channel(self.D) * x
        out = self.out_proj(self.activate(self.pre_activation(y * F.silu(z))))
        return out, BlockState(x_t.unsqueeze(1), h)

    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape."""
        inputs = torch.cat([state.conv, x], dim=1)
        projected = self.in_proj(inputs)
        own, t = self._terms(projected, reset), x.shape[1]
        z, u, _, C, *_ = projected[:, 1:].split(self.sizes, dim=-1)
        now, before = self._pushed(own, own.x * own.k)
        h = self._rotated(own.log_a, now + before, state.ssm, reset, local)
        q = _parts(self.C_norm(C).unsqueeze(2) + self.C_bias.squeeze(1))
        y = (h * self.per_channel(q, 2)).sum(-1) + self.per_channel(self.D) * u
        pre_activation = self.pre_activation(y * F.silu(z))
        tape = Tape(state.ssm, h, own.log_a, reset, inputs, None, pre_activation)
        return self.out_proj(self.activate(pre_activation)), self.state_at(tape, t), tape

    def _rotated(self, log_a: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, local: bool) -> Tensor:
        """Return every h_t = a_t h_{t-1} + b_t (b, t, e, n), with h_{t-1} held for the gradient where local."""
        a = to_decay(log_a, reset)
        given = a, to_complex(b), to_complex(h0)
        if not local:
            return to_pairs(scan_naive(*given))
        with torch.no_grad():
            h = to_pairs(scan_naive(*given))
        return times(a, torch.cat([h0.detach().unsqueeze(1), h[:, :-1]], dim=1)) + b

    def _terms(self, projected: Tensor, reset: Tensor | None) -> Terms:
        """Return what the recurrence is made of, from the projections of the step before a chunk and of the chunk."""
        _, x, B, _, dt, A, share, angle = projected.split(self.sizes, dim=-1)
        dt, A, share = (self.per_channel(each[:, 1:]).unsqueeze(-1) for each in (dt, A, share))
        dt_raw = dt + self.per_channel(self.dt_bias).unsqueeze(-1)
        rate, turn = F.softplus(A), torch.tanh(self._padded(angle[:, 1:])).unsqueeze(2)
        dt, kept = F.softplus(dt_raw), torch.ones_like(projected[:, 1:, :1, None])
        if reset is not None:
            kept = kept.masked_fill(reset[..., None, None], 0)
        k = _parts(self.B_norm(B).unsqueeze(2) + self.B_bias.squeeze(1))
        slowed = rate.clamp(min=SLOWEST)
        return Terms(
            dt=dt,
            dt_slope=dt_raw.sigmoid(),
            A=-slowed,
            A_slope=-A.sigmoid() * (rate > SLOWEST),
            share=share.sigmoid(),
            turn=turn,
            x=x.unsqueeze(-1),
            B=_parts(B).unsqueeze(2),
            size=(B.square().mean(-1, keepdim=True) + EPS).sqrt().unsqueeze(2),
            k=self.per_channel(k, 2),
            log_a=torch.complex(*torch.broadcast_tensors(-dt * slowed, -math.pi * dt * turn)),
            kept=kept,
        )

    def _padded(self, angle: Tensor) -> Tensor:
        """Return angles of all complex numbers, 0 for those that do not rotate."""
        return F.pad(angle, (0, self.shape[1] // 2 - angle.shape[-1]))

    def _pushed(self, own: Terms, into: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the step itself and the one before it push into the state, for what x k is in both.

        into (b, 1+t, e, n).
        """
        now = own.share * own.dt * into[:, 1:]
        before = times(own.log_a.exp(), (1 - own.share) * own.dt * own.kept * into[:, :-1])
        return now, before

    def effective(self) -> dict[str, Tensor]:
        """Return what reaches the state, per channel e or state n.

        A row that pushes on one part of a complex state stands at both parts, between which its push then rotates.
        """
        e, n = self.shape
        _, x, B, _, dt, A, share, angle = self.in_proj.weight.split(self.sizes)
        B, angle = _parts(B, 0), self._padded(angle.T).T
        real, imaginary = B.chunk(2)
        found = {"dt_bias": self.per_channel(self.dt_bias), "in_proj.angle": torch.cat([angle, angle])}
        found |= {f"in_proj.{name}": self.per_channel(w, 0) for name, w in {"dt": dt, "A": A, "l": share}.items()}
        for when in ("", ".before"):
            found |= {f"in_proj.x{when}": x, f"in_proj.B.norm{when}": B.flatten().expand(e, -1)}
            found |= {f"in_proj.B.re{when}": real.repeat(2, 1), f"in_proj.B.im{when}": imaginary.repeat(2, 1)}
        wide = {"B_bias": self.per_channel(self.B_bias.squeeze(1), 0), "B_norm": self.B_norm.weight.expand(e, n)}
        for name, own in wide.items():
            real, imaginary = _parts(own).chunk(2, -1)
            found |= {f"{name}.re": real.repeat(1, 2), f"{name}.im": imaginary.repeat(1, 2)}
        return {name: found[name] for name in self.influences}

    @torch.no_grad()
    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return the drives, worked out from the inputs once more."""
        own = self._terms(self.in_proj(tape.inputs), tape.reset)
        u, n, e = tape.inputs, self.shape[1], self.shape[0]
        w, both = _parts(self.B_norm.weight), u.shape[1]
        into = own.x * own.k
        now, before = self._pushed(own, into)
        faded = tape.h - now  # a (h_prev + (1 - l) dt v_prev), v = x k
        of_dt = times(torch.complex(*torch.broadcast_tensors(own.A, -math.pi * own.turn)), faded)
        of_dt = (of_dt + (now + before) / own.dt) * own.dt_slope
        # d now / d l = dt v, d before / d l = -dt a v_prev; of l's raw value l (1 - l) times these
        of_share = (1 - own.share) * now - own.share * before
        around = torch.cat([own.turn, own.turn], -1)
        of_angle = -_turned(faded) * math.pi * own.dt * (1 - around.square())
        # before a sequence there is an input of 0, whose k is the bias
        k_before = torch.where(own.kept > 0, own.k[:, :-1], _parts(self.per_channel(self.B_bias.squeeze(1), 0)))
        of_x = (
            own.share * own.dt * own.k[:, 1:],
            times(own.log_a.exp(), (1 - own.share) * own.dt * k_before),
        )
        one = torch.cat([torch.ones(n // 2), torch.zeros(n // 2)]).to(u)  # the real part's direction
        unit = own.x.expand(-1, -1, e, n)
        normed = own.B / own.size
        real, imaginary = (torch.cat([part, part], -1) for part in normed.chunk(2, -1))
        w_real, w_imaginary = (torch.cat([part, part], -1) for part in w.chunk(2, -1))
        kept = own.kept.flatten(2)  # rules that keep pre apart from post must not see beyond a reset either
        rows = {"": u[:, 1:], ".before": u[:, :-1] * kept}
        found = {
            "dt_bias": Drive(of_dt),
            "in_proj.dt": Drive(of_dt, rows[""]),
            "in_proj.A": Drive(own.dt * own.A_slope * faded, rows[""]),
            "in_proj.l": Drive(of_share, rows[""]),
            "in_proj.angle": Drive(of_angle, rows[""]),
            "B_bias.re": Drive(_sum(self._pushed(own, unit * one))),
            "B_bias.im": Drive(_turned(_sum(self._pushed(own, unit * one)))),
            "B_norm.re": Drive(_sum(self._pushed(own, unit * one * real))),
            "B_norm.im": Drive(_turned(_sum(self._pushed(own, unit * one * imaginary)))),
        }
        of_real = self._pushed(own, unit * one * w_real / own.size)
        of_imaginary = self._pushed(own, unit * one * w_imaginary / own.size)
        of_norm = self._pushed(own, -own.x * w * own.B / (n * own.size**3))
        outer = (own.B.transpose(2, 3) * u.unsqueeze(2)).view(len(u), both, -1)  # (b, 1+t, n d)
        wide = {"": outer[:, 1:], ".before": outer[:, :-1] * kept}
        for i, when in enumerate(("", ".before")):
            found[f"in_proj.x{when}"] = Drive(of_x[i], rows[when])
            found[f"in_proj.B.re{when}"] = Drive(of_real[i], rows[when])
            found[f"in_proj.B.im{when}"] = Drive(_turned(of_imaginary[i]), rows[when])
            found[f"in_proj.B.norm{when}"] = Drive(of_norm[i], wide[when])
        return {name: found[name] for name in self.influences}


def _sum(parts: tuple[Tensor, Tensor]) -> Tensor:
    """Return what two parts push together."""
    return parts[0] + parts[1]


def _parts(x: Tensor, dim: int = -1) -> Tensor:
    """Return what stands at even places of an axis, the real parts, then what stands at odd ones."""
    return torch.cat(x.unflatten(dim, (-1, 2)).unbind(dim if dim < 0 else dim + 1), dim)


def _turned(x: Tensor) -> Tensor:
    """Return i x."""
    real, imaginary = x.chunk(2, -1)
    return torch.cat([-imaginary, real], -1)
