"""`biomamba export`: a run's learner, or a saved one, as a file that other programs run."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse.typing import PositiveInt

from ..deploy.export import export
from ..experiment.load import load
from ..experiment.parse import parse
from ..learner import Learner
from ..report.text import bytes_text
from ..rows import Supervised
from ..stream import Chunk
from .compress import files

USAGE = "biomamba export FOLDER -o FILE [--to onnx|aoti] [--batch 1] [--length 1] [--learns false] [--resets false]"


@dataclass(frozen=True)
class Export:
    """Write the learner of a run, or a saved one, to a file that other programs run.

    to: onnx, or aoti, a package of compiled code for torch without Python (needs a C++ compiler)
    batch: streams side by side
    length: time steps per update
    learns: predict and learn; false: predict alone
    resets: take at each step whether a sequence begins; false: none ever does, which is faster
    updates: that the file is tried on against torch before it keeps its name
    """

    to: Literal["onnx", "aoti"] = "onnx"
    batch: PositiveInt = 1
    length: PositiveInt = 1
    learns: bool = True
    resets: bool = True
    updates: PositiveInt = 20


def run(argv: Sequence[str]) -> int:
    """Write the file, what it is called with and what is carried at first, once it was tried against torch."""
    folder, file, rest = files(argv, USAGE)
    config = folder / "config.yaml"
    parsed = parse([*(["--config", str(config)] if config.is_file() else []), *rest], Export, "export FOLDER -o FILE ")
    learner, own, settings = load(folder), parsed.command, parsed.config
    if isinstance(learner.task, Supervised):
        chunks = drawn(learner, own.batch, own.length)
    else:
        split, seed = (settings.stream.split, settings.run.seed) if config.is_file() else ("all", 0)
        chunks = learner.task.stream(split, batch=own.batch, length=own.length, seed=seed)
    facts = export(learner, chunks, file, own.to, own.learns, own.resets, own.updates)
    carried, described = (file.with_suffix(suffix) for suffix in (".safetensors", ".json"))
    print(f"{file}: {size(file)}; {carried}: {size(carried)}, which go round")
    print(f"{own.updates} updates differ from torch by at most {facts['proof']['largest_difference']:.1e}")
    print(f"{described} says what it is called with: {', '.join(given['name'] for given in facts['inputs'])}")
    return 0


def drawn(learner: Learner, batch: int, length: int) -> Iterator[Chunk]:
    """Yield chunks of a learner that has no data of its own, drawn at random."""
    rows, random = learner.rows, torch.Generator().manual_seed(0)
    mask = torch.ones(batch, length, dtype=torch.bool)
    for _ in itertools.count():
        x = torch.randn(batch, length, rows.d_in, generator=random)
        if rows.vocab is not None:
            x = torch.randint(rows.vocab, (batch, length), generator=random)
        y = torch.randn(batch, length, rows.d_out, generator=random)
        if rows.kind == "class":
            y = torch.randint(rows.d_out, (batch, length), generator=random)
        yield Chunk(x, y, mask, ~mask)


def size(file: Path) -> str:
    """Return a file's size in words."""
    return bytes_text(file.stat().st_size)
