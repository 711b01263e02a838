"""Is spike-timing-dependent plasticity found in spike trains, and only where it is? Simulated pairs of neurons.

    python -m bench.inference [--stage windows] [--minutes 60] [--seeds 3] [--bootstrap 0] [--out runs/bench]
    python -m bench.inference --stage windows --figure docs/inference.png

`windows`: three modification functions, by the bilinear model and by the filter. `excitation`: coupling that only
excites. `coverage`: how often the filter's interval holds the truth, by its regression and by the bootstrap. `later`:
a sharp excitatory coupling with small changes, in so many minutes and in four times that, and what there is to find.
`time`: how long fits take (one thread: OMP_NUM_THREADS=1). Models are fitted to the whole recording; held out is the
last third, of models fitted to the first two. `bench.jitter` asks how far the tests can be trusted.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.grid import Row, heading, run, spread, table
from biomamba.plasticity import stdp
from biomamba.plasticity.inference import (
    GBLM,
    GLM,
    WINDOWS,
    Bases,
    Inferred,
    PointProcessFilter,
    alpha,
    difference_of_gaussians,
    paper,
    per_pair,
    simulate,
)
from biomamba.plasticity.inference.likelihood import profiled, static
from biomamba.plasticity.inference.recording import record

DT = (np.arange(-100, 100) + 0.5) / 1000  # s
CASES: dict[str, dict[str, Any]] = {
    **{name: {"window": window} for name, window in WINDOWS.items()},
    "excitation alone": {
        "window": paper(stdp.double_exponential, A_plus=0.012, A_minus=0.018),
        "coupling": (1.0, 0.5, 0.0, 0.0, 0.0),
    },
}
STAGES = {"windows": list(WINDOWS), "excitation": ["excitation alone"]}
# A_plus 0.006, A_minus 0.002, tau_f 20 s, coupling after 4 ms, 1 ms wide: the authors'. The rest is ours: its height
# (of the logarithm of the rate), the sigmas (at 10 and 30 ms the hat's changes cancel), bases fine enough for it, and a
# short history.
SHARP = Bases(history=3, history_span=0.02, coupling=8, coupling_span=0.02, tau_f=20.0)
SMALL = {"A_plus": 0.006, "A_minus": 0.002}
SIGMA = 0.005  # s, of the time between the spikes of a pair
CHANGES = {
    "double exponential": paper(stdp.double_exponential, **SMALL),
    "difference of Gaussians": difference_of_gaussians(0.006, 0.002, 0.01, 0.03),
    "jittered per pair": paper(stdp.jittered, **SMALL, sigma=1000 * SIGMA),
}
LATER: dict[str, dict[str, Any]] = {
    f"{name}, height {height}": {
        "window": window,
        "coupling": alpha(height, 0.004, 0.001),
        "history": (-3.0, -1.0, 0.0),
        "bases": SHARP,
    }
    for height in (2, 3)
    for name, window in CHANGES.items()
} | {f"{name}, as above": CASES[name] for name in ("double exponential", "excitation alone")}
POWER = 0.9
BLUE, RED = "#0072B2", "#D55E00"


def measure(setting: Row) -> Row:
    """Return what the models find in one simulation."""
    duration, case = 60.0 * setting["minutes"], CASES[setting["case"]]
    pre, post, w = simulate(**case, duration=duration, seed=setting["seed"])
    row: Row = {"rate": len(post) / duration, "w_mean": float(w.mean()), "w_spread": float(w.std())}
    row |= {"p": GBLM().test(pre, post, duration, surrogates=setting["surrogates"]).p, **held_out(pre, post, duration)}
    truth = case["window"](DT)
    filtered = PointProcessFilter(bootstrap=setting["bootstrap"])
    for name, model, unit in [
        ("bilinear", GBLM(), 1.0),
        ("filter", filtered, row["w_mean"]),
    ]:
        fit = model.fit(pre, post, duration)
        row[name] = scores(fit, truth / unit, w) | ({} if name == "bilinear" else causal(fit, w))
    t = instants(duration, 600)
    return row | {"curves": {"truth": rounded(truth), "t": rounded(t), "w": rounded(at(w, t))}}


def measure_coverage(setting: Row) -> Row:
    """Return how much of the true dw the filter's intervals hold, and how wide they are."""
    duration, window = 60.0 * setting["minutes"], WINDOWS[setting["case"]]
    pre, post, w = simulate(window, duration=duration, seed=setting["seed"])
    truth = window(DT) / w.mean()
    row: Row = {}
    for name, bootstrap in (("regression", 0), ("bootstrap", setting["bootstrap"])):
        estimate, low, high = PointProcessFilter(bootstrap=bootstrap).fit(pre, post, duration).window(DT)
        row[name] = {
            "covered": float(np.mean((low <= truth) & (truth <= high))),
            "half": float(np.mean(high - low) / 2),
        }
        row["error"] = float(np.sqrt(np.mean((estimate - truth) ** 2)))
    return row


