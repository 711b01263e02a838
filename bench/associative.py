"""Associative learning by STDP: the Perceptron's capacity, Tempotron and Chronotron with two teachers, a stream.

    python -m bench.associative [--stage synchronous,tempotron,chronotron,stream] [--jobs 1]
        [--file runs/associative.jsonl] [--figure docs/associative.png]

`synchronous`: all inputs of a pattern spike at once; the share of draws that the neuron and a perceptron of the same
threshold and margin learn without an error, beside that of the draws which any weights could (a linear programme).
`tempotron`: each input spikes once in 100 ms, half of the patterns should make the neuron fire. `chronotron`: 200 ms,
and all spikes have to come within 30 ms after the teacher's, whose time is another for each pattern; "finite precision"
is a rule that is told its errors (Memmesheimer et al. 2014), for the same neuron. `stream`: patterns come one after
another, never in epochs. Scores are at the end of training, recall is without a teacher. Finished rows stay in the
file. Constants and sizes are below.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from bench import capacity, grid
from bench.capacity import ERRS, EVERY, PERCEPTRON, PRECISE
from bench.grid import Row, heading, markdown, spread
from biomamba.plasticity.latency import Latency

GRADIENT = "gradient"
SIZES, DRAWS = (100, 200, 500), 10
TEMPOTRON: dict[str, tuple[float, dict[str, float]]] = {  # first rate, constants
    EVERY: (
        0.056,
        {"tau_u": 17, "tau_s": 6.4, "tau_x": 53, "tau_y": 16, "tau_nu": 100, "nu_reset": -33, "subthreshold": 0.91}
        | {"gamma": 11},
    ),
    ERRS: (
        0.022,
        {"tau_u": 43, "tau_s": 15.6, "tau_x": 466, "tau_y": 10.8, "tau_nu": 149, "nu_reset": -6.6}
        | {"subthreshold": 0.995, "gamma": 2.9},
    ),
}
CHRONOTRON: dict[str, tuple[float, dict[str, float]]] = {
    EVERY: (
        0.068,
        {"tau_u": 5.9, "tau_s": 3.3, "tau_x": 15, "tau_y": 36.7, "tau_nu": 26.4, "nu_reset": -8.4, "reset": -0.1}
        | {"subthreshold": 0.954, "gamma": 8.0},
    ),
    ERRS: (
        0.0037,
        {"tau_u": 28.0, "tau_s": 3.2, "tau_x": 33.0, "tau_y": 20.0, "tau_nu": 150.0, "nu_reset": -4.5}
        | {"subthreshold": 0.997, "gamma": 3.3},
    ),
}
CHRONOTRON[PRECISE] = 0.01, CHRONOTRON[ERRS][1]
TARGETS = (50, 160)  # the Chronotron's teacher spikes from and before, ms: at a time of each pattern's own
ONE = (60, 61)  # the same time for all
SHOWS = 10  # of each pattern of a stream, in a row
COLOURS = {EVERY: "#0072B2", ERRS: "#D55E00", GRADIENT: "#009E73", PRECISE: "#009E73", PERCEPTRON: "black"}
LINES = {100: "-", 200: "--", 500: ":"}


def settings(stage: str) -> list[Row]:
    """Return what a stage measures."""
    own = {"stage": stage, "draws": DRAWS, "seed": 0}
    if stage == "synchronous":
        sizes = [(n, load) for n in (100, 500) for load in (0.5, 1.0, 1.5, 1.75, 1.9, 2.0, 2.2)]
        epochs = {size: 500 if size >= (500, 2.0) else 3000 for size in sizes}
        return [own | {"inputs": n, "load": load, "epochs": epochs[n, load]} for n, load in sizes]
    if stage == "stream":
        rates = {EVERY: 0.05, ERRS: 0.03, PERCEPTRON: 0.02}
        return [own | {"teacher": who, "rate": rate, "inputs": 100, "draws": 20} for who, rate in rates.items()]
    more: Row = {"epochs": 1000} if stage == "tempotron" else {"epochs": 400, "at": TARGETS}
    loads, last = ((0.5, 1.0, 1.5), GRADIENT) if stage == "tempotron" else ((0.1, 0.25, 0.5, 0.75), PRECISE)
    kinds = [(teacher, n, load, more) for teacher in (EVERY, ERRS, last) for n in SIZES for load in loads]
    if stage == "chronotron":
        kinds += [(ERRS, n, 0.5, more | {"at": ONE}) for n in SIZES]
    return [own | {"teacher": teacher, "inputs": n, "load": load} | more for teacher, n, load, more in kinds]


def measure(setting: Row) -> Row:
    """Return what one setting gives."""
    if setting["stage"] == "synchronous":
        return capacity.synchronous(setting)
    if setting["teacher"] == GRADIENT:
        return capacity.by_gradient(setting, 100, {"tau_u": 10.0, "tau_s": 2.5})
    timed = setting["stage"] == "chronotron"
    rate, constants = (CHRONOTRON if timed else TEMPOTRON)[
        setting["teacher"] if setting["teacher"] != PERCEPTRON else EVERY
    ]
    neuron = Latency(200 if timed else 100, **constants)
    if setting["stage"] == "stream":
        return capacity.stream(setting, neuron, SHOWS)
    return capacity.spread_out(setting, neuron, rate, setting.get("at"))


def described(row: Row) -> Row:
    """Return a row of a stage's table: mean and deviation over the draws."""
    setting = row["setting"]
    line = {name: setting[name] for name in ("teacher", "inputs", "load", "draws") if name in setting}
    if setting["stage"] == "stream":
        n = setting["inputs"]
        line = {"learner": setting["teacher"], "inputs": n, "draws": setting["draws"]}
        ages = {"the last": (0, 1), "1 to 10 before": (1, 11), "to 25": (11, 26), "to 50": (26, 51)}
        ages |= {"to 100": (51, 101), "to 200": (101, 201), "to 300": (201, 300)}
        return line | {
            name: f"{sum(row['recall'][slice(*ends)]) / (ends[1] - ends[0]):.3f}" for name, ends in ages.items()
        }
    if setting["stage"] == "synchronous":
        found = {who: [epochs for epochs in row[who] if epochs >= 0] for who in ("neuron", "perceptron")}
        return line | {
            "separable": sum(row["separable"]),
            **{f"{who} learns": len(epochs) for who, epochs in found.items()},
            "epochs (median)": int(torch.tensor(found["neuron"]).median()) if found["neuron"] else "-",
            "weights apart": f"{row['apart']:.0e}",
        }
    line |= {
        "recalled": spread(row["learned"]),
        "draws with all": sum(share == 1 for share in row["learned"]),
        "epochs (median)": int(torch.tensor(row["epochs used"]).median()),
        "never learned": spread(row["never learned"]) if row["never learned"] else "-",
    }
    if setting["stage"] == "chronotron":
        line["teacher at, ms"] = "60" if tuple(setting["at"]) == ONE else "50 to 160"
        line["ms after the teacher"] = f"{sum(row['apart']) / max(1, len(row['apart'])):.1f}"
    return line


