"""How fast are others? Online steps and whole chunks of biomamba and of its peers, side by side in one run.

    python -m bench.peers [--json FILE] [--venv FOLDER] [--rounds 2]

Two comparisons, every program in a process of its own, one at a time and in turn (ours, theirs, ours, theirs):

    online     an update at every byte: predict, score, learn, Adam; a network and a head of 256 scores, float32.
               biomamba: `online(...)` with `rtrl`, one Mamba-2 block of width 64 or 128, n 16; a call for each step,
               in a graph (compiled), or 32 steps in one call (scan).
               braintrace: D-RTRL of one LRU layer, jit-compiled; trace and numbers (parameters) say how they differ
    chunk      a chunk of 64 bytes of 16 streams, eager, forward and with BPTT: biomamba, transformers' Mamba-2 (its
               chunked torch path) and mambapy's Mamba-1 (its parallel scan)

The median is over all rounds; p10 is the time that a tenth of the calls stay under, which other load disturbs less.
braintrace and mambapy are installed into a virtual environment that this script makes and keeps (1.7 GB, more where
torch comes with CUDA); what cannot be installed or run is named under the table and left out of it.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.grid import table

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
VENV = Path.home() / ".cache" / "biomamba" / "peers"
PACKAGES = {  # what to install for a module; pinned, so that tables of two days compare
    "braintrace": ["braintrace==0.2.6", "brainstate==0.5.4", "jax==0.10.2", "jaxlib==0.10.2"],
    "mambapy": ["torch==2.13.0", "mambapy==1.2.0"],
}
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}  # biomamba.experiment.memory's


class PeerError(RuntimeError):
    """A program that did not come to its end."""


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    parser.add_argument("--venv", type=Path, default=VENV, help="where the peers are installed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each program runs (default: %(default)s)")
    args = parser.parse_args()
    python, failures = args.venv.absolute() / "bin" / "python", {}
    for module in PACKAGES:
        try:
            install(args.venv, python, module)
        except PeerError as failure:
            failures[module] = str(failure)
    load = os.getloadavg()[0]
    rows: dict[tuple[Any, ...], Row] = {}
    for name, command, env in tqdm(programs(python) * args.rounds, desc="peers", disable=None):
        if name in failures:
            continue
        try:
            for row in measured(command, env):
                add(rows, row)
        except PeerError as failure:
            failures[name] = str(failure)
    results = [summary(row) for row in rows.values()]
    wrapper = os.environ.get("TORCHINDUCTOR_CPP_WRAPPER")
    print(heading(args.rounds, load, wrapper), "", peer_table(results), "", versions(results), sep="\n")
    for name, words in failures.items():
        print(f"\n{name} is absent from the table:\n\n{words}")
    if args.json:
        about = {"day": str(date.today()), "cpp_wrapper": wrapper, "rounds": args.rounds, "load_before": load}
        args.json.write_text("".join(json.dumps(row | about) + "\n" for row in results))


def install(folder: Path, python: Path, module: str) -> None:
    """Make the virtual environment and what it lacks of a module. Raises PeerError with the line that pip refused."""
    if not python.exists():
        call([sys.executable, "-m", "venv", str(folder)])
    wanted = dict(package.split("==") for package in PACKAGES[module])
    check = "import sys; from importlib.metadata import version as v; " + (
        f"sys.exit(any(v(n).split('+')[0] != w for n, w in {wanted!r}.items()))"
    )
    try:
        call([str(python), "-c", check])
    except PeerError:
        line = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES[module]]
        try:
            call(line)
        except PeerError as failure:
            raise PeerError(f"    {shlex.join(['pip', 'install', *PACKAGES[module]])}\n\n{failure}") from failure


def programs(python: Path) -> list[tuple[str, list[str], dict[str, str]]]:
    """Return one round: a name, a command and what its environment needs, ours and theirs in turn."""

    def ours(*words: str) -> tuple[str, list[str], dict[str, str]]:
        return "biomamba " + " ".join(words), [sys.executable, "-m", "bench.peer_biomamba", *words], {}

    def online(streams: int, threads: int, how: str, width: int = 64) -> tuple[str, list[str], dict[str, str]]:
        words = {"streams": streams, "threads": threads, "how": how, "width": width}
        return ours("online", *(part for name, own in words.items() for part in (f"--{name}", str(own))))

    braintrace = [str(python), str(HERE / "peer_braintrace.py")]
    mambapy = [str(python), str(HERE / "peer_mambapy.py")]
    return [
        *(online(1, 1, how) for how in ("call", "compiled", "scan")),
        *(online(1, 1, how, 128) for how in ("call", "scan")),
        *(online(16, 1, how) for how in ("call", "scan")),
        online(16, 2, "compiled"),
        ("braintrace", braintrace, ONE_THREAD),
        ours("chunk"),
        ours("transformers"),
        ("mambapy", mambapy, {"OMP_NUM_THREADS": "1"} | ALLOCATOR),
    ]


def measured(command: list[str], env: dict[str, str]) -> Iterator[Row]:
    """Yield what a program printed. Raises PeerError where it failed."""
    for line in call(command, env).splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def call(command: list[str], env: dict[str, str] | None = None) -> str:
    """Return what a program printed. Raises PeerError with the last lines of its errors."""
    try:
        done = subprocess.run(  # noqa: S603 - our own programs
            command, env=os.environ | (env or {}), cwd=HERE.parent, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise PeerError(str(error)) from error
    if done.returncode:
        raise PeerError("\n".join(done.stderr.strip().splitlines()[-8:]))
    return done.stdout


def add(rows: dict[tuple[Any, ...], Row], row: Row) -> None:
    """Put a row to those of earlier rounds: its samples join theirs."""
    key = tuple(row[name] for name in ("who", "network", "what", "streams", "threads"))
    unit = "us" if "us" in row else "ms"
    samples = row.pop(unit)
    kept = rows.setdefault(key, row | {"unit": f"{unit} per {'step' if unit == 'us' else 'chunk'}", "samples": []})
    kept["samples"].append(samples)


def summary(row: Row) -> Row:
    """Return the row with medians instead of samples."""
    samples = row.pop("samples")
    every = sorted(sample for part in samples for sample in part)
    return row | {
        "median": statistics.median(every),
        "p10": every[len(every) // 10],
        "medians_of_rounds": [statistics.median(part) for part in samples],
        "samples": len(every),
    }


def heading(rounds: int, load: float, wrapper: str | None) -> str:
    """Return what a reader of the table must know."""
    said = "not set" if wrapper is None else f"{wrapper!r}"
    return (
        f"`python -m bench.peers`, {date.today()}, {os.cpu_count()} {os.uname().machine} cores, {rounds} rounds, "
        f"load before the run {load:.2f}, TORCHINDUCTOR_CPP_WRAPPER {said}"
    )


def peer_table(rows: list[Row]) -> str:
    """Return the table, online first, equal numbers of streams together."""
    header = ["who", "network", "what", "streams", "threads", "median", "p10", "rounds", "unit", "trace kB", "numbers"]
    ordered = sorted(rows, key=lambda row: (row["unit"] != "us per step", row["streams"], row["what"][:6] != "online"))
    return table(header, [cells(row) for row in ordered])


def cells(row: Row) -> list[str]:
    """Return a line of the table."""
    digits = 0 if row["unit"].startswith("us") else 1
    rounds = ", ".join(f"{median:,.{digits}f}" for median in row["medians_of_rounds"])
    times = [f"{row['median']:,.{digits}f}", f"{row['p10']:,.{digits}f}", rounds]
    trace = f"{row['trace_bytes'] / 1000:,.0f}" if "trace_bytes" in row else "-"
    names = [row["who"], row["network"], row["what"], str(row["streams"]), str(row["threads"])]
    return [*names, *times, row["unit"], trace, f"{row['parameters']:,}"]


def versions(rows: list[Row]) -> str:
    """Return a line that names every version in use, and one that says that the networks learned."""
    learned = [f"{row['bits_per_byte']:.2f} ({row['who']}, {row['what'][8:]}, {row['streams']})" for row in rows
               if "bits_per_byte" in row and "scan" not in row["what"]]  # fmt: skip
    named = ", ".join(dict.fromkeys(part for row in rows for part in row["version"].split(", ")))
    return f"Versions: {named}.\n\nBits per byte of steps 300 to 400, to see that they learn: {'; '.join(learned)}."


if __name__ == "__main__":
    main()
