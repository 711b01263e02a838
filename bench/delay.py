"""Does the rule learn to recall? Accuracy on store-recall, one step per update, three seeds. Chance is 0.125.

    python -m bench.delay [--jobs 2] [--out runs/bench] [--stage main|hard|long|wide|far|deep20|deep100] [--first 0]

`main`: delay 20 with one and two blocks. `hard`: four blocks, and delay 100. `long`: delay 100 with 32 streams, width
64 and time constants of 33 to 333 steps to begin with. Settings are those of
configs/delay.yaml but for what the table names; accuracy over the last tenth of the stream.

`wide`, `far`, `deep20`, `deep100`: step sizes that differ between inputs from the start (dt_scale 4, no convolution,
width 32, time constants from a third of the delay to three times it): delay 100 with each part taken away; delay 500;
two and four blocks at delay 20 and 100. A run ends early once a tenth of its stream is right at 0.98: the score is that
of the tenth after it, which decided nothing.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import biomamba
from bench.grid import Row, heading, run, spread, table
from biomamba.rules import RULES
from biomamba.state import nbytes
from biomamba.tasks.delay import Delay

BASE: Row = {"block": "mamba2", "rule": "rtrl", "length": 1, "n_layers": 1, "delay": 20, "steps": 12_000}
SIZES = {"d_model": 96, "d_state": 8, "dt_min": 0.02, "A_max": 2.0}
RATE = 1e-3
BLOCKS = {
    "mamba2": SIZES | {"headdim": 1},
    "mamba": SIZES | {"conv": "direct"},
}
MAIN = (
    [
        {"block": block, "rule": rule, "length": length}
        for block in BLOCKS
        for rule, length in [("rtrl", 1), ("bptt", 1), ("bptt", 64)]
    ]
    + [{"block": block, "n_layers": 2} for block in BLOCKS]
    + [{"block": block, "rule": "bptt", "length": 64, "lr": 1e-2} for block in BLOCKS]
)
HARD = [
    {"n_layers": 4, "steps": 20_000},
    {"delay": 100, "steps": 60_000},
]
PLAIN = {"delay": 100, "steps": 40_000, "streams": 32, "d_model": 64, "timescales": [33, 333]}
LONG = [
    PLAIN | {"rule": rule, "length": length} for rule, length in [("rtrl", 1), ("bptt", 1), ("bptt", 16), ("bptt", 64)]
]
RULES_BESIDE = [("rtrl", 1), ("bptt", 1), ("bptt", 16), ("bptt", 64)]


def selective(delay: int, **setting: Any) -> Row:
    """Return a setting of a narrow model whose step sizes differ between inputs from the start."""
    sizes = {"d_model": 32, "d_state": 4, "d_conv": 1, "dt_scale": 4.0, "timescales": [round(delay / 3), 3 * delay]}
    return {"delay": delay, "lr": 3e-3, "streams": 32, "stop": 0.98} | sizes | setting


def beside(**setting: Any) -> list[Row]:
    """Return a setting under RTRL, without traces, and under truncated backpropagation."""
    return [selective(**setting) | {"rule": rule, "length": length} for rule, length in RULES_BESIDE]


WIDE = [
    selective(100, steps=40_000),
    selective(100, steps=40_000, dt_scale=1.0),
    selective(100, steps=40_000, d_conv=4),
    selective(100, steps=40_000, timescales=None),
]
FAR = beside(delay=500, steps=20_000, streams=256, d_state=1)
DEEP = {
    f"deep{delay}": [row for blocks in (2, 4) for row in beside(delay=delay, n_layers=blocks, **size)]
    for delay, size in ((20, {"steps": 12_000, "streams": 8}), (100, {"steps": 40_000}))
}
STAGES = {"main": MAIN, "hard": HARD, "long": LONG, "wide": WIDE, "far": FAR, **DEEP}
OPTIONS = ("d_model", "d_state", "d_conv", "dt_scale", "timescales")  # of the model, where a setting names them


def measure(setting: Row) -> Row:
    """Return accuracy over the last tenth, and tenth by tenth, after learning one stream."""
    task, steps, length = Delay(delay=setting["delay"]), setting["steps"], setting["length"]
    torch.manual_seed(setting["seed"])
    options: Row = BLOCKS[setting["block"]] | {name: setting[name] for name in OPTIONS if name in setting}
    if options.get("timescales"):
        options = {name: value for name, value in options.items() if name not in ("dt_min", "A_max")}
    model = biomamba.Model(vocab=21, d_out=8, n_layers=setting["n_layers"], block=setting["block"], **options)
    rule = RULES[setting["rule"]](model.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.get("lr", RATE), fused=True)
    stream = task.stream("all", batch=setting.get("streams", 8), length=length, seed=setting["seed"])
    tenths = [task.meters()["accuracy"] for _ in range(10)]
    end, started = steps, time.process_time()
    learner = biomamba.Learner(task, model, rule, optimizer)
    for report in biomamba.online(stream, learner):
        tenth = (report.state.steps - length) * 10 // steps
        tenths[tenth].update(report.out, report.chunk)
        if report.state.steps >= end:
            break
        if (report.state.steps * 10 // steps) > tenth and tenths[tenth].get() >= setting.get("stop", 2):
            end = min(end, (tenth + 2) * steps // 10)
    return {
        "accuracy": tenths[(end - 1) * 10 // steps].get(),
        "tenths": [meter.get() for meter in tenths],
        "steps": report.state.steps,
        "updates": report.state.updates,
        "trace_bytes": nbytes(report.state.trace),
        "seconds": time.process_time() - started,
    }


def told(setting: Row) -> str:
    """Return the options of the model that a setting names."""
    return ", ".join(f"{name} {setting[name]}" for name in OPTIONS if name in setting) or "-"


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="main")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed (far: 0, 1 and 10 were tuned on)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    rows = [BASE | row for row in STAGES[arguments.stage]]
    settings = [
        row | {"seed": seed} for row in rows for seed in range(arguments.first, arguments.first + arguments.seeds)
    ]
    measured = run(measure, settings, arguments.out / "delay.jsonl", arguments.jobs)
    lines = []
    for i in range(0, len(measured), arguments.seeds):
        of_row, s = measured[i : i + arguments.seeds], measured[i]["setting"]
        taken = sorted({r.get("steps", s["steps"]) for r in of_row})
        lines.append(
            [s["block"], str(s["n_layers"]), s["rule"], str(s["length"]), str(s["delay"]), f"{s.get('lr', RATE):g}",
             " to ".join(f"{steps:,}" for steps in [taken[0], *taken[1:][-1:]]), told(s),
             spread([r["accuracy"] for r in of_row]), ", ".join(f"{r['accuracy']:.3f}" for r in of_row),
             f"{of_row[0]['updates']:,}", f"{of_row[0]['trace_bytes'] / 1e6:.2f}",
             spread([r["seconds"] for r in of_row], 0)]
        )  # fmt: skip
    head = ["block", "blocks", "rule", "length", "delay", "lr", "steps", "model", "accuracy", "by seed", "updates"]
    print(
        heading(f"python -m bench.delay --stage {arguments.stage} --seeds {arguments.seeds} --first {arguments.first}")
    )
    print(table([*head, "trace MB", "CPU seconds"], lines))


if __name__ == "__main__":
    main()
