"""What does a learner cost among many, each with its own weights? Beside learners of their own, compiled, one by one.

    python -m bench.fleet [--members 1,16,256,1024] [--json FILE]

One Mamba-2 block of width 32 on store-recall, RTRL and Adam, one step a time, every step labelled, one thread. Time is
the processor's, not the clock's, the best of five rounds: a busy machine changes it less.
"""

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import biomamba
from bench.grid import heading, markdown, write
from biomamba.state import nbytes
from biomamba.stream import Chunk, join
from biomamba.tasks.delay import Delay

Row = dict[str, Any]
ROUNDS, STEPS = 5, 400  # of all members together in a round, at least
PAGE = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="1,16,256,1024", help="how many, separated by commas")
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(heading("python -m bench.fleet"))
    rows = [alone(compiled) for compiled in (False, True)] + [fleet(int(n)) for n in args.members.split(",")]
    print(markdown(rows))
    write(rows, args.json)


def learner(compiled: bool) -> biomamba.Learner:
    """Return a learner."""
    torch.manual_seed(0)
    model = biomamba.Model(vocab=21, d_out=8, d_model=32, d_state=8, headdim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    return biomamba.Learner(Delay(delay=4), model, biomamba.rules.RTRL(model.blocks), optimizer, compile=compiled)


def chunk(streams: int) -> Chunk:
    """Return a step of so many streams, labelled."""
    found = join([*islice(Delay(delay=4).stream("all", batch=streams, length=1, seed=0), 1)])
    return found._replace(mask=torch.ones_like(found.mask))


def alone(compiled: bool) -> Row:
    """Return what one learner by itself takes."""
    own, step = learner(compiled), chunk(1)
    taken = best(lambda: own.update(step), STEPS)
    state = own.update(step).state
    size = nbytes([state.model_state, state.trace]) + 3 * sum(p.nbytes for p in own.model.parameters())
    return {
        "learners": "one by one, compiled" if compiled else "one by one",
        "CPU us per step": taken,
        "kB": size / 1e3,
    }


def fleet(members: int) -> Row:
    """Return what a member of a fleet takes."""
    own, step, ids = biomamba.Fleet(learner(False), page=min(PAGE, members)), chunk(members), range(members)
    for i in ids:
        own.add(i)
    taken = best(lambda: own.step(ids, *step[:4]), max(3, STEPS // members)) / members
    return {"learners": f"fleet of {members:,}", "CPU us per step": taken, "kB": own.nbytes / 1e3}


def best(step: Callable[[], Any], times: int) -> float:
    """Return the microseconds of a call, of the best round."""
    for _ in range(3):  # the first is plain, the second compiles
        step()
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            step()
        rounds.append((time.process_time() - began) / times * 1e6)
    return min(rounds)


if __name__ == "__main__":
    main()
