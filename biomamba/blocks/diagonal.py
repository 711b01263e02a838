"""The diagonal SSM with constant decays (S4D, Gu et al. 2022, with real poles): the baseline and the easiest read.

    u, z = in_proj(input)                    delta = softplus(dt_bias),  A = -exp(A_log)
    h_t = exp(delta A) h_{t-1} + delta B u_t
    out = out_proj((C . h_t + D u_t) silu(z))

Shapes: d model width, e channels, n states. Nothing is selective and there is no convolution (k = 1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_range, check_sizes
from ..ops.influence import Drive
from ..ops.scan import to_decay
from ..state import BlockState
from .base import Block, Tape
from .init import dt_bias_init
from .lowrank import learned, seen


class Diagonal(Block):
    """The input-independent diagonal block. Exact under RTRL: every parameter."""

    adaptable = True

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: int = 2,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float | None = None,
    ) -> None:
        """Draw initial weights: poles evenly from A_min to A_max (default: d_state), steps in [dt_min, dt_max].

        Raises ValueError for sizes and bounds below their least, TypeError for sizes that are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, expand=expand)
        check_range("dt_min", "dt_max", dt_min, dt_max)
        check_range("A_min", "A_max", A_min, max(A_min, d_state) if A_max is None else A_max)
        e, n = expand * d_model, d_state
        self.d_model, self.taps, self.shape = d_model, 1, (e, n)
        self.in_proj = nn.Linear(d_model, 2 * e, bias=False)
        self.dt_bias = nn.Parameter(dt_bias_init(e, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.linspace(A_min, A_max or float(n), n).log().repeat(e, 1))
        self.B = nn.Parameter(torch.ones(e, n))
        self.C = nn.Parameter(torch.randn(e, n) / n**0.5)
        self.D = nn.Parameter(torch.ones(e))
        self.out_proj = nn.Linear(e, d_model, bias=False)
        self.influences = {"A_log": "en", "dt_bias": "e", "B": "en", "in_proj.u": "ej"}
        self.fan_in = {"in_proj.u": d_model}

    def rates(self) -> tuple[Tensor, Tensor]:
        """Return delta (e, 1) and log_a (e, n)."""
        delta = F.softplus(self.dt_bias).unsqueeze(-1)
        return delta, -delta * self.A_log.exp()

    def step(self, x_t: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Return y_t (b, d) and the next state for x_t (b, d)."""
        u, z = self.in_proj(x_t).chunk(2, dim=-1)
        delta, log_a = self.rates()
        h = log_a.exp() * state.ssm + delta * self.B * u.unsqueeze(-1)
        y = (h * self.C).sum(-1) + self.D * u
        return self.out_proj(self.activate(self.pre_activation(y * F.silu(z)))), BlockState(state.conv, h)

    def chunk(
        self, x: Tensor, state: BlockState, reset: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, BlockState, Tape]:
        """Return y (b, t, d), the state after it, and the tape."""
        b, t, _ = x.shape
        inputs = torch.cat([state.conv, x], dim=1)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        delta, log_a = self.rates()
        log_a = log_a.expand(b, t, *self.shape)
        h = self.states(to_decay(log_a, reset), delta * self.B * u.unsqueeze(-1), state.ssm, local)
        y = (h * self.C).sum(-1) + self.D * u
        pre_activation = self.pre_activation(y * F.silu(z))
        tape = Tape(state.ssm, h, log_a, reset, inputs, u.detach(), pre_activation)
        return self.out_proj(self.activate(pre_activation)), self.state_at(tape, t), tape

    def effective(self) -> dict[str, Tensor]:
        """Return what reaches the state."""
        return {
            "A_log": self.A_log,
            "dt_bias": self.dt_bias,
            "B": self.B,
            "in_proj.u": learned(self.in_proj).chunk(2)[0],
        }

    @torch.no_grad()
    def drives(self, tape: Tape) -> dict[str, Drive]:
        """Return the drives of A_log, dt_bias, B and in_proj's u half."""
        u = tape.own.unsqueeze(-1)
        delta, _ = self.rates()
        decay_term = -self.A_log.exp() * (tape.h - delta * self.B * u)  # A a h_prev
        return {
            "A_log": Drive(delta * decay_term),
            "dt_bias": Drive((decay_term + self.B * u) * self.dt_bias.sigmoid().unsqueeze(-1)),
            "B": Drive((delta * u).expand_as(decay_term)),
            "in_proj.u": Drive((delta * self.B).expand_as(decay_term), seen(self.in_proj, tape.inputs).detach()),
        }
