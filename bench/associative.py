"""What share of random patterns a spiking neuron learns by STDP, by load: Tempotron and Chronotron beside a gradient.

    python -m bench.associative [--inputs 100,200,500] [--loads 0.1,0.25,0.5,1,2,3] [--epochs 1000] [--neurons 4]
        [--jobs 1] [--file runs/associative.jsonl] [--figure docs/associative.png] [--plot]

Each of N inputs spikes once in a trial of 100 ms, at a fixed random time; P = load N patterns. Tempotron: half of the
patterns, at random, should make the neuron fire, taught by a spike at time 0. Chronotron: a spike within 30 ms of the
teacher's at 50 ms and none elsewhere, from every pattern. Gradient: the Tempotron's own rule on the same patterns.
Recall is without a teacher. All trials of an epoch meet the same weights. The control ("others") is how many of 200
patterns never learned a neuron answers as if it should fire. --plot draws the rows of the file.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import grid
from bench.grid import Row, heading, key, markdown, spread
from biomamba.plasticity import associative, tempotron

T, DT, TAU_U, TAU_S, TAU_X, TAU_Y = 100, 1.0, 10.0, 2.5, 20.0, 14.0  # steps; ms
HYPER = {"tau_u": TAU_U, "subthreshold": 0.95, "tau_nu": 35.0, "nu_reset": -4.0}
GAMMA, RATES = 1.4, {"tempotron": 0.15, "chronotron": 0.05, "gradient": 0.05}  # of the mean over patterns, at first
MIDDLE, NEAR, EVERY = 50, 30, 10  # the Chronotron's teacher and window, ms; epochs between two recalls
COLOURS = {"tempotron": "#0072B2", "chronotron": "#D55E00", "gradient": "#009E73"}
LINES = {100: "-", 200: "--", 500: ":"}


def main() -> None:
    """Measure what the file lacks, print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", default="100,200,500")
    parser.add_argument("--loads", default="0.1,0.25,0.5,1,2,3")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--neurons", type=int, default=4, help="with labels of their own, on the same patterns")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/associative.jsonl"))
    parser.add_argument("--figure", type=Path, help="draw the shares there")
    parser.add_argument("--plot", action="store_true", help="measure nothing, take all rows of the file")
    args = parser.parse_args()
    if args.plot:
        rows = sorted(map(json.loads, args.file.read_text().splitlines()), key=lambda row: key(row["setting"]))
    else:
        sizes, loads = args.inputs.split(","), args.loads.split(",")
        own = {"epochs": args.epochs, "neurons": args.neurons, "seed": 0}
        settings = [
            {"rule": r, "inputs": int(n), "load": float(p), **own} for r in COLOURS for n in sizes for p in loads
        ]
        rows = grid.run(measure, settings, args.file, args.jobs)
    print(heading("python -m bench.associative " + " ".join(sys.argv[1:])))
    print(markdown([described(row) for row in rows]))
    if args.figure:
        draw(rows, args.figure)


def described(row: Row) -> Row:
    """Return a row of the table: mean and deviation over neurons."""
    setting = row["setting"]
    near = torch.tensor(row["apart"], dtype=torch.float64)
    return {
        **{name: setting[name] for name in ("rule", "inputs", "load", "epochs", "neurons")},
        "learned": spread(row["learned"]),
        "at the end": spread(row["at the end"]) if "at the end" in row else "-",
        "neurons with all": sum(share == 1 for share in row["learned"]),
        "others": spread(row["others"]) if row["others"] else "-",
        "ms from the teacher": f"{near.abs().mean():.1f}" if len(near) else "-",
    }


def measure(setting: Row) -> Row:
    """Return the largest share of patterns each neuron recalled in training, and what it makes of others then."""
    torch.manual_seed(setting["seed"])
    n, rule, epochs = setting["inputs"], setting["rule"], setting["epochs"]
    patterns = max(1, round(setting["load"] * n))
    inputs, others = random_inputs(patterns, n), random_inputs(200, n)
    labels, w = torch.rand(patterns, setting["neurons"]) < 0.5, torch.randn(setting["neurons"], n) / n**0.5
    if rule == "gradient":
        return {"learned": by_gradient(w, inputs, labels, epochs), "apart": [], "others": []}
    if rule == "chronotron":
        labels[:] = True
    return by_stdp(w, inputs, others, labels, MIDDLE if rule == "chronotron" else 0, epochs, RATES[rule])


def random_inputs(patterns: int, n: int) -> associative.Inputs:
    """Return patterns in which each of n inputs spikes once, at any step but the first."""
    sent = torch.zeros(patterns, T, n).scatter_(1, torch.randint(1, T, (patterns, 1, n)), 1.0)
    return associative.encode(sent, tau_u=TAU_U, tau_s=TAU_S, tau_x=TAU_X, dt=DT)


