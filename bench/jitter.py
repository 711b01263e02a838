"""How far can tests for plasticity between two spike trains be trusted? Nulls, minutes of data, real recordings.

    python -m bench.jitter [--stage null|minutes|recordings] [--seeds 100] [--pairs 40] [--out runs/bench]
    python -m bench.jitter --stage null --figure docs/inference-null.png

`null`: coupling that stays as it is, at constant rates and at rates that drift, burst and share input (5 minutes).
`minutes`: what recordings of 5 to 60 minutes tell of a plastic synapse. `recordings`: the most coupled pairs of real
neurons, from BIOMAMBA_DATA/spikes: two rats' hippocampus and a culture. Tests: `GBLM.test`, with slow rate terms chosen
by held-out likelihood, and the score test with and without those.
"""

import argparse
import functools
import os
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from bench.grid import Row, heading, run, spread, table
from bench.inference import CASES, DT, correlation
from biomamba.plasticity.inference import GBLM, Bases, choose, simulate
from biomamba.plasticity.inference.gblm import WORTH

RECORDINGS = {
    "linear track": "linear-track_spikes.mat",
    "W maze": "w-maze_spikes.mat",
    "culture": "TC89_DIV15_A.nexTimestamps",
}
FEWEST, MOST = 500, 20_000  # spikes of a neuron
NEAR, FAR = (
    0.02,
    0.2,
)  # s: a pair is coupled where post spikes more often so soon after pre than a while before and after


def measure(setting: Row) -> Row:
    """Return what the tests say of one pair of neurons."""
    if "recording" in setting:
        trains, duration = recorded(setting["recording"])
        pre, post = (trains[k] for k in setting["pair"])
    else:
        duration = 60.0 * setting["minutes"]
        pre, post = pair_of(setting["case"], duration, setting["seed"])
    bases = choose(pre, post, duration)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says of how many it warns
        found = GBLM(bases).test(pre, post, duration, surrogates=setting["surrogates"], seed=setting["seed"])
    larger = float(np.mean([*(found.surrogates >= found.statistic), True]))  # by surrogates alone
    row: Row = {"p": found.p, "moved": larger, "held_out": found.held_out, "slow": len(bases.slow)}
    row["score"] = GBLM(bases).score_test(pre, post, duration).p
    row["score, no slow terms"] = GBLM(Bases()).score_test(pre, post, duration).p if bases.slow else row["score"]
    if setting.get("case") not in (None, "constant", "modulated"):
        window = GBLM().fit(pre, post, duration).window(DT)[0]
        row["dw"] = correlation(window, CASES[setting["case"]]["window"](DT)) if window.any() else 0.0
    return row


def pair_of(case: str, duration: float, seed: int) -> tuple[Any, Any]:
    """Return the spikes of two neurons: a plastic synapse, or a static one at constant or modulated rates."""
    if case == "modulated":
        return modulated(duration, seed)
    options = {"window": np.zeros_like} if case == "constant" else CASES[case]
    pre, post, _ = simulate(**options, duration=duration, seed=seed)
    return pre, post


