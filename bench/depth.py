"""How near is RTRL to full BPTT in a deep stack? Cosine of the summed gradient, weights held, on tinyshakespeare.

    BIOMAMBA_DATA=... python -m bench.depth [--blocks 2,4,8] [--steps 128]

Mamba-2 blocks, d 32, e 64, n 8, float64, 4 streams. For each depth, length and window: the cosine over all block
parameters to the gradient of one backpropagation through the whole segment, and that of each block, first block first;
at the drawn weights and after 80 BPTT updates. `immediate` is the same without traces.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import biomamba
from bench.grid import heading, table
from biomamba.rules import BPTT, RTRL, LearningRule
from biomamba.tasks.language import Language

CUTS = [(1, None), (4, None), (16, None), (1, 16), (4, 16)]
STREAMS, UPDATES = 4, 80


class Summed:
    """The task's cross entropy, summed instead of averaged, so that gradients of chunks add up."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the sum, nats."""
        return F.cross_entropy(out.flatten(0, 1), chunk.y.flatten(), reduction="sum")

    def meters(self) -> dict[str, biomamba.stream.Meter]:
        """Return no meters."""
        return {}


def gradient(model: biomamba.Model, rule: LearningRule, steps: int, length: int, window: int | None) -> list[Tensor]:
    """Return each block's gradient as one vector, summed over the first `steps` steps of the text, weights held."""
    stream = Language(corpus="tinyshakespeare", max_bytes=STREAMS * steps + 1).stream(
        "all", batch=STREAMS, length=length, seed=0
    )
    total = [[torch.zeros_like(p) for p in block.parameters()] for block in model.blocks]
    held = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in biomamba.online(stream, biomamba.Learner(Summed(), model, rule, held, window=window, clip=None)):
        for block, sums in zip(model.blocks, total, strict=True):
            for parameter, part in zip(block.parameters(), sums, strict=True):
                part += parameter.grad
    return [torch.cat([part.flatten() for part in sums]) for sums in total]


def trained(model: biomamba.Model, updates: int) -> None:
    """Make `updates` BPTT steps of 64 time steps, on text behind the measured segment."""
    task = Language(corpus="tinyshakespeare")
    stream = task.stream("all", batch=16, length=64, seed=0, start=4096)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for report in biomamba.online(stream, biomamba.Learner(task, model, BPTT(model.blocks), optimizer)):
        if report.state.updates == updates:
            return


def cosine(got: list[Tensor], full: list[Tensor]) -> float:
    """Return the cosine of the concatenated vectors."""
    return float(torch.cosine_similarity(torch.cat(got), torch.cat(full), dim=0))


def main() -> None:
    """Print the table of whole stacks, then that of single blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="2,4,8")
    parser.add_argument("--steps", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    stacks, singles = [], []
    for n_layers in tqdm([int(n) for n in arguments.blocks.split(",")], desc="depth", disable=None):
        torch.manual_seed(0)
        model = biomamba.Model(vocab=256, d_out=256, d_model=32, n_layers=n_layers, d_state=8, headdim=8)
        for when in ("at start", f"after {UPDATES} BPTT updates"):
            if when != "at start":
                trained(model, UPDATES)
            full = gradient(model, BPTT(model.blocks), arguments.steps, arguments.steps, None)
            for name, rule in (("rtrl", RTRL(model.blocks)), ("immediate", BPTT(model.blocks))):
                got = [gradient(model, rule, arguments.steps, length, window) for length, window in CUTS]
                stacks.append([str(n_layers), when, name, *(f"{cosine(g, full):.4f}" for g in got)])
                if name == "rtrl":
                    for i in range(n_layers):
                        cells = [f"{cosine([g[i]], [full[i]]):.4f}" for g in got]
                        singles.append([str(n_layers), when, str(i + 1), *cells])
    head = [f"length {length}" + (f", window {window}" if window else "") for length, window in CUTS]
    print(heading("python -m bench.depth"))
    print(table(["blocks", "weights", "rule", *head], stacks))
    print("\nEach block of the stack under `rtrl`, the lowest first:\n")
    print(table(["blocks", "weights", "block", *head], singles))


if __name__ == "__main__":
    main()