def report_coverage(rows: list[Row]) -> str:
    """Return one line per case, mean +- spread over seeds, and one for all."""
    lines = []
    for case in [*dict.fromkeys(row["setting"]["case"] for row in rows), "all"]:
        own = [row for row in rows if case in ("all", row["setting"]["case"])]
        cells = [
            spread([row[name][key] for row in own])
            for key in ("covered", "half")
            for name in ("regression", "bootstrap")
        ]
        lines.append([case, str(len(own)), *cells, spread([row["error"] for row in own])])
    header = ["modification function", "recordings", "covered, regression", "covered, bootstrap"]
    return table([*header, "half width, regression", "half width, bootstrap", "error (rms)"], lines)


def measure_later(setting: Row) -> Row:
    """Return what is found of a synapse, and what there is to find; or that post ran away."""
    duration, case = 60.0 * setting["minutes"], LATER[setting["case"]]
    window, bases = case["window"], case.get("bases", Bases())
    drawn = window
    if setting["case"].startswith("jittered per pair"):
        drawn = per_pair(CHANGES["double exponential"], SIGMA, setting["seed"])
    try:
        pre, post, w = simulate(**case | {"window": drawn}, duration=duration, seed=setting["seed"])
    except ValueError:
        return {"ran_away": True}
    fit, test = GBLM(bases).fit(pre, post, duration), GBLM(bases).score_test(pre, post, duration)
    t = instants(duration, round(duration))
    estimate = fit.window(DT)[0]
    return {
        "rate": len(post) / duration,
        "w_mean": float(w.mean()),
        "w_spread": float(w.std()),
        "p": test.p,
        "found": test.statistic - test.dof,
        "dw": correlation(estimate, window(DT)) if estimate.any() else 0.0,
        "w": correlation(fit.weight(t), at(w, t)) if estimate.any() else 0.0,
        **told(pre, post, duration, window, bases, float(w.mean())),
    }


def told(pre: Any, post: Any, duration: float, window: Any, bases: Bases, unit: float) -> Row:
    """Return what the spikes tell of w, per pre spike (information), and of dw by the score test's chi-square (gain).

    information: sum of c^2 lambda dt with c = d log lambda / dw; 1 over its square root is how well one pre spike tells
    w. gain: gamma' I gamma, by which the statistic is larger on average than without changes. unit: the mean of w,
    which the static fit takes for 1.
    """
    recording, _ = record(pre, post, duration, bases)
    theta, scored = static(recording)
    x = recording.design.shape[1]
    slope = recording.coupling @ theta[x - recording.c : x]
    expected = recording.exposure * np.exp(recording.design @ theta[:x])
    gamma = np.linalg.lstsq(bases.modification(DT), window(DT) / unit, rcond=None)[0]
    return {
        "information": float(expected @ slope**2) / len(pre),
        "gain": float(gamma @ profiled(scored.gradient, scored.information, x)[1] @ gamma),
    }


def needed(bases: Bases, level: float = 0.05) -> float:
    """Return the gain of chi-square with which the score test finds plasticity with a chance of `POWER`."""
    from scipy.stats import chi2, ncx2

    gains, dof = np.arange(1, 60, 0.1), 2 * bases.window
    return float(gains[np.argmax(ncx2.sf(chi2.isf(level, dof), dof, gains) >= POWER)])


