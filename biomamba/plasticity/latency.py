"""Associative learning of latency patterns, in which each input spikes at most once: found spike by spike.

    u(t) = sum_j w_j K(t - t_j) + what the last reset left
    dw_j = y(t_j-) - gamma sum_(c >= t_j) exp(-(c - t_j) / tau_x)                          c: the crossings

The neuron and the rule of `associative`, which steps through time with every input. Between two spikes the potential is
linear in the weights, and a change reads one sum at an input's own time: a trial costs n + t^2 and a step for each
spike of the neuron. The tables (t, t) are what `associative` makes of a single spike, delays and all.

Shapes: b trials side by side, each with weights of its own; n inputs, t steps. w (b, n); times (b, n) whole steps, t or
more for an input that stays silent; teacher (b,) the step of the teacher's spike, -1 for none.
"""

from typing import Any

import torch
from torch import Tensor

from . import associative
from .associative import Trial
from .neurons import decay


class Latency:
    """A neuron in trials of so many steps, with the constants of `associative`: times in ms, delays whole steps."""

    def __init__(
        self,
        steps: int,
        *,
        tau_u: float = 20.0,
        tau_s: float | None = None,
        tau_x: float = 20.0,
        tau_y: float = 20.0,
        gamma: float = 1.0,
        threshold: float = 1.0,
        subthreshold: float = 0.8,
        reset: float = 0.0,
        tau_nu: float = 20.0,
        nu_reset: float = 0.0,
        axonal: float = 0.0,
        dendritic: float = 0.0,
        dt: float = 1.0,
        like: Tensor | None = None,
    ) -> None:
        """Take the constants. like: a tensor whose type and device the tables have (float32 on the CPU without).

        Raises ValueError unless the resets lie below the subthreshold and that below the threshold, and as `encode`.
        """
        if not max(reset, 0) < subthreshold < threshold:
            raise ValueError(
                f"reset {reset:g}, subthreshold {subthreshold:g}, threshold {threshold:g}: expected reset and 0 "
                "below the subthreshold, and that below the threshold"
            )
        self.steps, self.threshold, self.subthreshold, self.reset = steps, threshold, subthreshold, reset
        one = torch.eye(steps, dtype=torch.float64).unsqueeze(-1)  # trials with one spike each
        taus: dict[str, Any] = {"tau_u": tau_u, "tau_s": tau_s, "tau_x": tau_x}
        inputs = associative.encode(one, **taus, axonal=axonal, dendritic=dendritic, dt=dt)
        u = associative.membrane(inputs.current, tau=tau_u, dt=dt)[..., 0]
        y = (associative.traced(one, tau=tau_y, dt=dt) - one)[..., 0]
        z = associative.delayed(one, round(dendritic / dt))[..., 0]
        fading, nu, left, sunk = decay(tau_u, dt), nu_reset, [1.0], [0.0]
        for _ in range(steps - 1):
            nu *= decay(tau_nu, dt)
            left.append(fading * left[-1])
            sunk.append(fading * sunk[-1] + (1 - fading) * nu)
        options: dict[str, Any] = {"dtype": (w := torch.empty(0) if like is None else like).dtype, "device": w.device}
        silent = torch.zeros(1, steps, dtype=torch.float64)
        self.kernel = torch.cat([u, silent]).to(**options)  # (t + 1, t): of an input's time, then of the step
        self.potentiation = torch.cat([y @ inputs.spikes[..., 0].T, silent.T], 1).to(**options)  # (t, t + 1)
        self.depression = -gamma * torch.cat([z @ inputs.x[..., 0].T, silent.T], 1).to(**options)
        self.left, self.sunk = torch.tensor(left).to(**options), torch.tensor(sunk).to(**options)  # (t,) after a reset

    @torch.no_grad()
    def present(self, w: Tensor, times: Tensor, teacher: Tensor | None = None) -> Trial:
        """Return the spikes and crossings (b, t) of neurons at rest; without a teacher this is recall."""
        size, step = self.steps, torch.arange(self.steps, device=w.device)
        arrived = w.new_zeros(len(w), size + 1).scatter_add_(1, times.clamp(max=size), w)
        free = arrived @ self.kernel
        u, spikes = free, torch.zeros_like(free, dtype=torch.bool)
        reached = free >= self.subthreshold  # before the step's own reset
        after = reached.clone()
        forced = torch.full((len(w),), -1, device=w.device) if teacher is None else teacher
        taught, last = step == forced.unsqueeze(1), torch.full_like(forced, -1)
        while True:
            events = ((u >= self.threshold) | taught) & (step > last.unsqueeze(1))
            fired = events.any(1, keepdim=True)
            if not bool(fired.any()):
                break
            when = events.int().argmax(1, keepdim=True)
            since = (step - when).clamp(min=0)
            later = (step > when) & fired
            depth = self.reset - free.gather(1, when)
            u = torch.where(later, free + depth * self.left[since] + self.sunk[since], u)
            above = u >= self.subthreshold
            reached = torch.where(later, above, reached)
            after = torch.where(later, above, after & ~((step == when) & fired))
            spikes |= (step == when) & fired
            last = torch.where(fired, when, size)[:, 0]
        before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
        return Trial(spikes, reached & ~before)

    @torch.no_grad()
    def change(self, times: Tensor, trial: Trial) -> Tensor:
        """Return the change (b, n) that the rule makes of each trial's weights, for a learning rate of 1."""
        dtype = self.kernel.dtype
        told = trial.spikes.to(dtype) @ self.potentiation + trial.crossings.to(dtype) @ self.depression
        return told.gather(1, times.clamp(max=self.steps))
