"""How fast are the plasticity rules, and do they recover their windows? All-to-all synapses under Poisson spikes.

    python -m bench.plasticity [--neurons 1000] [--steps 10000] [--threads 1] [--json FILE]
    python -m bench.plasticity --figure docs/plasticity.png

The first takes steps of 1 ms at 10 Hz, each rule in a process of its own, and prints the time (of the clock, and of the
processor, which other work on the machine stretches less) and by how much peak memory grows after the first tenth.
The second draws the windows, what single pairs do to a weight, and the rules with more than pairs in them.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.grid import Row, heading, markdown, write
from biomamba.experiment.log import peak_rss_bytes
from biomamba.experiment.memory import keep_freed_memory
from biomamba.plasticity import stdp
from biomamba.plasticity.neurons import poisson

RATE, DT = 10.0, 1.0  # Hz, ms
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#77808a"
Step = Callable[[Tensor, Any, Tensor, Tensor], tuple[Tensor, Any]]


def main() -> None:
    """Measure and print, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=1000, help="pre, and as many post")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    parser.add_argument("--figure", type=Path, help="draw this instead")
    args = parser.parse_args()
    if args.figure:
        return draw(args.figure)
    command = f"python -m bench.plasticity --neurons {args.neurons} --steps {args.steps} --threads {args.threads}"
    print(heading(command, f"threads: {args.threads}"))
    settings = [(rule, args.neurons, args.steps, args.threads) for rule in RULES]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = list(pool.map(measure, *zip(*settings, strict=True)))
    print(markdown(rows))
    write(rows, args.json)


def measure(rule: str, neurons: int, steps: int, threads: int) -> Row:
    """Return what so many steps of a rule take."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    source = torch.Generator().manual_seed(0)
    w = torch.rand(neurons, neurons, generator=source)
    state, step = RULES[rule]
    state = state(neurons)
    clock, processor = time.perf_counter(), time.process_time()
    for t in range(steps):
        if t == steps // 10:
            before = peak_rss_bytes()
        pre, post = poisson(RATE, 1, (2, neurons), dt=DT, generator=source)[0]
        w, state = step(w, state, pre, post)
    seconds = time.perf_counter() - clock
    return {
        "rule": rule,
        "synapses": f"{neurons**2:,}",
        "steps": f"{steps:,}",
        "seconds": seconds,
        "processor seconds": time.process_time() - processor,
        "ms per step": 1000 * seconds / steps,
        "weights MB": w.nbytes / 1e6,
        "peak growth MB": (peak_rss_bytes() - before) / 1e6,
        "mean weight": float(w.mean()),
    }


def quiet(neurons: int) -> stdp.Traces:
    """Return the traces of neurons that have not spiked."""
    return stdp.Traces(torch.zeros(neurons), torch.zeros(neurons))


def of_pairs(bound: Callable[[Tensor, stdp.Pairs], Tensor], **pairing: bool) -> tuple[Callable[[int], Any], Step]:
    """Return the first state and the step of a rule of pairs."""

    def step(w: Tensor, traces: stdp.Traces, pre: Tensor, post: Tensor) -> tuple[Tensor, stdp.Traces]:
        pairs, traces = stdp.pair(traces, pre, post, dt=DT, **pairing)
        return bound(w, pairs), traces

    return quiet, step


def rewarded(w: Tensor, state: Any, pre: Tensor, post: Tensor) -> tuple[Tensor, Any]:
    """Return a step under a constant trickle of dopamine."""
    traces, own = state
    pairs, traces = stdp.pair(traces, pre, post, dt=DT)
    w, own = stdp.dopamine(w, own, pairs, 1e-6, dt=DT)
    return w, (traces, own)


RULES: dict[str, tuple[Callable[[int], Any], Step]] = {
    "pairs, hard bounds": of_pairs(stdp.hard),
    "nearest pairs, hard bounds": of_pairs(stdp.hard, nearest=True),
    "pairs, soft bounds": of_pairs(stdp.soft),
    "inhibitory": of_pairs(stdp.inhibitory),
    "triplets": (
        lambda n: stdp.TripletTraces(*quiet(n), *quiet(n)),
        partial(stdp.triplet, dt=DT),
    ),
    "dopamine": (lambda n: (quiet(n), stdp.Dopamine(torch.zeros(n, n), torch.zeros(1, 1))), rewarded),
}


def driven(apart: Tensor, step: Step, state: Any, w: float, pairs: int = 1, period: int = 200) -> Tensor:
    """Return the weights after so many pairs a period (ms) apart, one run for each t_post - t_pre of `apart` (b,)."""
    after, first = torch.full((len(apart), 1, 1), w), 100
    for t in range(first + pairs * period + 100):
        pre = torch.full((len(apart), 1), first <= t < first + pairs * period and (t - first) % period == 0)
        since = t - first - apart
        post = ((since >= 0) & (since < pairs * period) & (since % period == 0)).unsqueeze(-1)
        after, state = step(after, state, pre, post)
    return after[:, 0, 0]


def draw(file: Path) -> None:
    """Draw four panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    for paint, axes in zip((windows, pairings, frequencies, rewards), figure.subplots(2, 2).flat, strict=True):
        paint(axes)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def windows(axes: Any) -> None:
    """Draw the windows."""
    dt = torch.linspace(-80, 80, 800)  # without 0, at which a window may jump
    for name, values, colour in (
        ("double exponential, tau 20 ms", stdp.double_exponential(dt), BLUE),
        ("jittered, sigma 5 ms", stdp.jittered(dt), RED),
        ("Mexican hat, sigma 20 ms", stdp.mexican_hat(dt), GREEN),
    ):
        for side, label in ((dt < 0, name), (dt > 0, None)):
            axes.plot(dt[side], values[side], color=colour, label=label)
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set(title="Windows", xlabel="t_post - t_pre (ms)", ylabel="change per pair (of the largest weight)")