def report_later(rows: list[Row]) -> str:
    """Return one line per case and minutes, mean +- spread over seeds."""
    lines, enough = [], needed(SHARP)
    for kind in dict.fromkeys((row["setting"]["case"], row["setting"]["minutes"]) for row in rows):
        every = [row for row in rows if (row["setting"]["case"], row["setting"]["minutes"]) == kind]
        own = [row for row in every if not row.get("ran_away")]
        ran = f"{len(every) - len(own)} of {len(every)}"
        if not own:
            lines.append([kind[0], str(kind[1]), ran, *[""] * 8])
            continue
        cells = [ran, *(spread([row[key] for row in own], 2) for key in ("w_spread", "information", "dw", "w"))]
        rejected = f"{sum(row['p'] <= 0.05 for row in own)} of {len(own)}"
        found, gain = (float(np.mean([row[key] for row in own])) for key in ("found", "gain"))
        lines.append(
            [kind[0], str(kind[1]), *cells, rejected, f"{found:.1f}", f"{gain:.1f}", f"{enough / gain * kind[1]:,.0f}"]
        )
    header = ["changes", "minutes", "ran away", "spread of w", "information on w per pre spike", "dw", "w", "p <= 0.05"]
    return table([*header, "chi-square - dof", "expected", f"minutes to find it, {POWER:.0%}"], lines)


def seconds(minutes: int) -> str:
    """Return how long each model takes to fit so many minutes, seconds of the processor."""
    pre, post, _ = simulate(WINDOWS["double exponential"], duration=60.0 * minutes, seed=0)
    lines = []
    for model in (GLM(), GBLM(), PointProcessFilter()):
        started = time.process_time()
        model.fit(pre, post, 60.0 * minutes)
        lines.append([type(model).__name__, f"{time.process_time() - started:.1f}"])
    return table(["model", "s"], lines)


def held_out(pre: Any, post: Any, duration: float) -> Row:
    """Return by how many nats the bilinear model makes the last third likelier than the static one."""
    third = (pre, post, duration, duration * 2 / 3)
    static, bilinear = (model.fit(pre, post, third[3]).log_likelihood(*third) for model in (GLM(), GBLM()))
    return {"held_out": bilinear - static}


def scores(fit: Inferred, truth: Any, w: Any) -> Row:
    """Return how near a fit comes to the true dw and w; and its curves."""
    estimate, low, high = fit.window(DT)
    t = instants(fit.duration, round(fit.duration * 10))
    return {
        "dw": correlation(estimate, truth),
        "scale": float(estimate @ truth / (truth @ truth)),
        "covered": float(np.mean((low <= truth) & (truth <= high))),
        "w": correlation(fit.weight(t), at(w, t)),
        "curves": [rounded(curve) for curve in (estimate, low, high, fit.weight(instants(fit.duration, 600)))],
    }


def causal(fit: Any, w: Any) -> Row:
    """Return how near the filter comes to w when it has seen only what was before."""
    t = instants(fit.duration, round(fit.duration * 10))
    return {"w_causal": correlation(fit.filtered(t), at(w, t))}


def instants(duration: float, number: int) -> Any:
    """Return so many times (s), evenly over the recording."""
    return (np.arange(number) + 0.5) * duration / number


def at(w: Any, t: Any) -> Any:
    """Return the true w at times t (s)."""
    return w[(t * 1000).astype(int)]


def correlation(a: Any, b: Any) -> float:
    """Return Pearson's."""
    return float(np.corrcoef(a, b)[0, 1])


def rounded(values: Any) -> list[float]:
    """Return what a figure needs of the values."""
    return [float(f"{value:.4g}") for value in values]


