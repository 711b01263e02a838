"""One patient: a population's model meets a new patient, learns from labels ten beats late, is saved, and goes on.

    python examples/one_patient.py [FOLDER]              all of it; FOLDER keeps the run and the patient's learner
    python examples/one_patient.py FOLDER go-on          what the second process does: the rest of the record

Where BIOMAMBA_DATA names a folder that holds mitdb, the records are those of the MIT-BIH Arrhythmia Database, else they
are SIMULATED; the first line says which. It needs `pip install "biomamba[ecg,fast]"`. See docs/one_patient.md.
"""

import os
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import torch
from torch import Tensor

import biomamba
from biomamba.cli.main import main
from biomamba.tasks.ecg import Ecg

LATE = 10  # beats until a label is known
CLASSES = "NSVFQ"


def is_real() -> bool:
    """Say whether the records of MIT-BIH are there."""
    return (Path(os.environ.get("BIOMAMBA_DATA", "nowhere")) / "mitdb").is_dir()


def patient() -> Ecg:
    """Return one record of DS2, whose people are none of DS1's."""
    name = "213" if is_real() else "simulated-test-0"
    return Ecg(decimate=12, records=(name,), simulate=not is_real())


def minutes() -> tuple[float, float, float]:
    """Return where the record begins, where its second half does, and where it ends."""
    end = patient().steps("test", batch=1) * patient().step_seconds / 60
    return 0.0, end / 2, end


def population(folder: Path) -> None:
    """Learn the records of DS1, each once, side by side."""
    words = ["--task.step", "sample", "--task.channels", "[]", "--task.gate", "0"]  # the signal, as a monitor has it
    words += ["--task.decimate", "12", "--task.augment", "true", "--task.balance", "0.7", "--task.passes", "1"]
    words += ["--stream.length", "128", "--run.baselines", "false", "--run.held_out", "false"]
    words += [] if is_real() else ["--task.simulate", "true", "--stream.batch", "3", "--optim.lr_end", "0.001"]
    if main(["train", "--config", "ecg", *words, "--run.dir", str(folder)]) != 0:
        raise SystemExit("the population could not be learned")


def follow(learner: biomamba.Learner, first: float, last: float) -> Tensor:
    """Predict each beat between two minutes, learn its label ten beats later; return counts (true, predicted)."""
    task, counts, waiting = patient(), torch.zeros(5, 5, dtype=torch.int64), deque[tuple[str, str]]()
    now, end = (round(60 * minute / task.step_seconds) for minute in (first, last))
    segment = list[Tensor]()
    for chunk in task.stream("test", batch=1, length=1, seed=0, start=now):
        segment.append(chunk.x[0, 0])
        beat = int(chunk.info["score"])
        if beat >= 0:  # a beat is decided here: the signal since the one before tells which
            prediction = learner.predict(torch.stack(segment), id=f"beat at step {now}")
            counts[beat, CLASSES.index(prediction.value)] += 1
            waiting.append((str(prediction.id), CLASSES[beat]))
            segment = []
        if len(waiting) > LATE:
            learner.learn(*waiting.popleft())
        now += 1
        if now >= end:
            break
    return counts


def sensitivity(counts: Tensor) -> str:
    """Return the share of each class's beats that were found, of the classes that there were."""
    there = [c for c in range(len(CLASSES)) if counts[c].sum()]
    return ", ".join(f"{CLASSES[c]} {counts[c, c] / counts[c].sum():.3f} of {counts[c].sum()}" for c in there)


def go_on(folder: Path) -> None:
    """Open the patient's learner and follow the second half of the record, still learning."""
    _, middle, end = minutes()
    counts = follow(biomamba.load(folder / "patient"), middle, end)
    print(f"second half, learning on in another process: sensitivity {sensitivity(counts)}")


def all_of_it(folder: Path) -> None:
    """Learn the population, follow the patient frozen, then learning, and go on elsewhere."""
    print(patient().source)
    population(folder / "population")
    first, middle, end = minutes()
    frozen = biomamba.load(folder / "population", horizon=1024)
    frozen.freeze()
    follow(frozen, first, middle)
    print(f"second half, learning off:                   sensitivity {sensitivity(follow(frozen, middle, end))}")
    learner = biomamba.load(folder / "population", horizon=1024, lr=3e-4)
    counts = follow(learner, first, middle)
    print(f"first half, learning on:                     sensitivity {sensitivity(counts)}")
    learner.save(folder / "patient")
    print(f"the weights have moved by {learner.drift():.3f} of their size", flush=True)
    subprocess.run([sys.executable, __file__, str(folder), "go-on"], check=True)  # noqa: S603  this file


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    (go_on if sys.argv[2:] == ["go-on"] else all_of_it)(where)
