"""Laws of inference: simulator, likelihood and filter are their definitions; what is there is found, and only that.

The slow loops here follow the equations bin by bin and share nothing with the library but the bases.
"""

from os import environ
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.jitter import recorded
from biomamba import threads
from biomamba.plasticity import stdp
from biomamba.plasticity.inference import (
    GBLM,
    GLM,
    WINDOWS,
    Bases,
    BilinearFit,
    PointProcessFilter,
    alpha,
    difference_of_gaussians,
    paper,
    per_pair,
    point_process,
    raised_cosines,
    simulate,
)
from biomamba.plasticity.inference.bases import Array
from biomamba.plasticity.inference.likelihood import WEAK, evidence_ridge, score, static
from biomamba.plasticity.inference.point_process import Course, changes, driven, follow, follow_naive, smooth
from biomamba.plasticity.inference.recording import add_filtered, pair, record
from biomamba.plasticity.inference.simulate import COUPLING, HISTORY

BASES = Bases()
STEP = BASES.bin
DT = (np.arange(-100, 100) + 0.5) / 1000
STRONG = paper(stdp.double_exponential, A_plus=0.2, A_minus=0.3)  # so that seconds show it
MINUTES = 15


def none(dt: Array) -> Array:
    """Return no plasticity."""
    return np.zeros_like(dt)


def bins_of(times: Array) -> Any:
    """Return the bins of spikes."""
    return (np.asarray(times) / STEP).astype(int)


def slow_pairs(pre: Array, post: Array, k: int) -> list[float]:
    """Return dt of every pair whose second spike is in bin k."""
    near = [(p, q) for p in pre for q in post if abs(p - q) <= BASES.window_span]
    return [p - q for p, q in near if max(bins_of(p), bins_of(q)) == k]


def slow_sum(ends: Any, jumps: Any, k: int) -> Any:
    """Return the decayed sum in bin k of the jumps (pairs, ...) of pairs that ended in bins before."""
    past = np.asarray(ends, dtype=int) < k
    return np.exp(-(k - np.asarray(ends)[past]) * STEP / BASES.tau_f) @ np.asarray(jumps)[past] if past.any() else 0.0


def slow_filter(spikes: Array, kernel: Array, n: int) -> Array:
    """Return the sum over spikes of kernel[lag - 1] in each of n bins, lag bins after the spike's."""
    out = np.zeros((n, *kernel.shape[1:]))
    for spike in bins_of(spikes):
        for k in range(spike + 1, min(spike + 1 + len(kernel), n)):
            out[k] += kernel[k - spike - 1]
    return out


class Dense(NamedTuple):
    """Every bin of a recording: post spikes (n,), filtered post (n, s) and pre (n, c) spikes, P (n, k)."""

    y: Array
    history: Array
    coupling: Array
    P: Array


def dense(pre: Array, post: Array, duration: float) -> Dense:
    """Return every bin of a recording."""
    n, ends, jumps = round(duration / STEP), [], []
    P = np.zeros((n, 2 * BASES.window))
    spiking = {*bins_of(pre), *bins_of(post)}
    for k in range(n):
        P[k] = slow_sum(ends, jumps, k)
        for dt in slow_pairs(pre, post, k) if k in spiking else []:
            ends.append(k)
            jumps.append(BASES.modification(dt))
    history, coupling = BASES.history_table(), BASES.coupling_table()
    y = np.bincount(bins_of(post), minlength=n)
    return Dense(y, slow_filter(post, history, n), slow_filter(pre, coupling, n), P)


@pytest.fixture(scope="module")
def spikes() -> tuple[Array, Array, Array]:
    """Return ten seconds of spikes, and w."""
    return simulate(STRONG, duration=10, seed=3)


@pytest.fixture(scope="module")
def theta() -> Array:
    """Return parameters with some plasticity in them."""
    gamma = np.random.default_rng(0).normal(0, 0.1, 2 * BASES.window)
    return np.concatenate([[np.log(5.0)], HISTORY, COUPLING, gamma])


@pytest.fixture(scope="module")
def plastic() -> tuple[Array, Array, Array]:
    """Return a quarter of an hour of spikes of a plastic synapse, and w."""
    return simulate(WINDOWS["double exponential"], duration=60 * MINUTES, seed=0)


@pytest.fixture(scope="module")
def fitted(plastic: tuple[Array, Array, Array]) -> BilinearFit:
    """Return the bilinear model of the quarter of an hour."""
    return GBLM().fit(*plastic[:2], 60 * MINUTES)


