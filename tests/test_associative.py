"""Laws of associative learning by STDP: it is the Perceptron Learning Rule change by change, and its parts are."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from biomamba.plasticity import associative, tempotron

pytestmark = pytest.mark.usefixtures("float64")
TAU_U, TAU_X, TAU_Y = 15.0, 17.0, 23.0
AXONAL, DENDRITIC, SUBTHRESHOLD, RESET = 4.0, 1.0, 0.6, -0.9
STEPS = 7  # of a trial: the crossing, at 5 ms, reaches the synapse at 6 ms
DELAYS = {"axonal": AXONAL, "dendritic": DENDRITIC}
balanced = partial(associative.balanced_gamma, tau_x=TAU_X, tau_y=TAU_Y, **DELAYS)
encode = partial(associative.encode, tau_u=TAU_U, tau_x=TAU_X)
present = partial(associative.present, tau_u=TAU_U, subthreshold=SUBTHRESHOLD, reset=RESET)
change = partial(associative.change, tau_y=TAU_Y)


def synchronous(active: Tensor) -> Tensor:
    """Return trials (b, t, n) in which the active (b, n) spike at time 0."""
    spikes = torch.zeros(len(active), STEPS, active.shape[1], dtype=active.dtype)
    spikes[:, 0] = active
    return spikes


def stdp(w: Tensor, pattern: Tensor, label: Tensor, gamma: float) -> Tensor:
    """Return the change (i, j) by the rule of one trial with a pattern (j,) and labels (i,)."""
    inputs = encode(synchronous(pattern[None]), **DELAYS)
    trial = present(w, inputs, synchronous(label[None]))
    return change(inputs, trial, gamma=gamma, dendritic=DENDRITIC)


def perceptron(w: Tensor, pattern: Tensor, label: Tensor, threshold: float, margin: float) -> Tensor:
    """Return the change (i, j) by the Perceptron Learning Rule: x towards the label where the margin is missed."""
    wanted = 2.0 * label - 1
    missed = wanted * (w @ pattern - threshold) < margin
    return (wanted * missed).unsqueeze(-1) * pattern


def differences(gamma: float, threshold: float, margin: float, sweeps: int = 8) -> tuple[Tensor, Tensor]:
    """Return by how much the changes (s, i, j) of one sequence of patterns differ, and their signs (s, i).

    Both rules begin with the same weights and go on with their own.
    """
    patterns, labels = (torch.rand(40, 30) < 0.4).double(), torch.rand(40, 6) < 0.5
    w = spiking = 0.1 * torch.randn(6, 30)
    rate, potentiation, found, grown = 0.02, math.exp(-AXONAL / TAU_Y), [], []
    for k in torch.randint(len(patterns), (sweeps * len(patterns),)):
        by_perceptron = potentiation * perceptron(w, patterns[k], labels[k], threshold, margin)
        by_stdp = stdp(spiking, patterns[k], labels[k], gamma)
        w, spiking = w + rate * by_perceptron, spiking + rate * by_stdp
        found.append(by_stdp - by_perceptron)
        grown.append(by_perceptron.sum(1).sign())
    return torch.stack(found), torch.stack(grown)


def hyperpolarisation() -> float:
    """Return |U_ad|, what is left of the reset when the input reaches the soma."""
    return abs(RESET) * math.exp(-(AXONAL + DENDRITIC) / TAU_U)


def test_stdp_is_the_perceptron_learning_rule_change_by_change() -> None:
    margin = hyperpolarisation() / 2
    apart, grown = differences(balanced(), SUBTHRESHOLD + margin, margin)
    assert float(apart.abs().max()) < 1e-12
    for sign in (-1, 0, 1):  # the law is not vacuous: every branch of the rule was taken often
        assert float((grown == sign).double().mean()) > 0.02


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_it_is_not_with_another_gamma(factor: float) -> None:
    margin = hyperpolarisation() / 2
    apart, _ = differences(factor * balanced(), SUBTHRESHOLD + margin, margin, sweeps=3)
    assert float(apart.abs().max()) > 0.05


@pytest.mark.parametrize(("threshold", "margin"), [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0)])
def test_it_is_not_with_another_threshold_or_margin(threshold: float, margin: float) -> None:
    """Given in parts of |U_ad|; both one half is the law."""
    deep = hyperpolarisation()
    apart, _ = differences(balanced(), SUBTHRESHOLD + threshold * deep, margin * deep, sweeps=8)
    assert float(apart.abs().max()) > 0.05


def test_gamma_of_traces_that_jump_by_one_over_tau() -> None:
    """With tau dq/dt = -q + spikes, change = y x / tau_y - gamma x z / tau_x, which cancels at tau_x / tau_y gamma."""
    pattern, label, strong = torch.ones(3), torch.tensor([True]), torch.full((1, 3), 5.0)
    potentiation = stdp(strong, pattern, label, 0.0) / TAU_Y
    depression = (stdp(strong, pattern, label, 0.0) - stdp(strong, pattern, label, 1.0)) / TAU_X
    assert float(depression.min()) > 0
    assert torch.allclose(potentiation, TAU_X / TAU_Y * balanced() * depression, atol=1e-14)
    assert not torch.allclose(potentiation, balanced() * depression, atol=1e-3)


@pytest.mark.parametrize("dt", [1.0, 0.5, 0.125])
def test_the_step_does_not_matter_to_spikes_on_both_grids(dt: float) -> None:
    sent, teacher, w = torch.zeros(1, round(40 / dt), 3), torch.zeros(1, round(40 / dt), 1, dtype=torch.bool), 0.5
    for j, at in enumerate((3, 11, 12)):
        sent[0, round(at / dt), j] = 1
    teacher[0, round(7 / dt)] = True
    inputs = encode(sent, axonal=2.0, dendritic=1.0, dt=dt)
    trial = present(torch.full((1, 3), w), inputs, teacher, dt=dt)
    moved = change(inputs, trial, dendritic=1.0, dt=dt)[0]
    # Spikes reach the soma at 6, 14 and 15. The reset at 7 keeps the last two below U_st, so y is read at 13 and 14.
    exact = [0.0, math.exp(-6 / TAU_Y), math.exp(-7 / TAU_Y)]
    assert moved.tolist() == pytest.approx(exact, abs=1e-12)


def test_post_before_pre_potentiates_and_pre_before_a_crossing_depresses() -> None:
    """One pair each, without a hyperpolarisation: the change is the trace at the second spike."""
    sent = torch.zeros(1, 30, 1)
    sent[0, 9] = 1
    teacher = torch.zeros(1, 30, 1, dtype=torch.bool)
    teacher[0, 4] = True
    inputs = encode(sent)
    silent = associative.present(torch.full((1, 1), 0.1), inputs, teacher, tau_u=TAU_U)
    assert float(change(inputs, silent)) == pytest.approx(math.exp(-5 / TAU_Y))
    late = encode(sent, dendritic=2.0)
    crossing = associative.present(torch.full((1, 1), 0.9), late, tau_u=TAU_U)
    assert crossing.crossings.sum() == 1 and not crossing.spikes.any()
    assert float(change(late, crossing, gamma=0.7, dendritic=2.0)) == pytest.approx(-0.7 * math.exp(-4 / TAU_X))


def test_a_step_is_causal_for_a_crossing_and_no_pair_for_a_spike() -> None:
    sent = torch.zeros(1, 30, 1)
    sent[0, 9] = 1
    inputs = encode(sent)
    trial = associative.present(torch.full((1, 1), 1.5), inputs, tau_u=TAU_U)
    assert trial.spikes.nonzero().tolist() == trial.crossings.nonzero().tolist() == [[0, 9, 0]]
    assert float(change(inputs, trial, gamma=0.7)) == pytest.approx(-0.7)


def test_a_forced_spike_is_no_crossing() -> None:
    teacher = torch.zeros(1, 30, 1, dtype=torch.bool)
    teacher[0, 4] = True
    trial = associative.present(torch.zeros(1, 1), encode(torch.zeros(1, 30, 1)), teacher)
    assert trial.spikes.sum() == 1 and not trial.crossings.any()


def test_the_change_of_a_batch_is_the_sum_over_its_trials() -> None:
    sent, teacher = (torch.rand(5, 60, 8) < 0.02).double(), torch.rand(5, 60, 3) < 0.02
    w, hyper = torch.rand(3, 8), {"tau_nu": 30.0, "nu_reset": -1.0}
    inputs = encode(sent, tau_s=5.0, **DELAYS)
    together = change(inputs, present(w, inputs, teacher, **hyper))
    apart = [
        change(inputs.take(torch.tensor([k])), present(w, inputs.take(torch.tensor([k])), teacher[[k]], **hyper))
        for k in range(5)
    ]
    assert torch.allclose(together, sum(apart), atol=1e-12) and float(together.abs().min()) > 0


def test_the_rule_is_the_sum_over_pairs_of_spikes() -> None:
    """Delays, several spikes and neurons: against loops over the spike times, delays put in by hand."""
    sent, teacher = (torch.rand(1, 80, 4) < 0.06).double(), torch.rand(1, 80, 2) < 0.03
    inputs = encode(sent, tau_s=5.0, **DELAYS)
    trial = present(2 * torch.rand(2, 4), inputs, teacher)
    assert trial.crossings.any(1).all()
    slow = torch.zeros(2, 4)
    for i in range(2):
        for j in range(4):
            for pre in sent[0, :, j].nonzero().flatten().tolist():
                for post in trial.spikes[0, :, i].nonzero().flatten().tolist():
                    if post < pre + AXONAL < 80:
                        slow[i, j] += math.exp(-(pre + AXONAL - post) / TAU_Y)
                for crossing in trial.crossings[0, :, i].nonzero().flatten().tolist():
                    if pre <= crossing + DENDRITIC < 80:
                        slow[i, j] -= 0.7 * math.exp(-(crossing + DENDRITIC - pre) / TAU_X)
    assert torch.allclose(change(inputs, trial, gamma=0.7, dendritic=DENDRITIC), slow, atol=1e-12)


def test_a_weight_of_one_lifts_the_membrane_by_one() -> None:
    sent = torch.zeros(1, 100, 1)
    sent[0, 3] = 1
    for tau_s in (None, 4.0):
        u = associative.membrane(encode(sent, tau_s=tau_s).current, tau=TAU_U, dt=1.0)
        assert float(u.max()) == pytest.approx(1)
    at_once = associative.membrane(encode(sent).current, tau=TAU_U, dt=1.0)[0, 3:, 0]
    assert torch.allclose(at_once, torch.exp(-torch.arange(97.0) / TAU_U))


def learned(signs: list[int], sweeps: int = 100) -> float:
    """Return the share of patterns recalled after training with synapses of these signs, one of each from every input.

    In recall there is no teacher; the threshold of a spike is U_st + |U_ad| / 2, the Perceptron's.
    """
    patterns, labels = (torch.rand(30, 40) < 0.5).double(), torch.rand(30, 5) < 0.5
    sign = torch.tensor(signs).repeat_interleave(40)
    inputs = encode(synchronous(patterns.repeat(1, len(signs))), **DELAYS)
    strength = 0.05 * torch.rand(5, len(sign))
    for _ in range(sweeps):
        for k in torch.randperm(30).split(2):
            some = inputs.take(k)
            trial = present(sign * strength, some, synchronous(labels[k]))
            moved = change(some, trial, gamma=balanced(), dendritic=DENDRITIC)
            strength = associative.concert(strength, sign, 0.02 * moved)
    assert float(strength.min()) >= 0
    threshold = SUBTHRESHOLD + hyperpolarisation() / 2
    recalled = present(sign * strength, inputs, threshold=threshold).spikes.any(1)
    return float((recalled == labels).double().mean())


def test_excitation_and_inhibition_learn_in_concert_what_neither_learns_alone() -> None:
    assert learned([1, -1]) == 1
    assert learned([1]) < 0.99
    assert learned([-1]) < 0.9


def test_inhibitory_strengths_learn_by_the_hebbian_form() -> None:
    sign, moved = torch.tensor([1, -1]), torch.tensor([[0.1, 0.1], [-0.1, -0.1]])
    assert torch.allclose(
        associative.concert(torch.full((2, 2), 0.5), sign, moved), torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    )
    assert associative.concert(torch.zeros(2, 2), sign, moved).tolist() == [[0.1, 0], [0, 0.1]]


def test_delays_are_whole_steps() -> None:
    with pytest.raises(ValueError, match=r"got 0.3 ms at dt 0.2 ms, expected whole steps"):
        associative.encode(torch.zeros(1, 5, 1), axonal=0.3, dt=0.2)
    with pytest.raises(ValueError, match="got -1 ms"):
        associative.encode(torch.zeros(1, 5, 1), axonal=2.0, dendritic=-1.0)


def test_the_tempotrons_change_is_the_gradient_of_its_cost() -> None:
    """The cost of a wrong trial is how far the largest potential is from the threshold, on the wrong side."""
    sent, labels = (torch.rand(7, 60, 9) < 0.03).double(), torch.rand(7, 4) < 0.5
    u = associative.membrane(encode(sent, tau_s=4.0).current, tau=TAU_U, dt=1.0)
    w = (0.6 * torch.rand(4, 9)).requires_grad_()
    largest = torch.einsum("btj,ij->bti", u, w).amax(1)
    wrong = (largest >= 1) != labels
    assert 0 < int(wrong.sum()) < wrong.numel()
    cost = (torch.where(labels, 1 - largest, largest - 1) * wrong).sum()
    (gradient,) = torch.autograd.grad(cost, w)
    assert torch.allclose(tempotron.change(w.detach(), u, labels), -gradient, atol=1e-12)
    assert torch.equal(tempotron.fires(w.detach(), u), largest >= 1)


def test_a_tempotron_learns_to_tell_patterns_apart() -> None:
    sent, labels = torch.zeros(20, 60, 40), torch.rand(20, 3) < 0.5
    sent.scatter_(1, torch.randint(60, (20, 1, 40)), 1.0)
    u = associative.membrane(encode(sent, tau_s=4.0).current, tau=TAU_U, dt=1.0)
    w, moved = torch.zeros(3, 40), torch.zeros(3, 40)
    for _ in range(200):
        moved = 0.9 * moved + 0.005 * tempotron.change(w, u, labels)
        w = w + moved
    assert torch.equal(tempotron.fires(w, u), labels)
    assert not torch.equal(tempotron.fires(torch.zeros(3, 40), u), labels)
