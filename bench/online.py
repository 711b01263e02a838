"""How long does an online update take, and how far from the floor? One table, everything a user gets in each number.

    python -m bench.online --quick                 the settings that the project promises, under three minutes
    python -m bench.online --json online.json      streams, widths, states, lengths, rules, threads and kernels

An update is predict, score, learn, Adam, as `online()` does it on bytes; "compiled": in a graph; "in one call": 64
updates at once, data lying ready; "autograd": without the kernels of whole updates. The floor is what the same
arithmetic takes at the copy bandwidth (of as many bytes as the traces have) and the matrix rate measured in the same
run:

    2 trace bytes / bandwidth, or t multiply-adds a number of them / rate where that is longer  (rtrl)
    + 3 b t parameters multiply-adds / rate + 28 parameters bytes / bandwidth                  (the model, Adam)
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import biomamba
from bench.grid import heading, markdown, write
from biomamba.experiment.memory import keep_freed_memory
from biomamba.ops.backend import call, resolve
from biomamba.ops.influence import contract_and_advance_torch
from biomamba.rules import RULES
from biomamba.state import nbytes
from biomamba.tasks.language import Language

Row = dict[str, Any]
GO = torch.tensor(True)
TOGETHER = 64  # updates in one call
LARGEST = 2 << 30  # bytes of traces, or of a chunk's states and what is made of them, that are still measured
BASE = {
    "block": "mamba2",
    "streams": 16,
    "d_model": 64,
    "d_state": 16,
    "n_layers": 1,
    "length": 1,
    "rule": "rtrl",
    "threads": 1,
}
PROMISED = [
    BASE | {"streams": 1, "backend": "torch"},
    *(BASE | {"streams": 1, "backend": how} for how in ("llvm", "llvm, compiled", "llvm, in one call")),
    *(BASE | {"streams": 1, "d_model": 128, "backend": how} for how in ("llvm", "llvm, in one call")),
    *(
        BASE | {"streams": 1, "d_model": 96, "d_state": 4, "n_layers": 2, "length": t, "backend": "llvm"}
        for t in (1, 16)
    ),
    *(BASE | {"backend": how} for how in ("llvm", "llvm, compiled", "llvm, in one call")),
    BASE | {"threads": 2, "backend": "llvm, compiled"},
    *(
        BASE
        | {"block": "mamba", "streams": b, "d_model": d, "d_state": n, "n_layers": layers, "length": t, "backend": how}
        for b, d, n, layers in ((1, 64, 16, 1), (1, 96, 4, 2), (16, 64, 16, 1))
        for t in (1, 16)
        for how in ("llvm, autograd", "llvm")
    ),
]
CHUNKED = [
    BASE | {"length": 32, "d_model": d, "n_layers": layers, "rule": rule, "threads": threads, "backend": "llvm"}
    for d, layers, threads, rule in itertools.product((64, 256), (1, 4), (1, 2), ("bptt", "rtrl"))
    if layers == 1 or threads == 1
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the settings that are promised")
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    parser.add_argument("--block", help="only settings of this block: mamba2 or mamba")
    args = parser.parse_args()
    keep_freed_memory()
    print(heading(f"python -m bench.online{' --quick' if args.quick else ''}", "threads as stated"))
    passes = list(trace_passes())
    settings, chunked = (
        [setting for setting in every if fits(setting) and args.block in (None, setting["block"])]
        for every in (PROMISED + CHUNKED + ([] if args.quick else grid()), CHUNKED)
    )
    rows: list[Row] = []
    for setting in tqdm(settings, disable=None):
        rows.append(online_row(setting))
        write(passes + rows, args.json)  # now, as the whole grid takes long
    again = [online_row(setting) for setting in chunked]  # a difference of two needs both undisturbed
    rows = [min([row, *(r for r in again if same_setting(r, row))], key=lambda r: r["us_per_update"]) for row in rows]
    tables = [table for table in (passes, rows, differences(rows)) if table]
    print(*map(markdown, tables), sep="\n\n")
    write(passes + rows, args.json)


def grid() -> list[Row]:
    """Return every combination of sizes, lengths and rules, and what threads, kernels and graphs change."""
    sizes = itertools.product((1, 16, 64), (64, 128, 256), (16, 64), (1, 8, 32, 128), ("bptt", "rtrl", "rtrl_stdp"))
    names = ("streams", "d_model", "d_state", "length", "rule")
    every = [BASE | dict(zip(names, values, strict=True)) | {"backend": "llvm"} for values in sizes]
    two = [row | {"threads": 2} for row in every if row["d_model"] != 128 and row["rule"] == "rtrl"]
    plain = [BASE | {"streams": b, "length": t, "backend": "torch"} for b in (1, 16, 64) for t in (1, 32)]
    graphs = [BASE | {"streams": b, "length": t, "backend": "llvm, compiled"} for b in (1, 16, 64) for t in (1, 32)]
    return every + two + plain + graphs


def fits(setting: Row) -> bool:
    """Say whether neither the traces nor what a chunk leaves for its gradient, some ten times its states, is huge."""
    states = 2 * setting["d_model"] * setting["d_state"] * setting["streams"] * setting["length"] * setting["n_layers"]
    return max(4 * trace_numbers(setting), 40 * states) <= LARGEST


def trace_numbers(setting: Row) -> int:
    """Return about how many numbers the traces of all streams and blocks hold, e being 2 d and k being 4.

    3 e n d each; of Mamba e n d + 2 e n e (k + 2), as taps reach delta and B of every channel.
    """
    d = setting["d_model"]
    inputs = 3 * d if setting["block"] == "mamba2" else d + 2 * 2 * d * (4 + 2)
    return int(setting["streams"] * setting["n_layers"] * 2 * d * setting["d_state"] * inputs)


def same_setting(row: Row, other: Row) -> bool:
    """Say whether two rows were measured at the same setting."""
    return all(row[name] == other[name] for name in (*BASE, "backend"))


def online_row(setting: Row) -> Row:
    """Return the setting with what was measured."""
    torch.set_num_threads(setting["threads"])
    torch.manual_seed(0)
    backend, _, how = setting["backend"].partition(", ")
    together = TOGETHER if how == "in one call" else 1
    names = ("d_model", "d_state", "n_layers")
    sizes: dict[str, Any] = {name: setting[name] for name in names}
    sizes |= {"headdim": 64} if setting["block"] == "mamba2" else {}
    model = biomamba.Model(vocab=256, d_out=256, block=setting["block"], backend=backend, **sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    task = Language()
    stream = task.stream("all", batch=setting["streams"], length=setting["length"] * together, seed=0)
    rule = RULES[setting["rule"]](model.blocks)
    learner = biomamba.Learner(task, model, rule, optimizer, compile=how == "compiled")
    if how == "autograd":
        learner.without_kernels()
    loop = biomamba.online(stream, learner, length=setting["length"] if together > 1 else None)
    seconds = median(lambda: next(loop), warm=4, least=9, budget=1.0) / together
    traces = nbytes(next(loop).state.trace)
    bandwidth, rate = copy_bandwidth(max(traces, 1 << 20)), matrix_rate()
    numbers = sum(p.numel() for p in model.parameters())
    tokens = setting["streams"] * setting["length"]
    model_floor = 6 * tokens * numbers / rate + 28 * numbers / bandwidth
    floor = trace_floor(setting, traces, bandwidth, rate) + model_floor
    return setting | {
        "us_per_step": 1e6 * seconds / setting["length"],
        "tokens_per_s": tokens / seconds,
        "trace_bytes": traces,
        "floor_us": 1e6 * floor / setting["length"],
        "us_per_update": 1e6 * seconds,
        "trace_floor_us": 1e6 * trace_floor(setting, traces, bandwidth, rate),
        "copy_gb_per_s": bandwidth / 1e9,
        "matrix_gflop_per_s": rate / 1e9,
    }


def trace_floor(setting: Row, traces: int, bandwidth: float, rate: float) -> float:
    """Return the least seconds per update that carrying the traces takes."""
    work = 2 * trace_numbers(setting) * setting["length"] / rate if setting["length"] > 1 else 0
    return max(work, 2 * traces / bandwidth) if traces else 0.0


def trace_passes() -> Iterator[Row]:
    """Yield how fast one step's pass over a single trace is, from 1 MB to 1 GB, beside copying as much."""
    e, n, j = 128, 16, 64
    for megabytes, threads in itertools.product((1, 4, 16, 64, 256, 1024), (1, 2)):
        torch.set_num_threads(threads)
        b = max(1, megabytes * 2**20 // (4 * e * n * j))
        Z = torch.randn(b, e, n, j)
        start, signal = torch.rand(b, e, n), torch.randn(b, e, n)
        drive = torch.randn(b, 1, e, n), torch.randn(b, 1, j)
        seconds = median(lambda: one(Z, drive, start, signal), warm=3, least=10, budget=1.0)  # noqa: B023
        rate = 2 * Z.nbytes / seconds
        copy = copy_bandwidth(Z.nbytes)
        yield {
            "trace_bytes": Z.nbytes,
            "threads": threads,
            "backend": resolve("auto"),
            "pass_gb_per_s": rate / 1e9,
            "copy_gb_per_s": copy / 1e9,
            "share": rate / copy,
        }


def one(Z: torch.Tensor, drive: tuple[torch.Tensor, torch.Tensor], start: torch.Tensor, signal: torch.Tensor) -> None:
    """Contract and advance a single trace: what `contract_and_advance` calls when everything lies where it should."""
    gradient = signal.new_empty(Z.shape[1], Z.shape[3])
    if resolve("auto") == "llvm":
        call("influence.dense", Z, start, signal, *drive, GO, gradient)
    else:
        contract_and_advance_torch([Z], gradient.view(-1), ["ej"], [drive[0]], [drive[1]], [Z[:0]], [start, signal])


def copy_bandwidth(size: int) -> float:
    """Return the bytes per second, read and written, of copying `size` bytes with torch's present threads."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / median(lambda: target.copy_(source), warm=2, least=9, budget=0.2)


def matrix_rate() -> float:
    """Return the operations per second of a large float32 matrix product with torch's present threads."""
    a = torch.randn(1024, 1024)
    out = torch.empty_like(a)
    return 2 * 1024**3 / median(lambda: torch.mm(a, a, out=out), warm=2, least=7, budget=0.2)


def median(call: Callable[[], object], warm: int, least: int, budget: float) -> float:
    """Return the median seconds of a call, at least `least` times and for `budget` seconds, after `warm` calls."""
    for _ in range(warm):
        call()
    times: list[float] = []
    while len(times) < least or (sum(times) < budget and len(times) < 500):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def differences(rows: list[Row]) -> list[Row]:
    """Return what the traces cost in a chunk, rtrl less bptt, beside their floor."""
    same = ("block", "streams", "d_model", "d_state", "n_layers", "length", "threads", "backend")
    pairs = [
        (row, other)
        for row, other in itertools.product(rows, rows)
        if (row["rule"], other["rule"]) == ("rtrl", "bptt") and all(row[name] == other[name] for name in same)
    ]
    return [
        {
            **{name: row[name] for name in same},
            "rtrl - bptt, us/update": row["us_per_update"] - other["us_per_update"],
            "trace floor us": row["trace_floor_us"],
            "times floor": (row["us_per_update"] - other["us_per_update"]) / row["trace_floor_us"],
            "rtrl / bptt": row["us_per_update"] / other["us_per_update"],
        }
        for row, other in pairs
    ]


if __name__ == "__main__":
    main()
