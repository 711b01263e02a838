"""Does the rule learn to recall? Accuracy on store-recall, one step per update, three seeds. Chance is 0.125.

    python -m bench.delay [--jobs 2] [--out runs/bench] [--stage main|hard|long]

`main`: delay 20 with one and two blocks. `hard`: four blocks, and delay 100. `long`: delay 100 with 32 streams, width
64 and time constants of 33 to 333 steps to begin with, each update as one graph. Settings are those of
configs/delay.yaml but for what the table names; accuracy over the last tenth of the stream.
"""

import argparse
import time
from pathlib import Path

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
WIDE = {"delay": 100, "steps": 40_000, "streams": 32, "d_model": 64, "timescales": [33, 333], "compile": True}
LONG = [
    WIDE | {"rule": rule, "length": length} for rule, length in [("rtrl", 1), ("bptt", 1), ("bptt", 16), ("bptt", 64)]
]
STAGES = {"main": MAIN, "hard": HARD, "long": LONG}


def measure(setting: Row) -> Row:
    """Return accuracy over the last tenth, and tenth by tenth, after learning one stream."""
    task, steps = Delay(delay=setting["delay"]), setting["steps"]
    torch.manual_seed(setting["seed"])
    options: Row = BLOCKS[setting["block"]] | {
        name: setting[name] for name in ("d_model", "timescales") if name in setting
    }
    model = biomamba.Model(vocab=21, d_out=8, n_layers=setting["n_layers"], block=setting["block"], **options)
    rule = RULES[setting["rule"]](model.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.get("lr", RATE), fused=True)
    stream = task.stream("all", batch=setting.get("streams", 8), length=setting["length"], seed=setting["seed"])
    tenths = [task.meters()["accuracy"] for _ in range(10)]
    started = time.perf_counter()
    learner = biomamba.Learner(task, model, rule, optimizer, compile=setting.get("compile", False))
    for report in biomamba.online(stream, learner):
        at = report.state.steps - report.chunk.x.shape[1]
        tenths[at * 10 // steps].update(report.out, report.chunk)
        if report.state.steps >= steps:
            break
    return {
        "accuracy": tenths[-1].get(),
        "tenths": [meter.get() for meter in tenths],
        "updates": report.state.updates,
        "trace_bytes": nbytes(report.state.trace),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="main")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    rows = [BASE | row for row in STAGES[arguments.stage]]
    settings = [row | {"seed": seed} for row in rows for seed in range(arguments.seeds)]
    measured = run(measure, settings, arguments.out / "delay.jsonl", arguments.jobs)
    lines = []
    for i in range(0, len(measured), arguments.seeds):
        of_row, s = measured[i : i + arguments.seeds], measured[i]["setting"]
        lines.append(
            [s["block"], str(s["n_layers"]), s["rule"], str(s["length"]), str(s["delay"]),
                f"{s.get('lr', RATE):g}",
             f"{s['steps']:,}", spread([r["accuracy"] for r in of_row]),
             ", ".join(f"{r['accuracy']:.3f}" for r in of_row), f"{of_row[0]['updates']:,}",
             f"{of_row[0]['trace_bytes'] / 1e6:.2f}", spread([r["seconds"] for r in of_row], 0)]
        )  # fmt: skip
    head = ["block", "blocks", "rule", "length", "delay", "lr", "steps", "accuracy, last tenth", "by seed", "updates"]
    print(heading(f"python -m bench.delay --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(table([*head, "trace MB", "seconds"], lines))


if __name__ == "__main__":
    main()