def pairings(axes: Any) -> None:
    """Draw what single pairs did to a weight over the windows they should recover."""
    dt, fine = torch.arange(-78, 79, 6), torch.linspace(-80, 80, 800)
    near = torch.exp(-fine.abs() / 20)
    traces = stdp.Traces(torch.zeros(len(dt), 1), torch.zeros(len(dt), 1))
    for name, bound, w, window, colour in (
        ("hard bounds", stdp.hard, 0.5, stdp.double_exponential(fine), BLUE),
        ("soft bounds, w 0.2", stdp.soft, 0.2, 0.01 * torch.where(fine > 0, 0.8, -0.2) * near, RED),
        ("inhibitory, eta 0.005", partial(stdp.inhibitory, eta=0.005), 0.5, 0.005 * (near - 0.12), GREEN),
    ):
        change = driven(dt, of_pairs(bound)[1], traces, w) - w
        for side in (fine < 0, fine > 0):
            axes.plot(fine[side], window[side], color=colour, linewidth=1)
        axes.plot(dt, change, "o", color=colour, markersize=4, label=name)
    axes.plot([], [], color=GREY, linewidth=1, label="the window")
    axes.axvline(0, color=GREY, linewidth=0.6)
    ylabel = "change after one pair (of the largest weight)"
    axes.set(title="A single pair recovers its window", xlabel="t_post - t_pre (ms)", ylabel=ylabel)


def frequencies(axes: Any) -> None:
    """Draw what 60 pairs do to a weight by how fast they follow on each other."""
    periods, apart = [1000, 200, 100, 50, 33, 25, 20], torch.tensor([10, -10])
    for name, step, state, style in (
        ("triplets", partial(stdp.triplet, dt=DT, low=-9.0, high=9.0), [torch.zeros(2, 1)] * 4, "o-"),
        ("pairs", of_pairs(partial(stdp.hard, low=-9.0, high=9.0))[1], [torch.zeros(2, 1)] * 2, "s--"),
    ):
        start = stdp.TripletTraces(*state) if name == "triplets" else stdp.Traces(*state)
        change = torch.stack([driven(apart, step, start, 0.0, 60, period) for period in periods])
        for k, colour in ((0, BLUE), (1, RED)):
            label = f"{name}, t_post - t_pre {int(apart[k]):+d} ms"
            axes.plot([1000 / p for p in periods], change[:, k], style, color=colour, markersize=4, label=label)
    axes.set(
        title="60 pairs, by their frequency", xlabel="pairs per second (Hz)", ylabel="change (of the largest weight)"
    )


def rewards(axes: Any) -> None:
    """Draw what one pair does to a weight by when dopamine comes."""
    delays = torch.arange(-400, 3001, 200)
    for apart, colour in ((10, BLUE), (-10, RED)):
        traces = stdp.Traces(torch.zeros(len(delays), 1), torch.zeros(len(delays), 1))
        own = stdp.Dopamine(torch.zeros(len(delays), 1, 1), torch.zeros(len(delays), 1, 1))
        w = torch.zeros(len(delays), 1, 1)
        for t in range(-500, 5000):
            pre, post = (torch.full((len(delays), 1), t == at) for at in (0, apart))
            pairs, traces = stdp.pair(traces, pre, post, dt=DT)
            w, own = stdp.dopamine(w, own, pairs, (delays == t).view(-1, 1, 1) / 200, low=-200.0, dt=DT)
        axes.plot(delays / 1000, w[:, 0, 0], "o-", color=colour, markersize=4, label=f"t_post - t_pre {apart:+d} ms")
    xlabel = "dopamine (1 / tau_n) after the presynaptic spike (s)"
    axes.set(title="One pair, by when it is rewarded", xlabel=xlabel, ylabel="change (units of c n ms)")


if __name__ == "__main__":
    main()
