"""Laws of short-term plasticity, of the voltage rule and of synaptic scaling, by sums and loops that share no code."""

import math

import numpy as np
import pytest
import torch

from biomamba.plasticity.short_term import Resources, tsodyks_markram
from biomamba.plasticity.voltage import Averages, clopath, scaled

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("U", "tau_d", "tau_f"), [(0.5, 200.0, 20.0), (0.15, 50.0, 750.0)])
def test_a_synapse_sends_what_the_recursion_from_spike_to_spike_says(U: float, tau_d: float, tau_f: float) -> None:
    trains = [[3, 4, 20, 90], [0, 50, 51, 52, 99], []]
    state, sent = Resources(np.zeros(3), np.ones(3)), np.zeros((100, 3))
    for t in range(100):
        now, state = tsodyks_markram(state, [t in train for train in trains], U=U, tau_d=tau_d, tau_f=tau_f, dt=1.0)
        sent[t] = now.numpy()
    for j, train in enumerate(trains):
        u, x, last = 0.0, 1.0, 0
        for t in train:
            u, x = u * math.exp(-(t - last) / tau_f), 1 - (1 - x) * math.exp(-(t - last) / tau_d)
            u += U * (1 - u)
            assert sent[t, j] == pytest.approx(u * x, abs=1e-12)
            x, last = x - u * x, t
        assert np.count_nonzero(sent[:, j]) == len(train)


def test_depression_and_facilitation() -> None:
    """Ten spikes at 50 Hz: the last is sent weaker by resources alone, stronger by utilisation."""
    sizes = []
    for constants in ({}, {"U": 0.15, "tau_d": 50.0, "tau_f": 750.0}):
        state, found = Resources(torch.zeros(1), torch.ones(1)), []
        for _ in range(10):
            sent, state = tsodyks_markram(state, torch.ones(1), dt=20.0, **constants)
            found.append(float(sent))
        sizes.append(found[-1] / found[0])
    assert sizes[0] < 0.5 < 1.2 < sizes[1]


def test_the_voltage_rule_is_its_equation() -> None:
    source = np.random.default_rng(0)
    pre, u, rest = source.random((60, 3)) < 0.1, -70 + 40 * source.random((60, 2)), -70.6
    w, state = torch.full((2, 3), 0.5), Averages(np.zeros(3), np.full(2, rest), np.full(2, rest))
    for t in range(60):
        w, state = clopath(w, state, pre[t], u[t], dt=1.0)
    up, down = np.zeros((2, 3)), np.zeros((2, 3))
    for t in range(60):
        ages = t - np.arange(t)
        x = (np.exp(-ages / 15.0)[:, None] * pre[:t]).sum(0) / 15.0
        minus, plus = (
            rest * k**t + (1 - k) * (k ** (ages - 1)[:, None] * u[:t]).sum(0)
            for k in (math.exp(-1 / 10.0), math.exp(-1 / 7.0))
        )
        depressed = 14e-5 * np.maximum(minus + 70.6, 0)
        potentiated = 8e-5 * np.maximum(u[t] + 45.3, 0) * np.maximum(plus + 70.6, 0)
        up, down = up + potentiated[:, None] * x, down + depressed[:, None] * pre[t]
    np.testing.assert_allclose(w.numpy(), 0.5 + up - down, atol=1e-12)
    assert up.min() > 1e-4 < down.min()  # both halves were at work


def test_scaling_keeps_ratios_and_ends_at_its_goal() -> None:
    """A neuron whose rate is 20 w: from any weights it comes to the goal, and their ratios stay."""
    w = torch.tensor([[0.1, 0.2], [0.9, 0.3]])
    ratios = w[:, 0] / w[:, 1]
    for _ in range(2000):
        w = scaled(w, 20 * w.sum(1), goal=5.0, tau=100.0, dt=1.0)
    assert torch.allclose(20 * w.sum(1), torch.tensor(5.0)) and torch.allclose(w[:, 0] / w[:, 1], ratios)
    once = scaled(torch.ones(1, 1), 10.0, goal=5.0, tau=100.0, dt=50.0)
    halves = scaled(scaled(torch.ones(1, 1), 10.0, goal=5.0, tau=100.0, dt=25.0), 10.0, goal=5.0, tau=100.0, dt=25.0)
    assert torch.allclose(once, halves)
