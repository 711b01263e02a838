"""Voltage-based STDP with homeostasis (Clopath, Buesing, Vasilaki and Gerstner 2010).

    dw/dt = -A_ltd pre [u_minus - theta_minus]+  +  A_ltp x [u - theta_plus]+ [u_plus - theta_minus]+

pre: presynaptic spikes, x their trace over tau_x (a spike adds 1 / tau_x); u: the postsynaptic potential, u_minus and
u_plus its low-passes over tau_minus and tau_plus. All are read before they take in the step's spikes and potential,
which is held for the step. One call is one step of dt; times in ms, potentials in mV.

Shapes: w (..., i, j), pre and x (..., j), u and its low-passes (..., i).
"""

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from .neurons import decay
from .stdp import Values, as_tensor


class Averages(NamedTuple):
    """The trace x (..., j), at first 0, and the low-passes u_minus, u_plus (..., i), at first the resting potential."""

    x: Tensor | NDArray[Any]
    u_minus: Tensor | NDArray[Any]
    u_plus: Tensor | NDArray[Any]


@torch.no_grad()
def clopath(
    w: Values,
    state: Averages,
    pre: Values,
    u: Values,
    *,
    A_ltd: float = 14e-5,
    A_ltp: float = 8e-5,
    theta_minus: float = -70.6,
    theta_plus: float = -45.3,
    tau_x: float = 15.0,
    tau_minus: float = 10.0,
    tau_plus: float = 7.0,
    low: float = 0.0,
    high: float = 1.0,
    dt: float,
) -> tuple[Tensor, Averages]:
    """Return w, clipped to low and high, and the averages after a step with pre (..., j) and the potential u (..., i).

    Constants of the paper's visual cortex (layer 5); the homeostatic factor of A_ltd is left to the caller.
    """
    x, u_minus, u_plus = map(as_tensor, state)
    x = decay(tau_x, dt) * x
    u, pre = as_tensor(u).to(u_minus.dtype), as_tensor(pre).to(x.dtype)
    depressed = A_ltd * (u_minus - theta_minus).clamp(min=0)
    potentiated = A_ltp * dt * (u - theta_plus).clamp(min=0) * (u_plus - theta_minus).clamp(min=0)
    moved = potentiated.unsqueeze(-1) * x.unsqueeze(-2) - depressed.unsqueeze(-1) * pre.unsqueeze(-2)
    keep_minus, keep_plus = decay(tau_minus, dt), decay(tau_plus, dt)
    after = Averages(x + pre / tau_x, u + keep_minus * (u_minus - u), u + keep_plus * (u_plus - u))
    return (as_tensor(w) + moved).clamp(low, high), after


@torch.no_grad()
def scaled(w: Values, rate: Values, *, goal: float = 5.0, tau: float = 1e5, dt: float) -> Tensor:
    """Return w (..., i, j) after a step of synaptic scaling: tau dw/dt = w (1 - rate / goal) (Turrigiano et al. 1998).

    rate (..., i): a running mean of what the neuron does, in the unit of goal (Hz). All synapses of a neuron are
    multiplied by one factor, exact for a rate that is constant over the step: their ratios stay.
    """
    w, rate = as_tensor(w), as_tensor(rate)
    return w * torch.exp(dt / tau * (1 - rate / goal)).unsqueeze(-1)