def test_the_simulator_is_its_definition(spikes: tuple[Array, Array, Array]) -> None:
    """Bin by bin, with every sum written out, the same waits give the same spikes and the same w."""
    pre, post, w = spikes
    rng, n = np.random.default_rng(3), len(w)
    assert np.array_equal(pre, np.sort(rng.uniform(0, 10, rng.poisson(50))))
    coupled, pre_bins = slow_filter(pre, BASES.coupling_table() @ np.array(COUPLING), n), {*bins_of(pre)}
    kernel, wait, found, ends, jumps = BASES.history_table() @ np.array(HISTORY), rng.exponential(), [], [], []
    for k in range(n):
        change = slow_sum(ends, jumps, k)
        assert w[k] == pytest.approx(1 + change, abs=1e-6)  # rounding moves a spike, the spike dw, dw the next spike
        lags = k - bins_of(found)
        rate = 5.0 * np.exp(kernel[lags[lags <= len(kernel)] - 1].sum() + (1 + change) * coupled[k])
        at, before = 0.0, len(found)
        while at + wait <= rate * STEP:
            at += wait
            found, wait = [*found, (k + at / (rate * STEP)) * STEP], rng.exponential()
        wait -= rate * STEP - at
        if len(found) > before or k in pre_bins:
            new = slow_pairs(pre[bins_of(pre) <= k], np.array(found), k)
            ends, jumps = ends + [k] * len(new), [*jumps, *(STRONG(np.array(dt)) for dt in new)]
    assert len(post) > 30 and np.ptp(w) > 0.2
    np.testing.assert_allclose(post, found, atol=1e-8)


def test_the_authors_later_settings_are_their_equations() -> None:
    """Coupling by an alpha function of the lag, a hat of two Gaussians, a delay of its own for each pair."""
    kernel = alpha(2.0, 0.004, 0.001)
    lags = np.arange(1, 21) / 1000
    x = (lags - 0.004) / 0.001
    written = np.where(x > 0, 2.0 * x * np.exp(1 - x), 0.0)
    np.testing.assert_allclose(kernel(lags), written, atol=1e-12)
    assert written.argmax() == 4 and written[:4].max() == 0 and written[4] == pytest.approx(2.0)
    hat = difference_of_gaussians(0.006, 0.002, 0.01, 0.03)
    dt = np.array([-0.03, 0.0, 0.01])
    written = [0.006 * np.exp(-4.5) - 0.002 * np.exp(-0.5), 0.004, 0.006 * np.exp(-0.5) - 0.002 * np.exp(-1 / 18)]
    np.testing.assert_allclose(hat(dt), written)
    exact, mean = (paper(own, A_plus=0.006, A_minus=0.002) for own in (stdp.double_exponential, stdp.jittered))
    drawn = per_pair(exact, 0.005, 0)
    for at in (-0.003, 0.003, 0.02):
        values = drawn(np.full(40_000, at))
        assert values.mean() == pytest.approx(float(mean(np.array(at))), abs=4 * values.std() / 200)
        assert values.std() > 1e-4
    assert abs(drawn(np.full(40_000, 0.003)).mean() - exact(np.array(0.003))) > 2e-4  # which the mean is not


def test_a_coupling_function_is_the_coupling_in_the_bases() -> None:
    by_bases = simulate(none, duration=60, seed=4)
    kernel = BASES.coupling_table() @ np.array(COUPLING)
    same = simulate(none, duration=60, seed=4, coupling=lambda t: kernel[np.rint(t / STEP).astype(int) - 1])
    later = simulate(
        none, duration=60, seed=4, coupling=lambda t: np.roll(kernel, 1)[np.rint(t / STEP).astype(int) - 1]
    )
    assert np.array_equal(by_bases[1], same[1]) and not np.array_equal(by_bases[1], later[1])


