"""Where do traces matter? Rules beside each other on eight streams, at equal updates and in equal time: docs/study.md.

    BIOMAMBA_DATA=... python -m bench.study [--streams delay20,text] [--seeds 5] [--jobs 2] [--page]

Every rule makes an update at every step of the same stream, from the same weights; truncated backpropagation stands
there twice, with a window of 16 steps replayed at each update, and in chunks of 16 steps, which make 16 times fewer.
Each rule has the best of four rates on every stream, by its score over the whole of it on a seed that is not scored
again. A run is one line of docs/study.jsonl: broken off, the same command goes on with what is not there, all settings
once before any twice. What a rule costs is measured apart (--costs, on a machine that does nothing else): all rules of
a stream in one process, in turn. The page is written from those lines alone, at the end or where it was broken off;
--page: now.

Some 4 hours of one core in all: half of them on two.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.grid import Row, config_of, heading, key, run, spread, table
from biomamba.analysis.paired import FEWEST, paired
from biomamba.experiment.build import Experiment
from biomamba.metrics import direction

TUNING_SEED, RATES = 1000, (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 5
TIMED, ROUNDS = 160, 8  # steps of a rule before it is the next one's turn, and turns
PARTS = 10  # of a stream, scored each by itself
RUNS, COSTS = "study.jsonl", "study_costs.jsonl"
RULES: dict[str, Row] = {
    "immediate": {"rule.name": "bptt"},
    "TBPTT, window 16": {"rule.name": "bptt", "rule.window": 16},
    "TBPTT, chunks of 16": {"rule.name": "bptt", "stream.length": 16},
    "RTRL": {"rule.name": "rtrl"},
    "RTRL-STDP": {"rule.name": "rtrl_stdp", "rule.a_post": 0.2},
    "S-TLLR": {"rule.name": "stllr"},
    "UORO": {"rule.name": "uoro"},
}
GRAPHS = ("UORO",)  # rules whose runs go by a graph: torch's operations take four to twelve times as long
ONE_BLOCK = {"model.n_layers": 1}  # of which RTRL is exact
SELECTIVE = {"model.d_model": 32, "model.d_conv": 1, "model.dt_scale": 4}  # see docs/delay.md


class Stream(NamedTuple):
    """A stream, and how it is learned."""

    config: str
    score: str
    about: str
    differs: Row  # from the config


def recall(delay: int, streams: int, steps: int, d_state: int) -> Stream:
    """Return store-recall over some steps."""
    sizes = {"model.d_state": d_state, "stream.batch": streams, "stream.steps": steps}
    scales = {"model.timescales": f"[{round(delay / 3)}, {3 * delay}]"}
    about = f"simulated: a symbol {delay // 2} to {delay} steps old is asked for; chance 0.125"
    return Stream("delay", "accuracy", about, {"task.delay": delay} | SELECTIVE | sizes | scales)


STREAMS = {
    "delay20": recall(20, streams=8, steps=12_000, d_state=4),
    "delay100": recall(100, streams=32, steps=20_000, d_state=4),
    "delay500": recall(500, streams=256, steps=20_000, d_state=1),
    "eyes": Stream("eeg", "accuracy", "EEGMMI, one person: eyes open or closed, a decision a second; chance 0.5", {}),
    "ecg": Stream(
        "ecg",
        "macro_f1",
        "MIT-BIH DS1, one pass: classes of beats, each label known ten beats late",
        {"task.label_delay": 10, "task.passes": 1, "stream.batch": 44},
    ),
    "text": Stream(
        "language",
        "bits_per_byte",
        "100,000 bytes of tinyshakespeare, once, without n-gram tables",
        {
            **{"task.corpus": "tinyshakespeare", "task.max_bytes": 100_000, "model.d_model": 32},
            **{"model.ngrams": "[]", "model.ngram_logits": "[]"},
            **ONE_BLOCK,
        },
    ),
    "digits": Stream("fsdd", "accuracy", "spoken digits (FSDD), two passes; chance 0.1", {"task.passes": 2}),
    "keywords": Stream(
        "keywords", "accuracy", "twelve keywords (Speech Commands), four passes", {"task.passes": 4} | ONE_BLOCK
    ),
}


def setting(stream: str, rule: str, rate: float, seed: int) -> Row:
    """Return the setting of one run."""
    return {"stream": stream, "rule": rule, "rate": rate, "seed": seed}


def experiment(own: Row, graph: bool = False) -> Experiment:
    """Return the experiment of a setting."""
    stream = STREAMS[own["stream"]]
    keys = {"stream.length": 1, "run.threads": 1, "run.compile": graph} | stream.differs | RULES[own["rule"]]
    return Experiment.from_config(config_of(stream.config, keys | {"optim.lr": own["rate"], "seed": own["seed"]}))


def measure(own: Row) -> Row:
    """Learn a stream once; return the score of each part of it, and the updates up to its end."""
    made, score = experiment(own, own["rule"] in GRAPHS), STREAMS[own["stream"]].score
    found: Row = {"source": made.task.source, "steps": made.total, "scores": [], "updates": []}
    meters = made.task.meters()
    try:
        for report in made.online(made.stream()):
            for meter in meters.values():
                meter.update(report.out, report.chunk)
            if report.state.steps * PARTS // made.total > len(found["scores"]):
                found["scores"].append(meters[score].get())
                found["updates"].append(report.state.updates)
                meters = made.task.meters()
    except FloatingPointError as error:  # of too high a rate
        found["failed"] = str(error)
    return found


def cost(own: Row) -> Row:
    """Return the CPU seconds that each rule takes for a whole stream: the median of turns over the same steps."""
    made = {rule: experiment(setting(own["stream"], rule, RATES[0], own["seed"])) for rule in RULES}
    running = {rule: again(one) for rule, one in made.items()}
    turns: dict[str, list[float]] = {rule: [] for rule in RULES}
    for _ in range(1 + ROUNDS):
        for rule, one in made.items():
            began = time.process_time()
            for _ in islice(running[rule], TIMED // one.config.stream.length):
                pass
            turns[rule].append((time.process_time() - began) * one.total / TIMED)
    return {
        "seconds": {rule: round(statistics.median(own[1:]), 4) for rule, own in turns.items()}
    }  # the first: kernels


def again(made: Experiment) -> Iterator[object]:
    """Yield the updates of a stream, and of the same again."""
    while True:
        yield from made.online(made.stream())


class Kept:
    """The rows that there are."""

    def __init__(self, docs: Path) -> None:
        """Read them."""
        self.rows: dict[str, Row] = {key(row["setting"]): row for row in read(docs / RUNS)}
        self.costs: dict[str, dict[str, float]] = {
            row["setting"]["stream"]: row["seconds"] for row in read(docs / COSTS)
        }

    def rate(self, stream: str, rule: str) -> float | None:
        """Return the rate that is best on the tuning seed; None where one of them was not run."""
        rows = {rate: self.rows.get(key(setting(stream, rule, rate, TUNING_SEED))) for rate in RATES}
        better, score = direction(STREAMS[stream].score), {}
        for rate, row in rows.items():
            if row is None:
                return None
            whole = [value for value in row["scores"] if not math.isnan(value)]
            score[rate] = better * statistics.fmean(whole) if "failed" not in row and whole else -math.inf
        return max(score, key=lambda rate: score[rate])

    def scored(self, stream: str, rule: str) -> dict[int, Row]:
        """Return the runs of a rule's own rate by seed, but for the one it was tuned on."""
        rate = self.rate(stream, rule)
        rows = [row for row in self.rows.values() if row["setting"]["stream"] == stream]
        mine = [row for row in rows if row["setting"]["rule"] == rule and row["setting"]["rate"] == rate]
        return {row["setting"]["seed"]: row for row in mine if row["setting"]["seed"] != TUNING_SEED}

    def at_equal_updates(self, stream: str, rule: str) -> dict[int, float]:
        """Return the score of the stream's last part by seed."""
        return {seed: row["scores"][-1] for seed, row in self.scored(stream, rule).items() if "failed" not in row}

    def in_equal_time(self, stream: str, rule: str) -> dict[int, float]:
        """Return the score of the last part that a rule reads in the CPU time of the immediate gradient, by seed."""
        parts = self.parts(stream, rule) if stream in self.costs else 0
        rows = self.scored(stream, rule).items() if parts else ()
        return {seed: row["scores"][parts - 1] for seed, row in rows if "failed" not in row}

    def parts(self, stream: str, rule: str) -> int:
        """Return how many parts of a stream a rule reads in the CPU time of the immediate gradient."""
        seconds = self.costs[stream]
        return min(PARTS, math.floor(PARTS * seconds["immediate"] / seconds[rule]))


