"""Short-term plasticity: a synapse runs short of transmitter and is helped by calcium (Tsodyks and Markram 1997, 1998).

    u decays to 0 over tau_f, and at a spike u += U (1 - u)                 utilisation: facilitation
    x recovers to 1 over tau_d, and at a spike sends u x and loses it       resources: depression

u is moved before it is read, x is read before it is moved. One call is one step of dt; times in ms. A spike is sent
with the weight w u x. What is remembered belongs to the presynaptic neuron: shapes (..., j).
"""

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from .neurons import decay
from .stdp import Values, as_tensor


class Resources(NamedTuple):
    """Utilisation u and resources x (..., j) after the last step; at rest u is 0 and x is 1."""

    u: Tensor | NDArray[Any]
    x: Tensor | NDArray[Any]


@torch.no_grad()
def tsodyks_markram(
    state: Resources, pre: Values, *, U: float = 0.5, tau_d: float = 200.0, tau_f: float = 20.0, dt: float
) -> tuple[Tensor, Resources]:
    """Return what each synapse sends (..., j), u x where pre (..., j) spikes and 0 elsewhere, and the state after it.

    Depressing by default. Facilitating: U 0.15, tau_d 50, tau_f 750 ms.
    """
    u, x = decay(tau_f, dt) * as_tensor(state.u), 1 - decay(tau_d, dt) * (1 - as_tensor(state.x))
    spikes = as_tensor(pre).to(u.dtype)
    u = u + U * (1 - u) * spikes
    sent = u * x * spikes
    return sent, Resources(u, x - sent)
