"""Laws of tests on real spike trains: slow rate terms, jittered surrogates, what is refused, and wider intervals."""

from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest

from bench.jitter import discoveries, interval, modulated
from biomamba.plasticity import stdp
from biomamba.plasticity.inference import (
    GBLM,
    GLM,
    WINDOWS,
    Bases,
    PointProcessFilter,
    choose,
    paper,
    simulate,
)
from biomamba.plasticity.inference.bases import Array
from biomamba.plasticity.inference.jitter import Drawn, Told
from biomamba.plasticity.inference.likelihood import profiled, score, static, statistic
from biomamba.plasticity.inference.point_process import at_rest, larger
from biomamba.plasticity.inference.recording import length, pair, record
from biomamba.plasticity.inference.redraw import redraw
from biomamba.plasticity.inference.slow import STEP, slow_terms

BASES, SLOW = Bases(), Bases(slow=(1.0, 10.0))
MINUTES = 6


@pytest.fixture(scope="module")
def plastic() -> tuple[Array, Array]:
    """Return minutes of spikes of a plastic synapse."""
    return simulate(WINDOWS["double exponential"], duration=120 * MINUTES, seed=3)[:2]


@pytest.fixture(scope="module")
def restless() -> tuple[Any, Any]:
    """Return minutes of spikes of a static synapse between neurons that drift and burst together."""
    return modulated(60 * MINUTES, 0)


