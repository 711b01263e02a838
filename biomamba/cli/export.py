"""`biomamba export`: a finished run's learner as a file that other programs run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jsonargparse.typing import PositiveInt

from .. import checkpoint
from ..deploy.export import export
from ..experiment.build import build_learner, task_of
from ..experiment.parse import parse
from ..report.text import bytes_text
from .compress import files
from .evaluate import run_config

USAGE = "biomamba export RUN_DIR -o FILE [--to onnx|aoti] [--learns false] [--resets false] [--section.key value ...]"


@dataclass(frozen=True)
class Export:
    """Write a finished run's learner to a file that other programs run.

    to: onnx, or aoti, a package of compiled code for torch without Python (needs a C++ compiler)
    learns: predict and learn; false: predict alone
    resets: take at each step whether a sequence begins; false: none ever does, which is faster
    updates: that the file is tried on against torch before it keeps its name
    """

    to: Literal["onnx", "aoti"] = "onnx"
    learns: bool = True
    resets: bool = True
    updates: PositiveInt = 20


def run(argv: Sequence[str]) -> int:
    """Write the file, what it is called with and what is carried at first, once it was tried against torch."""
    folder, file, rest = files(argv, USAGE)
    parsed = parse(["--config", str(run_config(folder)), *rest], Export, "export RUN_DIR -o FILE ")
    settings, own = parsed.config, parsed.command
    settings = replace(settings, optim=replace(settings.optim, lr=settings.optim.lr_end or settings.optim.lr))
    task, stream = task_of(settings), settings.stream
    learner = build_learner(settings, task)
    weights, _ = checkpoint.load(folder / "model.safetensors")
    checkpoint.load_weights(learner.model, weights)
    chunks = task.stream(stream.split, batch=stream.batch, length=stream.length, seed=settings.run.seed)
    facts = export(learner, chunks, file, own.to, own.learns, own.resets, own.updates)
    carried = file.with_suffix(".safetensors").stat().st_size
    print(f"{file}: {bytes_text(file.stat().st_size)}, carries {bytes_text(carried)} from call to call")
    proof = facts["proof"]
    print(f"{proof['updates']} updates differ from torch by at most {proof['largest_difference']:.1e}")
    print(f"{file.with_suffix('.json')} says what it is called with: {', '.join(e['name'] for e in facts['inputs'])}")
    return 0
