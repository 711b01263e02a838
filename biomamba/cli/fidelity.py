"""`biomamba fidelity`: how near each rule's gradient is to full backpropagation's."""

from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt

from .. import checkpoint
from ..experiment import log
from ..experiment.build import Experiment, task_of
from ..experiment.config import Config
from ..experiment.parse import parse
from ..report.text import fidelity_table
from .variants import Variants, create_comparison_dir, gradient_row, variants, watched, words


@dataclass(frozen=True)
class Fidelity(Variants):
    """Compare each rule's gradient with full backpropagation through a segment of the stream, weights held.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    vary: KEY=v1,v2,... of any value of the config, several after each other
    depths: numbers of blocks, separated by commas; null: the config's
    segment: time steps of each stream
    updates: that the config's own rule makes before, on what comes before the segment
    """

    depths: str | None = None
    segment: PositiveInt = 256
    updates: NonNegativeInt = 0


def run(argv: Sequence[str]) -> int:
    """Print and keep how near each rule's gradient is to full BPTT's, by chunk length and depth."""
    parsed = parse(argv, Fidelity, "fidelity ")
    settings, asked = parsed.config, parsed.command
    rows = []
    for depth in words(asked.depths or str(settings.model.n_layers)):
        given = [*argv, "--model.n_layers", depth]
        base = parse(given, Fidelity).config
        plan = variants(given, asked, base)
        weights, done = learned_weights(base, asked.updates, asked.segment)
        rows += [
            gradient_row(label, own, weights, asked.segment, done) for label, own in watched(plan, f"{depth} blocks")
        ]
    after = f"after {asked.updates} updates of {settings.rule.name}" if asked.updates else "as drawn"
    found = {"steps": asked.segment, "streams": settings.stream.batch, "weights": after, "rows": rows}
    source = task_of(settings).source
    folder = create_comparison_dir(settings, "fidelity")
    log.write(folder / "fidelity.json", log.to_json({"task": settings.task.name, "source": source, **found}))
    print(f"{source}: {asked.segment} steps of {settings.stream.batch} streams, weights {after}")
    print(fidelity_table(rows))
    print(f"{folder}/fidelity.json")
    return 0


def learned_weights(settings: Config, updates: int, segment: int) -> tuple[checkpoint.Tensors, int]:
    """Return the weights after so many updates, and how many steps of the stream they took; a segment must be left."""
    own, done = Experiment.from_config(settings), 0
    for report in own.online(own.stream()) if updates else ():
        done = report.state.steps
        if report.state.updates == updates:
            break
    if done + segment > own.total:
        raise ValueError(f"updates: after {updates} only {own.total - done} steps are left, expected {segment} or more")
    return checkpoint.weights(own.model), done