def by_stdp(
    w: Tensor,
    inputs: associative.Inputs,
    others: associative.Inputs,
    labels: Tensor,
    at: int,
    epochs: int,
    rate: float,
) -> Row:
    """Return what neurons with a teacher at step `at` of the trials to fire in learn; at 0 any spike will do.

    The rate falls to 0 in a straight line: the rule goes on changing weights where all is right.
    """
    teacher = torch.zeros(*inputs.spikes.shape[:2], labels.shape[1], dtype=torch.bool)
    teacher[:, at] = labels
    best, top, kept, apart = torch.zeros(labels.shape[1]), -1.0, w, labels.new_zeros(0)
    for epoch in range(epochs + 1):
        if epoch % EVERY == 0:
            spikes = associative.present(w, inputs, **HYPER).spikes
            right = (on_time(spikes, at) if at else spikes.any(1) == labels).float().mean(0)
            best = torch.maximum(best, right)
            if float(right.mean()) > top:
                top, kept, apart = float(right.mean()), w, spikes.nonzero()[:, 1] - at
        trial = associative.present(w, inputs, teacher, **HYPER)
        change = associative.change(inputs, trial, gamma=GAMMA, tau_y=TAU_Y)
        w = w + rate * (1 - epoch / epochs) / len(labels) * change
    new = associative.present(kept, others, **HYPER).spikes
    return {
        "learned": best.tolist(),
        "at the end": right.tolist(),
        "apart": apart[apart.abs() <= NEAR].tolist() if at else [],
        "others": (on_time(new, at) if at else new.any(1)).float().mean(0).tolist(),
    }


def on_time(spikes: Tensor, at: int) -> Tensor:
    """Return the trials (b, i) that have a spike within NEAR of the teacher's, and none elsewhere."""
    window = slice(at - NEAR, at + NEAR + 1)
    return spikes[:, window].any(1) & (spikes.sum(1) == spikes[:, window].sum(1))


def by_gradient(w: Tensor, inputs: associative.Inputs, labels: Tensor, epochs: int) -> list[float]:
    """Return the largest share of patterns that each neuron tells apart, with a momentum of 0.9."""
    u = associative.membrane(inputs.current, tau=TAU_U, dt=DT)
    best, moved = torch.zeros(len(w)), torch.zeros_like(w)
    for epoch in range(epochs + 1):
        if epoch % EVERY == 0:
            best = torch.maximum(best, (tempotron.fires(w, u) == labels).float().mean(0))
        moved = 0.9 * moved + RATES["gradient"] / len(labels) * tempotron.change(w, u, labels)
        w = w + moved
    return best.tolist()


def draw(rows: list[Row], file: Path) -> None:
    """Draw the share of patterns learned against the load, and when the Chronotron's recall spikes come."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.2), layout="constrained")
    shares, times = figure.subplots(1, 2, width_ratios=[3, 2])
    for rule, colour in COLOURS.items():
        for n in sorted({row["setting"]["inputs"] for row in rows if row["setting"]["rule"] == rule}):
            own = sorted(
                (row for row in rows if (row["setting"]["rule"], row["setting"]["inputs"]) == (rule, n)),
                key=lambda row: row["setting"]["load"],
            )
            loads, label = [row["setting"]["load"] for row in own], f"{rule}, N {n}"
            shares.plot(loads, means(own, "learned"), LINES.get(n, "-."), marker=".", color=colour, label=label)
            if rule == "chronotron":
                label = f"{label}, patterns never learned"
                shares.plot(loads, means(own, "others"), LINES.get(n, "-."), marker="x", color="#77808a", label=label)
    shares.axvline(2, color="#77808a", linewidth=0.8, label="limit of the Perceptron")
    shares.set(xlabel="load P / N (patterns per input)", ylabel="share of patterns recalled", ylim=(0, 1.03))
    shares.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    histogram(times, [row for row in rows if row["apart"]])
    for axes in (shares, times):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def means(rows: list[Row], name: str) -> list[float]:
    """Return the mean over the neurons of each row."""
    return [sum(row[name]) / len(row[name]) for row in rows]


def histogram(axes: Any, rows: list[Row]) -> None:
    """Draw recall spikes from the teacher, for the lowest load of every number of inputs."""
    for n in sorted({row["setting"]["inputs"] for row in rows}):
        row = min((row for row in rows if row["setting"]["inputs"] == n), key=lambda row: row["setting"]["load"])
        label = f"N {n}, load {row['setting']['load']:g}"
        bins = range(-NEAR, NEAR + 2, 2)
        axes.hist(
            row["apart"],
            bins=bins,
            density=True,
            histtype="step",
            linestyle=LINES.get(n, "-."),
            color=COLOURS["chronotron"],
            label=label,
        )
    axes.set(xlabel="recall spike - teacher's (ms)", ylabel="density (1 / ms)", title="Chronotron")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
