"""Laws of spike-timing-dependent plasticity: every rule equals the sum over spike pairs that it stands for.

The references loop over synapses, steps and spikes and look every spike up by its time. Trains are lists of steps.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from biomamba.ops.scan import scan
from biomamba.plasticity import neurons, short_term, stdp

pytestmark = pytest.mark.usefixtures("float64")
STEPS, PRE, POST = 120, 3, 2
Trains = list[list[int]]
CASES: dict[str, tuple[Trains, Trains]] = {  # spikes of each pre and each post neuron
    "pre, then post": ([[10], [], []], [[22], []]),
    "post, then pre": ([[22], [], []], [[10], []]),
    "together": ([[10], [10, 30], []], [[10], [30]]),
    "bursts": ([[5, 6, 7, 8], [8, 9, 60], [60, 61]], [[7, 8, 9, 59], [62, 63, 64]]),
    "silence": ([[], [], []], [[], []]),
    "one side alone": ([[3, 9, 27], [], [4]], [[], []]),
}


def poisson_trains(seed: int, rate: float = 150.0) -> tuple[Trains, Trains]:
    """Return trains at a rate (Hz, steps of 1 ms) at which pre and post spikes also fall together."""
    spikes = neurons.poisson(rate, STEPS, (PRE + POST,), dt=1.0, generator=torch.Generator().manual_seed(seed))
    trains = [column.nonzero().flatten().tolist() for column in spikes.T]
    return trains[:PRE], trains[PRE:]


CASES |= {f"Poisson {seed}": poisson_trains(seed) for seed in range(3)}


@pytest.fixture(params=CASES)
def trains(request: pytest.FixtureRequest) -> tuple[Trains, Trains]:
    """Return the trains of every case in turn."""
    return CASES[request.param]


def raster(trains: Trains, steps: int = STEPS) -> Tensor:
    """Return spikes (t, n), True where there is one."""
    spikes = torch.zeros(steps, len(trains), dtype=torch.bool)
    for n, train in enumerate(trains):
        spikes[train, n] = True
    return spikes


def zero_traces() -> stdp.Traces:
    """Return the traces of neurons that have not spiked."""
    return stdp.Traces(torch.zeros(PRE), torch.zeros(POST))


def learn(w: Tensor, pre: Tensor, post: Tensor, rule: Callable[..., Tensor], dt: float = 1.0, **pairing: Any) -> Tensor:
    """Return the weights after the spikes (t, ..., j) and (t, ..., i), by a rule of pairs."""
    traces = stdp.Traces(torch.zeros(pre.shape[1:]), torch.zeros(post.shape[1:]))
    for pre_t, post_t in zip(pre, post, strict=True):
        pairs, traces = stdp.pair(traces, pre_t, post_t, dt=dt, **pairing)
        w = rule(w, pairs)
    return w


unbounded = partial(stdp.hard, low=-math.inf, high=math.inf)  # room for every change


def met(own: list[int], others: list[int], t: int, tau: float, nearest: bool = False) -> float:
    """Return what a spike at t of the train `own` meets of the others before it: 0 where it has none at t."""
    earlier = [s for s in others if s < t and t in own]
    return sum(math.exp((s - t) / tau) for s in (earlier[-1:] if nearest else earlier))


def slow(trains: tuple[Trains, Trains], w: float, change: Callable[[float, float, float], float], **how: Any) -> Tensor:
    """Return the weights (i, j) after a rule that changes w by change(w, causal, acausal) at every step."""
    after = torch.full((POST, PRE), w)
    for (i, post), (j, pre), t in product(enumerate(trains[1]), enumerate(trains[0]), range(STEPS)):
        causal, acausal = met(post, pre, t, 20.0, **how), met(pre, post, t, 20.0, **how)
        after[i, j] = min(1.0, max(0.0, after[i, j] + change(float(after[i, j]), causal, acausal)))
    return after


# windows


def test_the_double_exponential_is_positive_where_pre_comes_first() -> None:
    dt = torch.tensor([-40.0, -10.0, 0.0, 10.0, 30.0])
    got = stdp.double_exponential(dt, A_plus=2.0, A_minus=3.0, tau_plus=10.0, tau_minus=40.0)
    assert got.tolist() == pytest.approx([-3 / math.e, -3 * math.exp(-0.25), 0, 2 / math.e, 2 * math.exp(-3)])


def test_the_mexican_hat_has_its_zeros_at_sigma_and_no_area() -> None:
    dt = torch.linspace(-200, 200, 4001)
    hat = stdp.mexican_hat(dt, A=1.0, sigma=20.0)
    assert stdp.mexican_hat(torch.tensor([0.0, 20.0, -20.0]), A=3.0).tolist() == [3.0, 0.0, 0.0]
    assert abs(float(torch.trapezoid(hat, dt))) < 1e-9 < float(torch.trapezoid(hat.clamp(min=0), dt))


@pytest.mark.parametrize("sigma", [0.5, 5.0, 15.0])
def test_jittering_is_the_mean_of_the_window_over_normal_jitter(sigma: float) -> None:
    constants = {"A_plus": 1.0, "A_minus": 0.6, "tau_plus": 15.0, "tau_minus": 30.0}
    dt = torch.tensor([-60.0, -7.0, -1.0, 0.0, 1.0, 7.0, 60.0])
    bins = (torch.arange(-160_000, 160_000) + 0.5) * 1e-3  # the window jumps at 0, an edge of a bin
    density = torch.exp(-((bins - dt[:, None]) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    mean = (density * stdp.double_exponential(bins, **constants)).sum(1) * 1e-3
    got = stdp.jittered(dt, sigma=sigma, **constants)
    assert torch.allclose(got, mean, atol=1e-7)
    assert not torch.allclose(got, stdp.double_exponential(dt, **constants), atol=1e-3)


# pair rules


def test_unbounded_pairs_sum_the_window_over_all_pairs(trains: tuple[Trains, Trains]) -> None:
    def summed(window: Callable[[Tensor], Tensor]) -> Tensor:
        times = [[torch.tensor(train, dtype=torch.float64) for train in side] for side in trains]
        return torch.stack([torch.stack([window(q[:, None] - p).sum() for p in times[0]]) for q in times[1]])

    taus = {"tau_plus": 12.0, "tau_minus": 35.0}
    got = learn(torch.zeros(POST, PRE), *map(raster, trains), unbounded, **taus)
    assert torch.allclose(got, summed(partial(stdp.double_exponential, **taus)), atol=1e-12)
    if any(s != t for p, q in product(*trains) for s, t in product(p, q)):  # some pair is no simultaneous one
        assert not torch.allclose(got, summed(lambda dt: stdp.double_exponential(-dt, **taus)), atol=1e-6)


@pytest.mark.parametrize("nearest", [False, True])
def test_hard_bounds_are_the_loop_over_pairs(trains: tuple[Trains, Trains], nearest: bool) -> None:
    rule = partial(stdp.hard, A_plus=0.3, A_minus=0.2)
    got = learn(torch.full((POST, PRE), 0.5), *map(raster, trains), rule, nearest=nearest)
    expected = slow(trains, 0.5, lambda w, causal, acausal: 0.3 * causal - 0.2 * acausal, nearest=nearest)
    assert torch.allclose(got, expected, atol=1e-12)


def test_nearest_pairs_differ_from_all_pairs_in_bursts_only() -> None:
    def both(case: str) -> list[Tensor]:
        spikes = [raster(side) for side in CASES[case]]
        return [learn(torch.zeros(POST, PRE), *spikes, unbounded, nearest=nearest) for nearest in (False, True)]

    assert torch.equal(*both("pre, then post"))
    assert (both("bursts")[0] - both("bursts")[1]).abs().max() > 1e-3


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_soft_bounds_are_the_loop_over_pairs(trains: tuple[Trains, Trains], mu: float) -> None:
    def change(w: float, causal: float, acausal: float) -> float:
        return 0.2 * ((1 - w) ** mu * causal - 1.3 * w**mu * acausal)

    got = learn(torch.full((POST, PRE), 0.7), *map(raster, trains), partial(stdp.soft, lam=0.2, alpha=1.3, mu=mu))
    assert torch.allclose(got, slow(trains, 0.7, change), atol=1e-12)


def test_bounds_hold_and_are_reached() -> None:
    pre, post = (raster(side) for side in CASES["Poisson 0"])
    for A_plus, A_minus, bound in ((2.0, 0.0, 1.0), (0.1, 2.0, 0.0)):
        hard = partial(stdp.hard, A_plus=A_plus, A_minus=A_minus)
        got = learn(torch.full((POST, PRE), 0.5), pre, post, hard)
        assert got.min() >= 0 and got.max() <= 1 and bool((got == bound).any())
    for mu in (0.02, 1.0):
        soft = learn(torch.full((POST, PRE), 0.5), pre, post, partial(stdp.soft, lam=0.3, mu=mu))
        assert soft.min() >= 0 and soft.max() <= 1


def test_soft_bounds_draw_a_weight_to_the_balance_of_its_pairs() -> None:
    """With mu 1 and as many pairs of either order at the same distance, w settles at 1 / (1 + alpha)."""
    pre = raster([list(range(0, 1200, 10))], 1200)
    post = raster([sorted([*range(1, 1200, 20), *range(9, 1200, 20)])], 1200)  # 10 ms after a pre spike, 10 ms before
    for start in (0.1, 0.9):
        w = torch.full((1, 1), start)
        assert float(learn(w, pre, post, partial(stdp.soft, lam=0.05, alpha=3.0), dt=10.0)) == pytest.approx(
            0.25, abs=0.02
        )


# triplets


def slow_triplet(trains: tuple[Trains, Trains], A: dict[str, float], taus: dict[str, float]) -> Tensor:
    """Return the unbounded change (i, j), spike by spike."""
    dw = torch.zeros(POST, PRE)
    for (i, post), (j, pre) in product(enumerate(trains[1]), enumerate(trains[0])):
        for t in post:
            o2 = sum(math.exp((s - t) / taus["tau_y"]) for s in post if s < t)
            r1 = sum(math.exp((s - t) / taus["tau_plus"]) for s in pre if s < t)
            dw[i, j] += r1 * (A["A2_plus"] + A["A3_plus"] * o2)
        for t in pre:
            r2 = sum(math.exp((s - t) / taus["tau_x"]) for s in pre if s < t)
            o1 = sum(math.exp((s - t) / taus["tau_minus"]) for s in post if s < t)
            dw[i, j] -= o1 * (A["A2_minus"] + A["A3_minus"] * r2)
    return dw


def triplet(pre: Tensor, post: Tensor, w: Tensor, dt: float = 1.0, **options: float) -> Tensor:
    """Return the weights after the spikes (t, j) and (t, i)."""
    traces = stdp.TripletTraces(*(torch.zeros(spikes.shape[1]) for spikes in (pre, pre, post, post)))
    for pre_t, post_t in zip(pre, post, strict=True):
        w, traces = stdp.triplet(w, traces, pre_t, post_t, dt=dt, **options)
    return w


def test_triplets_are_the_loop_over_triples(trains: tuple[Trains, Trains]) -> None:
    A = {"A2_plus": 0.02, "A3_plus": 0.03, "A2_minus": 0.04, "A3_minus": 0.05}
    taus = {"tau_plus": 16.8, "tau_minus": 33.7, "tau_x": 101.0, "tau_y": 125.0}
    got = triplet(*map(raster, trains), torch.zeros(POST, PRE), low=-99.0, high=99.0, **A, **taus)
    assert torch.allclose(got, slow_triplet(trains, A, taus), atol=1e-12)


def test_with_the_published_constants_pairs_potentiate_at_high_rates_only() -> None:
    """60 pairs, post 10 ms after pre: next to no change at 1 Hz, potentiation at 50 Hz. Steps of 10 ms."""
    change = {}
    for rate in (1, 50):
        period = 100 // rate
        pre = raster([list(range(0, 60 * period, period))], 60 * period + 1)
        post = raster([list(range(1, 60 * period + 1, period))], 60 * period + 1)
        change[rate] = float(triplet(pre, post, torch.full((1, 1), 0.5), dt=10.0)) - 0.5
    assert abs(change[1]) < 0.01 and change[50] > 0.3


# a third factor


def dopamine(pre: Tensor, post: Tensor, released: Tensor, dt: float = 1.0, w: float = 0.0) -> Tensor:
    """Return the unbounded weights after the spikes and the dopamine (t,)."""
    traces, after = zero_traces(), torch.full((POST, PRE), w)
    state = stdp.Dopamine(torch.zeros(POST, PRE), torch.zeros(1, 1))
    for pre_t, post_t, n_t in zip(pre, post, released, strict=True):
        pairs, traces = stdp.pair(traces, pre_t, post_t, dt=dt)
        after, state = stdp.dopamine(after, state, pairs, n_t, low=-math.inf, high=math.inf, dt=dt)
    return after


def test_dopamine_is_the_integral_of_every_pair_with_every_release(trains: tuple[Trains, Trains]) -> None:
    released, expected = torch.zeros(STEPS), torch.zeros(POST, PRE)
    released[[20, 75]] = torch.tensor([0.5, -0.2])
    for (i, post), (j, pre), t in product(enumerate(trains[1]), enumerate(trains[0]), range(STEPS)):
        c = met(post, pre, t, 20.0) - 1.5 * met(pre, post, t, 20.0)
        for r in (20, 75):
            start = max(t, r)
            both = c * math.exp((t - start) / 1000) * float(released[r]) * math.exp((r - start) / 200)
            lasting = 1 / 1000 + 1 / 200
            expected[i, j] += both * (1 - math.exp(-(STEPS - 1 - start) * lasting)) / lasting
    assert torch.allclose(dopamine(*map(raster, trains), released), expected, atol=1e-12)


def test_dopamine_late_learns_and_none_does_not() -> None:
    pre, post = raster(CASES["pre, then post"][0], 600), raster(CASES["pre, then post"][1], 600)
    released = torch.zeros(3, 600)
    released[0, 50], released[1, 400] = 1.0, 1.0
    soon, late, none = (float(dopamine(pre, post, n)[0, 0]) for n in released)
    assert soon > late > 0 and none == 0


def test_the_size_of_a_step_does_not_matter_to_what_falls_on_both_grids() -> None:
    pre, post = (raster(side) for side in CASES["Poisson 1"])
    released = (torch.arange(STEPS) % 30 == 7).double()

    def finer(values: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(values), values], dim=1).flatten(0, 1)[1:]  # a step of 0.5 ms between

    assert torch.allclose(
        dopamine(pre, post, released), dopamine(finer(pre), finer(post), finer(released), dt=0.5), atol=1e-12
    )
    coarse = learn(torch.full((POST, PRE), 0.5), pre, post, stdp.hard)
    assert torch.allclose(coarse, learn(torch.full((POST, PRE), 0.5), finer(pre), finer(post), stdp.hard, dt=0.5))


# inhibitory, S-TLLR


def test_inhibitory_is_a_symmetric_window_less_a_constant_per_pre_spike(trains: tuple[Trains, Trains]) -> None:
    expected = torch.zeros(POST, PRE)
    for (i, post), (j, pre) in product(enumerate(trains[1]), enumerate(trains[0])):
        near = sum(math.exp(-abs(t - s) / 20) for t, s in product(post, pre))  # together: once, in full
        expected[i, j] = 0.01 * (near - 0.12 * len(pre))
    got = learn(torch.zeros(POST, PRE), *map(raster, trains), partial(stdp.inhibitory, eta=0.01, low=-9.0, high=9.0))
    assert torch.allclose(got, expected, atol=1e-12)


def test_inhibition_grows_above_the_rate_it_holds_and_shrinks_below() -> None:
    source, change = torch.Generator().manual_seed(0), {}
    pre = neurons.poisson(20.0, 8000, (50,), dt=1.0, generator=source)
    for rate in (1.0, 3.0, 6.0):
        post = neurons.poisson(rate, 8000, (50,), dt=1.0, generator=source)
        w = learn(torch.zeros(50, 50), pre, post, partial(stdp.inhibitory, low=-9.0, high=9.0))
        change[rate] = float(w.mean()) / (20.0 * 8 * 0.001 * 0.12)  # in units of what alpha takes away
    assert change[1.0] == pytest.approx(-2 / 3, abs=0.05)
    assert change[3.0] == pytest.approx(0.0, abs=0.1)
    assert change[6.0] == pytest.approx(1.0, abs=0.1)


def test_stllr_is_its_two_sums_over_the_past() -> None:
    pre, post = torch.rand(9, PRE), torch.rand(9, POST)  # graded, as surrogate derivatives are
    traces = zero_traces()
    for t in range(9):
        got, traces = stdp.stllr(traces, pre[t], post[t], a_pre=2.0, a_post=-0.5, lam_pre=0.8, lam_post=0.3)
        for i, j in product(range(POST), range(PRE)):
            causal = post[t, i] * sum(0.8 ** (t - s) * pre[s, j] for s in range(t + 1))
            acausal = pre[t, j] * sum(0.3 ** (t - s) * post[s, i] for s in range(t))
            assert float(got[i, j]) == pytest.approx(float(2 * causal - 0.5 * acausal), abs=1e-12)


def test_traces_run_on_the_recurrence_of_the_library() -> None:
    post, traces = torch.rand(1, 9, POST, 1), zero_traces()
    for t in range(9):
        _, traces = stdp.stllr(traces, torch.zeros(PRE), post[0, t, :, 0], lam_post=0.3)
    assert torch.allclose(traces.y, scan(torch.full_like(post, 0.3), post, torch.zeros(1, POST, 1))[0, -1, :, 0])
    trace = torch.zeros(POST)
    for t in range(9):
        trace = neurons.trace(trace, post[0, t, :, 0], tau=20.0, dt=1.0)
    decays = torch.full_like(post, math.exp(-1 / 20))
    assert torch.allclose(trace, scan(decays, post, torch.zeros(1, POST, 1))[0, -1, :, 0])


# what holds for all


def test_delays_shift_the_window() -> None:
    axonal, dendritic = 3, 8
    for apart in (-15, -5, 0, 15):
        pre, post = raster([[40]]), raster([[40 + apart]])
        lines = torch.zeros(axonal, 1, dtype=torch.bool), torch.zeros(dendritic, 1, dtype=torch.bool)
        traces, w = stdp.Traces(torch.zeros(1), torch.zeros(1)), torch.zeros(1, 1)
        for t in range(STEPS):
            (at_pre, sent_pre), (at_post, sent_post) = neurons.delay(lines[0], pre[t]), neurons.delay(lines[1], post[t])
            lines = sent_pre, sent_post
            pairs, traces = stdp.pair(traces, at_pre, at_post, dt=1.0)
            w = unbounded(w, pairs)
        assert float(w) == pytest.approx(float(stdp.double_exponential(torch.tensor(apart + dendritic - axonal))))


def test_leading_axes_are_runs_of_their_own() -> None:
    runs = [[raster(side) for side in CASES[f"Poisson {seed}"]] for seed in range(3)]
    pre, post = (torch.stack(side, dim=1) for side in zip(*runs, strict=True))
    together = learn(torch.full((3, POST, PRE), 0.5), pre, post, stdp.soft)
    for got, own in zip(together, runs, strict=True):
        assert torch.allclose(got, learn(torch.full((POST, PRE), 0.5), *own, stdp.soft), atol=1e-14)


def test_no_graph_grows() -> None:
    w, pre, post = torch.rand(POST, PRE, requires_grad=True), torch.rand(PRE, requires_grad=True), torch.rand(POST)
    pairs, traces = stdp.pair(zero_traces(), pre, post, dt=1.0)
    state = stdp.Dopamine(torch.zeros(POST, PRE), torch.zeros(1, 1))
    slowly = stdp.TripletTraces(torch.zeros(PRE), torch.zeros(PRE), torch.zeros(POST), torch.zeros(POST))
    made: list[Any] = [*pairs, *traces, stdp.hard(w, pairs), stdp.soft(w, pairs), stdp.inhibitory(w, pairs)]
    for after, more in (
        stdp.dopamine(w, state, pairs, 1.0, dt=1.0),
        stdp.triplet(w, slowly, pre, post, dt=1.0),
        stdp.stllr(traces, pre, post),
    ):
        made += [after, *more]
    assert not any(tensor.requires_grad for tensor in made)
    assert torch.addcmul(w, post[:, None], pre).requires_grad  # the same sum by itself has one


def test_a_weight_given_in_is_not_changed() -> None:
    w = torch.full((POST, PRE), 0.5)
    pairs = stdp.Pairs(torch.ones(POST), torch.ones(PRE), torch.ones(POST) / 2, torch.ones(PRE))
    for rule in (stdp.hard, stdp.soft, stdp.inhibitory):
        assert not torch.equal(rule(w, pairs), w), "the rule does change it"
        assert bool((w == 0.5).all())


# Brian2, a simulator that shares no code with this library


@pytest.fixture(scope="module")
def brian() -> Iterator[Any]:
    """Return Brian2, its code run by numpy."""
    try:
        brian2 = pytest.importorskip("brian2", reason="Brian2 is not installed: pip install brian2")
    except AttributeError:  # Brian2 2.9 wraps ndarray.ptp as it is imported, which numpy 2.4 no longer has
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "ndarray", type("ndarray", (np.ndarray,), {"ptp": np.ptp}))
            import brian2
    before = brian2.prefs.codegen.target
    brian2.prefs.codegen.target = "numpy"
    yield brian2
    brian2.prefs.codegen.target = before


Code = tuple[str, str]  # run at every pre and at every post spike


def simulate(brian: Any, model: str, reads: Code, writes: Code, delays: tuple[int, int] = (0, 0)) -> Tensor:
    """Return the weights (i, j) that Brian2 reaches from 0.5 on the trains of BRIAN.

    All reads of a step come before its writes, as here; delays: axonal and dendritic, ms.
    """
    sides = []
    for trains in BRIAN:
        spikes = sorted((t, n) for n, train in enumerate(trains) for t in train)
        times, which = zip(*spikes, strict=True)
        sides.append(brian.SpikeGeneratorGroup(len(trains), which, times * brian.ms, dt=1 * brian.ms))
    on = {
        side: {f"{side}_read": read, f"{side}_write": write}
        for side, read, write in zip(("pre", "post"), reads, writes, strict=True)
    }
    synapses = brian.Synapses(*sides, model, on_pre=on["pre"], on_post=on["post"], dt=1 * brian.ms)
    synapses.connect()
    synapses.w = 0.5
    for order, (key, side) in enumerate(product(("read", "write"), ("pre", "post"))):
        pathway = getattr(synapses, f"{side}_{key}")
        pathway.order, pathway.delay = order, delays[side == "post"] * brian.ms
    brian.Network(*sides, synapses).run(STEPS * brian.ms)
    return torch.tensor(np.array(synapses.w)).view(PRE, POST).T


BRIAN = poisson_trains(7)
TRACES = """w : 1
change : 1
dx/dt = -x / (20*ms) : 1 (event-driven)
dy/dt = -y / (20*ms) : 1 (event-driven)"""
ADD = ("x += 1", "y += 1")
AT_ONCE = "w = clip(w + change, 0, 1); change = 0; "  # both spikes' changes of one step, from the weight before it


def at_once(reads: Code, adds: Code = ADD) -> tuple[Code, Code]:
    """Return reads that only collect the change, and writes that apply it."""
    return reads, (AT_ONCE + adds[0], AT_ONCE + adds[1])


@pytest.mark.parametrize("delays", [(0, 0), (4, 1), (2, 9)])
def test_hard_pairs_are_those_of_brian(brian: Any, delays: tuple[int, int]) -> None:
    reads, writes = at_once(("change += -0.06 * y", "change += 0.05 * x"))
    expected = simulate(brian, TRACES, reads, writes, delays)
    spikes = [raster(side) for side in BRIAN]
    shifted = [torch.cat([torch.zeros(d, s.shape[1]).bool(), s])[:STEPS] for s, d in zip(spikes, delays, strict=True)]
    got = learn(torch.full((POST, PRE), 0.5), *shifted, partial(stdp.hard, A_plus=0.05, A_minus=0.06))
    assert torch.allclose(got, expected, rtol=0, atol=1e-6)
    assert bool(((got > 0) & (got < 1)).any()), "some weights are at neither bound"


def test_textbook_code_counts_a_spike_of_the_same_step_and_this_library_does_not(brian: Any) -> None:
    expected = simulate(brian, TRACES, ("", ""), ("w += -0.06 * y; x += 1", "w += 0.05 * x; y += 1"))
    got = learn(torch.full((POST, PRE), 0.5), *map(raster, BRIAN), partial(unbounded, A_plus=0.05, A_minus=0.06))
    together = torch.tensor([[len({*p} & {*q}) for p in BRIAN[0]] for q in BRIAN[1]])
    assert bool(together.any()) and torch.allclose(expected - got, 0.05 * together, rtol=0, atol=1e-6)


def test_nearest_pairs_are_those_of_brian(brian: Any) -> None:
    reads, writes = at_once(("change += -0.06 * y", "change += 0.05 * x"), ("x = 1", "y = 1"))
    rule = partial(stdp.hard, A_plus=0.05, A_minus=0.06)
    got = learn(torch.full((POST, PRE), 0.5), *map(raster, BRIAN), rule, nearest=True)
    assert torch.allclose(got, simulate(brian, TRACES, reads, writes), rtol=0, atol=1e-6)
    assert not torch.allclose(got, learn(torch.full((POST, PRE), 0.5), *map(raster, BRIAN), rule), atol=1e-3)


def test_soft_pairs_are_those_of_brian(brian: Any) -> None:
    reads, writes = at_once(("change += -0.1 * 1.2 * w**0.5 * y", "change += 0.1 * (1 - w)**0.5 * x"))
    got = learn(torch.full((POST, PRE), 0.5), *map(raster, BRIAN), partial(stdp.soft, lam=0.1, alpha=1.2, mu=0.5))
    assert torch.allclose(got, simulate(brian, TRACES, reads, writes), rtol=0, atol=1e-6)


def test_triplets_are_those_of_brian(brian: Any) -> None:
    model = "w : 1\nchange : 1\n" + "\n".join(
        f"d{name}/dt = -{name} / ({tau}*ms) : 1 (event-driven)"
        for name, tau in {"r1": 16.8, "r2": 101, "o1": 33.7, "o2": 125}.items()
    )
    reads = ("change -= o1 * (7e-3 + 2.3e-4 * r2)", "change += r1 * (5e-10 + 6.2e-3 * o2)")
    expected = simulate(brian, model, *at_once(reads, ("r1 += 1; r2 += 1", "o1 += 1; o2 += 1")))
    got = triplet(*map(raster, BRIAN), torch.full((POST, PRE), 0.5))
    assert torch.allclose(got, expected, rtol=0, atol=1e-6)
    assert (got - 0.5).abs().min() > 1e-3


def test_numbers_and_arrays_are_taken_where_tensors_are() -> None:
    """The same values as tensors, arrays and numbers give the same; nothing that was given is changed."""
    dt = np.array([-7.0, 0.0, 3.0])
    for window in (stdp.double_exponential, stdp.mexican_hat, stdp.jittered):
        assert torch.equal(window(dt), window(torch.tensor(dt)))
        assert float(window(3.0)) == pytest.approx(float(window(dt)[2]))
    w, n = np.full((POST, PRE), 0.5), np.full((1, 1), 0.3)
    pre, post, x, y = np.array([1, 0, 1]), np.array([True, False]), np.full(PRE, 0.4), np.full(POST, 0.7)
    given = [each.copy() for each in (w, pre, post, x, y)]
    results = []
    for form in (np.asarray, torch.tensor):
        traces = stdp.Traces(form(x), form(y))
        pairs, after = stdp.pair(traces, form(pre), form(post), dt=1.0)
        own = stdp.Dopamine(form(w), form(n))
        triplets = stdp.TripletTraces(form(x), form(x), form(y), form(y))
        results.append(
            [
                *after,
                *(rule(form(w), pairs) for rule in (stdp.hard, stdp.soft, stdp.inhibitory)),
                stdp.dopamine(form(w), own, pairs, 0.1, dt=1.0)[0],
                stdp.triplet(form(w), triplets, form(pre), form(post), dt=1.0)[0],
                stdp.stllr(traces, form(pre), form(post))[0],
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(results[0][2], torch.tensor(w))
    assert all(np.array_equal(a, b) for a, b in zip(given, (w, pre, post, x, y), strict=True))


def test_short_term_plasticity_is_that_of_brian(brian: Any) -> None:
    trains = BRIAN[0]
    spikes = sorted((t, n) for n, train in enumerate(trains) for t in train)
    times, which = zip(*spikes, strict=True)
    source = brian.SpikeGeneratorGroup(PRE, which, times * brian.ms, dt=1 * brian.ms)
    target = brian.NeuronGroup(PRE, "v : 1", dt=1 * brian.ms)
    model = """du/dt = -u / (20*ms) : 1 (event-driven)
    dx/dt = (1 - x) / (200*ms) : 1 (event-driven)"""
    on_pre = "u += 0.5 * (1 - u); v_post += u * x; x -= u * x"
    synapses = brian.Synapses(source, target, model, on_pre=on_pre, dt=1 * brian.ms)
    synapses.connect(j="i")
    synapses.x = 1
    brian.Network(source, target, synapses).run(STEPS * brian.ms)
    state, total = short_term.Resources(torch.zeros(PRE), torch.ones(PRE)), torch.zeros(PRE)
    for row in raster(trains):
        sent, state = short_term.tsodyks_markram(state, row, dt=1.0)
        total = total + sent
    assert torch.allclose(total, torch.tensor(np.array(target.v)), atol=1e-6) and float(total.min()) > 0.5
