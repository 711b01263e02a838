"""What bench.associative measures: that its neuron learns, as the perceptron does, and that its criteria can fail."""

import pytest
import torch

from bench import capacity
from bench.associative import CHRONOTRON, TARGETS, TEMPOTRON
from bench.capacity import ERRS, EVERY, PRECISE
from biomamba.plasticity.latency import Latency


def test_neuron_and_perceptron_learn_the_same_draws_in_the_same_epoch() -> None:
    row = capacity.synchronous({"inputs": 20, "load": 1.2, "epochs": 60, "draws": 6, "seed": 1})
    assert row["neuron"] == row["perceptron"] and row["apart"] < 1e-12
    assert max(row["neuron"]) > 1
    learned = [epochs >= 0 for epochs in row["neuron"]]
    assert all(able or not done for able, done in zip(row["separable"], learned, strict=True))
    hopeless = capacity.synchronous({"inputs": 20, "load": 4.0, "epochs": 5, "draws": 2, "seed": 1})
    assert hopeless["separable"] == [False, False] and hopeless["neuron"] == [-1, -1]


@pytest.mark.parametrize(
    ("teacher", "at", "load"), [(EVERY, None, 0.5), (ERRS, None, 0.5), (ERRS, TARGETS, 0.2), (PRECISE, TARGETS, 0.2)]
)
def test_spread_patterns_are_learned(teacher: str, at: tuple[int, int] | None, load: float) -> None:
    rate, constants = (CHRONOTRON if at else TEMPOTRON)[teacher]
    setting = {"inputs": 50, "load": load, "draws": 2, "seed": 3, "teacher": teacher}
    shares = [
        sum(capacity.spread_out({**setting, "epochs": epochs}, Latency(200, **constants), rate, at)["learned"]) / 2
        for epochs in (0, 200)
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


def test_finite_precision_mends_the_first_error() -> None:
    """By what each input brings to the potential: less of it at a spike out of the window, more at a window's end."""
    torch.manual_seed(0)
    neuron = Latency(200, tau_u=20.0, tau_s=5.0)
    spikes = torch.zeros(4, 200, dtype=torch.bool)
    for trial, at in ((0, 90), (0, 110), (1, 140), (2, 110), (2, 150)):
        spikes[trial, at] = True
    times = torch.randint(1, 200, (4, 30))
    shown = capacity.Patterns(times, torch.ones(4, dtype=torch.bool), torch.full((4,), 100))
    expected = [-neuron.kernel[times[0], 90], neuron.kernel[times[1], 130], -neuron.kernel[times[2], 150]]
    expected.append(neuron.kernel[times[3], 130])  # it missed, and did nothing else
    found = capacity.finite_precision(neuron, spikes, shown)
    assert torch.equal(found, torch.stack(expected)) and found.any(1).all()
    spikes[:], spikes[:, 115] = False, True
    assert not capacity.finite_precision(neuron, spikes, shown).any()
