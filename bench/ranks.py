"""What do more processes bring? One and two ranks, one thread each, and one process of two threads, beside each other.

    python -m bench.ranks [--ranks 1,2] [--seconds 20] [--length 32] [--streams 16] [--json FILE]

Text, 16 streams unless told otherwise, one Mamba-2 block of width 128, 16 states, RTRL and Adam, predict, score, learn.
CPU is the processor's time of the first rank, which a busy machine changes less; `together` the time of an update in
collectives, waiting for the slowest rank included; `loss` is of one and the same update, and equal but for rounding
where all is well. As many cores as ranks must be idle.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import biomamba
from bench.grid import heading, markdown, write
from biomamba import ranks as processes
from biomamba.experiment.memory import keep_freed_memory
from biomamba.tasks.language import Language

Row = dict[str, Any]
WIDTH, WARM = 128, 10  # updates that are not measured


def main() -> None:
    """Measure and print; as one of several ranks, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2", help="how many, separated by commas")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--length", type=int, default=32, help="steps per update")
    parser.add_argument("--streams", type=int, default=16, help="side by side")
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # of one of the processes that are started
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        measure(args.threads, args.streams, args.length, args.seconds, args.to)
        return
    print(heading("python -m bench.ranks", "threads as stated"))
    given = [(int(number), 1) for number in args.ranks.split(",")]
    rows = [started(number, threads, args) for number, threads in [*given, (1, 2)]]
    for row in rows:
        row["times one"] = row["tokens/s"] / rows[0]["tokens/s"]
    print(markdown(rows))
    write(rows, args.json)


def started(ranks: int, threads: int, args: argparse.Namespace) -> Row:
    """Return what so many ranks measure, started as a user starts them."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "row.json"
        words = ["bench.ranks", "--threads", threads, "--length", args.length, "--streams", args.streams]
        words += ["--seconds", args.seconds, "--to", to]
        launcher = ["torch.distributed.run", "--nproc-per-node", ranks, "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *map(str, [*launcher, *words])]
        # waiting threads sleep, as two ranks on two cores have none to spare
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        subprocess.run(command, check=True, env=env)  # noqa: S603 - our own program
        row: Row = json.loads(to.read_text())
        return row


def measure(threads: int, streams: int, length: int, seconds: float, to: Path) -> None:
    """Learn for so long; the first rank writes what came of it."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    ranks = processes.Ranks.join("cpu")
    torch.manual_seed(0)
    model = biomamba.Model(vocab=256, d_out=256, d_model=WIDTH, d_state=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    task, rule = Language(), biomamba.rules.RTRL(model.blocks)
    learner = biomamba.Learner(task, model, rule, optimizer, threads=threads, ranks=ranks)
    spent = clocked()
    began, busy, count, loss = 0.0, 0.0, 0, 0.0
    for report in biomamba.online(task.stream("all", batch=streams, length=length, seed=0), learner):
        count += 1
        if count == WARM:
            began, busy, spent[0], loss = time.perf_counter(), time.process_time(), 0.0, float(report.loss)
        taken = time.perf_counter() - began
        if count > WARM and (ranks.agree(taken > seconds, False).stop if ranks else taken > seconds):
            break
    updates = count - WARM
    if ranks is None or not ranks.rank:
        row = {"ranks": ranks.size if ranks else 1, "threads": threads, "tokens/s": updates * streams * length / taken}
        row |= {"ms/update": taken / updates * 1e3, "CPU, ms": (time.process_time() - busy) / updates * 1e3}
        row |= {"together, ms": spent[0] / updates * 1e3, "loss": round(loss, 6)}
        to.write_text(json.dumps(row))


def clocked() -> list[float]:
    """Return a number that grows by the seconds this process spends in collectives."""
    spent, before = [0.0], processes._together

    def together(collective: Any) -> None:
        began = time.perf_counter()
        before(collective)
        spent[0] += time.perf_counter() - began

    processes._together = together
    return spent


if __name__ == "__main__":
    main()
