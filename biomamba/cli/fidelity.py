"""`biomamba fidelity`: how near each rule's gradient is to full backpropagation's."""

from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse.typing import PositiveInt

from .. import checkpoint
from ..experiment import log
from ..experiment.build import Experiment, task_of
from ..experiment.config import Config
from ..experiment.parse import parse
from ..report.text import fidelity_table, loud
from .variants import Variants, create_comparison_dir, gradient_row, untraced, variants, watched, words


@dataclass(frozen=True)
class Fidelity(Variants):
    """Compare each rule's gradient with full backpropagation through a segment of the stream, weights held.

    rules: names, separated by commas
    lengths: time steps per update, separated by commas; null: the config's
    windows: steps or none, separated by commas; null: the config's; those shorter than a length are left out there
    vary: KEY=v1,v2,... of any value of the config, several after each other
    depths: numbers of blocks, separated by commas; null: the config's
    segment: time steps of each stream
    updates: that the config's own rule makes before, on what comes before the segment, separated by commas: a curve;
        null: a tenth of the stream's, so that learning has begun
    """

    depths: str | None = None
    segment: PositiveInt = 256
    updates: str | None = None


def run(argv: Sequence[str]) -> int:
    """Print and keep how near each rule's gradient is to full BPTT's, by chunk length and depth."""
    parsed = parse(argv, Fidelity, "fidelity ")
    settings, asked = parsed.config, parsed.command
    for line in untraced(asked, settings):
        print(line)
    rows = []
    for depth in words(asked.depths or str(settings.model.n_layers)):
        given = [*argv, "--model.n_layers", depth]
        base = parse(given, Fidelity).config
        plan = variants(given, asked, base)
        counts = counted(asked.updates, base)
        for count, (weights, done) in learned_weights(base, counts, asked.segment).items():
            what = f"{depth} blocks, {count} updates"
            rows += [gradient_row(n, own, weights, asked.segment, done, count) for n, own in watched(plan, what)]
    after = f"after {', '.join(map(str, counts))} updates of {settings.rule.name}"
    found = {"steps": asked.segment, "streams": settings.stream.batch, "weights": after, "rows": rows}
    source = task_of(settings).source
    folder = create_comparison_dir(settings, "fidelity")
    log.write(folder / "fidelity.json", log.to_json({"task": settings.task.name, "source": source, **found}))
    print(f"{loud(source)}: {asked.segment} steps of {settings.stream.batch} streams, weights {after}")
    print(fidelity_table(rows))
    print(f"{folder}/fidelity.json")
    return 0


def counted(given: str | None, settings: Config) -> list[int]:
    """Return the numbers of updates, in their order. Raises ValueError for others than whole numbers."""
    if given is None:
        return [Experiment.from_config(settings).total // settings.stream.length // 10]
    if not all(word.isdecimal() for word in words(given)):
        raise ValueError(f"updates: got {given!r}, expected whole numbers, 0 or more, separated by commas")
    return sorted({int(word) for word in words(given)})


def learned_weights(settings: Config, counts: Sequence[int], segment: int) -> dict[int, tuple[checkpoint.Tensors, int]]:
    """Return the weights after so many updates, and how many steps of the stream they took; a segment must be left."""
    own, found = Experiment.from_config(settings), dict[int, tuple[checkpoint.Tensors, int]]()

    def keep(count: int, done: int) -> None:
        if done + segment > own.total:
            left = own.total - done
            raise ValueError(f"updates: after {count} only {left} steps are left, expected {segment} or more")
        found[count] = {name: tensor.clone() for name, tensor in checkpoint.weights(own.model).items()}, done

    if 0 in counts:
        keep(0, 0)
    for report in own.online(own.stream()) if counts[-1] else ():
        if report.state.updates in counts and report.state.updates not in found:
            keep(report.state.updates, report.state.steps)
        if report.state.updates == counts[-1]:
            break
    else:
        if counts[-1]:
            raise ValueError(f"updates: after {counts[-1]} only 0 steps are left, expected {segment} or more")
    return found
