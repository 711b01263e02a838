"""The learning curve of the README: `python docs/pictures.py` writes docs/delay.svg (extra `plot`; some minutes).

Store-recall with a wait of 5 to 10 steps, one step per update, three seeds: the same model, stream and optimiser, once
with traces (rtrl) and once without (bptt, which at this length is the immediate gradient).
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

import biomamba
from biomamba.tasks.delay import Delay

STEPS, EVERY, SEEDS = 6000, 200, (0, 1, 2)
RULES = {"rtrl": (biomamba.rules.RTRL, "tab:blue"), "bptt": (biomamba.rules.BPTT, "tab:orange")}


def curve(name: str, seed: int) -> list[float]:
    """Return the accuracy of the recalls in each `EVERY` steps, every one scored before it was learned from."""
    torch.manual_seed(seed)
    task = Delay(delay=10)
    sizes = {"d_model": 64, "block": "mamba2", "d_state": 8, "headdim": 1, "dt_min": 0.02, "A_max": 2}
    model = biomamba.Model(vocab=task.spec.vocab, d_out=task.spec.d_out, **sizes)
    rule = RULES[name][0](model.blocks)
    learner = biomamba.Learner(task, model, rule, torch.optim.Adam(model.parameters(), lr=3e-3), threads=1)
    right, recalls, points = 0, 0, []
    for report in biomamba.online(task.stream("all", batch=8, length=1, seed=seed), learner):
        chunk = report.chunk
        right += int((report.out.argmax(-1) == chunk.y)[chunk.mask].sum())
        recalls += int(chunk.mask.sum())
        if report.state.steps % EVERY == 0:
            points.append(right / recalls)
            right = recalls = 0
        if report.state.steps == STEPS:
            break
    return points


def main() -> None:
    """Run, print the last points, draw."""
    mpl.rcParams["svg.hashsalt"] = "biomamba"  # the same file from the same numbers
    figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    steps = range(EVERY, STEPS + 1, EVERY)
    for name, (_, color) in RULES.items():
        for seed in SEEDS:
            points = curve(name, seed)
            axes.plot(steps, points, color=color, label=name if seed == SEEDS[0] else None)
            print(f"{name}, seed {seed}: {points[-1]:.3f} of the recalls in the last {EVERY} steps")
    axes.axhline(1 / 8, color="gray", linestyle=":", label="chance")
    axes.set(
        xlabel="time steps of each of 8 streams, one update per step", ylabel="recalls that are right", ylim=(0, 1.02)
    )
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(Path(__file__).with_name("delay.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