def test_the_weight_is_one_plus_the_filtered_pairs() -> None:
    """With dw in the basis, w of the simulator is 1 + P gamma of the recording."""
    gamma = np.random.default_rng(1).normal(0, 0.03, 2 * BASES.window)
    pre, post, w = simulate(lambda dt: BASES.modification(dt) @ gamma, duration=100, seed=1)
    pairs = pair(pre, post, BASES)
    row, decay = pairs.at(np.arange(len(w)))
    np.testing.assert_allclose(1 + decay * (pairs.levels @ gamma)[row], w, atol=1e-9)
    assert np.ptp(w) > 0.2


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_score_is_that_of_every_bin_by_autograd(spikes: Any, theta: Array, start: float) -> None:
    pre, post, _ = spikes
    y, history, coupling, P = (torch.as_tensor(part[round(start / STEP) :]) for part in dense(pre, post, 10))

    def eta(theta: Tensor) -> Tensor:
        alpha_0, alpha, beta, gamma = theta.split([1, 5, 5, 2 * BASES.window])
        return alpha_0 + history @ alpha + (1 + P @ gamma) * (coupling @ beta)

    def log_likelihood(theta: Tensor) -> Tensor:
        return (y * eta(theta) - STEP * eta(theta).exp()).sum()

    at = torch.tensor(theta, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_likelihood(at), at)
    J = torch.func.jacfwd(eta)(at.detach())
    information = J.T @ (STEP * eta(at.detach()).exp()[:, None] * J)
    found = score(record(pre, post, 10, BASES, start)[0], theta)
    assert found.value == pytest.approx(float(log_likelihood(at.detach())), rel=1e-10)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.information, information, rtol=1e-8, atol=1e-8)
    hessian = torch.func.hessian(log_likelihood)(at.detach())
    np.testing.assert_allclose(found.observed, -hessian, rtol=1e-8, atol=1e-8)
    assert np.abs(found.observed - found.information).max() > 1
    P[:-1] = P[1:].clone()  # pairs that counted in their own bin already would be seen
    assert abs(found.value - float(log_likelihood(at.detach()))) > 1e-3


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("first", [0, 2_500])
def test_filtered_spikes_are_sums_over_the_lags(spikes: Any, backend: str, first: int) -> None:
    bins, table = np.sort(np.append(bins_of(spikes[1]), bins_of(spikes[1])[:3])), BASES.history_table()
    whole = slow_filter(bins * STEP + STEP / 2, table, 10_000)
    places = np.flatnonzero(whole.any(1) & (np.arange(10_000) >= first))
    out = np.zeros((5, 4 + len(places)))
    add_filtered(bins, table, places, 10_000, out, 4, backend)
    np.testing.assert_allclose(out[:, 4:].T, whole[places], atol=1e-12)
    assert not out[:, :4].any() and out.max() > 1


@pytest.mark.usefixtures("all_threads")
def test_a_kernel_filters_to_the_same_bits_at_any_number_of_threads(spikes: Any) -> None:
    bins, table = bins_of(spikes[1]), BASES.history_table()
    found = []
    for count in (1, 2, 3, 4, 8):
        with threads.using(count):
            found.append(np.zeros((5, 10_000)))
            add_filtered(bins, table, np.arange(10_000), 10_000, found[-1], 0)
    assert found[0].max() > 1 and all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.usefixtures("all_threads")