def draw(rows: list[Row], file: Path) -> None:
    """Draw all stages that there are rows of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = dict(zip(("synchronous", "tempotron", "chronotron", "stream"), figure.subplots(2, 2).flat, strict=True))
    for stage, ax in axes.items():
        draw_stage(ax, stage, [row for row in rows if row["setting"]["stage"] == stage])
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(ylim=(0, 1.04))
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=100)


def draw_stage(ax: Any, stage: str, rows: list[Row]) -> None:
    """Draw one stage."""
    if stage == "stream":
        for row in rows:
            smooth = torch.tensor(row["recall"]).view(-1, 5).mean(1)
            ages = range(2, len(row["recall"]), 5)
            ax.plot(ages, smooth, color=COLOURS[row["setting"]["teacher"]], label=row["setting"]["teacher"])
        return ax.set(title="A stream, N 100", xlabel="patterns learned since", ylabel="share recalled")
    curves = {(row["setting"].get("teacher"), row["setting"]["inputs"]): [] for row in rows}
    for row in rows:
        if tuple(row["setting"].get("at", TARGETS)) != ONE:
            curves[row["setting"].get("teacher"), row["setting"]["inputs"]].append(row)
    for (teacher, n), own in curves.items():
        loads, style = [row["setting"]["load"] for row in own], LINES[n]
        if stage == "synchronous":
            for who, mark, colour in (
                ("separable", "", "#77808a"),
                ("perceptron", "x", "black"),
                ("neuron", "o", "C0"),
            ):
                shares = [
                    sum(k >= 1 if who == "separable" else k >= 0 for k in row[who]) / len(row[who]) for row in own
                ]
                ax.plot(
                    loads, shares, style, marker=mark, mfc="none", color=colour, label=who if n == SIZES[0] else None
                )
            continue
        shares = [sum(row["learned"]) / len(row["learned"]) for row in own]
        ax.plot(loads, shares, style, marker=".", color=COLOURS[teacher], label=teacher if n == SIZES[0] else None)
        if stage == "chronotron":
            shares = [sum(row["never learned"]) / len(row["never learned"]) for row in own]
            ax.plot(
                loads,
                shares,
                style,
                color="#77808a",
                label="never learned" if (teacher, n) == (ERRS, SIZES[0]) else None,
            )
    what = "share of draws without an error" if stage == "synchronous" else "share of patterns recalled"
    title = f"{stage.capitalize()}: N 100 solid, {'' if stage == 'synchronous' else '200 dashed, '}500 dotted"
    return ax.set(title=title, xlabel="load P / N", ylabel=what)


def main() -> None:
    """Measure what the file lacks, print a table for each stage and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="synchronous,tempotron,chronotron,stream")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/associative.jsonl"))
    parser.add_argument("--figure", type=Path, help="draw the stages there")
    args = parser.parse_args()
    print(heading("python -m bench.associative " + " ".join(sys.argv[1:])))
    rows = []
    for stage in args.stage.split(","):
        rows += (own := grid.run(measure, settings(stage), args.file, args.jobs))
        print(f"\n{stage}\n\n{markdown([described(row) for row in own])}", flush=True)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
