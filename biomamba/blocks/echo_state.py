"""The echo state network (Jaeger 2001; leaky units, Jaeger et al. 2007): a reservoir as it was drawn, never learned.

    h_t = (1 - leak) h_{t-1} + leak tanh(W_in x_t + W h_{t-1})        W scaled to a spectral radius
    out = h_t

W_in and W stay as they are. What learns is the readout: the model's head, by least squares (`readout`) or by gradient
with what else learns in the model, whose credit goes back through the reservoir as far as the chunk or window. The head
sees the reservoir added to the encoder's output and normed, so both have d channels (n = 1 state each).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_positive, check_sizes
from .recurrent import Recurrent


class EchoState(Recurrent):
    """A fixed random reservoir. No trace: nothing in it learns."""

    taps = 1

    def __init__(self, d_model: int, spectral_radius: float = 0.9, leak: float = 1.0, input_scale: float = 1.0) -> None:
        """Draw the reservoir.

        spectral_radius: of W; below 1 the reservoir forgets how it began. leak: share of the state that is new at each
        step. input_scale: deviation of what an input of mean square 1 adds before the tanh.
        Raises ValueError for a leak outside (0, 1] and for other numbers that are not above 0.
        """
        super().__init__()
        check_sizes(d_model=d_model)
        check_positive("spectral_radius", spectral_radius)
        check_positive("input_scale", input_scale)
        if not 0 < leak <= 1:
            raise ValueError(f"leak: got {leak}, expected a share above 0, at most 1: give 1")
        self.d_model, self.shape, self.leak = d_model, (d_model, 1), leak
        W = torch.randn(d_model, d_model)
        W *= spectral_radius / torch.linalg.eigvals(W).abs().max()
        self.W_in = nn.Parameter(torch.randn(d_model, d_model) * input_scale / d_model**0.5, requires_grad=False)
        self.W = nn.Parameter(W, requires_grad=False)

    def driven(self, inputs: Tensor, reset: Tensor | None) -> tuple[Tensor, ...]:
        """Return W_in x."""
        return (F.linear(inputs, self.W_in),)

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t."""
        before = h[..., 0]
        return before.lerp(torch.tanh(given[0] + F.linear(before, self.W)), self.leak).unsqueeze(-1)

    def read(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h."""
        return h[..., 0]

    def project(self, activated: Tensor) -> Tensor:
        """Return it as it is."""
        return activated