@pytest.mark.parametrize("step", [1e-9, 1e-3])
def test_pairs_by_a_kernel_are_those_of_all_times(step: float) -> None:
    """At any number of threads; at whole milliseconds many spikes of both come at the same time."""
    random = np.random.default_rng(0)
    pre, post = (np.sort(random.uniform(0, 60, n)) // step * step for n in (700, 1_100))
    assert (step == 1e-3) == bool(np.isin(pre, post).any())
    expected = pair(pre, post, BASES, "torch")
    for count in (1, 2, 3, 4, 8):
        with threads.using(count):
            found = pair(pre, post, BASES)
        assert np.array_equal(found.bins, expected.bins)
        np.testing.assert_allclose(found.levels, expected.levels, rtol=1e-12, atol=1e-12)
    apart = pair(pre, post + step, BASES).levels
    assert apart.shape != expected.levels.shape or np.abs(apart - expected.levels).max() > 1e-10
    for trains in ((pre[:0], post), (pre, post[:0]), (pre[:1], pre[:1] + 1)):
        assert not len(pair(*trains, BASES).bins) and pair(*trains, BASES).levels.tolist() == [[0] * 14]


def test_a_fit_is_the_top_of_the_penalised_likelihood(plastic: Any) -> None:
    pre, post, _ = plastic
    fit = GBLM(ridge=1000.0).fit(pre, post, 200)
    recording, _ = record(pre, post, 200, BASES)
    ridge = np.append(np.full(11, WEAK), np.full(2 * BASES.window, 1000.0))
    found = score(recording, fit.theta)
    slope = found.gradient - ridge * fit.theta
    assert slope @ np.linalg.solve(found.information + np.diag(ridge), slope) < 1e-5  # nats still to gain, twice
    start, _ = static(recording)
    slope = score(recording, start).gradient - ridge * start
    assert np.linalg.norm(slope[11:]) > 1  # the top of the static likelihood is none


@pytest.mark.skipif("BIOMAMBA_DATA" not in environ, reason="BIOMAMBA_DATA is not set: it names the folder of spikes")
def test_a_top_that_fishers_steps_miss_is_found() -> None:
    """Two neurons of a culture, of which the model is wrong: Fisher's step goes nearly twice as far as the top."""
    trains, _ = recorded("culture")
    pre, post = (trains[k][trains[k] < 608] for k in (14, 36))
    bases = Bases(slow=(0.3, 1.0, 3.0, 10.0, 30.0))
    fit, (recording, _) = GBLM(bases).fit(pre, post, 608), record(pre, post, 608, bases)
    ridge = np.append(np.full(len(fit.theta) - len(fit.gamma), WEAK), np.full(len(fit.gamma), fit.ridge))
    top = score(recording, fit.theta)
    prior = np.diag(ridge)
    slope = top.gradient - ridge * fit.theta
    assert slope @ np.linalg.solve(top.observed + prior, slope) < 1e-5  # nats still to gain, twice
    bends = np.linalg.eigvals(np.linalg.solve(top.information + prior, top.observed + prior)).real
    assert 0 < bends.min() < 0.5 and bends.max() > 1.9  # of what Fisher expects; from 2 on his steps never settle


def test_the_evidence_is_that_of_the_gaussian() -> None:
    """gamma_hat ~ N(0, information^-1 + 1 / ridge): the same ridge is likeliest by its density."""
    rng = np.random.default_rng(0)
    J = rng.normal(size=(50, 6))
    information = J.T @ J
    gamma_hat = rng.normal(0, 0.5, 6)
    ridges = 10.0 ** np.arange(-2, 8.05, 0.1)
    densities = [
        torch.distributions.MultivariateNormal(
            torch.zeros(6).double(), torch.as_tensor(np.linalg.inv(information) + np.eye(6) / ridge)
        ).log_prob(torch.as_tensor(gamma_hat))
        for ridge in ridges
    ]
    assert evidence_ridge(information @ gamma_hat, information) == pytest.approx(ridges[int(np.argmax(densities))])


def test_the_filter_is_edens_in_every_bin(spikes: Any, theta: Array) -> None:
    pre, post, _ = spikes
    y, history, coupling, _ = dense(pre, post, 10)
    drive = driven(record(pre, post, 10, BASES)[0], theta, BASES)
    course = follow(drive, noise=0.01)
    w, variance, gain, predicted, kept = 1.0, 1.0, 0.0, [], []
    c, base = coupling @ theta[6:11], STEP * np.exp(theta[0] + history @ theta[1:6])
    for k in range(drive.bins[0], len(y)):
        variance += 0.01 * STEP * (k > drive.bins[0])
        expected = base[k] * np.exp(c[k] * w)
        predicted.append(w)
        gain += y[k] * (w - 1) * c[k] - expected + base[k] * np.exp(c[k])
        variance = 1 / (1 / variance + c[k] ** 2 * expected)
        w += variance * c[k] * (y[k] - expected)
        kept.append(w)
    at = drive.bins - drive.bins[0]
    np.testing.assert_allclose(course.before, np.array(predicted)[at], rtol=1e-9)
    np.testing.assert_allclose(course.w, np.array(kept)[at], rtol=1e-9)
    assert course.gain(drive) == pytest.approx(gain, rel=1e-9)
    assert np.ptp(course.w) > 0.5


def test_the_filter_by_a_kernel_is_the_loop(spikes: Any, theta: Array) -> None:
    pre, post, _ = spikes
    drive = driven(record(pre, post, 10, BASES)[0], theta, BASES)
    for found, loop in zip(follow(drive, 0.01), follow_naive(drive, 0.01), strict=True):
        np.testing.assert_allclose(found, loop, rtol=1e-12)
    assert np.abs(follow(drive, 0.02).w - follow_naive(drive, 0.01).w).max() > 0.01


def test_the_smoother_is_the_posterior_of_the_whole_walk(spikes: Any, theta: Array) -> None:
    """What each bin said of w, as one Gaussian observation, and the walk's increments: one linear system."""
    pre, post, _ = spikes
    drive = driven(record(pre, post, 2, BASES)[0], theta, BASES)
    course = follow(drive, noise=0.05)
    told = drive.slope**2 * course.expected
    step = 1 / (0.05 * drive.since[1:])
    precision = np.diag(told) + np.diag(np.append(step, 0)) + np.diag(np.append(0, step))
    precision -= np.diag(step, 1) + np.diag(step, -1)
    precision[0, 0] += 1.0  # w_0 ~ N(1, 1)
    said = told * course.before + drive.slope * (drive.y - course.expected)
    said[0] += 1.0
    np.testing.assert_allclose(smooth(drive, course, 0.05), np.linalg.solve(precision, said), rtol=1e-6)
    assert np.abs(smooth(drive, course, 0.05) - course.w).max() > 0.1


def test_changes_of_a_filter_without_noise_give_dw_back(plastic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = Bases(window=2)
    recording, _ = record(*plastic[:2], 200, bases)
    drive = driven(recording, static(recording)[0], bases)
    gamma = np.array([0.05, -0.02, -0.04, 0.01])
    w = 1 + recording.decay[drive.rows] * (recording.levels @ gamma)[recording.row[drive.rows]]
    expected, before, now = drive.base * np.exp(drive.slope), [], 1.0
    for told, true in zip(0.05 * drive.slope**2 * expected, w, strict=True):
        before.append(now)
        now += told * (true - now)
    course = Course(np.array(before), w, np.full(len(w), 0.05), expected)
    drive = drive._replace(y=expected + drive.slope * expected * (w - course.before))
    for block in (1 << 14, 1000):
        monkeypatch.setattr(point_process, "BLOCK", block)
        gradient, information = changes(recording, drive, course)
        np.testing.assert_allclose(np.linalg.solve(information, gradient), gamma, rtol=1e-8)


def test_likelihoods_of_the_parts_add_up(plastic: Any, fitted: BilinearFit) -> None:
    pre, post, _ = plastic
    filtered = PointProcessFilter(noise=1e-3).fit(pre, post, 100)
    for fit in (fitted, filtered):
        whole, first, rest = (fit.log_likelihood(pre, post, *part) for part in [(120,), (70,), (120, 70)])
        assert whole == pytest.approx(first + rest, rel=1e-9)
        alone = fit.log_likelihood(*(train[train >= 70] - 70 for train in (pre, post)), 50)
        assert abs(alone - rest) > 0.01  # what came before matters to what follows


def test_the_modification_function_is_found(plastic: Any, fitted: BilinearFit) -> None:
    """Here, as in the paper, dt is t_pre - t_post: potentiation left of 0."""
    _, _, w = plastic
    estimate, low, high = fitted.window(DT)
    truth = WINDOWS["double exponential"](DT)
    assert estimate[90] > 0.01 > -0.01 > estimate[110]
    assert np.corrcoef(estimate, truth)[0, 1] > 0.9
    assert np.mean((low < truth) & (truth < high)) > 0.8
    assert np.corrcoef(fitted.weight((np.arange(len(w)) + 0.5) * STEP), w)[0, 1] > 0.8


def test_held_out_spikes_are_likelier_with_plasticity(plastic: Any) -> None:
    pre, post, _ = plastic
    split, end = 40 * MINUTES, 60 * MINUTES
    static, bilinear = (model.fit(pre, post, split).log_likelihood(pre, post, end, split) for model in (GLM(), GBLM()))
    assert bilinear > static + 3


def test_plasticity_is_told_from_none(plastic: Any) -> None:
    assert GBLM().score_test(*plastic[:2], 60 * MINUTES).p < 1e-6
    fixed = [simulate(none, duration=300, seed=seed) for seed in range(4)]
    assert all(np.all(w == 1) for _, _, w in fixed)
    assert min(GBLM().score_test(pre, post, 300).p for pre, post, _ in fixed) > 0.01


@pytest.mark.slow
def test_seconds_in_another_order_have_coupling_but_no_plasticity(plastic: Any) -> None:
    """The same seconds, shuffled: what happens within one stays, what it owed to the minute before is gone."""
    order = np.random.default_rng(0).permutation(60 * MINUTES)
    place = np.argsort(order)
    pre, post = (np.sort(place[train.astype(int)] + train % 1) for train in plastic[:2])
    assert GBLM().score_test(pre, post, 60 * MINUTES).p > 0.01
    fit = GBLM().fit(pre, post, 60 * MINUTES)
    truth = WINDOWS["double exponential"](DT)
    assert np.abs(fit.theta[6:11] - COUPLING).max() < 0.6
    assert abs(fit.window(DT)[0] @ truth) < 0.2 * (truth @ truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", WINDOWS)
def test_an_hour_gives_each_modification_function(name: str) -> None:
    pre, post, w = simulate(WINDOWS[name], duration=3600, seed=0)
    fit, truth = GBLM().fit(pre, post, 3600), WINDOWS[name](DT)
    estimate, low, high = fit.window(DT)
    assert np.corrcoef(estimate, truth)[0, 1] > 0.9
    assert np.mean((low < truth) & (truth < high)) > 0.8
    assert np.corrcoef(fit.weight((np.arange(len(w)) + 0.5) * STEP), w)[0, 1] > 0.8


def test_without_plasticity_the_bilinear_model_is_the_static_one() -> None:
    pre, post, _ = simulate(none, duration=300, seed=0)
    fit, baseline = (model.fit(pre, post, 200) for model in (GBLM(), GLM()))
    held_out = fit.log_likelihood(pre, post, 300, 200) - baseline.log_likelihood(pre, post, 300, 200)
    assert abs(held_out) < 3
    assert np.array_equal(baseline.window(DT)[0], np.zeros(len(DT)))
    assert np.array_equal(baseline.weight(DT + 1), np.ones(len(DT)))


def test_the_bases_begin_at_zero_and_end_at_their_span() -> None:
    bases = raised_cosines(np.array([-0.001, 0.0, 0.05, 0.1, 0.101]), 5, 0.1)
    np.testing.assert_allclose(bases[[0, 3, 4]], 0, atol=1e-12)
    assert bases[1, 0] == 1 and bases[2].sum() > 0.5
    halves = [BASES.modification(dt) for dt in (-1e-12, 0.0, 1e-12)]
    np.testing.assert_allclose(halves[1], (halves[0] + halves[2]) / 2, atol=1e-9)


def test_the_sign_is_turned_at_the_border() -> None:
    window = paper(stdp.double_exponential, A_plus=1.0, A_minus=2.0, tau_plus=10.0, tau_minus=20.0)
    np.testing.assert_allclose(window(np.array([-0.01, 0.0, 0.02])), [np.exp(-1), 0, -2 * np.exp(-1)])


class Train:
    """What is read of a Neo SpikeTrain, in milliseconds."""

    def __init__(self, magnitude: Any, t_start: Any = None) -> None:
        self.magnitude = magnitude
        if t_start is not None:
            self.t_start = t_start

    def rescale(self, unit: str) -> "Train":
        assert unit == "s"
        return Train(self.magnitude / 1000)


def test_neo_trains_count_from_their_start(spikes: Any) -> None:
    pre, post, _ = spikes
    trains = [Train(1000 * train + 500, t_start=Train(500.0)) for train in (pre, post)]
    fit, same = GLM().fit(*trains, 10), GLM().fit(pre, post, 10)
    np.testing.assert_allclose(fit.theta, same.theta, atol=1e-6)


def test_plots_are_written(plastic: Any, fitted: BilinearFit, tmp_path: Path) -> None:
    fitted.plot(tmp_path / "fit.png", truth=WINDOWS["double exponential"], weight=plastic[2])
    assert (tmp_path / "fit.png").stat().st_size > 10_000


def test_errors_say_what_to_give(spikes: Any) -> None:
    pre, post, _ = spikes
    with pytest.raises(ValueError, match="start"):
        GLM().fit(pre, post, 10, start=10)
    with pytest.raises(ValueError, match="before 0"):
        GLM().fit(pre - 5, post, 10)
    with pytest.raises(ValueError, match="post has no spike"):
        GLM().fit(pre, post[:0], 10)
    with pytest.raises(ValueError, match="pre has no spike"):
        PointProcessFilter().fit(pre[:0], post, 10)
    with pytest.raises(ValueError, match="ridge"):
        GBLM(ridge=0.0)
    with pytest.raises(ValueError, match="noise"):
        PointProcessFilter(noise=-1.0)
    with pytest.raises(ValueError, match="runs away"):
        simulate(paper(stdp.mexican_hat, A=0.5), duration=600, seed=0, coupling=(2.0, 2.0, 1.0, 0.0, 0.0))
