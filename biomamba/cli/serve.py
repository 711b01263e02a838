"""`biomamba serve`: a learner between two programs, a JSON line in, a JSON line out.

    {"id": "a", "x": [0.1, 0.2]}       ->  {"id": "a", "prediction": "open", "probabilities": {...}}
    {"id": "a", "y": "shut"}           ->  {"id": "a", "learned": true}       at once, late, in any order, or never
    {"x": {"flow": 0.1}, "y": "shut"}  ->  both, the prediction first
    {"save": "DIR"}                    ->  {"saved": "DIR"}

x is a list of inputs, or an object by name. Without an id the number of the step is taken. {"reset": true} beside x
begins a new sequence. A line that cannot be used gets {"error": "..."} and changes nothing; the end of the lines ends
the service.
"""

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from ..experiment import jobs
from ..experiment.load import load
from ..experiment.log import finite
from ..learner import Learner
from .sample import options

USAGE = "biomamba serve RUN [--learn false] [--horizon N] [--lr RATE] [--save DIR]"
KEYS = {"id", "x", "y", "reset", "save"}


@dataclass(frozen=True)
class Serve:
    """Answer lines of standard input with lines of standard output, learning what is told.

    learn: learn from answers; false: predict alone
    horizon: how many of the last steps may still be answered; null: as the learner has it
    lr: learning rate; null: the run's own
    save: folder to keep the learner in when the lines end; null: nowhere
    """

    learn: bool = True
    horizon: PositiveInt | None = None
    lr: PositiveFloat | None = None
    save: str | None = None


def run(argv: Sequence[str]) -> int:
    """Serve a learner until its lines end, or until a signal."""
    folder, own = options(argv, Serve, USAGE)
    given = {name: getattr(own, name) for name in ("horizon", "lr") if getattr(own, name) is not None}
    learner = load(folder, threads=1, **given)
    if not own.learn:
        learner.freeze()
    print(f"serving {folder}, learning {'on' if own.learn else 'off'}", file=sys.stderr, flush=True)
    try:
        with jobs.signals() as caught:
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="replace")  # a line of other bytes is a bad line, not the end
            for answer in answers(learner, sys.stdin):
                print(json.dumps(finite(answer)), flush=True)
                if caught:
                    break
    finally:
        if own.save is not None:
            learner.unfreeze()
            learner.save(own.save)
    return 0


def answers(learner: Learner, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the answer to each line that is not blank."""
    for line in lines:
        if line.strip():
            try:
                yield from answer(learner, line)
            except (ValueError, TypeError, RecursionError, ArithmeticError, OSError) as error:
                yield {"error": " ".join(str(error).split())[:300]}


def answer(learner: Learner, line: str) -> Iterator[dict[str, Any]]:
    """Yield what a line asks for. Raises ValueError or TypeError for one that cannot be used."""
    try:
        asked = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f'got {line.strip()[:80]}, expected JSON, such as {{"x": [0.5, 1]}}') from error
    if not isinstance(asked, dict) or not asked.keys() & {"x", "y", "save"} or asked.keys() - KEYS:
        raise ValueError(f"got {line.strip()[:80]}, expected an object with some of {', '.join(sorted(KEYS))}")
    ticket = asked.get("id")
    if "y" in asked and "x" not in asked and ticket is None:
        raise ValueError('got y without an id, expected {"id": ..., "y": ...}')
    if "x" in asked:
        said = learner.predict(asked["x"], ticket, reset=asked.get("reset") is True)
        ticket = said.id
        shares = {str(name): share for name, share in said.probabilities.items()}
        yield {"id": ticket, "prediction": said.value} | ({"probabilities": shares} if shares else {})
    if "y" in asked:
        learned = learner.learn(ticket, asked["y"])
        yield {"id": ticket, "learned": bool(learned)} | ({"reason": learned.reason} if learned.reason else {})
    if "save" in asked:
        learner.save(str(asked["save"]))
        yield {"saved": str(asked["save"])}