def modulated(duration: float, seed: int) -> tuple[Any, Any]:
    """Return spikes of two neurons with static coupling, whose rates drift and burst together.

    Rates drift by a factor of exp(0.5) either way within 30 s and rise fivefold in bursts of 0.3 s, one in 10 s; a
    fifth of the pre spikes are followed by one more; once a second both hear a third neuron.
    """
    random, n = np.random.default_rng(seed + 1_000_000), round(duration * 1000)
    keep, drift = np.exp(-1 / 300), [random.normal()]
    for shock in random.normal(size=n // 100):
        drift.append(keep * drift[-1] + np.sqrt(1 - keep**2) * shock)
    gain = np.exp(0.5 * np.repeat(drift, 100)[:n])
    for begin in random.integers(0, n, random.poisson(0.1 * duration)):
        gain[begin : begin + 300] = 5
    pre = np.flatnonzero(random.random(n) < 4e-3 * gain) / 1000 + random.random() / 1000
    first = pre[random.random(len(pre)) < 0.2]
    baseline, heard = 4 * gain, random.uniform(0, duration, random.poisson(duration))
    for at in (heard * 1000).astype(int):
        baseline[at + 3 : at + 10] = 30
    second = first + 0.005 + 0.003 * random.random(len(first))
    pre = np.concatenate([pre, second, heard[random.random(len(heard)) < 0.6] + 0.002])
    pre = np.sort(pre[pre < duration - 0.001])
    return pre, simulate(np.zeros_like, duration=duration, seed=seed, pre=pre, baseline=baseline)[1]


@functools.cache
def recorded(name: str) -> tuple[list[Any], float]:
    """Return the spike times (s) of the neurons of a recording that have enough of them, and its duration."""
    file = Path(os.environ.get("BIOMAMBA_DATA", "data")) / "spikes" / RECORDINGS[name]
    if file.suffix == ".mat":
        from scipy.io import loadmat

        trains = list(units(loadmat(file, struct_as_record=False, squeeze_me=True)["spikes"]))
    else:
        columns = zip_longest(*(line.split("\t") for line in file.read_text().splitlines()), fillvalue="")
        trains = [np.array([float(cell) for cell in cells if cell.strip()]) for _, *cells in columns]
    trains = [train for train in trains if len(train)]
    start = min(train.min() for train in trains)
    trains = [np.sort(train) - start for train in trains]
    duration = float(np.ceil(max(train.max() for train in trains)))
    return [train for train in trains if FEWEST <= len(train) <= MOST], duration


def units(cells: Any) -> Iterator[Any]:
    """Yield the spike times of every unit in nested MATLAB cells (day, epoch, tetrode, unit)."""
    if hasattr(cells, "time"):
        yield np.atleast_1d(cells.time).astype(float)
    elif isinstance(cells, np.ndarray) and cells.dtype == object:
        for cell in cells.flat:
            yield from units(cell)


def coupled(name: str, number: int) -> list[list[int]]:
    """Return the pairs (pre, post) of a recording whose post neuron spikes most above chance just after pre.

    In standard deviations of a Poisson count, against the FAR s around; different tetrodes are not told apart. Without
    pairs that `GBLM.test` refuses: those whose post neuron spikes in the last third alone.
    """
    trains, duration = recorded(name)
    found = []
    for i, pre in enumerate(trains):
        for j, post in enumerate(trains):
            if i != j and post[0] < duration * 2 / 3:
                near, far = (count(post, pre, *ends) for ends in ((0.001, NEAR), (-FAR, FAR)))
                chance = far * (NEAR - 0.001) / (2 * FAR)
                found.append(((near - chance) / np.sqrt(max(chance, 1.0)), [i, j]))
    return [pair for _, pair in sorted(found, reverse=True)[:number]]


def count(post: Any, pre: Any, low: float, high: float) -> int:
    """Return how many pairs have t_post - t_pre from low to high (s)."""
    return int((np.searchsorted(post, pre + high) - np.searchsorted(post, pre + low)).sum())


def discoveries(p: list[float], level: float = 0.05) -> int:
    """Return how many hypotheses Benjamini and Hochberg's step-up rejects: at most 5 % of those are false."""
    ordered = sorted(p)
    return max((k for k, value in enumerate(ordered, 1) if value <= level * k / len(p)), default=0)


def interval(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of which k of n were seen (exact binomial: Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    found = binomtest(k, n).proportion_ci()
    return float(found.low), float(found.high)


def rejected(rows: list[Row]) -> str:
    """Return how many recordings the jitter test calls plastic, and what share of all that may be."""
    k = sum(row["p"] <= 0.05 for row in rows)
    low, high = interval(k, len(rows))
    return f"{k} of {len(rows)} have p <= 0.05, {k / len(rows):.1%} (95 %, exact binomial: {low:.1%} to {high:.1%})"


def report(rows: list[Row], by: list[str]) -> str:
    """Return a line for each kind of row."""
    lines = []
    for kind in dict.fromkeys(tuple(row["setting"][name] for name in by) for row in rows):
        own = [row for row in rows if tuple(row["setting"][name] for name in by) == kind]
        p = [row["p"] for row in own]
        cells = [
            sum(value <= 0.05 for value in p),
            discoveries(p),
            sum(row["held_out"] is not None and row["held_out"] < WORTH for row in own),
        ]
        cells += [sum(row[test] <= 0.05 for row in own) for test in ("moved", "score", "score, no slow terms")]
        cells += [sum(row["slow"] > 0 for row in own)]
        dw = [spread([row["dw"] for row in own], 2)] if "dw" in own[0] else []
        lines.append([*map(str, kind), str(len(own)), *map(str, cells), *dw])
    tests = [
        "jitter test, p <= 0.05",
        "after correction",
        "of those warned of",
        "moved spikes alone",
        "score test",
        "score test, no slow terms",
    ]
    return table([*by, "pairs", *tests, "slow terms chosen", *(["dw"] if "dw" in rows[0] else [])], lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw the share of nulls below each p."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, case in zip(figure.subplots(1, 2), ("constant", "modulated"), strict=True):
        own = [row for row in rows if row["setting"]["case"] == case]
        for test, name in (("p", "jitter"), ("score", "score"), ("score, no slow terms", "score, no slow terms")):
            p = sorted(row[test] for row in own)
            ax.step([0, *p, 1], [*np.arange(len(p) + 1) / len(p), 1], where="post", label=name)
        ax.plot([0, 1], [0, 1], color="black", ls="--", label="a test that is right")
        ax.set(xlabel="p", ylabel=f"share of {len(own)} recordings with less", title=f"no plasticity, {case} rates")
        ax.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run the stage, print its table, draw its figure where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["null", "minutes", "recordings"], default="null")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=40, help="of each recording")
    parser.add_argument("--recordings", default=",".join(RECORDINGS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figure", type=Path, help="draw the nulls there")
    parser.add_argument("--surrogates", type=int, default=99, help="of each test, and as many recordings drawn anew")
    args = parser.parse_args()
    settings: list[Row] = [
        {"case": case, "minutes": 5, "seed": seed} for seed in range(args.seeds) for case in ("modulated", "constant")
    ]
    if args.stage == "minutes":
        cases = ("double exponential", "excitation alone")
        lengths = (5, 10, 20, 40)
        settings = [
            {"case": case, "minutes": m, "seed": seed} for case in cases for m in lengths for seed in range(args.seeds)
        ]
    if args.stage == "recordings":
        settings = [
            {"recording": name, "pair": pair, "seed": 0}
            for name in args.recordings.split(",")
            for pair in coupled(name, args.pairs)
        ]
    settings = [setting | {"surrogates": args.surrogates} for setting in settings]
    rows = run(measure, settings, args.out / "jitter.jsonl", jobs=1)
    told = {"null": f"seeds {args.seeds}", "minutes": f"seeds {args.seeds}", "recordings": f"pairs {args.pairs}"}
    if args.stage == "recordings" and args.recordings != ",".join(RECORDINGS):
        told["recordings"] += f' --recordings "{args.recordings}"'
    print(heading(f"python -m bench.jitter --stage {args.stage} --{told[args.stage]} --surrogates {args.surrogates}"))
    print(report(rows, ["recording"] if args.stage == "recordings" else ["case", "minutes"]))
    if args.stage == "recordings":
        for name in args.recordings.split(","):
            trains, duration = recorded(name)
            own = sum(row["setting"]["recording"] == name for row in rows)
            print(f"\n{name}: {own} of {len(trains) * (len(trains) - 1)} pairs, {duration / 60:.0f} minutes")
    if args.stage == "null":
        for case in ("modulated", "constant"):
            print(f"\n{case}: {rejected([row for row in rows if row['setting']['case'] == case])}")
        print(f"\nboth: {rejected(rows)}")
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
