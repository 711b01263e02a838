"""Spike-timing-dependent plasticity: windows over the time between two spikes, and the rules that apply them online.

    x(t) = exp(-dt / tau_plus) x(t - dt) + pre(t)              y(t) = exp(-dt / tau_minus) y(t - dt) + post(t)
    w(t) = w(t - dt) + A_plus post(t) x(t-) - A_minus y(t-) pre(t)                             t-: before t's own spikes

One call of a rule is one step of dt; times are in milliseconds; everything remembered is handed in and out, nothing
carries an autograd graph. What users trip over, the same for every rule unless its docstring says otherwise:

    sign       a window's dt is t_post - t_pre: positive where the presynaptic spike comes first
    reading    traces are read before the spikes of the step are added to them
    together   a pre and a post spike in one step are no pair; the weight after the step takes both spikes' own changes,
               computed from the weight before it, and is clipped once
    delays     pre and post are spikes as they reach the synapse: send pre spikes through `neurons.delay` for the axonal
               delay and post spikes for the dendritic one, which makes the time between them
               (t_post + dendritic) - (t_pre + axonal)
    batches    leading axes are independent: every batch entry has its own weights
    values     numbers and numpy arrays are taken where tensors are, and copied; what comes back is a tensor

Shapes: w (..., i, j), post and what belongs to it (..., i), pre and what belongs to it (..., j).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from .neurons import decay

Values = Tensor | NDArray[Any] | Sequence[Any] | float


def as_tensor(values: Values) -> Tensor:
    """Return a tensor as it is, and a copy of a number or an array as a tensor of its own type."""
    return values if isinstance(values, Tensor) else torch.tensor(values)


def double_exponential(
    dt: Values, *, A_plus: float = 0.005, A_minus: float = 0.00525, tau_plus: float = 20.0, tau_minus: float = 20.0
) -> Tensor:
    """Return A_plus exp(-dt / tau_plus) for dt above 0, -A_minus exp(dt / tau_minus) below, 0 at 0.

    dt = t_post - t_pre, any shape, in the unit of the taus (ms). Constants of Song, Miller and Abbott (2000), per
    largest weight.
    """
    dt = as_tensor(dt)
    causal = A_plus * torch.exp(-dt.clamp(min=0) / tau_plus)
    acausal = -A_minus * torch.exp(dt.clamp(max=0) / tau_minus)
    return torch.where(dt > 0, causal, torch.where(dt < 0, acausal, torch.zeros_like(causal)))


def mexican_hat(dt: Values, *, A: float = 0.005, sigma: float = 20.0) -> Tensor:
    """Return A (1 - (dt / sigma)^2) exp(-(dt / sigma)^2 / 2): near spikes potentiate in either order, far ones depress.

    dt = t_post - t_pre, any shape, in the unit of sigma (ms). Its integral is 0 (the Ricker wavelet).
    """
    squared = (as_tensor(dt) / sigma).square()
    return A * (1 - squared) * torch.exp(-squared / 2)


def jittered(
    dt: Values,
    *,
    sigma: float = 5.0,
    A_plus: float = 0.005,
    A_minus: float = 0.00525,
    tau_plus: float = 20.0,
    tau_minus: float = 20.0,
) -> Tensor:
    """Return the mean of `double_exponential` at dt + N(0, sigma^2), dt = t_post - t_pre: smooth through 0.

    Where each spike jitters on its own with s, sigma is sqrt(2) s. In closed form, with Phi the normal distribution's:
    A_plus exp(s^2 / 2 - dt / tau_plus) Phi(dt / sigma - s) with s = sigma / tau_plus, less the same of -dt and A_minus.
    """

    def half(dt: Tensor, tau: float) -> Tensor:
        s = sigma / tau
        return torch.exp(s * s / 2 - dt / tau + torch.special.log_ndtr(dt / sigma - s))

    dt = as_tensor(dt)
    return A_plus * half(dt, tau_plus) - A_minus * half(-dt, tau_minus)


class Traces(NamedTuple):
    """The traces x (..., j) of pre and y (..., i) of post spikes, those of the last step in them; zeros at first."""

    x: Tensor | NDArray[Any]
    y: Tensor | NDArray[Any]


class Pairs(NamedTuple):
    """The spike pairs that a step completes, as factors: spikes (0 or 1) and the traces they meet.

    `causal` and `acausal` (..., i, j) sum exp(-|dt| / tau) over the pairs with pre and with post first.
    """

    post: Tensor
    x: Tensor
    y: Tensor
    pre: Tensor

    @property
    def causal(self) -> Tensor:
        """Return post x(t-)."""
        return self.post.unsqueeze(-1) * self.x.unsqueeze(-2)

    @property
    def acausal(self) -> Tensor:
        """Return y(t-) pre."""
        return self.y.unsqueeze(-1) * self.pre.unsqueeze(-2)


@torch.no_grad()
def pair(
    traces: Traces,
    pre: Values,
    post: Values,
    *,
    tau_plus: float = 20.0,
    tau_minus: float = 20.0,
    nearest: bool = False,
    dt: float,
) -> tuple[Pairs, Traces]:
    """Return the pairs that this step's spikes complete, and the traces after it; what `hard` and others learn from.

    All-to-all: every post spike meets all earlier pre spikes, and the other way round. nearest: only the last one of
    each neuron (the symmetric scheme of Morrison, Diesmann and Gerstner 2008), because a spike sets its trace to 1;
    where both spike in one step, each meets the last one of the other before the step.
    """
    x, y = decay(tau_plus, dt) * as_tensor(traces.x), decay(tau_minus, dt) * as_tensor(traces.y)
    pre, post = as_tensor(pre).detach().to(x.dtype), as_tensor(post).detach().to(y.dtype)
    after = (
        Traces(torch.where(pre > 0, pre, x), torch.where(post > 0, post, y)) if nearest else Traces(x + pre, y + post)
    )
    return Pairs(post, x, y, pre), after


@torch.no_grad()
def hard(
    w: Values, pairs: Pairs, *, A_plus: float = 0.005, A_minus: float = 0.00525, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Return w + A_plus causal - A_minus acausal, clipped to low and high (Song, Miller and Abbott 2000)."""
    w = _add(as_tensor(w), A_plus, pairs.post, pairs.x)
    return _add_(w, -A_minus, pairs.y, pairs.pre).clamp_(low, high)


