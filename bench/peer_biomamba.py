"""Time biomamba, and transformers' Mamba-2, for `bench.peers`.

    python -m bench.peer_biomamba online --streams 1 --threads 1     one update per byte, a call each
                                         --how compiled|scan         in a graph; 32 updates in one call
    python -m bench.peer_biomamba chunk                              forward and BPTT of 16 streams of 64 bytes, eager
    python -m bench.peer_biomamba transformers                       the same of transformers, its chunked torch path

Prints one JSON object per row. With one thread, the process is bound to one core.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import biomamba
from biomamba.experiment.memory import keep_freed_memory
from biomamba.rules import BPTT, RTRL
from biomamba.state import nbytes
from biomamba.stream import Chunk
from biomamba.tasks.language import Language

Row = dict[str, Any]
SIZES: dict[str, Any] = {"vocab": 256, "d_out": 256, "d_model": 64, "n_layers": 1, "d_state": 16}
UPDATES_BEFORE, UPDATES, SCAN = 128, 320, 32
STREAMS, LENGTH, WARM, TIMES = 16, 64, 3, 12


def bind(threads: int) -> None:
    """Set the number of threads; a single one stays on one core."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(threads)


def parameters(model: torch.nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(p.numel() for p in model.parameters())


def online_row(streams: int, threads: int, how: str, width: int) -> Row:
    """Return the times of updates of length 1, everything that `online()` does included."""
    model, together = (
        biomamba.Model(block="mamba2", headdim=64, **SIZES | {"d_model": width}),
        SCAN if how == "scan" else 1,
    )
    task, rule = Language(), RTRL(model.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    stream = task.stream("all", batch=streams, length=together, seed=0)
    learner = biomamba.Learner(task, model, rule, optimizer, compile=how == "compiled")
    loop = biomamba.online(stream, learner, length=1 if together > 1 else None)
    microseconds, nats = [], []
    for _ in range((UPDATES_BEFORE + UPDATES) // together):
        start = time.perf_counter()
        report = next(loop)
        microseconds += [1e6 * (time.perf_counter() - start) / together] * together
        nats += [float(report.loss)] * together
    return {
        "network": f"Mamba-2, width {width}",
        "what": f"online, rtrl, {how}",
        "us": microseconds[UPDATES_BEFORE:],
        "streams": streams,
        "threads": threads,
        "trace_bytes": nbytes(report.state.trace),
        "parameters": parameters(model),
        "bits_per_byte": sum(nats[-100:]) / 100 / 0.6931471805599453,
    }


def milliseconds(call: Callable[[], object]) -> list[float]:
    """Return how long each of some calls took, after a few that do not count."""
    samples = []
    for _ in range(WARM + TIMES):
        start = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - start))
    return samples[WARM:]


def chunk_rows(block: str) -> list[Row]:
    """Return the times of one chunk, forward only and with BPTT."""
    options = {"headdim": 64} if block == "mamba2" else {}
    model = biomamba.Model(block=block, **options, **SIZES)
    task, rule = Language(), BPTT(model.blocks)
    chunk: Chunk = next(task.stream("all", batch=STREAMS, length=LENGTH, seed=0))
    state, trace = model.init_state(STREAMS), rule.init(STREAMS)

    def forward() -> None:
        with torch.no_grad():
            model(chunk.x, state)

    def both() -> None:
        model.zero_grad()
        out, _, tapes = model(chunk.x, biomamba.cut(state))
        rule.backward(task.loss(out, chunk), tapes, trace)

    name = {"mamba2": "Mamba-2", "mamba": "Mamba-1"}[block]
    common = {"network": f"{name}, width 64", "streams": STREAMS, "threads": 1, "parameters": parameters(model)}
    calls = {"forward": forward, "forward + backward": both}
    return [common | {"what": what, "ms": milliseconds(call)} for what, call in calls.items()]


def transformers_rows() -> list[Row]:
    """Return the same of transformers' Mamba-2 of equal sizes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()  # that its CUDA kernels are not there
    config = transformers.Mamba2Config(
        vocab_size=256,
        hidden_size=64,
        state_size=16,
        head_dim=64,
        num_heads=2,
        expand=2,
        n_groups=1,
        conv_kernel=4,
        num_hidden_layers=1,
        chunk_size=64,
        use_cache=False,
        tie_word_embeddings=False,
    )
    model = transformers.Mamba2ForCausalLM(config)
    x, y = torch.randint(256, (2, STREAMS, LENGTH))

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        model.zero_grad()
        F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten()).backward()

    common = {
        "who": "transformers",
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "network": "Mamba-2, width 64",
        "streams": STREAMS,
        "threads": 1,
        "parameters": parameters(model),
    }
    calls = {"forward": forward, "forward + backward": both}
    return [common | {"what": what, "ms": milliseconds(call)} for what, call in calls.items()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("online", "chunk", "transformers"))
    parser.add_argument("--streams", type=int, default=1, help="of online")
    parser.add_argument("--threads", type=int, default=1, help="of online")
    parser.add_argument("--how", choices=("call", "compiled", "scan"), default="call", help="of online")
    parser.add_argument("--width", type=int, default=64, help="of online")
    args = parser.parse_args()
    bind(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    if args.what == "online":
        rows = [online_row(args.streams, args.threads, args.how, args.width)]
    else:
        rows = transformers_rows() if args.what == "transformers" else chunk_rows("mamba2") + chunk_rows("mamba")
    ours = {"who": "biomamba", "version": f"biomamba {biomamba.__version__}, torch {torch.__version__}"}
    for row in rows:
        print(json.dumps(ours | row), flush=True)


if __name__ == "__main__":
    main()
