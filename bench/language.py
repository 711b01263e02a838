"""Which rule learns a text best in one pass? Bits per byte on tinyshakespeare, equal bytes seen.

    BIOMAMBA_DATA=... python -m bench.language [--jobs 2] [--out runs/bench] [--stage compare]

The learning rate of every row is tuned on the first tenth of the text; the row then reads the whole text with three
seeds. Beside the rows stand the frozen initial model and an order-5 byte counter on the same bytes. The stage `deep`
repeats the best three with 6 blocks; `limits` asks what limits the score instead of the rule: the number of streams
(updates per byte), optimiser, size.
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
from biomamba.tasks.language import Language

OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
RATES = {"adam": [1e-3, 3e-3, 1e-2, 3e-2], "rmsprop": [1e-3, 3e-3], "sgd": [0.03, 0.3]}
BASE: Row = {
    "rule": "rtrl", "length": 16, "window": None, "streams": 64, "n_layers": 2, "d_model": 32, "d_state": 4,
    "headdim": 8, "optim": "adam",
}  # fmt: skip
RULE_ROWS = [
    {"rule": rule, "length": length, "window": window}
    for length, window in [(1, None), (4, None), (16, None), (4, 16)]
    for rule in ("rtrl", "rtrl_stdp", "bptt")
] + [{"rule": "bptt", "length": 256, "window": None}]
DEEP_ROWS = [  # the best three of the stage compare, with more blocks
    {"rule": rule, "length": 4, "window": 16, "n_layers": 6} for rule in ("rtrl", "rtrl_stdp", "bptt")
]
LIMIT_ROWS = [
    {}, {"streams": 4}, {"streams": 8}, {"streams": 16},
    {"optim": "rmsprop"}, {"optim": "sgd"},
    {"d_model": 64}, {"d_state": 16}, {"n_layers": 4}, {"d_model": 64, "streams": 8},
]  # fmt: skip

STAGES = {"compare": RULE_ROWS, "deep": DEEP_ROWS, "limits": LIMIT_ROWS}


def measure(setting: Row) -> Row:
    """Return the scores of one pass over the first `bytes` of the text."""
    task = Language(corpus="tinyshakespeare", max_bytes=setting["bytes"])
    streams, length = setting["streams"], setting["length"]
    torch.manual_seed(setting["seed"])
    model = biomamba.Model(
        vocab=256, d_out=256, block="mamba2", d_model=setting["d_model"], n_layers=setting["n_layers"],
        d_state=setting["d_state"], headdim=setting["headdim"],
    )  # fmt: skip
    steps = task.steps("all", batch=streams)
    stream = task.stream("all", batch=streams, length=length if setting["rule"] else 256, seed=0)
    last = task.meters()["bits_per_byte"]
    started = time.perf_counter()
    if setting["rule"] is None:
        reports = biomamba.evaluate(stream, task, model)
    else:
        options: dict[str, Any] = {"a_post": 0.2} if setting["rule"] == "rtrl_stdp" else {}
        rule = RULES[setting["rule"]](model.blocks, **options)
        fused = {"fused": True} if setting["optim"] != "rmsprop" else {}
        optimizer = OPTIMIZERS[setting["optim"]](model.parameters(), lr=setting["lr"], **fused)
        reports = biomamba.online(stream, biomamba.Learner(task, model, rule, optimizer, window=setting["window"]))
    for report in reports:
        late = min(
            report.chunk.x.shape[1], report.state.steps - (steps - steps // 10)
        )  # the chunk's last so many steps
        if late > 0:
            last.update(report.out[:, -late:], report.chunk.between(-late))
    return {
        "all": report.scores["bits_per_byte"],
        "last_tenth": last.get(),
        "skipped": report.state.skipped,
        "updates": report.state.updates,
        "trace_bytes": nbytes(report.state.trace),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - started,
    }


def tuned(rows: list[Row], size: int, file: Path, jobs: int) -> list[Row]:
    """Return the rows with the learning rate that scored best on the first tenth of the text."""
    trials = [row | {"lr": lr, "bytes": size // 10, "seed": 0} for row in rows for lr in RATES[row["optim"]]]
    scores = {str(row["setting"]): row["all"] for row in run(measure, trials, file, jobs)}
    best = []
    for row in rows:
        of_row = [row | {"lr": lr, "bytes": size // 10, "seed": 0} for lr in RATES[row["optim"]]]
        best.append(row | {"lr": min(of_row, key=lambda trial: scores[str(trial)])["lr"]})
    return best


def seeded(row: Row, size: int, seeds: int) -> list[Row]:
    """Return the row's passes over the whole text, one per seed."""
    return [row | {"bytes": size, "seed": seed} for seed in range(seeds)]


def report(rows: list[Row], file: Path, size: int, seeds: int, jobs: int) -> str:
    """Return a table of the rows' scores over the whole text, the baselines last."""
    frozen = [{**BASE, "rule": None, "lr": 0.0}]
    settings = [setting for row in rows + frozen for setting in seeded(row, size, seeds)]
    measured = run(measure, settings, file, jobs)
    lines = []
    for i in range(0, len(measured), seeds):
        of_row, s = measured[i : i + seeds], measured[i]["setting"]
        lines.append(
            [s["rule"] or "frozen", str(s["length"]), str(s["window"] or "-"), str(s["streams"]), str(s["n_layers"]),
             str(s["d_model"]), str(s["d_state"]), s["optim"], f"{s['lr']:g}",
             spread([r["all"] for r in of_row]), spread([r["last_tenth"] for r in of_row]),
             str(of_row[0]["updates"]), f"{of_row[0]['trace_bytes'] / 1e6:.1f}", f"{of_row[0]['parameters']:,}",
             spread([r["seconds"] for r in of_row], 0)]
        )  # fmt: skip
    counter = Language(corpus="tinyshakespeare").baseline("all", batch=1, seed=0)["order5_counter"]["bits_per_byte"]
    lines.append(["order-5 counter", *["-"] * 8, f"{counter['all']:.3f}", f"{counter['last_tenth']:.3f}", *["-"] * 4])
    head = ["rule", "length", "window", "streams", "blocks", "d", "n", "optimiser", "lr", "bits/byte", "last tenth"]
    return table([*head, "updates", "trace MB", "parameters", "seconds"], lines)


def main() -> None:
    """Run a stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="compare")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    size = Language(corpus="tinyshakespeare").steps("all", batch=1) + 1
    file = arguments.out / "language.jsonl"
    rows = [BASE | row for row in STAGES[arguments.stage]]
    print(heading(f"python -m bench.language --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(report(tuned(rows, size, file, arguments.jobs), file, size, arguments.seeds, arguments.jobs))


if __name__ == "__main__":
    main()
