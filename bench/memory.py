"""How much memory does learning a stream take, by the stream's length? RTRL's does not grow; full BPTT's does.

    python -m bench.memory [--json FILE]

Peak resident memory above what the process held before it learned, each in a process of its own. `rtrl` takes the
stream one step at a time; `bptt` takes it whole, which is what credit over the whole stream costs without traces. And,
checked by torch's memory profiler: the largest piece that an update of rtrl allocates, beside its traces (torch's own
operations, as a control, do allocate as much as a trace).
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import biomamba
from bench.grid import heading, markdown, write
from biomamba.experiment.log import peak_rss_bytes
from biomamba.rules import RULES
from biomamba.state import nbytes
from biomamba.tasks.language import Language

Row = dict[str, Any]
LENGTHS = (64, 256, 1024, 4096)
STREAMS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    print(heading("python -m bench.memory"))
    settings = [(rule, steps) for steps in LENGTHS for rule in ("rtrl", "bptt")]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = list(pool.map(peak, *zip(*settings, strict=True)))
        largest = list(pool.map(largest_piece, ("llvm", "torch")))
    print(markdown(rows), "", markdown(largest), sep="\n")
    write([*rows, *largest], args.json)


def loop(rule: str, length: int, backend: str = "auto") -> Any:
    """Return the online loop of one Mamba-2 block over bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = Language()
    model = biomamba.Model(vocab=256, d_out=256, d_model=64, d_state=16, headdim=64, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    stream = task.stream("all", batch=STREAMS, length=length, seed=0)
    return biomamba.online(stream, biomamba.Learner(task, model, RULES[rule](model.blocks), optimizer))


def peak(rule: str, steps: int) -> Row:
    """Return the peak memory of learning `steps` steps of each stream, above that of a short one."""
    updates = loop(rule, 1 if rule == "rtrl" else steps)
    if rule == "rtrl":
        for _ in range(8):  # what is made once: kernels, the optimiser's averages, the traces
            next(updates)
    before = peak_rss_bytes()
    for report in updates:
        if report.state.steps >= steps:
            break
    return {
        "rule": rule,
        "streams": STREAMS,
        "steps learned": steps,
        "trace MB": nbytes(report.state.trace) / 1e6,
        "peak growth MB": (peak_rss_bytes() - before) / 1e6,
    }


def largest_piece(backend: str) -> Row:
    """Return the largest allocation inside an update of rtrl, beside the largest trace."""
    updates = loop("rtrl", 1, backend)
    for _ in range(8):
        next(updates)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        report = next(updates)
    traces = [tensor.nbytes for _, tensor in biomamba.state.leaves(report.state.trace)]
    return {
        "backend": backend,
        "largest allocation in an update, MB": max(event.self_cpu_memory_usage for event in seen.events()) / 1e6,
        "largest trace, MB": max(traces) / 1e6,
    }


if __name__ == "__main__":
    main()
