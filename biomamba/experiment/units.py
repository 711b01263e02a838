"""A learner of a table's columns, made to take rows as they stand in the table, and to answer in its units.

table -> its last rows -> means and deviations -> Rows -> learner.predict(row), learner.learn(id, answer)
"""

from typing import Any

from ..learner import Learner
from ..rows import Rows


def in_units(learner: Learner) -> Learner:
    """Return the learner, whose rows are from now on those of its task's table, where it has one.

    Means and deviations are of the last rows of the table, or, of a live one, of the rows that come.
    """
    task: Any = learner.task
    if not hasattr(task, "columns") or learner.rows.scaler.scale or learner.rows.targets.scale:
        return learner
    names = task.columns()
    rows = Rows(names.inputs, names.classes, names.outputs, scale=task.scale)
    for x, y in task.recent():
        rows.encode(x)
        if y is not None and rows.kind == "value":
            rows.target(y)
    learner.rows = rows
    return learner