def test_slow_terms_are_traces_of_the_spikes_before() -> None:
    bins = np.array([0, 40, 250, 260, 900])
    found = slow_terms([bins, bins[:1]], 1000, SLOW)
    assert found.shape == (10, 4)
    for k in range(10):
        past = (bins // 100 < k) & (bins < 1000)
        for column, tau in enumerate(SLOW.slow):
            trace = np.exp(-(k - 1 - bins[past] // 100) * STEP / tau).sum()
            assert found[k, column] == pytest.approx(np.log1p(trace))
    assert found[0].max() == 0 < found[3, 0]
    assert slow_terms([bins, bins], 1000, BASES).shape == (1, 0)


@pytest.mark.parametrize("start", [0.0, 7.03])
def test_rows_with_slow_terms_are_the_same_recording(plastic: Any, start: float) -> None:
    few, many = (record(*plastic, 30, bases, start)[0] for bases in (BASES, SLOW))
    for recording in (few, many):
        assert recording.exposure.sum() == pytest.approx(30 - start)
    assert few.y.sum() == many.y.sum() and len(many.y) > len(few.y)
    theta = np.random.default_rng(0).normal(0, 0.1, 1 + 5 + 5 + 14)
    wide = np.insert(theta, [6] * 4, 0.0)
    assert score(many, wide).value == pytest.approx(score(few, theta).value, rel=1e-12)
    wide[6] = 0.3
    assert abs(score(many, wide).value - score(few, theta).value) > 1
    terms = slow_terms([(train[train < 30] / 0.001).astype(int) for train in plastic[::-1]], 30_000, SLOW)
    coupled = many.bins >= 0
    assert np.array_equal(many.history[coupled, 5:], terms[many.bins[coupled] // 100])


def test_slow_terms_are_chosen_where_rates_change(restless: Any) -> None:
    assert choose(*restless, 60 * MINUTES).slow
    quiet = simulate(np.zeros_like, duration=240, seed=0)[:2]
    assert not choose(*quiet, 240).slow
    both = [np.append(first, 60 * MINUTES + then) for first, then in zip(restless, quiet, strict=True)]
    end, start = 60 * MINUTES + 240, 60 * MINUTES + 40
    assert choose(*both, end).slow and not choose(*both, end, start=start).slow  # of the stretch alone
    found = GBLM().test(*both, end, start, surrogates=1)
    assert found.statistic == GBLM(BASES).test(*both, end, start, surrogates=1).statistic
    assert found.statistic != GBLM(choose(*both, end)).test(*both, end, start, surrogates=1).statistic


@pytest.mark.parametrize("bases", [BASES, SLOW], ids=["fast", "slow"])
def test_what_surrogates_are_told_is_the_score_test(plastic: Any, bases: Bases) -> None:
    pre, post = (train[train < 120] for train in plastic)
    recording, pairs = record(pre, post, 120, bases)
    told = Told(recording, *static(recording))
    real = GBLM(bases).score_test(pre, post, 120).statistic
    assert told(pairs) == pytest.approx(real, rel=1e-6)
    assert abs(told(pair(np.sort(pre + 0.01), post, bases)) - real) > 0.1


def strong(A_plus: float, A_minus: float, duration: float, seed: int) -> tuple[Array, Array]:
    """Return spikes of a synapse that changes much within minutes."""
    window = paper(stdp.double_exponential, A_plus=A_plus, A_minus=A_minus)
    return simulate(window, duration=duration, seed=seed)[:2]


def test_the_jitter_test_tells_plasticity_from_restless_rates() -> None:
    found = GBLM(BASES).test(*strong(0.1, 0.12, 240, 2), 240, surrogates=24)
    assert found.p == pytest.approx(1 / 25) and found.statistic > max(found.surrogates.max(), found.simulated.max())
    assert len(found.simulated) == 24 and found.held_out is not None and found.held_out > 1
    restless = modulated(240, 0)
    none = GBLM(SLOW).test(*restless, 240, surrogates=39)
    assert none.p > 0.05 and none.held_out is None
    assert GBLM(BASES).score_test(*restless, 240).p < 1e-6  # which a chi-square calls plasticity
    assert len(none.surrogates) <= 39


def test_as_many_recordings_are_drawn_anew_as_surrogates_were() -> None:
    """p is the larger of two shares: where ten of 232 surrogates are as large, 232 recordings tell which that is."""
    with pytest.warns(UserWarning, match="do not take it for plasticity"):
        found = GBLM(BASES).test(*modulated(60, 43), 60, surrogates=400)
    assert np.sum(found.surrogates >= found.statistic) == 10 and len(found.surrogates) < 400
    assert len(found.simulated) == len(found.surrogates) and not np.any(found.simulated >= found.statistic)
    assert found.p == 10 / len(found.surrogates)


@pytest.mark.parametrize("start", [0.0, 7.03])
@pytest.mark.parametrize("bases", [BASES, SLOW], ids=["fast", "slow"])
def test_post_is_drawn_at_the_rate_of_the_fit(plastic: Any, bases: Bases, start: float) -> None:
    """Each row gets its share of the spikes, and each spike a time within a bin that its row stands for."""
    pre, post = (train[train < 60] for train in plastic)
    recording, _ = record(pre, post, 60, bases, start)
    theta = static(recording)[0]
    expected = recording.exposure * np.exp(recording.design @ theta[: recording.design.shape[1]])
    draw, random = Drawn(recording, expected, round(start / bases.bin), bases.bin), np.random.default_rng(0)
    found = [draw(random) for _ in range(300)]
    mean, quiet = np.mean([y for _, y in found], 0), recording.bins < 0
    far = (mean - expected) / np.sqrt(expected.clip(min=1e-12) / 300)
    assert np.abs(far[expected > 0.03]).max() < 5 and (mean - expected).sum() ** 2 < 9 * expected.sum() / 300
    assert np.corrcoef(mean[~quiet], expected[~quiet])[0, 1] > 0.5
    times, y = found[0]
    bins = (times / bases.bin).astype(int)
    assert start <= times.min() and times.max() < 60 and (np.diff(times) >= 0).all()
    counts = np.bincount(bins, minlength=60_000)
    assert np.array_equal(counts[recording.bins[~quiet]], y[~quiet])
    idle = counts.astype(float)
    idle[recording.bins[~quiet]] = 0
    steps = np.add.reduceat(idle, np.arange(0, 60_000, 100 if bases.slow else 60_000))
    assert np.array_equal(steps[steps > 0], y[quiet][y[quiet] > 0])


@pytest.mark.parametrize("bases", [BASES, SLOW], ids=["fast", "slow"])
def test_what_drawn_spikes_are_told_is_the_score_at_the_fit(plastic: Any, bases: Bases) -> None:
    pre, post = (train[train < 60] for train in plastic)
    recording, _ = record(pre, post, 60, bases)
    theta, scored = static(recording)
    told = Told(recording, theta, scored)
    times, y = Drawn(recording, told.expected, 0, bases.bin)(np.random.default_rng(1))
    pairs = pair(pre, times, bases)
    row, decay = pairs.at(recording.bins)
    at = score(replace(recording, y=y, row=row, decay=decay, levels=pairs.levels), theta)
    expected = statistic(*profiled(at.gradient, at.information, told.x))[0]
    assert told(pairs, told.rest(y)) == pytest.approx(expected, rel=1e-6)
    assert told(pairs) != pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_post_drawn_anew_has_the_statistic_of_a_recording_and_moved_spikes_have_less() -> None:
    """In minutes w holds few independent sums; without plasticity, over recordings of one minute, 20 of each."""
    less = []
    for seed in range(80):
        pre, post, _ = simulate(np.zeros_like, duration=60, seed=seed)
        recording, pairs = record(pre, post, 60, BASES)
        theta, scored = static(recording)
        told, random, found = Told(recording, theta, scored), np.random.default_rng(seed), []
        draw = Drawn(recording, told.expected, 0, BASES.bin)
        for _ in range(20):
            new, y = draw(random)
            moved = np.sort(pre + random.uniform(-0.025, 0.025, len(pre))).clip(0, 59.9)
            found.append((told(pair(pre, new, BASES), told.rest(y)), told(pair(moved, post, BASES))))
        less.append(told(pairs) - np.mean(found, 0))
    drawn, moved = np.mean(less, 0) / (np.std(less, 0, ddof=1) / 80**0.5)  # in standard errors
    assert abs(drawn) < 2 < moved


@pytest.mark.parametrize("bases", [BASES, SLOW], ids=["fast", "slow"])
@pytest.mark.parametrize("strength", [0.0, 1.0], ids=["static", "plastic"])
def test_post_drawn_by_a_kernel_is_the_simulators(plastic: Any, bases: Bases, strength: float) -> None:
    """The same waits give the same spikes; for seconds alone where w hears the spikes, as rounding then grows."""
    pytest.importorskip("llvmlite")
    theta, _ = static(record(*plastic, 60, bases)[0])
    dt = (np.arange(-150, 150) + 0.5) / 1000
    window = paper(stdp.double_exponential, A_plus=0.1, A_minus=0.12)
    theta[-14:] = strength * np.linalg.lstsq(bases.modification(dt), window(dt), rcond=None)[0]
    (spikes, w), (found, same) = (redraw(theta, *plastic, 10, bases, 5, kind) for kind in ("torch", "llvm"))
    assert len(spikes) > 20 and (np.ptp(w) > 0.1) == (strength > 0)
    np.testing.assert_allclose(found, spikes, atol=1e-8)
    np.testing.assert_allclose(same, w, atol=1e-8)
    other = redraw(theta, *plastic, 10, bases, 6, "llvm")[0]
    assert not np.array_equal(other, found)
    theta[0] = 12.0
    for kind in ("torch", "llvm"):
        with pytest.raises(ValueError, match="post runs away"):
            redraw(theta, *plastic, 10, bases, 5, kind)


def test_a_fit_drawn_anew_has_its_rate(restless: Any) -> None:
    duration = 60.0 * MINUTES
    for bases in (BASES, SLOW):
        theta, _ = static(record(*restless, duration, bases)[0])
        number = len(redraw(theta, *restless, duration, bases, 0)[0])
        assert number == pytest.approx(len(restless[1]), abs=6 * len(restless[1]) ** 0.5)
    theta[0] += 1
    assert len(redraw(theta, *restless, duration, SLOW, 0)[0]) > 1.5 * number


def test_a_small_p_without_a_gain_is_warned_of() -> None:
    """A synapse that does change, of which a minute and a half is too little to foresee by."""
    with pytest.warns(UserWarning, match="do not take it for plasticity"):
        found = GBLM(BASES).test(*strong(0.2, 0.3, 100, 4), 100, surrogates=24)
    assert found.p <= 0.05 and found.held_out is not None and found.held_out < 1


def test_trains_that_are_no_times_are_refused(plastic: Any) -> None:
    pre, post = plastic
    with pytest.raises(ValueError, match="got a train of 0 and 1"):
        GLM().fit(np.zeros(1000, dtype=bool), post, 10)
    with pytest.raises(ValueError, match="got a train of 0 and 1"):
        GLM().fit(np.array([0, 1, 1, 0]), post, 10)
    with pytest.raises(ValueError, match="1 times that are not finite"):
        GLM().fit(np.append(pre, np.nan), post, 10)
    with pytest.raises(ValueError, match="expected seconds, got milliseconds"):
        GLM().fit(1000 * pre, 1000 * post, 120 * MINUTES)
    with pytest.raises(ValueError, match="duration: got none"):
        GLM().fit(pre, post)
    with pytest.raises(ValueError, match="bootstrap: got 1 simulations, expected 5 and more"):
        PointProcessFilter(bootstrap=1)


def test_a_neuron_that_spikes_late_is_tested_or_the_stretch_is_named(plastic: Any) -> None:
    pre, post = plastic
    late = 60 * MINUTES * 0.7
    found = GBLM(Bases()).test(pre[pre > late], post, 60 * MINUTES, surrogates=1)
    assert found.statistic > 0 and choose(pre[pre > late], post, 60 * MINUTES) == Bases()
    for ask in (choose, GBLM().test):
        with pytest.raises(ValueError, match=r"post has no spike from 0 to .* s, the first two thirds"):
            ask(pre, post[post > late], 60 * MINUTES)
        with pytest.raises(ValueError, match="expected seconds, got milliseconds"):
            ask(1000 * pre, 1000 * post, 120 * MINUTES)


def test_without_a_pre_spike_there_is_no_coupling_and_nothing_to_find(plastic: Any) -> None:
    pre, post = plastic
    fit, static_fit = (model(BASES).fit(pre[:0], post, 60 * MINUTES) for model in (GBLM, GLM))
    assert not fit.gamma.any() and not fit.theta[6:11].any()
    assert fit.log_likelihood(pre, post, 60 * MINUTES) == static_fit.log_likelihood(pre, post, 60 * MINUTES)
    assert GBLM(BASES).score_test(pre[:0], post, 60 * MINUTES).p == 1
    assert GBLM(BASES).test(pre[:0], post, 60 * MINUTES, surrogates=9).p == 1
    assert GBLM(BASES).fit(pre, post, 60 * MINUTES).gamma.any()


class Time:
    """What is read of a Neo quantity, in milliseconds."""

    def __init__(self, magnitude: Any) -> None:
        self.magnitude = magnitude

    def rescale(self, unit: str) -> "Time":
        assert unit == "s"
        return Time(self.magnitude / 1000)


def test_neo_trains_know_their_duration(plastic: Any) -> None:
    trains = []
    for train, stop in zip(plastic, (21.0, 20.0), strict=True):
        neo = Time(1000 * train[train < 20] + 500)
        neo.t_start, neo.t_stop = Time(500.0), Time(500 + 1000 * stop)  # type: ignore[attr-defined]
        trains.append(neo)
    assert length(*trains, None) == 20 and length(*trains, 7.0) == 7
    np.testing.assert_allclose(GLM().fit(*trains).theta, GLM().fit(*plastic, 20).theta, atol=1e-6)


def test_the_bootstrap_widens_the_interval_and_keeps_the_rest() -> None:
    strong = paper(stdp.double_exponential, A_plus=0.2, A_minus=0.3)
    pre, post, _ = simulate(strong, duration=100, seed=1)
    plain, wide, again = (PointProcessFilter(noise=1e-3, bootstrap=n).fit(pre, post, 100) for n in (0, 5, 5))
    assert np.array_equal(plain.gamma, wide.gamma) and np.array_equal(plain.w, wide.w)
    assert np.array_equal(wide.covariance, again.covariance)
    added = np.linalg.eigvalsh(wide.covariance - plain.covariance)
    assert added.min() > -1e-12 and added.max() > 1e-5
    other = PointProcessFilter(noise=1e-3, bootstrap=5, seed=1).fit(pre, post, 100)
    assert not np.allclose(other.covariance, wide.covariance, rtol=1e-3)


def test_the_larger_covariance_is_as_large_in_every_direction() -> None:
    random = np.random.default_rng(0)
    a, b = (part @ part.T for part in random.normal(size=(2, 4, 6)))
    found = larger(a, b)
    for part in (a, b):
        assert np.linalg.eigvalsh(found - part).min() > -1e-9
        assert np.linalg.eigvalsh(0.99 * found - part).min() < -1e-9  # and no larger than it takes
    assert np.linalg.eigvalsh(a + b - found).min() > -1e-9
    np.testing.assert_allclose(larger(a, 0.5 * a), a, atol=1e-9)


def test_a_simulation_from_a_filters_fit_has_the_coupling_that_was_found() -> None:
    """Where w is far from 1 on average: its mean changes the coupling once, not twice."""
    window = WINDOWS["double exponential"]
    pre, post, w = simulate(window, duration=900, seed=3)
    dt = (np.arange(-150, 150) + 0.5) / 1000
    gamma = np.linalg.lstsq(BASES.modification(dt), window(dt) / w.mean(), rcond=None)[0]
    fit = replace(PointProcessFilter(noise=1e-4).fit(pre, post, 900), gamma=gamma)
    beta = fit.theta[6:11]
    for theta, expected in (
        (at_rest(fit, record(pre, post, 900, BASES)[0]), 1.0),
        (np.append(fit.theta[:11], gamma), w.mean()),
    ):
        drawn = np.mean([redraw(theta, pre, post, 900, BASES, seed)[1].mean() for seed in range(8)])
        strength = float(theta[6:11] @ beta) / float(beta @ beta) * drawn
        assert strength == pytest.approx(expected, abs=0.1) and w.mean() < 0.8


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    assert discoveries([0.01, 0.02, 0.03, 0.9]) == 3
    assert discoveries([0.02, 0.6, 0.7, 0.9]) == 0 == discoveries([])


def test_the_exact_binomial_interval_has_its_tails() -> None:
    low, high = interval(4, 74)
    below, above = (
        sum(comb(74, k) * q**k * (1 - q) ** (74 - k) for k in ks) for q, ks in ((high, range(5)), (low, range(4, 75)))
    )
    assert below == pytest.approx(0.025) and above == pytest.approx(0.025)
    assert interval(0, 10)[0] == 0 and interval(10, 10)[1] == 1
