"""Speech by every rule: digits (FSDD), keywords (Speech Commands) and spelling (AN4), with what is held out.

    BIOMAMBA_DATA=... python -m bench.speech [--table digits|speakers|keywords|spelling] [--fold 0] [--jobs 2]

Settings are those of the configs but for what the table names. `whole` is backpropagation through whole words or
utterances, one chunk each. Scores: held-out test set, learning off, after the passes, by the weights that learn and by
their average; prequential: every prediction made before it was learned from, over all passes.
Beneath a table whose runs keep averages stands how they got there.
--fold holds out a quarter of the training speakers in place of the test set: settings are chosen there.
"""

import argparse
import time
from collections import deque
from pathlib import Path

from bench.grid import Row, config_of, heading, run, spread, table
from biomamba import Model, evaluate
from biomamba.experiment.build import LONG, Experiment

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
POINTS = 4  # of a learning curve
RULES = {
    "untrained": None,
    "immediate (bptt, 1)": {"rule.name": "bptt", "stream.length": 1},
    "TBPTT(16)": {"rule.name": "bptt", "stream.length": 16},
    "BPTT, whole": {"rule.name": "bptt"},
    "rtrl, 1": {"rule.name": "rtrl", "stream.length": 1},
    "rtrl, 1, window 16": {"rule.name": "rtrl", "stream.length": 1, "rule.window": 16},
    "rtrl, 4": {"rule.name": "rtrl", "stream.length": 4},
    "rtrl, 16": {"rule.name": "rtrl", "stream.length": 16},
    "constant": {"optim.lr_end": "null"},
    "linear": {"optim.schedule": "linear"},
    "cosine": {"optim.schedule": "cosine"},
    "1 / sqrt(t) after a warm-up": {"optim.schedule": "inverse_sqrt", "optim.lr_end": "null", "optim.warmup": 640},
    "rtrl_stdp, 1": {"rule.name": "rtrl_stdp", "rule.a_post": 0.2, "stream.length": 1},
    "rtrl_stdp, 16": {"rule.name": "rtrl_stdp", "rule.a_post": 0.2, "stream.length": 16},
}
CHUNKS = dict.fromkeys(("untrained", "TBPTT(16)", "BPTT, whole", "rtrl, 16", "rtrl_stdp, 16"), 3)
RATES = dict.fromkeys(("constant", "linear", "cosine", "1 / sqrt(t) after a warm-up"), 3)
STEPS = dict.fromkeys(("immediate (bptt, 1)", "rtrl, 1", "rtrl, 16"), 3)
LONGER: Row = {"model.d_model": 96, "optim.average": 0.999}
# by table: the config, the steps of a whole word or utterance, what differs from the config, and the rows with how many
# seeds each: fewer where a row takes long
TABLES: dict[str, tuple[str, int, Row, dict[str, int]]] = {
    "digits": ("fsdd", 64, {"task.passes": 3}, {row: 3 for row in RULES if "window" not in row and row not in RATES}),
    "digits, rates": ("fsdd", 64, {"task.passes": 1, "optim.average": 0.99}, RATES),
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
    "keywords, longer": (  # chosen on folds 0 and 1
        "keywords",
        49,
        LONGER | {"task.passes": 160, "task.augment": 1},
        {"rtrl, 16": 3},
    ),
    "spelling, longer": (  # chosen on fold 0
        "an4",
        216,
        LONGER | {"task.passes": 45, "task.augment": 0.5},
        {"rtrl, 16": 3, "TBPTT(16)": 1},
    ),
}


def settings(name: str) -> list[Row]:
    """Return the settings of a table, one per row and seed, or speaker."""
    file, whole, differs, rows = TABLES[name]
    found = []
    for label, seeds in rows.items():
        own = RULES[label]
        if own is not None and label.endswith("whole"):
            own = own | {"stream.length": whole, "task.align": whole}
        row = {"table": name, "row": label, "config": file, **differs, **(own or {"untrained": True})}
        if name == "speakers":
            found += [row | {"task.speaker": speaker, "seed": 0} for speaker in SPEAKERS]
        else:
            found += [row | {"seed": seed} for seed in range(seeds)]
    return found