@torch.no_grad()
def soft(w: Values, pairs: Pairs, *, lam: float = 0.01, alpha: float = 1.0, mu: float = 1.0) -> Tensor:
    """Return w + lam ((1 - w)^mu causal - alpha w^mu acausal), w from 0 to 1 (Guetig et al. 2003, tau 20 ms).

    mu 0 is additive, 1 multiplicative. Clipped to 0 and 1, which a step can pass where mu is below 1.
    """
    w = as_tensor(w)
    potentiated = torch.addcmul(w, (1 - w).pow_(mu), pairs.causal, value=lam)
    return potentiated.addcmul_(w.pow(mu), pairs.acausal, value=-lam * alpha).clamp_(0, 1)


@torch.no_grad()
def inhibitory(
    w: Values, pairs: Pairs, *, eta: float = 0.001, alpha: float = 0.12, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Return w + eta (causal + acausal + together - alpha pre), clipped: inhibition that holds the post rate at rho.

    Vogels et al. (2011). The window is symmetric, so a pre and a post spike in one step are a pair here and count once:
    x is read after the step's pre spikes. Takes pairs of one tau (20 ms); alpha = 2 rho tau, 0.12 for rho 3 Hz.
    """
    w = _add(as_tensor(w), eta, pairs.post, pairs.x + pairs.pre)
    return _add_(w, eta, pairs.y - alpha, pairs.pre).clamp_(low, high)


class Dopamine(NamedTuple):
    """The state of `dopamine`: the eligibility c (..., i, j) of each synapse and the dopamine n (..., 1, 1)."""

    c: Tensor | NDArray[Any]
    n: Tensor | NDArray[Any]


@torch.no_grad()
def dopamine(
    w: Values,
    state: Dopamine,
    pairs: Pairs,
    released: Values,
    *,
    A_plus: float = 1.0,
    A_minus: float = 1.5,
    tau_c: float = 1000.0,
    tau_n: float = 200.0,
    low: float = 0.0,
    high: float = 200.0,
    dt: float,
) -> tuple[Tensor, Dopamine]:
    """Return w and the state one step later: dw/dt = c n, dc/dt = -c / tau_c + STDP, dn/dt = -n / tau_n + released.

    Izhikevich (2007), constants as in Potjans, Morrison and Diesmann (2010); pairs of tau 20 ms. w is moved first, by
    the exact integral of c n over the step that ends now; then pairs and `released` (..., 1, 1), the dopamine of this
    step, are added, so that both first act on the next one. w is in units of c n ms.
    """
    lasting = 1 / tau_c + 1 / tau_n
    before, n = as_tensor(state.c), as_tensor(state.n)
    w = torch.addcmul(as_tensor(w), before, n, value=-math.expm1(-dt * lasting) / lasting).clamp_(low, high)
    c = _add_(decay(tau_c, dt) * before, A_plus, pairs.post, pairs.x)
    return w, Dopamine(_add_(c, -A_minus, pairs.y, pairs.pre), decay(tau_n, dt) * n + as_tensor(released))


class TripletTraces(NamedTuple):
    """Fast and slow traces r1, r2 (..., j) of pre and o1, o2 (..., i) of post spikes; zeros at first."""

    r1: Tensor | NDArray[Any]
    r2: Tensor | NDArray[Any]
    o1: Tensor | NDArray[Any]
    o2: Tensor | NDArray[Any]


@torch.no_grad()
def triplet(
    w: Values,
    traces: TripletTraces,
    pre: Values,
    post: Values,
    *,
    A2_plus: float = 5e-10,
    A3_plus: float = 6.2e-3,
    A2_minus: float = 7e-3,
    A3_minus: float = 2.3e-4,
    tau_plus: float = 16.8,
    tau_minus: float = 33.7,
    tau_x: float = 101.0,
    tau_y: float = 125.0,
    low: float = 0.0,
    high: float = 1.0,
    dt: float,
) -> tuple[Tensor, TripletTraces]:
    """Return w + post r1 (A2_plus + A3_plus o2) - pre o1 (A2_minus + A3_minus r2), clipped, and the traces after it.

    Pfister and Gerstner (2006), all-to-all, constants fitted to visual cortex. All four traces are read before the
    step's spikes: a spike's own entry in its slow trace (o2, r2) is never part of its triplet.
    """
    taus = (tau_plus, tau_x, tau_minus, tau_y)
    r1, r2, o1, o2 = (decay(tau, dt) * as_tensor(each) for tau, each in zip(taus, traces, strict=True))
    pre, post = as_tensor(pre).to(r1.dtype), as_tensor(post).to(o1.dtype)
    w = _add(as_tensor(w), 1.0, post * (A2_plus + A3_plus * o2), r1)
    w = _add_(w, -1.0, o1, pre * (A2_minus + A3_minus * r2)).clamp_(low, high)
    return w, TripletTraces(r1 + pre, r2 + pre, o1 + post, o2 + post)


@torch.no_grad()
def stllr(
    traces: Traces,
    pre: Values,
    post: Values,
    *,
    a_pre: float = 1.0,
    a_post: float = 0.2,
    lam_pre: float = 0.5,
    lam_post: float = 0.5,
) -> tuple[Tensor, Traces]:
    """Return the eligibility a_pre post x + a_post y pre (..., i, j) of S-TLLR, and the traces after the step.

    Apolinario and Roy (2025): x is read after the step's pre, y before its post; post is what the neuron's surrogate
    derivative gives, any number. The weight moves by eligibility times a learning signal of the caller's. The decays
    are per step, and y is the trace of `rules.stdp`, whose causal half is a block's own.
    """
    pre, post = as_tensor(pre), as_tensor(post)
    x, y = lam_pre * as_tensor(traces.x) + pre, lam_post * as_tensor(traces.y)
    pairs = Pairs(post, x, y, pre)
    return a_pre * pairs.causal + a_post * pairs.acausal, Traces(x, y + post)


def _add(w: Tensor, scale: float, post: Tensor, pre: Tensor) -> Tensor:
    """Return w + scale post pre without the outer product (..., i, j) of its own."""
    return torch.addcmul(w, post.unsqueeze(-1), pre.unsqueeze(-2), value=scale)


def _add_(w: Tensor, scale: float, post: Tensor, pre: Tensor) -> Tensor:
    """Do the same in place, on a w that the caller has just made."""
    return w.addcmul_(post.unsqueeze(-1), pre.unsqueeze(-2), value=scale)
