"""What do traces in bfloat16 lose? Gradients with weights held, and learning, beside float32.

    python -m bench.precision [--seeds N] [--json FILE]

Gradients: one Mamba-2 block reads bytes one step at a time with weights held; cosine and relative error of the block's
summed gradient against float32 traces. Learning: bits per byte of the same stream, and store-recall, where a trace must
hold for the whole delay.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import biomamba
from bench.grid import heading, markdown, prepare, spread, write
from biomamba.rules import RTRL
from biomamba.state import nbytes
from biomamba.tasks.delay import Delay
from biomamba.tasks.language import Language

Row = dict[str, Any]
KINDS = (None, "bfloat16")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    prepare()
    print(heading("python -m bench.precision"))
    rows = [{"steps": steps, **fidelity(steps)} for steps in tqdm((16, 128, 1024), disable=None)]
    print(markdown(rows), "")
    learned = []
    for name, measure in (("language, bits per byte", language), ("delay 8, accuracy", recall)):
        for kind in KINDS:
            scores, size = zip(*(measure(kind, seed) for seed in range(args.seeds)), strict=True)
            learned.append(
                {"task": name, "traces": kind or "float32", "score": spread(scores), "trace MB": size[0] / 1e6}
            )
    print(markdown(learned))
    write([*rows, *learned], args.json)


def fidelity(steps: int) -> Row:
    """Return how near the gradient with bfloat16 traces is to that with float32 traces."""
    gradients = []
    for kind in KINDS:
        torch.manual_seed(0)
        model = biomamba.Model(vocab=256, d_out=256, d_model=64, d_state=16, headdim=64)
        total = [torch.zeros_like(p) for p in model.blocks.parameters()]
        task, optimizer = Language(), torch.optim.SGD(model.parameters(), lr=0.0)
        for report in biomamba.online(
            task.stream("all", batch=4, length=1, seed=0),
            biomamba.Learner(task, model, RTRL(model.blocks, kind), optimizer, clip=None),
        ):
            for own, parameter in zip(total, model.blocks.parameters(), strict=True):
                own += parameter.grad
            if report.state.steps == steps:
                break
        gradients.append(torch.cat([own.flatten() for own in total]))
    exact, rounded = gradients
    cosine = torch.nn.functional.cosine_similarity(exact, rounded, dim=0)
    return {"cosine": f"{float(cosine):.6f}", "relative error": float((exact - rounded).norm() / exact.norm())}


def language(kind: str | None, seed: int) -> tuple[float, int]:
    """Return bits per byte over the last tenth of 4,000 single steps of 8 streams, and the bytes of the traces."""
    torch.manual_seed(seed)
    task = Language()
    model = biomamba.Model(vocab=256, d_out=256, d_model=64, d_state=4, headdim=8)
    return last_tenth(task, model, kind, "bits_per_byte", 4000, lr=3e-3, seed=seed)


def recall(kind: str | None, seed: int) -> tuple[float, int]:
    """Return the accuracy over the last tenth of 5,000 single steps of 8 streams, and the bytes of the traces."""
    torch.manual_seed(seed)
    model = biomamba.Model(vocab=21, d_out=8, d_model=48, d_state=8, headdim=1)
    return last_tenth(Delay(delay=8), model, kind, "accuracy", 5000, lr=2e-3, seed=seed)


def last_tenth(
    task: Any, model: biomamba.Model, kind: str | None, score: str, steps: int, lr: float, seed: int
) -> tuple[float, int]:
    """Return the score of the last tenth, learned one step at a time, and the bytes of the traces."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    meters = task.meters()
    for report in biomamba.online(
        task.stream("all", batch=8, length=1, seed=seed),
        biomamba.Learner(task, model, RTRL(model.blocks, kind), optimizer),
    ):
        if report.state.steps > steps * 9 // 10:
            for meter in meters.values():
                meter.update(report.out, report.chunk)
        if report.state.steps == steps:
            break
    return meters[score].get(), nbytes(report.state.trace)


if __name__ == "__main__":
    main()
