"""Which rule, on which stream? The weight of the non-causal half of STDP, and every rule beside the others.

    BIOMAMBA_DATA=... python -m bench.rules [--stage ablation|confirm|field] [--jobs 2] [--out runs/bench]

`ablation` settles the defaults of rtrl_stdp: a_post by lam, on a stream with a long dependence (delay), a text
(language) and spoken digits (fsdd), three seeds each; it also draws docs/ablation.png. `confirm` sets the pairs
that won there against rtrl on eight seeds that the ablation has not seen. `field` asks what credit through time is
worth: the immediate gradient with Adam against traces against truncated backpropagation, each with the best of three
learning rates. Settings are those of the configs but for what `TASKS` names, small enough that nothing is
saturated. Scores are prequential: every prediction made before it was learned from, over the whole stream.
"""

import argparse
import time
from pathlib import Path
from statistics import fmean, stdev

from bench.grid import Row, config_of, heading, run, spread, table
from biomamba.experiment import log
from biomamba.experiment.build import Experiment

SEEDS = 3
# by task: the config, what differs from it, and the score with +1 where more is better
TASKS: dict[str, tuple[str, Row, str, int]] = {
    "delay": (
        "delay",
        {"task.delay": 10, "stream.steps": 6000, "model.d_model": 64, "stream.length": 1},
        "accuracy",
        1,
    ),
    "fsdd": ("fsdd", {"task.passes": 1, "stream.length": 4}, "accuracy", 1),
    "language": (
        "language",
        {
            "task.corpus": "tinyshakespeare", "task.max_bytes": 300_000, "model.n_layers": 1, "model.d_model": 32,
            "stream.batch": 16, "stream.length": 4,
        },
        "bits_per_byte",
        -1,
    ),
}  # fmt: skip
A_POST = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
LAM = (0.2, 0.5, 0.9)
FIELD: dict[str, Row] = {
    "immediate": {"rule.name": "bptt", "stream.length": 1},
    "rtrl, 1": {"rule.name": "rtrl", "stream.length": 1},
    "rtrl, 16": {"rule.name": "rtrl", "stream.length": 16},
    "TBPTT(4)": {"rule.name": "bptt", "stream.length": 4},
    "TBPTT(16)": {"rule.name": "bptt", "stream.length": 16},
    "TBPTT(64)": {"rule.name": "bptt", "stream.length": 64},
}
CANDIDATES = ((0.5, 0.9), (1.0, 0.5))  # a_post and lam: the best of the ablation on delay and on fsdd
FRESH = range(SEEDS, SEEDS + 8)
RATES = (0.001, 0.003, 0.01)


def of_task(name: str, **options: object) -> Row:
    """Return the setting of a task with further keys of its config, `__` standing for the point."""
    file, differs, _, _ = TASKS[name]
    return {"task": name, "config": file, **differs, **{key.replace("__", "."): v for key, v in options.items()}}


def ablation(name: str) -> list[Row]:
    """Return the settings of the ablation, a seed each; without the non-causal half lam has nothing to decay."""
    pairs = [(a_post, lam) for a_post in A_POST for lam in LAM if a_post or lam == LAM[0]]
    return [stdp(name, a_post, lam, seed) for a_post, lam in pairs for seed in range(SEEDS)]


def stdp(name: str, a_post: float, lam: float, seed: int) -> Row:
    """Return the setting of one run of rtrl_stdp."""
    return of_task(name, rule__name="rtrl_stdp", rule__a_post=a_post, rule__lam=lam) | {"seed": seed}


def field(name: str, label: str, rate: float) -> list[Row]:
    """Return the settings of one row of the field's question, a seed each."""
    return [of_task(name) | FIELD[label] | {"optim.lr": rate, "seed": seed} for seed in range(SEEDS)]


def measure(setting: Row) -> Row:
    """Learn a stream once; return the scores over all of it and over its last tenth."""
    parsed = config_of(setting["config"], setting)
    own, began = Experiment.from_config(parsed), time.perf_counter()
    scored = log.score(own.online(own.stream()), own.task, own.total, setting["task"])
    return {"scores": scored.scores, "seconds": time.perf_counter() - began, "source": own.task.source}


def whole(rows: list[Row]) -> list[float]:
    """Return the task's score over the whole stream, of every seed."""
    name = TASKS[rows[0]["setting"]["task"]][2]
    return [row["scores"][name]["all"] for row in rows]


