"""Perfect associative learning with STDP: a neuron that is a Perceptron, a Tempotron or a Chronotron by spikes alone.

    dw/dt = y(t-) x(t - tau_a) - gamma x_trace(t) z(t - tau_d)             Albers, Westkott and Pawelzik (NIPS 2013)

x: presynaptic spikes, x_trace: their trace; y: the trace of the neuron's spikes, its own and the teacher's; z: upward
crossings of the subthreshold 0 < U_st < threshold. Post before pre potentiates, pre before a crossing depresses: the
anti-Hebbian form for a weight above 0, the Hebbian form for the strength of a weight below 0. A teacher's spike
hyperpolarises the neuron, so that it has to reach U_st from further below in the trials in which it should fire.

A trial begins at rest, and its weights are held: a spike is sent before it changes its synapse, and changes are applied
between trials. A spike the teacher forces is no crossing. x_trace has the spikes of the step in it, y has not: a pre
spike that lifts the neuron over U_st within the step is before the crossing, a post spike in it is not before the pre.
Traces jump by 1 at a spike. With traces that jump by 1 / tau (tau dq/dt = -q + spikes) gamma is tau_x / tau_y times
this one. Times are in milliseconds, delays whole steps, potentials and weights in units of the threshold.

Shapes: w (i, j), i post- and j presynaptic neurons; spikes (b, t, j) and (b, t, i), b trials of t steps side by side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.traces import decaying_sum, fixed
from .neurons import Adapted, decay, lif_ahp


class Inputs(NamedTuple):
    """What trials hand to every synapse, (b, t, j) each; it does not depend on the weights."""

    spikes: Tensor  # as they reach the synapse, the axonal delay later
    x: Tensor  # the trace of the spikes that were sent
    current: Tensor  # what a weight of 1 sends to the soma, both delays later

    def take(self, trials: Tensor) -> "Inputs":
        """Return some of the trials."""
        return Inputs(*(each[trials] for each in self))


class Trial(NamedTuple):
    """What the neurons did, (b, t, i) each, True where there is one."""

    spikes: Tensor
    crossings: Tensor


@torch.no_grad()
def encode(
    sent: Tensor,
    *,
    tau_u: float = 20.0,
    tau_s: float | None = None,
    tau_x: float = 20.0,
    axonal: float = 0.0,
    dendritic: float = 0.0,
    dt: float = 1.0,
) -> Inputs:
    """Return what the spikes `sent` (b, t, j) bring to synapses and soma; tau_s (ms) None: all charge in one step.

    A spike through a weight of 1 lifts a membrane at rest by at most 1, which it reaches at once where tau_s is None.
    Raises ValueError unless the delays are whole steps of 0 and more.
    """
    to_synapse, to_soma = _steps(axonal, dt), _steps(axonal, dt) + _steps(dendritic, dt)
    arriving = delayed(sent, to_soma)
    current = arriving if tau_s is None else traced(arriving, tau=tau_s, dt=dt)
    spike = torch.zeros(1, sent.shape[1], 1, dtype=sent.dtype)
    spike[:, 0] = 1
    alone = membrane(spike if tau_s is None else traced(spike, tau=tau_s, dt=dt), tau=tau_u, dt=dt)
    return Inputs(delayed(sent, to_synapse), traced(sent, tau=tau_x, dt=dt), current / alone.max().to(sent.device))


@torch.no_grad()
def present(
    w: Tensor,
    inputs: Inputs,
    teacher: Tensor | None = None,
    *,
    tau_u: float = 20.0,
    threshold: float = 1.0,
    subthreshold: float = 0.8,
    reset: float = 0.0,
    tau_nu: float = 20.0,
    nu_reset: float = 0.0,
    dt: float = 1.0,
) -> Trial:
    """Return the spikes and crossings of neurons at rest that meet the inputs; teacher (b, t, i): spikes to force.

    A reset below 0 is the hyperpolarisation of the Perceptron, which fades with tau_u; nu_reset below 0 the separate
    one of the Tempotron and the Chronotron (`neurons.lif_ahp`). Without a teacher this is recall.
    """
    current = inputs.current @ w.T
    state = Adapted(torch.zeros_like(current[:, 0]), torch.zeros_like(current[:, 0]))
    spikes, crossings = [], []
    for t, current_t in enumerate(current.unbind(1)):
        below = state.u < subthreshold
        spike, state = lif_ahp(
            state, current_t, tau=tau_u, threshold=threshold, reset=reset, tau_nu=tau_nu, nu_reset=nu_reset, dt=dt
        )
        crossings.append(below & (spike | (state.u >= subthreshold)))
        if teacher is not None:
            forced = teacher[:, t]
            state = Adapted(state.u.masked_fill(forced, reset), state.nu.masked_fill(forced, nu_reset))
            spike = spike | forced
        spikes.append(spike)
    return Trial(torch.stack(spikes, 1), torch.stack(crossings, 1))


@torch.no_grad()
def change(
    inputs: Inputs, trial: Trial, *, gamma: float = 1.0, tau_y: float = 20.0, dendritic: float = 0.0, dt: float = 1.0
) -> Tensor:
    """Return the change (i, j) that the rule makes of the weights in all trials together, for a learning rate of 1."""
    post = trial.spikes.to(inputs.x.dtype)
    y = traced(post, tau=tau_y, dt=dt) - post
    z = delayed(trial.crossings.to(inputs.x.dtype), _steps(dendritic, dt))
    return y.flatten(0, 1).T @ inputs.spikes.flatten(0, 1) - gamma * (z.flatten(0, 1).T @ inputs.x.flatten(0, 1))


@torch.no_grad()
def concert(strength: Tensor, sign: Tensor, moved: Tensor) -> Tensor:
    """Return strengths (i, j) of 0 and more after a change `moved` (i, j) of the weights sign * strength.

    sign (j,): 1 for excitatory synapses, whose STDP is anti-Hebbian, -1 for inhibitory ones, whose STDP is Hebbian.
    """
    return (strength + sign * moved).clamp(min=0)


def balanced_gamma(*, tau_x: float, tau_y: float, axonal: float, dendritic: float) -> float:
    """Return the gamma at which the depression of one crossing cancels the potentiation of one teacher's spike.

    exp(-tau_a / tau_y) / exp(-(tau_a + 2 tau_d) / tau_x), for pre and teacher spikes at time 0 and traces that jump
    by 1: the input meets y at the synapse at tau_a, the soma at tau_a + tau_d, and x the crossing at tau_a + 2 tau_d.
    """
    return math.exp(-axonal / tau_y) / math.exp(-(axonal + 2 * dendritic) / tau_x)


@torch.no_grad()
def traced(spikes: Tensor, *, tau: float, dt: float) -> Tensor:
    """Return the trace (b, t, n) of spikes (b, t, n), those of the step in it."""
    return decaying_sum(spikes, fixed(decay(tau, dt), spikes, None), torch.zeros_like(spikes[:, 0]))


@torch.no_grad()
def membrane(current: Tensor, *, tau: float, dt: float) -> Tensor:
    """Return the potential (b, t, n) of a membrane without a threshold, from rest; the current is held for a step."""
    return traced((1 - decay(tau, dt)) * current, tau=tau, dt=dt)


def delayed(values: Tensor, steps: int) -> Tensor:
    """Return values (b, t, n) so many steps later; what would come after the last step is lost."""
    return F.pad(values, (0, 0, steps, 0))[:, : values.shape[1]]


def _steps(delay: float, dt: float) -> int:
    """Return a delay in steps."""
    steps = round(delay / dt)
    if delay < 0 or not math.isclose(steps * dt, delay, abs_tol=1e-9):
        raise ValueError(f"a delay: got {delay:g} ms at dt {dt:g} ms, expected whole steps of 0 and more")
    return steps