def read(file: Path) -> list[Row]:
    """Return the rows of a file; none where it is not there."""
    return [*map(json.loads, file.read_text().splitlines())] if file.exists() else []


def cell(values: Sequence[float]) -> str:
    """Return the mean and spread of a cell's seeds, and how many they are."""
    return f"{spread(list(values))} ({len(values)})" if values else "not run"


def rate_text(rate: float | None) -> str:
    """Return a rate, and whether a further one might be better."""
    if rate is None:
        return "not run"
    return f"{rate:g}{', edge' if rate in (RATES[0], RATES[-1]) else ''}"


def told(kept: Kept, stream: str, rule: str, reference: str) -> str:
    """Return a rule beside another on a stream, seed by seed."""
    own, other = kept.at_equal_updates(stream, rule), kept.at_equal_updates(stream, reference)
    seeds, better = sorted(own.keys() & other.keys()), direction(STREAMS[stream].score)
    if not seeds:
        return "not run"
    found = paired([own[seed] for seed in seeds], [other[seed] for seed in seeds], better)
    if len(seeds) < FEWEST:
        return f"{found['mean']:+.3f}, {len(seeds)} seeds: no spread can be told"
    low, high = found["low"], found["high"]
    sure = "better" if min(low * better, high * better) > 0 else "worse" if max(low * better, high * better) < 0 else ""
    interval = f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f}), {found['gains']} of {len(seeds)} seeds gain"
    return f"{sure or 'no difference told'}: {interval}"


