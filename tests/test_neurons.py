"""Laws of the neurons: membranes, currents and sources do what their equations say in closed form."""

import math

import pytest
import torch
from torch import Tensor

from biomamba.plasticity import neurons

pytestmark = pytest.mark.usefixtures("float64")


def run(current: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    """Return spikes and potentials (t, n) of neurons that begin at rest."""
    u, spikes, us = torch.zeros(current.shape[1:]), [], []
    for current_t in current:
        spike, u = neurons.lif(u, current_t, **options)
        spikes.append(spike)
        us.append(u)
    return torch.stack(spikes), torch.stack(us)


def intervals(spikes: Tensor) -> Tensor:
    """Return the steps between the spikes (t,) of one neuron."""
    return spikes.nonzero().flatten().diff()


def test_a_membrane_charges_by_its_time_constant_at_any_step() -> None:
    for dt in (0.1, 1.0, 5.0):
        spikes, u = run(torch.full((round(100 / dt), 1), 0.9), tau=20.0, dt=dt)
        t = dt * torch.arange(1, len(u) + 1)
        assert torch.allclose(u[:, 0], 0.9 * (1 - torch.exp(-t / 20)), atol=1e-12)
        assert not spikes.any()


@pytest.mark.parametrize("reset", [0.0, -0.8])
def test_a_constant_current_fires_at_the_interval_of_the_closed_form(reset: float) -> None:
    dt, current = 0.1, 1.7
    spikes, u = run(torch.full((5000, 1), current), tau=20.0, threshold=1.0, reset=reset, dt=dt)
    exact = 20 * math.log((current - reset) / (current - 1))
    assert set(intervals(spikes[:, 0]).tolist()) == {math.ceil(exact / dt)}
    assert bool((u[spikes] == reset).all()) and float(u.max()) < 1


def test_reaching_the_threshold_is_enough() -> None:
    spike, u = neurons.lif(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.999]), dt=1.0)
    assert spike.tolist() == [True, False] and u.tolist() == pytest.approx([0, 1], abs=1e-3)


def test_after_hyperpolarisation_follows_its_two_exponentials() -> None:
    """Steps of dt hold nu, so the error is of the order of dt and a tenth of the step leaves a tenth of it."""
    tau, tau_nu, depth, errors = 10.0, 40.0, -2.0, []
    for dt in (0.1, 0.01):
        state = neurons.Adapted(torch.zeros(1), torch.full((1,), depth))
        for _ in range(round(30 / dt)):
            _, state = neurons.lif_ahp(state, torch.zeros(1), tau=tau, tau_nu=tau_nu, nu_reset=depth, dt=dt)
        exact = depth * tau_nu / (tau_nu - tau) * (math.exp(-30 / tau_nu) - math.exp(-30 / tau))
        errors.append(abs(float(state.u) - exact))
        assert float(state.nu) == pytest.approx(depth * math.exp(-30 / tau_nu))
    assert errors[0] < 0.01 and errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


def test_after_hyperpolarisation_slows_firing_and_is_set_not_summed() -> None:
    def count(nu_reset: float) -> tuple[int, float]:
        state, total, lowest = neurons.Adapted(torch.zeros(1), torch.zeros(1)), 0, 0.0
        for _ in range(2000):
            spike, state = neurons.lif_ahp(state, torch.full((1,), 3.0), nu_reset=nu_reset, dt=0.5)
            total, lowest = total + int(spike), min(lowest, float(state.nu))
        return total, lowest

    plain, _ = run(torch.full((2000, 1), 3.0), dt=0.5)
    assert count(0.0) == (int(plain.sum()), 0.0)
    slowed, lowest = count(-1.5)
    assert 0 < slowed < int(plain.sum()) and lowest == -1.5


def test_a_current_is_the_sum_of_an_exponential_per_spike() -> None:
    spikes, w = torch.rand(60, 4) < 0.2, torch.randn(3, 4)
    current = torch.zeros(3)
    for spikes_t in spikes:
        current = neurons.synapse(current, spikes_t, w, tau=5.0, dt=0.5)
    expected = sum(w[:, j] * math.exp((t - 59) * 0.5 / 5.0) for t, j in spikes.nonzero().tolist())
    assert torch.allclose(current, torch.as_tensor(expected))


def test_a_spike_that_arrives_can_fire_the_neuron_in_the_same_step() -> None:
    current = neurons.synapse(torch.zeros(1), torch.tensor([True]), torch.tensor([[40.0]]), tau=5.0, dt=1.0)
    spike, _ = neurons.lif(torch.zeros(1), current, dt=1.0)
    assert bool(spike)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_delay_hands_out_what_went_in_so_many_steps_ago(steps: int) -> None:
    sent, line = torch.rand(20, 3) < 0.5, torch.zeros(steps, 3, dtype=torch.bool)
    got = []
    for spikes in sent:
        out, line = neurons.delay(line, spikes)
        got.append(out)
    assert torch.equal(torch.stack(got), torch.cat([torch.zeros(steps, 3, dtype=torch.bool), sent])[:20])
    assert line.shape == (steps, 3)


def test_poisson_spikes_have_their_rates_and_exponential_intervals() -> None:
    source = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.0, 5.0, 40.0])
    spikes = neurons.poisson(rates, 400_000, (3,), dt=0.5, generator=source)  # 200 s
    counts = spikes.sum(0).tolist()
    assert counts[0] == 0
    for count, rate in zip(counts[1:], rates.tolist()[1:], strict=True):
        assert count == pytest.approx(200 * rate, abs=4 * math.sqrt(200 * rate))
    between = intervals(spikes[:, 2]).double()
    assert float(between.std() / between.mean()) == pytest.approx(1, abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([between[:-1], between[1:]]))[0, 1])) < 0.05
    assert float(torch.corrcoef(spikes[:, 1:].T.double())[0, 1].abs()) < 0.01, "one neuron tells nothing of another"


def test_poisson_repeats_by_its_generator_and_takes_any_shape() -> None:
    first, again, other = (
        neurons.poisson(100.0, 50, (2, 3), dt=1.0, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (50, 2, 3) and first.dtype == torch.bool
    assert neurons.poisson(100.0, 50, dt=1.0).shape == (50,)


@pytest.mark.parametrize("rate", [-1.0, 1001.0])
def test_a_rate_that_no_step_can_hold_is_an_error(rate: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1000"):
        neurons.poisson(rate, 5, dt=1.0)
    assert bool(neurons.poisson(1000.0, 5, dt=1.0).all())


@pytest.mark.parametrize("tau, dt", [(0.0, 1.0), (-5.0, 1.0), (5.0, 0.0)])
def test_time_constants_and_steps_are_above_zero(tau: float, dt: float) -> None:
    with pytest.raises(ValueError, match="expected both above 0"):
        neurons.decay(tau, dt)
    assert neurons.decay(5.0, 5.0) == pytest.approx(1 / math.e)


def test_no_graph_grows() -> None:
    u, current, w = (torch.rand(shape, requires_grad=True) for shape in ((2,), (2,), (2, 3)))
    spikes = torch.rand(3, requires_grad=True)
    made = [*neurons.lif(u, current, dt=1.0), neurons.synapse(current, spikes, w, dt=1.0)]
    made += [neurons.trace(u, current, tau=5.0, dt=1.0), *neurons.delay(torch.zeros(2, 3), spikes)]
    spike, state = neurons.lif_ahp(neurons.Adapted(u, current), current, dt=1.0)
    assert not any(tensor.requires_grad for tensor in (*made, spike, *state))
