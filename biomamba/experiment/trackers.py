"""What tells an experiment tracker how a run goes, beside metrics.jsonl: each line of it, and at the end the scores.

    tracker      where                   how to look at it
    tensorboard  DIR/tensorboard         tensorboard --logdir runs
    wandb        DIR/wandb, offline      wandb sync DIR/wandb/offline-run-*
    trackio      DIR/trackio             TRACKIO_DIR=DIR/trackio trackio show --project biomamba

DIR is the run's folder, and nothing is left elsewhere. No network is needed, and none is used unless the environment
asks for it: WANDB_MODE=online, TRACKIO_SPACE_ID and the like go before what is chosen here, and trackio asks the
Hugging Face hub whose token it is where it finds one. Each tracker is an extra of the same name.

Scalars are interval/<score>, overall/<score> and the other numbers of a line (loss, norm, skipped, ...) over time
steps, and final/<score>/<part> of a run that is complete; numbers that are not finite are left out.

A resumed run goes on in the same tracked run. Where it was killed, not stopped by a signal it can answer, the lines
since its last checkpoint come twice: tensorboard shows the later ones, the others keep both. wandb holds its last
lines, up to 15 seconds of them, in memory: a kill loses those.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from .log import Record, Summary

PROJECT = "biomamba"
Settings = Mapping[str, Mapping[str, Any]]  # sections of plain values, as in config.yaml


class Tracker(Protocol):
    """One tracked run, open. A folder, settings and the time steps already done make one."""

    def record(self, record: Record) -> None:
        """Tell one line of metrics.jsonl."""

    def finish(self, summary: Summary) -> None:
        """Tell that the run is complete."""

    def close(self) -> None:
        """Write what is not yet written; the run is complete, or it was stopped and may be resumed."""


class TensorBoard:
    """Event files; the settings become hyperparameters when the run is complete."""

    def __init__(self, folder: Path, settings: Settings, done: int) -> None:
        """Open the log folder; what it holds of later steps than `done` is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        self.settings = settings
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def record(self, record: Record) -> None:
        """Write the scalars to the disk at once, so that they are there if the process is killed."""
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record.step)
        self.writer.flush()

    def finish(self, summary: Summary) -> None:
        """Write the hyperparameters beside the final scores."""
        plain = {
            f"{section}.{key}": value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for section, own in self.settings.items()
            for key, value in own.items()
        }
        here = "."  # not a run of its own, in a folder named after the time
        self.writer.add_hparams(plain, final(summary), run_name=here, global_step=summary.steps)

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases; each resumed part is a folder of its own with the same id, which a sync joins."""

    def __init__(self, folder: Path, settings: Settings, done: int) -> None:
        """Begin a run, or go on with the one whose id the folder keeps."""
        own = folder.absolute() / "wandb"
        identity = kept(own, done)
        with unless_set(WANDB_MODE="offline", WANDB_PROJECT=PROJECT, WANDB_CACHE_DIR=str(own / "cache")):
            import wandb

            self.run = wandb.init(
                dir=str(folder),
                id=identity,
                name=own.parent.name,
                config={section: dict(values) for section, values in settings.items()},
                resume="allow",
                settings=wandb.Settings(console="off"),  # leaves the terminal to the progress bar
            )

    def record(self, record: Record) -> None:
        """Log the scalars."""
        self.run.log(scalars(record), step=record.step, commit=True)  # not held until the next line comes

    def finish(self, summary: Summary) -> None:
        """Put the final scores into the run's summary."""
        self.run.summary.update(final(summary))

    def close(self) -> None:
        """End the run, or this part of it."""
        self.run.finish()


class Trackio:
    """A run in a data base of Trackio; the final scores are scalars of the last step."""

    def __init__(self, folder: Path, settings: Settings, done: int) -> None:
        """Begin a run, or go on with the one whose name the folder keeps.

        Raises ValueError where this process has tracked another folder: trackio asks where to write only once.
        """
        own = folder.absolute() / "trackio"
        with unless_set(TRACKIO_DIR=str(own)), redirect_stdout(StringIO()):  # it would say where others' runs lie
            place = Path(os.environ["TRACKIO_DIR"])
            import trackio

            if place != trackio.TRACKIO_DIR:
                raise ValueError(
                    f"run.trackers: trackio already writes to {trackio.TRACKIO_DIR} in this process, expected {place}: "
                    "start another process, or set TRACKIO_DIR for both"
                )
            name = f"{own.parent.name}-{kept(own, done)}"
            self.trackio = trackio
            self.run = trackio.init(project=PROJECT, name=name, config=dict(settings), resume="allow")

    def record(self, record: Record) -> None:
        """Log the scalars."""
        self.run.log(scalars(record), step=record.step)

    def finish(self, summary: Summary) -> None:
        """Log the final scores."""
        self.run.log(final(summary), step=summary.steps)

    def close(self) -> None:
        """Wait until all is written."""
        with redirect_stdout(StringIO()):  # it would speak of an upload
            self.trackio.finish()


TRACKERS: dict[str, Callable[[Path, Settings, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def choose(text: str | None) -> list[str]:
    """Return the names between the commas, each once. Raises ValueError for one that there is not, and ImportError."""
    names = [word.strip() for word in text.split(",")] if text is not None else []
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"run.trackers: got {name!r}, expected {', '.join(TRACKERS)}, or some of them, or null")
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # no origin: a mere folder of that name, such as wandb leaves behind
            raise ImportError(f'run.trackers: {name} is not installed: pip install "biomamba[{name}]"')
    return list(dict.fromkeys(names))


@contextmanager
def opened(names: Sequence[str], folder: Path, settings: Settings, done: int) -> Iterator[list[Tracker]]:
    """Open the trackers of a run that has done so many time steps, and close them whatever happens."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(TRACKERS[name](folder, settings, done))) for name in names]


def scalars(record: Record) -> dict[str, float]:
    """Return the numbers of a line under the names they are tracked by, those that are finite."""
    numbers = dict(vars(record))
    for part in ("interval", "overall"):
        numbers |= {f"{part}/{name}": value for name, value in numbers.pop(part).items()}
    del numbers["step"]
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def final(summary: Summary) -> dict[str, float]:
    """Return the scores of a complete run under the names they are tracked by, those that are finite."""
    numbers = {f"final/{name}/{part}": value for name, own in summary.scores.items() for part, value in own.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def kept(own: Path, done: int) -> str:
    """Return the identity that a tracker's folder keeps; a new one where the run begins."""
    path = own / "id"
    if not done or not path.exists():
        own.mkdir(exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return path.read_text(encoding="utf-8")


@contextmanager
def unless_set(**values: str) -> Iterator[None]:
    """Set those environment variables that are not set, for as long as this lasts."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