def matter(kept: Kept) -> list[str]:
    """Return the lines that say on which streams traces matter."""
    lines = []
    for reference in ("immediate", "TBPTT, window 16"):
        verdicts = {name: told(kept, name, "RTRL", reference).partition(":")[0] for name in STREAMS}
        groups = {
            word: [name for name, own in verdicts.items() if own == word]
            for word in ("better", "worse", "no difference told")
        }
        rest = [name for name in STREAMS if not any(name in own for own in groups.values())]
        parts = [f"{word} on {', '.join(own)}" for word, own in groups.items() if own]
        parts += [f"not told, for want of seeds, on {', '.join(rest)}"] if rest else []
        lines.append(f"- RTRL beside {reference}: {'; '.join(parts)}.")
    return lines


def page(kept: Kept) -> str:
    """Return the study."""
    names = list(STREAMS)
    seeds = {name: max(len(kept.scored(name, rule)) for rule in RULES) for name in names}

    def by_rule(cells: Row, among: Sequence[str] = names) -> str:
        return table(
            ["rule", *among], [[rule, *(cells.get((rule, name), "not run") for name in among)] for rule in RULES]
        )

    pairs = [(rule, name) for rule in RULES for name in names]
    equal = {pair: cell([*kept.at_equal_updates(pair[1], pair[0]).values()]) for pair in pairs}
    alike = [name for name, own in STREAMS.items() if own.config == "delay"]
    timed = {pair: cell([*kept.in_equal_time(pair[1], pair[0]).values()]) for pair in pairs}
    timed |= {pair: "not a tenth read" for pair in pairs if pair[1] in kept.costs and kept.parts(pair[1], pair[0]) == 0}
    costs = {(rule, name): f"{own[rule]:.0f}" for name, own in kept.costs.items() for rule in RULES}
    rates = {pair: rate_text(kept.rate(pair[1], pair[0])) for pair in pairs}
    references = ("immediate", "TBPTT, window 16")
    beside = [[name, *(told(kept, name, "RTRL", reference) for reference in references)] for name in names]
    streams = [[name, own.about, own.score, str(seeds[name])] for name, own in STREAMS.items()]
    return "\n".join(
        [
            "# Where traces matter\n",
            "Written by a program from the runs in [study.jsonl](study.jsonl) and the times in",
            "[study_costs.jsonl](study_costs.jsonl); nothing here was typed. A cell that says `not run` waits",
            "for the same command, which goes on from these runs. There are",
            f"{len(kept.rows)} of {len(STREAMS) * len(RULES) * (len(RATES) + SEEDS)}, tuning included.\n",
            heading("python -m bench.study"),
            "## What comes of it\n",
            *matter(kept),
            "",
            table(["stream", *(f"RTRL beside {reference}" for reference in references)], beside),
            "\nDifferences of the score over the last tenth, seed by seed, with the bootstrap's interval at 95 %;",
            f"below {FEWEST} seeds no spread is told. Each interval is that of one pair: of twenty, one errs.\n",
            "## The streams\n",
            table(["stream", "what", "score", "seeds"], streams),
            "\nOne Mamba-2 block, Adam, one step of the stream an update. Weights and the order of data are drawn by",
            f"the seed, 0, 1, ..., and rates were chosen on seed {TUNING_SEED}: of recorded data that is the same",
            "recordings in another order, of simulated streams another stream. RTRL-STDP has a_post 0.2 and lam 0.5",
            "(0 would be RTRL to the bit), S-TLLR its own constants, decays of 0.5 and alpha_post 0.2. UORO learns by",
            "a graph (`run.compile`), which is the same but for rounding.\n",
            "## At equal updates\n",
            "Score over the last tenth of the stream, mean and spread over seeds, and how many these are; every",
            "prediction made before it was learned from. `TBPTT, chunks of 16` makes 16 times fewer updates than the",
            "others. Bits are better low, all else high.\n",
            by_rule(equal),
            "\n## In equal time\n",
            "The same, of the last tenth that a rule has read when the immediate gradient, in the CPU time of one",
            "thread, is at the stream's end. A rule that is done sooner has nothing more to read. Of streams that are",
            "the same from end to end alone: one part of a recording is harder than another, whoever reads it.\n",
            by_rule(timed, alike),
            "\n## What a run costs\n",
            f"CPU seconds of one run on one thread, without compiling: the median of {ROUNDS} turns of {TIMED} steps,",
            "all rules of a stream in one process.\n",
            by_rule(costs),
            "\nThe rate of each; `edge`: the lowest or highest of those tried, a further one may be better.\n",
            by_rule(rates),
            "",
        ]
    )


def main() -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default=",".join(STREAMS))
    parser.add_argument("--rules", default=";".join(RULES), help="separated by ;")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--costs", action="store_true", help="measure what rules cost, and write the page")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    asked = parser.parse_args()
    file, rules = asked.docs / RUNS, asked.rules.split(";")
    streams = asked.streams.split(",")
    try:
        if asked.costs:
            run(cost, [{"stream": stream, "seed": 0} for stream in streams], asked.docs / COSTS, jobs=1)
        for stream in [] if asked.page or asked.costs else streams:
            tuning = [setting(stream, rule, rate, TUNING_SEED) for rule in rules for rate in RATES]
            run(measure, tuning, file, asked.jobs)
            rates = {rule: Kept(asked.docs).rate(stream, rule) for rule in rules}
            wanted = [
                setting(stream, rule, rate, s) for s in range(asked.seeds) for rule, rate in rates.items() if rate
            ]
            run(measure, wanted, file, asked.jobs)
    finally:
        (asked.docs / "study.md").write_text(page(Kept(asked.docs)), encoding="utf-8")


if __name__ == "__main__":
    main()
