"""Speech by every rule: digits (FSDD), keywords (Speech Commands) and spelling (AN4), with what is held out.

    BIOMAMBA_DATA=... python -m bench.speech [--table digits|speakers|keywords|spelling] [--jobs 2] [--out runs/bench]

Settings are those of the configs but for what the table names. `whole` is backpropagation through whole words or
utterances, one chunk each. Scores: held-out test set, learning off, after the passes, by the weights that learn and by
their average; prequential: every prediction made before it was learned from, over all passes. Settings were chosen on
folds of the training speakers (`--fold 0`), never on the test set.
"""

import argparse
import time
from collections import deque
from pathlib import Path

from bench.grid import Row, heading, run, spread, table
from biomamba import evaluate
from biomamba.experiment.build import LONG, Experiment
from biomamba.experiment.parse import parse

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RULES = {
    "untrained": None,
    "immediate (bptt, 1)": {"rule.name": "bptt", "stream.length": 1},
    "TBPTT(16)": {"rule.name": "bptt", "stream.length": 16},
    "BPTT, whole": {"rule.name": "bptt"},
    "rtrl, 1": {"rule.name": "rtrl", "stream.length": 1},
    "rtrl, 1, window 16": {"rule.name": "rtrl", "stream.length": 1, "rule.window": 16},
    "rtrl, 4": {"rule.name": "rtrl", "stream.length": 4},
    "rtrl, 16": {"rule.name": "rtrl", "stream.length": 16},
    "rtrl_stdp, 1": {"rule.name": "rtrl_stdp", "rule.a_post": 0.2, "stream.length": 1},
    "rtrl_stdp, 16": {"rule.name": "rtrl_stdp", "rule.a_post": 0.2, "stream.length": 16},
}
CHUNKS = dict.fromkeys(("untrained", "TBPTT(16)", "BPTT, whole", "rtrl, 16", "rtrl_stdp, 16"), 3)
STEPS = dict.fromkeys(("immediate (bptt, 1)", "rtrl, 1", "rtrl, 16"), 3)
# by table: the config, the steps of a whole word or utterance, what differs from the config, and the rows with how many
# seeds each: fewer where a row takes long
TABLES: dict[str, tuple[str, int, Row, dict[str, int]]] = {
    "digits": ("fsdd", 64, {"task.passes": 3}, {row: 3 for row in RULES if "window" not in row}),
    "spelling": (
        "an4",
        216,
        {},
        CHUNKS,
    ),
    "keywords": (
        "keywords",
        49,
        {},
        CHUNKS,
    ),
    "speakers": ("fsdd", 64, {"task.passes": 3}, {"BPTT, whole": 1, "rtrl, 16": 1}),
    "spelling, step by step": (
        "an4",
        216,
        {"task.passes": 1},
        STEPS | {"rtrl, 1, window 16": 1},
    ),
    "keywords, step by step": (
        "keywords",
        49,
        {"task.passes": 10},
        STEPS,
    ),
    **{
        f"spelling, step by step at {rate:g}": (
            "an4",
            216,
            {"task.passes": 1, "optim.lr": rate},
            STEPS | {"rtrl, 16": 1},
        )
        for rate in (1e-3, 3e-4)
    },
    "keywords, longer": ("keywords", 49, {"task.passes": 60}, {"rtrl, 16": 1}),
    "spelling, longer": ("an4", 216, {"task.passes": 15}, {"rtrl, 16": 1}),
}


def settings(name: str) -> list[Row]:
    """Return the settings of a table, one per row and seed, or speaker."""
    file, whole, differs, rows = TABLES[name]
    found = []
    for label, seeds in rows.items():
        own = RULES[label]
        if own is not None and "stream.length" not in own:
            own = own | {"stream.length": whole, "task.align": whole}
        row = {"table": name, "row": label, "config": file, **differs, **(own or {"untrained": True})}
        if name == "speakers":
            found += [row | {"task.speaker": speaker, "seed": 0} for speaker in SPEAKERS]
        else:
            found += [row | {"seed": seed} for seed in range(seeds)]
    return found


def measure(setting: Row) -> Row:
    """Learn what the setting says, and score the held-out split before or after."""
    words = ["--config", f"configs/{setting['config']}.yaml", "--run.seed", str(setting["seed"])]
    for key, value in setting.items():
        if "." in key:
            words += [f"--{key}", str(value)]
    parsed = parse(words).config
    own = Experiment.from_config(parsed)
    scores: dict[str, float] = {}
    began, updates, skipped = time.perf_counter(), 0, 0
    if "untrained" not in setting:
        report = deque(own.online(own.stream()), maxlen=1).pop()
        scores = report.scores
        updates, skipped = report.state.updates, report.state.skipped
    seconds = time.perf_counter() - began
    test = own.task.stream(own.task.held_out, batch=parsed.stream.batch, length=LONG, seed=parsed.run.seed)
    held_out = deque(evaluate(test, own.task, own.model), maxlen=1).pop().scores
    return {
        "scores": scores,
        "held_out": held_out,
        "updates": updates,
        "skipped": skipped,
        "seconds": seconds,
        "source": own.task.source,
        "baseline": own.task.baseline(own.task.held_out, batch=parsed.stream.batch, seed=0),
    }


def main() -> None:
    """Run the tables asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=[*TABLES, "all"], default="all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    print(heading("python -m bench.speech"))
    for name in TABLES if arguments.table == "all" else [arguments.table]:
        measured = run(measure, settings(name), arguments.out / "speech.jsonl", arguments.jobs)
        print(f"{name}: {measured[0]['source']}, configs/{TABLES[name][0]}.yaml {TABLES[name][2] or ''}\n")
        print(lines(measured), end="\n\n", flush=True)


def lines(measured: list[Row]) -> str:
    """Return the table of measured rows, the trivial baseline first."""
    scores = [name for name in measured[0]["held_out"] if name != "loss"]
    (trivial, own), *_ = measured[0]["baseline"].items()
    body = [[trivial, "", *(f"{own[s]['all']:.3f}" if s in own else "" for s in scores), "", "", ""]]
    for label in dict.fromkeys(row["setting"]["row"] for row in measured):
        rows = [row for row in measured if row["setting"]["row"] == label]
        seeds = str(len(rows)) if "task.speaker" not in rows[0]["setting"] else f"{len(rows)} speakers"
        before = spread([row["scores"][scores[0]] for row in rows]) if rows[0]["scores"] else ""
        body.append(
            [
                *(label, seeds),
                *(spread([row["held_out"][s] for row in rows]) for s in scores),
                *(before, f"{rows[0]['updates']:,}", spread([row["seconds"] for row in rows], 0)),
            ]
        )
    head = ["rule, length", "seeds", *(f"test {score}" for score in scores), f"prequential {scores[0]}"]
    return table([*head, "updates", "seconds"], body)


if __name__ == "__main__":
    main()