def report(rows: list[Row]) -> str:
    """Return one line per case and model, mean +- spread over seeds."""
    header = ["modification function", "model", "dw", "scale", "covered", "w", "w, causal", "p <= 0.05", "held out"]
    lines = []
    for case in dict.fromkeys(row["setting"]["case"] for row in rows):
        own = [row for row in rows if row["setting"]["case"] == case]
        rejected = f"{sum(row['p'] <= 0.05 for row in own)} of {len(own)}"
        for model in ("bilinear", "filter"):
            cells = [spread([row[model][key] for row in own]) for key in ("dw", "scale", "covered", "w")]
            causally = spread([row[model]["w_causal"] for row in own]) if model == "filter" else ""
            tests = [rejected, spread([row["held_out"] for row in own], 0)] if model == "bilinear" else ["", ""]
            lines.append([case, model, *cells, causally, *tests])
    return table(header, lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw dw and w(t) of each case, its first seed."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["setting"]["seed"] == 0]
    figure = Figure(figsize=(12, 3.4 * len(rows)), layout="constrained")
    for row, axes in zip(rows, figure.subplots(len(rows), 3, squeeze=False), strict=True):
        curves, sides = row["curves"], (DT < 0, DT > 0)
        for ax, (model, color, unit) in zip(
            axes, [("bilinear", BLUE, 1), ("filter", RED, row["w_mean"])], strict=False
        ):
            estimate, low, high, weight = map(np.array, row[model]["curves"])
            for side in sides:  # not across 0, where dw may jump
                label = (f"{model}, 95 % interval", "truth") if side[-1] else (None, None)
                ax.fill_between(DT[side] * 1000, low[side], high[side], color=color, alpha=0.25, linewidth=0)
                ax.plot(DT[side] * 1000, estimate[side], color=color, label=label[0])
                ax.plot(DT[side] * 1000, np.array(curves["truth"])[side] / unit, color="black", ls="--", label=label[1])
            ax.axhline(0, color="gray", linewidth=0.5)
            ax.set(title=row["setting"]["case"], xlabel="t_pre - t_post (ms)")
            ax.set_ylabel("change of w per pair" if model == "bilinear" else "the same, in units of the mean w")
            ax.legend(loc="upper right", fontsize="small", frameon=False)
            axes[2].plot(np.array(curves["t"]) / 60, weight * unit, color=color, label=model)
        axes[2].plot(np.array(curves["t"]) / 60, curves["w"], color="black", ls="--", lw=1, label="truth")
        axes[2].set(title=row["setting"]["case"], xlabel="time (min)", ylabel="w")
        axes[2].margins(y=0.15)
        axes[2].legend(loc="upper center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run the stage, print its table, draw its figure where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=[*STAGES, "coverage", "later", "time"], default="windows")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=0, help="simulations for the filter's interval")
    parser.add_argument("--surrogates", type=int, default=99, help="of the jitter test")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figure", type=Path, help="draw the first seed there")
    args = parser.parse_args()
    command = f"python -m bench.inference --stage {args.stage} --minutes {args.minutes}"
    if args.stage == "time":
        print(heading(command))
        print(seconds(args.minutes))
        return
    if args.stage == "coverage":
        settings = [
            {"case": case, "minutes": args.minutes, "bootstrap": args.bootstrap, "seed": seed}
            for case in WINDOWS
            for seed in range(args.seeds)
        ]
        rows = run(measure_coverage, settings, args.out / "inference-coverage.jsonl", jobs=1)
        print(heading(f"{command} --seeds {args.seeds} --bootstrap {args.bootstrap}"))
        print(report_coverage(rows))
        return
    if args.stage == "later":
        settings = [
            {"case": case, "minutes": args.minutes * k, "seed": seed}
            for case in LATER
            for k in (1, 4)
            for seed in range(args.seeds)
        ]
        rows = run(measure_later, settings, args.out / "inference-later.jsonl", jobs=1)
        print(heading(f"{command} --seeds {args.seeds}"))
        print(report_later(rows))
        return
    settings = [
        {
            "case": case,
            "minutes": args.minutes,
            "bootstrap": args.bootstrap,
            "surrogates": args.surrogates,
            "seed": seed,
        }
        for case in STAGES[args.stage]
        for seed in range(args.seeds)
    ]
    rows = run(measure, settings, args.out / "inference.jsonl", jobs=1)
    print(heading(f"{command} --seeds {args.seeds} --bootstrap {args.bootstrap} --surrogates {args.surrogates}"))
    print(report(rows))
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
