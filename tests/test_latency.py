"""Laws of latency patterns: trials found spike by spike are those of `associative`, step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.plasticity import associative
from biomamba.plasticity.latency import Latency

pytestmark = pytest.mark.usefixtures("float64")
STEPS, INPUTS, TRIALS = 60, 30, 30
NEURON: dict[str, Any] = {"tau_u": 15.0, "tau_nu": 30.0, "nu_reset": -1.5, "reset": -0.3, "subthreshold": 0.6}
RULE: dict[str, Any] = {"tau_y": 23.0, "gamma": 0.7}
DELAYS = [{"axonal": 0.0, "dendritic": 0.0}, {"axonal": 4.0, "dendritic": 1.0}]


def trials() -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, times, some of which mean silence, and teachers, some of which are none."""
    times, teacher = torch.randint(0, STEPS + 10, (TRIALS, INPUTS)), torch.randint(-1, STEPS, (TRIALS,))
    return 0.6 * torch.rand(TRIALS, INPUTS) - 0.1, times, teacher.where(torch.rand(TRIALS) < 0.7, -1)


def step_by_step(w: Tensor, times: Tensor, teacher: int, delays: dict[str, float]) -> tuple[associative.Trial, Tensor]:
    """Return trial (1, t, 1) and change (1, n) of one neuron (n,), by `associative`."""
    sent = torch.zeros(1, STEPS, INPUTS)
    spiking = (times < STEPS).nonzero().flatten()
    sent[0, times[spiking], spiking] = 1
    forced = torch.zeros(1, STEPS, 1, dtype=torch.bool)
    if teacher >= 0:
        forced[0, teacher] = True
    inputs = associative.encode(sent, tau_u=15.0, tau_s=4.0, tau_x=17.0, **delays)
    trial = associative.present(w.unsqueeze(0), inputs, forced, **NEURON)
    return trial, associative.change(inputs, trial, dendritic=delays["dendritic"], **RULE)


@pytest.mark.parametrize("delays", DELAYS, ids=["no delays", "delays"])
def test_a_trial_and_its_change_are_those_step_by_step(delays: dict[str, float]) -> None:
    w, times, teacher = trials()
    neuron = Latency(STEPS, tau_s=4.0, tau_x=17.0, **NEURON, **RULE, **delays, like=w)
    trial = neuron.present(w, times, teacher)
    change = neuron.change(times, trial)
    for k in range(TRIALS):
        slow, moved = step_by_step(w[k], times[k], int(teacher[k]), delays)
        assert torch.equal(trial.spikes[k], slow.spikes[0, :, 0])
        assert torch.equal(trial.crossings[k], slow.crossings[0, :, 0])
        assert torch.allclose(change[k], moved[0], atol=1e-12)
    assert int(trial.spikes.sum(1).max()) > 2 and int(trial.crossings.sum()) > TRIALS  # much happened
    assert float(change[times >= STEPS].abs().max()) == 0 < float(change.abs().max())


def test_it_is_not_with_other_constants() -> None:
    w, times, teacher = trials()
    slow = torch.stack([step_by_step(w[k], times[k], int(teacher[k]), DELAYS[0])[1][0] for k in range(TRIALS)])
    for other in ({"tau_x": 18.0}, {"tau_y": 24.0}, {"gamma": 0.8}, {"nu_reset": -1.2}, {"tau_s": 4.5}):
        neuron = Latency(STEPS, **{"tau_s": 4.0, "tau_x": 17.0, **NEURON, **RULE, **other}, like=w)
        assert float((neuron.change(times, neuron.present(w, times, teacher)) - slow).abs().max()) > 1e-3


def test_recall_is_a_trial_without_a_teacher() -> None:
    w, times, _ = trials()
    neuron = Latency(STEPS, tau_s=4.0, **NEURON, like=w)
    alone, none = neuron.present(w, times), neuron.present(w, times, torch.full((TRIALS,), -1))
    assert torch.equal(alone.spikes, none.spikes) and torch.equal(alone.crossings, none.crossings)
    taught = neuron.present(w, times, torch.zeros(TRIALS, dtype=torch.long))
    assert taught.spikes[:, 0].all() and not torch.equal(alone.crossings, taught.crossings)


def test_levels_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"subthreshold 1.2, threshold 1: expected"):
        Latency(10, subthreshold=1.2)
    with pytest.raises(ValueError, match=r"a delay: got 0.5 ms"):
        Latency(10, axonal=0.5)
