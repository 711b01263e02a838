"""A run's learner made to take rows as they stand in its table, and to answer in the table's units.

table -> its last rows -> means and deviations -> Rows -> learner.predict(row), learner.learn(id, answer)
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..learner import Learner
from ..rows import Rows, Supervised
from ..stream import Meter, Spec
from .files import read
from .load import load


def load_in_units(folder: Path, **options: Any) -> Learner:
    """Return the learner of a folder; options as for `load`. Of a run of a table, its rows are those of the table.

    Means and deviations are of the last rows of the table, or, where that was standard input, of the rows that come.
    """
    config = read(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
    if config.get("task.name") == "arrays" and config.get("task.path") == "-":
        return _of_lines(folder, config, options)
    learner = load(folder, **options)
    task: Any = learner.task
    if hasattr(task, "columns") and not (learner.rows.scaler.scale or learner.rows.targets.scale):
        names = task.columns()
        rows = Rows(names.inputs, names.classes, names.outputs, scale=task.scale)
        for x, y in task.recent():
            rows.encode(x)
            if y is not None and rows.kind == "value":
                rows.target(y)
        learner.rows = rows
    return learner


class _Lines(Supervised):
    """A task whose lines came from standard input, and are gone."""

    def meters(self) -> dict[str, Meter]:
        """Return none: those of the run are its task's."""
        return {}


def _of_lines(folder: Path, config: dict[str, Any], options: dict[str, Any]) -> Learner:
    """Return the learner of a run that read standard input, which may not be read again to ask for its columns."""
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            d_in = file.get_slice("encoder.weight").get_shape()[1]
            d_out = file.get_slice("head.weight").get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}: its model.safetensors cannot be read ({error}): give a finished run") from error
    kind = config.get("task.kind", "class")
    task = _Lines(Spec(d_in=d_in, d_out=d_out), "class" if kind == "class" else "value")
    learner = load(folder, task=task, **options)
    names = [str(name) for name in config.get("task.classes") or ()]
    if len(names) != d_out:  # their number was given
        names = [str(number) for number in range(d_out)]
    learner.rows = Rows(d_in, names if kind == "class" else None, d_out, scale=config.get("task.scale", True))
    return learner
