"""What the ranks behind the first do: the same updates on rows of their own. The first alone writes and prints."""

import os
import signal
from pathlib import Path

from ..ranks import Ranks
from . import jobs
from .build import Experiment
from .predictions import Predictions
from .resume import Resumed, resumed


def follow(experiment: Experiment, ranks: Ranks, folder: Path | None) -> int | None:
    """Learn beside the first rank, to the end of the stream, or until a signal; return the signal.

    folder: of the run to go on with; None where it begins. Raises ConnectionError where another rank is gone.
    """
    past = Resumed() if folder is None else resumed(experiment, folder)
    steps, learner = past.state.steps if past.state else 0, experiment.learner
    chunks = experiment.stream(start=steps)
    chunks.load_state_dict(past.stream_state)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, jobs.signals() as caught:
        # whose lines the first rank writes, of what every rank says
        told = None if experiment.config.run.predictions is None else Predictions(nowhere, experiment.task)
        for report in experiment.online(chunks, past.state, told):
            steps = report.state.steps
            asked = ranks.agree(stop=bool(caught), save=False)
            if asked.stop or asked.save or steps == experiment.total:
                learner.gathered()
            if asked.stop:
                return caught[0] if caught else signal.SIGTERM
    if 0 < steps < experiment.total:  # a stream that ended early
        learner.gathered()
    return None