def measure(setting: Row) -> Row:
    """Learn what the setting says, and score the held-out split before or after."""
    parsed = config_of(setting["config"], setting)
    own = Experiment.from_config(parsed)

    def held_out(model: Model) -> dict[str, float]:
        test = own.task.stream(own.task.held_out, batch=parsed.stream.batch, length=LONG, seed=parsed.run.seed)
        return deque(evaluate(test, own.task, model), maxlen=1).pop().scores

    scores, curve = dict[str, float](), list[Row]()
    seconds, updates, skipped, meters = 0.0, 0, 0, own.task.meters()
    began, marks = time.perf_counter(), [own.total * i // POINTS for i in range(1, POINTS + 1)] if own.average else []
    for report in own.online(own.stream()) if "untrained" not in setting else ():
        scores, updates, skipped = report.scores, report.state.updates, report.state.skipped
        for meter in meters.values():
            meter.update(report.out, report.chunk)
        if marks and report.state.steps >= marks[0]:
            seconds += time.perf_counter() - began
            point = {"part": (POINTS - len(marks) + 1) / POINTS}
            point |= {"interval": {name: meter.get() for name, meter in meters.items()}}
            assert own.average is not None  # noqa: S101 - narrows the type
            curve.append(point | {"held_out": held_out(own.model), "averaged": held_out(own.average.model)})
            marks, meters, began = marks[1:], own.task.meters(), time.perf_counter()
    seconds += time.perf_counter() - began
    return {
        "scores": scores,
        "curve": curve,
        "held_out": held_out(own.model),
        "averaged": held_out(own.average.model) if own.average else {},
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
    parser.add_argument("--fold", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    fold = {} if arguments.fold is None else {"task.fold": arguments.fold}
    print(heading("python -m bench.speech" + (f" --fold {arguments.fold}" if fold else "")))
    for name in TABLES if arguments.table == "all" else [arguments.table]:
        measured = run(measure, [own | fold for own in settings(name)], arguments.out / "speech.jsonl", arguments.jobs)
        print(f"{name}: {measured[0]['source']}, configs/{TABLES[name][0]}.yaml {TABLES[name][2] or ''}\n")
        print(lines(measured), end="\n\n", flush=True)
        if any(row["curve"] for row in measured):
            print(curves(measured), end="\n\n", flush=True)


def lines(measured: list[Row]) -> str:
    """Return the table of measured rows, the trivial baseline first."""
    scores = [name for name in measured[0]["held_out"] if name != "loss"]
    (trivial, own), *_ = measured[0]["baseline"].items()
    body = [[trivial, "", *(f"{own[s]['all']:.3f}" if s in own else "" for s in scores), "", "", "", ""]]
    for label in dict.fromkeys(row["setting"]["row"] for row in measured):
        rows = [row for row in measured if row["setting"]["row"] == label]
        seeds = str(len(rows)) if "task.speaker" not in rows[0]["setting"] else f"{len(rows)} speakers"
        before = spread([row["scores"][scores[0]] for row in rows]) if rows[0]["scores"] else ""
        body.append(
            [
                *(label, seeds),
                *(spread([row["held_out"][s] for row in rows]) for s in scores),
                spread([row["averaged"][scores[0]] for row in rows]) if rows[0]["averaged"] else "",
                *(before, f"{rows[0]['updates']:,}", spread([row["seconds"] for row in rows], 0)),
            ]
        )
    head = ["rule, length", "seeds", *(f"test {score}" for score in scores), f"averaged, test {scores[0]}"]
    return table([*head, f"prequential {scores[0]}", "updates", "seconds"], body)


def curves(measured: list[Row]) -> str:
    """Return the first score over the passes, of every row that keeps averages."""
    score = next(name for name in measured[0]["held_out"] if name != "loss")
    body = []
    for label in dict.fromkeys(row["setting"]["row"] for row in measured if row["curve"]):
        rows = [row["curve"] for row in measured if row["setting"]["row"] == label]
        for points in zip(*rows, strict=True):
            kinds = [spread([point[kind][score] for point in points]) for kind in ("interval", "held_out", "averaged")]
            body.append([label, f"{points[0]['part']:.0%}", *kinds])
    return table(["rule, length", "of all passes", f"prequential {score} since", f"test {score}", "averaged"], body)


if __name__ == "__main__":
    main()
