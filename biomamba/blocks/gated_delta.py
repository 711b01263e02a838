"""The gated delta rule (Yang, Kautz and Hatamizadeh, ICLR 2025, arXiv 2412.06464): a memory that learns as it reads.

    q, k, v = silu(conv1d(q, k, v))   q, k of length 1       alpha = exp(-exp(A_log) softplus(a + dt_bias))
    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T                        beta = sigmoid(b)
    out = out_proj(norm(S_t q_t / sqrt(n)) silu(z))                       q, k, v, z, b, a = in_proj(input)

The state is an associative memory, and its step is one of gradient descent at rate beta on |S k_t - v_t|^2 / 2, from
S = alpha_t S_{t-1}: what the memory says of the key already is taken off before the value is written. Keys mix the
columns of S, so dS_t/dS_{t-1} is not diagonal. The conv state keeps block inputs, as Mamba-2's does.

The recurrence is stepped through; the chunked form of the paper's kernels is not here.
Shapes: d model width, e = h p channels of values in h heads of p, n numbers in a head's key, k conv taps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_headdim, check_range, check_sizes
from ..ops.conv import conv, tap_mask
from .init import dt_bias_init
from .recurrent import Recurrent

EPS = 1e-6  # of the squared lengths of q and k


class GatedDelta(Recurrent):
    """The Gated DeltaNet block. No trace: credit by backpropagation through the chunk or the window."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float = 16.0,
    ) -> None:
        """Draw the initial weights of the official block.

        d_state: numbers in a key. dt_min and dt_max bound the initial step sizes of the decay, A_min and A_max its
        initial rates.
        Raises ValueError where headdim does not divide expand * d_model, and for sizes and bounds below their least;
        TypeError for sizes that are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, headdim=headdim)
        check_range("dt_min", "dt_max", dt_min, dt_max)
        check_range("A_min", "A_max", A_min, A_max)
        e, n = expand * d_model, d_state
        headdim = check_headdim(headdim, e)
        heads = e // headdim
        self.d_model, self.taps, self.shape, self.headdim, self.heads = d_model, d_conv, (e, n), headdim, heads
        self.sizes = [heads * n, heads * n, e, e, heads, heads]  # q, k, v, z, b, a
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        convolved = sum(self.sizes[:3])
        self.conv1d = nn.Conv1d(convolved, convolved, d_conv, groups=convolved, bias=False)
        self.dt_bias = nn.Parameter(dt_bias_init(heads, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(A_min, A_max).log())
        self.norm = nn.RMSNorm(headdim, eps=1e-5)
        self.out_proj = nn.Linear(e, d_model, bias=False)

    def driven(self, inputs: Tensor, reset: Tensor | None) -> tuple[Tensor, ...]:
        """Return q and k (b, t, h, n), v (b, t, h, p), alpha and beta (b, t, h), and z (b, t, e)."""
        convolved = sum(self.sizes[:3])
        projected = self.in_proj(inputs)
        none = projected.new_zeros(convolved)
        taps = self.conv1d.weight.squeeze(1)
        summed = conv(projected[..., :convolved], taps, none, tap_mask(reset, self.taps), self.backend)
        q, k, v = F.silu(summed).split(self.sizes[:3], dim=-1)
        z, b, a = projected[:, self.taps - 1 :, convolved:].split(self.sizes[3:], dim=-1)
        q, k = (own.unflatten(-1, (self.heads, -1)) for own in (q, k))
        q, k = (own * (own.square().sum(-1, keepdim=True) + EPS).rsqrt() for own in (q, k))
        alpha = torch.exp(-self.A_log.exp() * F.softplus(a + self.dt_bias))
        return q / self.shape[1] ** 0.5, k, v.unflatten(-1, (self.heads, -1)), alpha, b.sigmoid(), z

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return S_t, as (b, e, n)."""
        _, k, v, alpha, beta, _ = given
        S = alpha[..., None, None] * h.unflatten(1, (self.heads, -1))
        said = (S @ k.unsqueeze(-1)).squeeze(-1)
        written: Tensor = (beta.unsqueeze(-1) * (v - said)).unsqueeze(-1) * k.unsqueeze(2)
        after: Tensor = (S + written).flatten(1, 2)
        return after

    def read(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return norm(S q) silu(z)."""
        q, z = given[0], given[-1]
        y = (h.unflatten(2, (self.heads, -1)) @ q.unsqueeze(-1)).squeeze(-1)
        normed: Tensor = self.norm(y)
        return normed.flatten(2) * F.silu(z)

    def project(self, activated: Tensor) -> Tensor:
        """Return out_proj's output."""
        y: Tensor = self.out_proj(activated)
        return y
