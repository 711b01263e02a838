"""What spikes come from and go through: Poisson sources, delays, exponential traces, leaky integrate-and-fire neurons.

    trace      q(t) = exp(-dt / tau) q(t - dt) + arriving(t)                 of tau dq/dt = -q, a jump at every spike
    membrane   u(t) = I(t) + exp(-dt / tau) (u(t - dt) - I(t))               of tau du/dt = -u + I, I held for a step

One call is one step of dt, and everything that is remembered is handed in and out. Times (dt, tau) are in
milliseconds, rates in hertz; potentials and currents are in one unit of the caller's choice, measured from rest.
Within a step: spikes arrive, then currents, then the membrane, then the threshold, so that a spike that arrives
at step t can let the neuron fire at step t.

Shapes: ... any leading axes, n neurons, i post- and j presynaptic neurons. Spikes are True or 1 where there is one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def decay(tau: float, dt: float) -> float:
    """Return exp(-dt / tau), what a step leaves of a trace. Raises ValueError unless tau and dt are above 0."""
    if tau <= 0 or dt <= 0:
        raise ValueError(f"a time constant and a step: got tau {tau} and dt {dt}, expected both above 0, in one unit")
    return math.exp(-dt / tau)


@torch.no_grad()
def trace(before: Tensor, arriving: Tensor, *, tau: float, dt: float) -> Tensor:
    """Return a trace (..., n) one step later: the decay, then `arriving` (..., n); not divided by tau (ms)."""
    return decay(tau, dt) * before + arriving


@torch.no_grad()
def synapse(current: Tensor, spikes: Tensor, w: Tensor, *, tau: float = 5.0, dt: float) -> Tensor:
    """Return the current (..., i) that spikes (..., j) send through the weights w (i, j), exponential with tau, ms.

    A spike raises the current by its weight at once. Current-based: it does not depend on the potential.
    """
    return trace(current, spikes.to(w.dtype) @ w.T, tau=tau, dt=dt)


@torch.no_grad()
def lif(
    u: Tensor, current: Tensor, *, tau: float = 20.0, threshold: float = 1.0, reset: float = 0.0, dt: float
) -> tuple[Tensor, Tensor]:
    """Return spikes and the potential u (..., n) one step later; a spike where u reaches the threshold, then the reset.

    A reset below 0, the resting potential, is an after-hyperpolarisation that fades with the membrane's own tau (ms).
    Exact for a current (..., n) that is constant over the step. No refractory time.
    """
    u = current + decay(tau, dt) * (u - current)
    spikes = u >= threshold
    return spikes, u.masked_fill(spikes, reset)


class Adapted(NamedTuple):
    """The state of `lif_ahp`: the potential u and the after-hyperpolarisation nu, (..., n) each."""

    u: Tensor
    nu: Tensor


@torch.no_grad()
def lif_ahp(
    state: Adapted,
    current: Tensor,
    *,
    tau: float = 20.0,
    threshold: float = 1.0,
    reset: float = 0.0,
    tau_nu: float = 50.0,
    nu_reset: float = -1.0,
    dt: float,
) -> tuple[Tensor, Adapted]:
    """Return spikes and the state one step later of a neuron with an after-hyperpolarisation of its own tau_nu, ms.

    tau du/dt = -u + I + nu, tau_nu dnu/dt = -nu; a spike sets u to `reset` and nu to `nu_reset`, whatever it was, so
    that the depth does not grow from spike to spike. nu is held for a step like the current.
    """
    nu = decay(tau_nu, dt) * state.nu
    spikes, u = lif(state.u, current + nu, tau=tau, threshold=threshold, reset=reset, dt=dt)
    return spikes, Adapted(u, nu.masked_fill(spikes, nu_reset))


@torch.no_grad()
def delay(line: Tensor, spikes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spikes (..., n) that were sent as many steps ago as the line (steps, ..., n) is long, and the line.

    A new line is `spikes.new_zeros(steps, *spikes.shape)`; one of no steps hands the spikes through.
    """
    line = torch.cat([line, spikes.unsqueeze(0)])
    return line[0], line[1:]


def poisson(
    rate: float | Tensor,
    steps: int,
    shape: Sequence[int] = (),
    *,
    dt: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return Poisson spikes (steps, *shape), True where there is one: independent, with probability rate dt.

    rate: spikes per second, a number or a tensor that broadcasts to (steps, *shape); dt in milliseconds. At most one
    spike falls on a step, so that rate dt has to be small for intervals to be exponential; the mean rate is right for
    any. Raises ValueError for a rate below 0 or of more than one spike per step.
    """
    probability = torch.as_tensor(rate) * (dt / 1000)
    if bool((probability < 0).any()) or bool((probability > 1).any()):
        raise ValueError(f"rate: got {rate} spikes per second at dt {dt} ms, expected 0 to {1000 / dt:g}")
    device = generator.device if generator is not None else probability.device
    return torch.rand((steps, *shape), generator=generator, device=device) < probability
