"""What bench.associative measures: that its neuron learns, as the perceptron does, and that its criteria can fail."""

import pytest
import torch

from bench import capacity
from bench.associative import ERRS, EVERY, TEMPOTRON
from biomamba.plasticity.latency import Latency


def test_neuron_and_perceptron_learn_the_same_draws_in_the_same_epoch() -> None:
    row = capacity.synchronous({"inputs": 20, "load": 1.2, "epochs": 60, "draws": 6, "seed": 1})
    assert row["neuron"] == row["perceptron"] and row["apart"] < 1e-12
    assert max(row["neuron"]) > 1
    learned = [epochs >= 0 for epochs in row["neuron"]]
    assert all(able or not done for able, done in zip(row["separable"], learned, strict=True))
    hopeless = capacity.synchronous({"inputs": 20, "load": 4.0, "epochs": 5, "draws": 2, "seed": 1})
    assert hopeless["separable"] == [False, False] and hopeless["neuron"] == [-1, -1]


@pytest.mark.parametrize("teacher", [EVERY, ERRS])
def test_spread_patterns_are_learned(teacher: str) -> None:
    rate, constants = TEMPOTRON[teacher]
    setting = {"inputs": 50, "load": 0.5, "draws": 2, "seed": 3, "teacher": teacher}
    shares = [
        sum(capacity.spread_out({**setting, "epochs": epochs}, Latency(100, **constants), rate, None)["learned"]) / 2
        for epochs in (0, 100)
    ]
    assert shares[0] < 0.7 < 0.95 < shares[1]


def test_the_chronotrons_criterion_can_fail() -> None:
    """All spikes within 30 ms after the teacher, at least one."""
    spikes = torch.zeros(5, 200, dtype=torch.bool)
    for trial, at in ((1, 100), (2, 131), (3, 99), (4, 110)):
        spikes[trial, at] = True
    spikes[4, 20] = True
    shown = capacity.Patterns(torch.zeros(5, 1), torch.ones(5, dtype=torch.bool), torch.full((5,), 100))
    assert capacity.answered(spikes, shown, timed=True).tolist() == [False, True, False, False, False]
