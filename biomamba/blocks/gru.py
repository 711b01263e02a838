"""The two gated recurrent networks that everybody knows, with torch's cells and its names of parameters.

    GRU     r, z = sigmoid(W x + U h)   h_t = (1 - z) tanh(W_n x + r U_n h) + z h        Cho et al. 2014
    LSTM    i, f, o = sigmoid(W x + U h)   c_t = f c + i tanh(W_g x + U_g h)   h_t = o tanh(c_t)
                                                       Hochreiter and Schmidhuber 1997, Gers et al. 2000
    out = out_proj(h_t)

Their gates see the state, so dh_t/dh_{t-1} is full. Shapes: d model width, e channels, n = 1 state of a GRU (h), 2 of
an LSTM (h, c).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import check_sizes
from .recurrent import Recurrent


class Gated(Recurrent):
    """A gated recurrent network of one layer, then a projection."""

    taps = 1
    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter
    out_proj: nn.Linear

    def __init__(self, cell: type[nn.GRUCell | nn.LSTMCell], d_model: int, expand: int, states: int) -> None:
        """Draw torch's initial weights."""
        super().__init__()
        check_sizes(d_model=d_model, expand=expand)
        self.d_model, self.shape = d_model, (expand * d_model, states)
        drawn = cell(d_model, self.shape[0])
        for name, parameter in drawn.named_parameters():  # under torch's own names, without a level between
            self.register_parameter(name, parameter)
        self.out_proj = nn.Linear(self.shape[0], d_model, bias=False)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weights and biases as torch's cells take them."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def remember(self, gate: slice, longest: int | None) -> None:
        """Have a gate keep the state for 1 to `longest` steps at first, log bias (Tallec and Ollivier 2018)."""
        if longest is None:
            return
        if longest < 3:
            raise ValueError(
                f"longest: got {longest}, expected steps, 3 or more: give 100, or null for torch's weights"
            )
        with torch.no_grad():
            self.bias_ih[gate] = torch.empty(self.shape[0]).uniform_(1, longest - 1).log()
            self.bias_hh[gate] = 0

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

    def __init__(self, d_model: int, expand: int = 1, longest: int | None = None) -> None:
        """Draw torch's initial weights.

        longest: channels that keep their state for 1 to so many steps at first (chrono initialisation); null: torch's.
        Raises ValueError for sizes below 1 and for `longest` below 3; TypeError for sizes that are no whole numbers.
        """
        super().__init__(nn.GRUCell, d_model, expand, states=1)
        e = self.shape[0]
        self.remember(slice(e, 2 * e), longest)

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t."""
        return torch.gru_cell(given[0], h[..., 0], *self.weights()).unsqueeze(-1)


class LSTM(Gated):
    """Long short-term memory. No trace: credit by backpropagation through the chunk or the window."""

    def __init__(self, d_model: int, expand: int = 1, longest: int | None = None) -> None:
        """Draw torch's initial weights.

        longest: channels that keep their state for 1 to so many steps at first (chrono initialisation); null: torch's.
        Raises ValueError for sizes below 1 and for `longest` below 3; TypeError for sizes that are no whole numbers.
        """
        super().__init__(nn.LSTMCell, d_model, expand, states=2)
        e = self.shape[0]
        self.remember(slice(e, 2 * e), longest)

    def cell(self, given: Sequence[Tensor], h: Tensor) -> Tensor:
        """Return h_t and c_t, side by side."""
        return torch.stack(torch.lstm_cell(given[0], h.unbind(-1), *self.weights()), dim=-1)