def by_seeds(rows: list[Row]) -> list[list[Row]]:
    """Return the rows of each setting together."""
    return [rows[i : i + SEEDS] for i in range(0, len(rows), SEEDS)]


def show_ablation(file: Path, jobs: int, picture: Path) -> None:
    """Measure, print a table for each task, and draw them side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, (_, _, score, better)) in zip(figure.subplots(1, len(TASKS)), TASKS.items(), strict=True):
        groups = by_seeds(run(measure, ablation(name), file, jobs))
        key = [(g[0]["setting"]["rule.a_post"], g[0]["setting"]["rule.lam"]) for g in groups]
        found = dict(zip(key, map(whole, groups), strict=True))
        found |= {(0.0, lam): found[0.0, LAM[0]] for lam in LAM}
        best = max(found, key=lambda pair: better * fmean(found[pair]))
        print(
            f"{name}: {score} over the whole stream, {groups[0][0]['source']}; best: a_post {best[0]}, lam {best[1]}\n"
        )
        body = [[f"{a:g}", *(spread(found[a, lam]) for lam in LAM)] for a in A_POST]
        print(table(["a_post", *(f"lam {lam}" for lam in LAM)], body), end="\n\n", flush=True)
        for lam in LAM:
            means = [fmean(found[a, lam]) for a in A_POST]
            errors = [(max(found[a, lam]) - min(found[a, lam])) / 2 for a in A_POST]
            axes.errorbar(A_POST, means, errors, marker="o", markersize=3, capsize=2, label=f"lam {lam}")
        axes.axhline(fmean(found[0.0, LAM[0]]), color="gray", linewidth=0.8, linestyle="--", label="rtrl")
        axes.set(xlabel="a_post", ylabel=score.replace("_", " "), title=name)
    axes.legend(fontsize="small")
    figure.savefig(picture, dpi=120)


def show_confirm(file: Path, jobs: int) -> None:
    """Measure, and print the candidates beside rtrl where they won, and the difference seed by seed."""
    body = []
    for name in ("delay", "fsdd"):
        _, _, score, better = TASKS[name]
        pairs = ((0.0, LAM[0]), *CANDIDATES)
        rtrl, *others = (whole(run(measure, [stdp(name, *p, seed) for seed in FRESH], file, jobs)) for p in pairs)
        body.append([name, score, "0", "", spread(rtrl), "", ""])
        for (a_post, lam), own in zip(CANDIDATES, others, strict=True):
            gains = [better * (b - a) for a, b in zip(rtrl, own, strict=True)]
            error = stdev(gains) / len(gains) ** 0.5
            gained = f"{fmean(gains):+.4f}, standard error {error:.4f}"
            better_in = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            body.append([name, score, f"{a_post:g}", f"{lam:g}", spread(own), gained, better_in])
    head = ["stream", "score", "a_post", "lam", "whole stream", "gain over rtrl, seed by seed", "seeds that gain"]
    print(table(head, body))


def show_field(file: Path, jobs: int) -> None:
    """Measure, and print for each task every row at the best of the rates."""
    for name, (_, _, score, better) in TASKS.items():
        body = []
        for label in FIELD:
            asked = [setting for rate in RATES for setting in field(name, label, rate)]
            best = max(by_seeds(run(measure, asked, file, jobs)), key=lambda rows: better * fmean(whole(rows)))
            last = [row["scores"][score]["last_tenth"] for row in best]
            seconds = spread([row["seconds"] for row in best], 0)
            body.append([label, f"{best[0]['setting']['optim.lr']:g}", spread(whole(best)), spread(last), seconds])
        print(f"{name}: {score}, {best[0]['source']}\n")
        print(
            table(["rule, length", "best rate", "whole stream", "last tenth", "seconds"], body), end="\n\n", flush=True
        )


def main() -> None:
    """Run the stage and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["ablation", "confirm", "field"], default="ablation")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    print(heading(f"python -m bench.rules --stage {arguments.stage}"))
    if arguments.stage == "ablation":
        show_ablation(arguments.out / "rules.jsonl", arguments.jobs, Path("docs/ablation.png"))
    elif arguments.stage == "confirm":
        show_confirm(arguments.out / "rules.jsonl", arguments.jobs)
    else:
        show_field(arguments.out / "rules.jsonl", arguments.jobs)


if __name__ == "__main__":
    main()
