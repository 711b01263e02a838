"""The two gated recurrent networks that everybody knows, with torch's cells and its names of parameters.

    GRU     r, z = sigmoid(W x + U h)   h_t = (1 - z) tanh(W_n x + r U_n h) + z h        Cho et al. 2014
    LSTM    i, f, o = sigmoid(W x + U h)   c_t = f c + i tanh(W_g x + U_g h)   h_t = o tanh(c_t)
                                                       Hochreiter and Schmidhuber 1997, Gers et al. 2000
    out = out_proj(h_t)

Their gates see the state, so dh_t/dh_{t-1} is full. Shapes: d model width, e channels, n = 1 state of a GRU (h), 2 of
an LSTM (h, c).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..checks import check_sizes
from .recurrent import Recurrent


class Gated(Recurrent):
    """A gated recurrent network of one layer, then a projection."""

    taps = 1
    kind: ClassVar[type[nn.GRUCell | nn.LSTMCell]]  # torch's cell, whose parameters it has
    n: ClassVar[int]  # states of a channel
    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter
    out_proj: nn.Linear

    def __init__(self, d_model: int, expand: int = 1, longest: int | None = None) -> None:
        """Draw torch's initial weights.

        longest: channels keep their state for 1 to so many steps at first, by the bias log of them (chrono
        initialisation, Tallec and Ollivier 2018); null: torch's.
        Raises ValueError for sizes below 1 and for `longest` below 3; TypeError for sizes that are no whole numbers.
        """
        super().__init__()
        check_sizes(d_model=d_model, expand=expand)
        if longest is not None and longest < 3:
            raise ValueError(
                f"longest: got {longest}, expected steps, 3 or more: give 100, or null for torch's weights"
            )
        e = expand * d_model
        self.d_model, self.shape = d_model, (e, self.n)
        for name, parameter in self.kind(d_model, e).named_parameters():  # torch's own names, without a level between
            self.register_parameter(name, parameter)
        self.out_proj = nn.Linear(e, d_model, bias=False)
        if longest is not None:
            keeps = slice(e, 2 * e)  # the gate z of a GRU, f of an LSTM
            with torch.no_grad():
                self.bias_ih[keeps] = torch.empty(e).uniform_(1, longest - 1).log()
                self.bias_hh[keeps] = 0

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weights and biases as torch's cells take them."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def driven(self, inputs: Tensor, reset: Tensor | None) -> tuple[Tensor, ...]:
        """Return the inputs."""
        return (inputs,)

    def read(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h."""
        return h[..., 0]

    def project(self, activated: Tensor) -> Tensor:
        """Return out_proj's output."""
        y: Tensor = self.out_proj(activated)
        return y


class GRU(Gated):
    """The gated recurrent unit. No trace: credit by backpropagation through the chunk or the window."""

    kind, n = nn.GRUCell, 1

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t."""
        return torch.gru_cell(given[0], h[..., 0], *self.weights()).unsqueeze(-1)


class LSTM(Gated):
    """Long short-term memory. No trace: credit by backpropagation through the chunk or the window."""

    kind, n = nn.LSTMCell, 2

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t and c_t, side by side."""
        return torch.stack(torch.lstm_cell(given[0], h.unbind(-1), *self.weights()), dim=-1)
