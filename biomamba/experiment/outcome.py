"""Whether a run came to anything, and what of its data it left out: nobody should take an empty table for a result."""

import math
from collections.abc import Mapping

from ..loop_state import LoopState
from ..metrics import Total
from ..stream import Benchmark, Meter


def check(task: Benchmark, state: LoopState, whole: bool) -> None:
    """Raise ValueError where nothing was learned, or nothing scored, with the reason.

    whole: the stream was taken to its end; the beginning of one may well hold no label, if nothing in it was skipped.
    """
    if whole or any(meter.get() for meter in state.meters.values() if isinstance(meter, Total)):
        if not state.updates:
            raise ValueError(f"nothing was learned in {state.steps:,} steps: {reason(task, state.meters)}")
        check_scored(task, state.meters, state.steps)


def check_scored(task: Benchmark, meters: Mapping[str, Meter], steps: int) -> None:
    """Raise ValueError where no step was scored, with the reason."""
    if all(math.isnan(meter.get()) for meter in meters.values() if not isinstance(meter, Total)):
        raise ValueError(f"nothing was scored in {steps:,} steps: {reason(task, meters)}")


def reason(task: Benchmark, meters: Mapping[str, Meter]) -> str:
    """Return in a line what was left out, as the task tells it or as its totals do, and of what data."""
    totals = {name: meter.get() for name, meter in meters.items() if isinstance(meter, Total)}
    told = [*task.left_out(meters)] or [f"{name} {value:,g}" for name, value in totals.items() if value]
    return f"{'; '.join(told) or 'no step had a label'}; in {task.source}"
