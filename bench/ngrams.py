"""What do hashed n-grams add to a text learned online, and what do the blocks add to them? Bits per byte.

    python -m bench.ngrams [--seeds 3] [--jobs 2] [--out runs/bench]

The configuration `language` as it comes, on the documentation that every Python carries, with and without the rows that
are added to the input (E) and to the logits (T). In `T alone` the head is zero and does not learn, so that the
recurrence is out of it. Beside them the frozen model's and the order-5 counter's scores. The tables' settings were
chosen on the first 60 to 470 kB of another text (wikitext2).
"""

import argparse
import time
from pathlib import Path

from bench.grid import Row, heading, run, spread, table
from biomamba.experiment import log
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse

OFF = {"ngrams": "[]", "ngram_logits": "[]"}
ROWS: dict[str, Row] = {
    "neither": OFF,
    "E": {"ngram_logits": "[]"},
    "T": {"ngrams": "[]"},
    "T alone": {"ngrams": "[]", "alone": True},
    "E and T": {},
    "E and T, rtrl_stdp": {"rule": "rtrl_stdp"},
    "E and T, bptt": {"rule": "bptt"},
}


def measure(setting: Row) -> Row:
    """Return the scores of one pass over the text."""
    words = ["--config", "language", "--run.seed", str(setting["seed"])]
    for name in OFF:
        if name in setting:
            words += [f"--model.{name}", setting[name]]
    if setting.get("rule"):
        words += ["--rule.name", setting["rule"]]
    own = Experiment.from_config(parse(words).config)
    if setting.get("alone"):
        own.model.head.weight.data.zero_()
        own.model.head.weight.requires_grad_(False)
    began = time.perf_counter()
    scored = log.score(own.online(own.stream()), own.task, own.total, "n-grams")
    return scored.scores["bits_per_byte"] | {"seconds": time.perf_counter() - began}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    settings = [row | {"seed": seed} for row in ROWS.values() for seed in range(arguments.seeds)]
    measured = run(measure, settings, arguments.out / "ngrams.jsonl", arguments.jobs)
    lines = []
    for i, label in enumerate(ROWS):
        rows = measured[i * arguments.seeds : (i + 1) * arguments.seeds]
        lines.append([label, *(spread([row[name] for row in rows]) for name in ("all", "last_tenth"))])
        lines[-1].append(spread([row["seconds"] for row in rows], 0))
    own = Experiment.from_config(parse(["--config", "language"]).config)
    for label, scores in own.baselines().items():
        lines.append([label, *(f"{scores['bits_per_byte'][name]:.3f}" for name in ("all", "last_tenth")), "-"])
    print(heading(f"python -m bench.ngrams --seeds {arguments.seeds}"))
    print(table(["model", "bits/byte", "last tenth", "seconds"], lines))


if __name__ == "__main__":
    main()
