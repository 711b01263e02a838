"""Runs killed at random moments and gone on with: python -m tests.campaigns.kills --seconds 60 --seed 0 [--kinds rules]

A chain is one run, killed again and again and resumed each time, perhaps with another number of threads. At its end it
must equal the same run that nobody disturbed: weights to the byte, checkpoint, metrics, predictions and summary but for
times; on other threads than before, where torch's own sums may round otherwise, all but the last places of numbers.
`save` kills `learner.save`: the folder must hold a learner that was saved, whole.
"""

import json
import logging
import random as randoms
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import biomamba
from biomamba import checkpoint
from biomamba.cli.main import main as biomamba_main
from biomamba.experiment import jobs
from biomamba.experiment.config import FREE, flatten
from biomamba.rules import RULES
from biomamba.threads import available

from . import options
from .processes import Forked, check_said, command, drawn_signals, fork, fresh, load, wait

TINY = Path(__file__).parents[1] / "tiny.yaml"
TIMES = {"wall_seconds", "steps_per_second", "peak_rss_bytes", "latency_ms", "threads", "seconds", "peak", "latency"}
BLOCKS = {"mamba2": [], "mamba": ["--model.dt_rank", "2"], "diagonal": []}
SAVES = 20  # about, while a run goes on
ENDED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)


Start = Callable[..., int]  # of words, what is said, standard input, and whether it is a pipe: the process's number
STARTS: Sequence[Start] = (*[command] * 19, fresh)  # one chain in twenty is of processes that import by themselves


class Kind(NamedTuple):
    """What is run."""

    words: list[str]
    stdin: Path | None = None
    pipe: bool = False
    threads: bool = True  # whether results are the same at any number of threads


def rules(place: Path, random: randoms.Random) -> Kind:
    """Return a run of a rule on a block, with or without a window and averaged weights."""
    block, rule = random.choice(sorted(BLOCKS)), random.choice(sorted(RULES))
    words = ["--config", "delay", "--config", str(TINY), "--model.block", block, "--rule.name", rule]
    if block != "mamba2":
        words += ["--model.d_state", "2"]
    if random.random() < 0.3:
        words += ["--stream.length", "2", "--rule.window", "5"]
    if random.random() < 0.3:
        words += ["--optim.average", "0.9"]
    return Kind([*words, "--stream.steps", "60"])


def text(place: Path, random: randoms.Random) -> Kind:
    """Return a run of text with n-grams."""
    (place / "text.txt").write_text("what came before comes again, and again otherwise. " * 12)
    words = ["--config", "language", "--task.path", str(place / "text.txt"), "--model.d_model", "8"]
    words += ["--model.d_state", "4", "--model.headdim", "4", "--model.n_layers", "1", "--model.ngram_bits", "6"]
    return Kind([*words, "--stream.batch", "4", "--stream.length", "4", "--run.report_every", "10"])


def rows(place: Path) -> Path:
    """Write lines of numbers, some of which cannot be read."""
    random = randoms.Random(0)  # noqa: S311
    lines = [f"{random.gauss(0, 1):.3f},{random.gauss(5, 2):.3f},{i % 2}" for i in range(110)]
    lines[40], lines[70] = "0.1,ERR,0", "half a line"
    path = place / "rows.csv"
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    return path


def live(place: Path, random: randoms.Random) -> Kind:
    """Return a run of standard input, a file or a pipe, which gives the same lines each time."""
    words = ["--config", "arrays", "--task.path", "-", "--task.classes", "0", "1", "--stream.steps", "100"]
    return Kind([*words, "--model.d_model", "8", "--run.report_every", "20"], rows(place), random.random() < 0.5)


def predictions(place: Path, random: randoms.Random) -> Kind:
    """Return a run that writes every prediction to a file in its folder."""
    (place / "clean.csv").write_text(
        "".join(line for line in rows(place).open() if "ERR" not in line and "half" not in line)
    )
    words = ["--config", "arrays", "--task.path", str(place / "clean.csv"), "--model.d_model", "8"]
    return Kind([*words, "--run.predictions", "{dir}/predictions.jsonl", "--run.report_every", "20"])


def trackers(place: Path, random: randoms.Random) -> Kind:
    """Return a run that tells tensorboard."""
    return Kind([*rules(place, random).words, "--run.trackers", "tensorboard"])


def compiled(place: Path, random: randoms.Random) -> Kind:
    """Return a run whose update is one graph, which torch keeps on disk for the next."""
    words = ["--config", "delay", "--config", str(TINY), "--stream.steps", "1200", "--stream.length", "4"]
    return Kind([*words, "--run.compile", "true", "--rule.name", random.choice(("rtrl", "bptt"))], threads=False)


KINDS: dict[str, Callable[[Path, randoms.Random], Kind]] = {
    "rules": rules,
    "text": text,
    "live": live,
    "predictions": predictions,
    "trackers": trackers,
    "compile": compiled,
}
USUAL = ("rules", "rules", "rules", "text", "live", "predictions", "save")
MODULES = {
    "trackers": ("torch.utils.tensorboard",),
    "compare": ("matplotlib.figure", "matplotlib.backends.backend_svg", "scipy.stats"),
}  # that these import


def chain(name: str, random: randoms.Random, keep: Path, label: str, until: float) -> tuple[int, int]:
    """Kill and resume a run until it ends, again from its beginning until it was killed often enough.

    Each time it ends it must equal one that nobody disturbed. Returns the kills, and those of them in runs that went on
    with other threads and are equal but for rounding.
    """
    with tempfile.TemporaryDirectory() as held:
        place = Path(held)
        kind, start = KINDS[name](place, random), random.choice(STARTS)
        began, log = time.monotonic(), place / "log"
        check_said(log, wait(start(begin(kind, place / "straight"), log, kind.stdin, kind.pipe)), [0])
        took, kills, near, wanted = time.monotonic() - began, 0, 0, 3 if start is fresh else random.choice((6, 12, 24))
        while kills < wanted and (not kills or time.monotonic() < until):
            shutil.rmtree(place / "own", ignore_errors=True)
            began = time.monotonic()
            done, equal = life(kind, start, random, place, took, wanted - kills, keep / label, until)
            took = took if done else time.monotonic() - began  # the first may have compiled what the others find
            kills, near = kills + done, near + (0 if equal else done)
        return kills, near


def life(
    kind: Kind, start: Start, random: randoms.Random, place: Path, took: float, most: int, keep: Path, until: float
) -> tuple[int, bool]:
    """Kill a run of `took` seconds, and go on with it, until it ends; `most` kills at most.

    It must equal the one in place/straight; where it does not, all of it is left in `keep`. Returns the kills, and
    whether it is equal to the byte, as it must be on as many threads.
    """
    own, log, kills, equal = place / "own", place / "log", 0, True
    others = [min(2, available())] if kind.threads and random.random() < 0.25 else []
    threads = {1}
    saves = ["--run.save_every", f"{took / SAVES:.3f}"]
    words = [*begin(kind, own), *saves]
    while True:
        log.unlink(missing_ok=True)
        shutil.rmtree(place / "before", ignore_errors=True)
        if own.exists():
            shutil.copytree(own, place / "before")
        last = kills >= most or (kills and time.monotonic() > until)
        first = 0.5 if start is fresh else 0.0  # before that it imports
        after = None if last else random.uniform(first, 1.1) * took
        code = wait(start(words, log, kind.stdin, kind.pipe), after, drawn_signals(random))
        try:
            check_said(log, code, [0] if last else ENDED)
            if code == 0:
                try:
                    compare(place / "straight", own)
                except AssertionError:
                    if threads == {1}:
                        raise
                    compare_nearly(place / "straight", own)
                    equal = False
                if (own / "tensorboard").exists():
                    check_tracked(own)
                return kills, equal
        except AssertionError as error:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(place, keep)
            raise AssertionError(
                f"{error}\nbefore: {keep / 'before'}; undisturbed: {keep / 'straight'}; "
                f"the command: biomamba {' '.join(words)}"
            ) from error
        kills += 1
        whole = (own / "config.yaml").exists()
        words = [*begin(kind, own, resume=whole), *saves]
        if kind.threads and whole:
            number = random.choice([1, *others])
            threads.add(number)
            words += ["--run.threads", str(number)]


def begin(kind: Kind, folder: Path, resume: bool = False) -> list[str]:
    """Return the words that begin a run, or go on with it."""
    words = [word.format(dir=folder) if "{dir}" in word else word for word in kind.words]
    if "--run.predictions" in words:  # which is opened before the run's folder is made
        folder.mkdir(exist_ok=True)
    own = ["train", *words, "--run.dir", str(folder), "--run.baselines", "false"]
    return [*own, "--run.resume", "true"] if resume else [*own, "--run.threads", "1"]


def check_tracked(folder: Path) -> None:
    """Raise AssertionError unless tensorboard shows the lines of metrics.jsonl, each once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it leaves out, as it should
    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload().Scalars("loss")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [own.step for own in shown] == [line["step"] for line in lines], "tensorboard shows other lines"


def compare(one: Path, other: Path) -> None:
    """Raise AssertionError where two runs are not equal but for times and folders."""
    for name in ("model.safetensors", "average.safetensors", "predictions.jsonl"):
        assert (one / name).exists() == (other / name).exists(), f"{name} is there of one run alone"
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"
    for name in ("metrics.jsonl", "summary.json"):
        texts = [(folder / name).read_text() for folder in (one, other)]
        parts = [[json.loads(line) for line in (own.splitlines() if "jsonl" in name else [own])] for own in texts]
        assert timeless(parts[0]) == timeless(parts[1]), f"{name} differs"
    (tensors, facts), (others, other_facts) = (checkpoint.load(own / "checkpoint.safetensors") for own in (one, other))
    assert tensors.keys() == others.keys(), "the checkpoints hold other tensors"
    for key, tensor in tensors.items():
        assert tensor.dtype == others[key].dtype and bool((bits(tensor) == bits(others[key])).all()), f"{key} differs"
    for own in (facts, other_facts):
        own["config"] = {key: value for key, value in flatten(own["config"]).items() if key not in FREE}
        own.pop("metrics_bytes")  # of lines that hold times
    assert timeless(facts) == timeless(other_facts), "the checkpoints' facts differ"


def compare_nearly(one: Path, other: Path) -> None:
    """Raise AssertionError where runs at several numbers of threads differ by more than torch's sums over them may."""
    weights, others = (checkpoint.load(own / "model.safetensors")[0] for own in (one, other))
    for key, tensor in weights.items():
        assert torch.allclose(tensor, others[key], rtol=1e-2, atol=1e-3), f"{key} differs by more than rounding"
    for name in ("metrics.jsonl", "predictions.jsonl"):
        if (one / name).exists():
            counts = [
                [json.loads(line).get("step") for line in (own / name).read_text().splitlines()] for own in (one, other)
            ]
            assert counts[0] == counts[1], f"{name} has other lines"
    summaries = [json.loads((own / "summary.json").read_text()) for own in (one, other)]
    assert all(summaries[0][key] == summaries[1][key] for key in ("steps", "updates", "skipped")), "other counts"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def timeless(own: Any) -> Any:
    """Return plain values without times."""
    if isinstance(own, dict):
        return {key: timeless(value) for key, value in own.items() if key not in TIMES}
    return [timeless(value) for value in own] if isinstance(own, list) else own


def save_chain(random: randoms.Random, keep: Path, label: str, kills: int = 12) -> int:
    """Kill a process that saves a learner again and again; the folder must hold one of those, whole."""
    with tempfile.TemporaryDirectory() as held:
        place = Path(held)
        steps, size = 20, random.choice((4, 32))

        def learner() -> biomamba.Learner:
            return biomamba.classifier(["u", "v"], ["a", "b"], d_model=size, d_state=2, headdim=4, seed=1)

        def save(folder: Path, each: Path | None = None) -> int:
            own = learner()
            for i in range(steps):
                own.learn_one({"u": float(i % 5), "v": 1.0}, "ab"[i % 2])
                own.save(folder)
                if each:
                    shutil.copy(folder / "learner.safetensors", each / f"{i}")
            return 0

        (place / "each").mkdir()
        began = time.monotonic()
        check_said(place / "log", wait(fork(lambda: save(place / "straight", place / "each"), place / "log")), [0])
        took = time.monotonic() - began
        known = {path.read_bytes() for path in (place / "each").iterdir()}
        assert len(known) == steps, "the control: every step makes another file"
        for _ in range(kills):
            pid = fork(lambda: save(place / "own"), place / "log")
            wait(pid, random.uniform(0, took), [signal.SIGKILL])
            path = place / "own" / "learner.safetensors"
            if path.exists() and path.read_bytes() not in known:
                shutil.copytree(place / "own", keep / label, dirs_exist_ok=True)
                raise AssertionError(f"{label}: {keep / label} holds a learner that was never saved")
            if path.exists():
                biomamba.load(place / "own")
        return kills


def compare_chain(random: randoms.Random, keep: Path, label: str, until: float) -> int:
    """Kill a comparison, whose runs are processes of their own, and go on with it, until it ends; return the kills."""
    words = ["compare", "--config", "delay", "--config", str(TINY), "--stream.steps", "60", "--rules", "rtrl,bptt"]
    words += ["--seeds", "1", "--costs", "false", "--fidelity", "0", "--run.save_every", "0.05"]
    words += ["--run.baselines", "false", "--run.threads", "1", "--jobs", random.choice(("1", "2"))]
    start = random.choice(STARTS)

    def begun(folder: Path, log: Path) -> int:
        own = [*words, "--run.dir", str(folder), "--run.resume", str(folder.exists()).lower()]
        return start(own, log) if start is fresh else fork(lambda: forked(own), log)

    with tempfile.TemporaryDirectory() as held:
        place, began = Path(held), time.monotonic()
        check_said(place / "log", wait(begun(place / "straight", place / "log")), [0])
        took, kills, most = time.monotonic() - began, 0, 3 if start is fresh else random.choice((3, 6, 12))
        while True:
            (place / "log").unlink(missing_ok=True)
            last = kills >= most or (kills and time.monotonic() > until)
            after = None if last else random.uniform(0, 1.1 * took)
            code = wait(begun(place / "own", place / "log"), after, drawn_signals(random))
            try:
                check_said(place / "log", code, [0] if last else ENDED)
                if code == 0:
                    for run in ("rtrl-length1-seed0", "bptt-length1-seed0"):
                        compare(place / "straight" / run, place / "own" / run)
                    found = [json.loads((place / own / "compare.json").read_text()) for own in ("straight", "own")]
                    scores = [{label: row["scores"] for label, row in own["settings"].items()} for own in found]
                    assert scores[0] == scores[1], "compare.json differs"
                    return kills
            except AssertionError as error:
                shutil.copytree(place, keep / label, dirs_exist_ok=True)
                raise AssertionError(f"{error}\nleft in {keep / label}") from error
            kills += 1


def forked(words: Sequence[str]) -> int:
    """Compare, with runs that are forks of this process."""
    jobs.start = Forked  # type: ignore[assignment] # of this fork alone
    return biomamba_main(list(words))


def main(argv: Sequence[str]) -> int:
    """Go through chains until the time is over."""
    parser = options.parser(__doc__)
    parser.add_argument("--kinds", default=",".join(USUAL), help=f"between commas: {', '.join(KINDS)}, save, compare")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds = asked.kinds.split(",")
    load([module for name in kinds for module in MODULES.get(name, ())])
    until, number = time.monotonic() + asked.seconds, 0
    kills, chains, failed, near = Counter[str](), Counter[str](), list[str](), 0
    while time.monotonic() < until or not number:
        number += 1
        random = randoms.Random(f"{asked.seed} {number}")  # noqa: S311 - no secret
        name = random.choice(kinds)
        label = f"{name}-{asked.seed}-{number}"
        try:
            rounded = 0
            if name == "save":
                done = save_chain(random, asked.keep, label)
            elif name == "compare":
                done = compare_chain(random, asked.keep, label, until)
            else:
                done, rounded = chain(name, random, asked.keep, label, until)
            kills[name], chains[name], near = kills[name] + done, chains[name] + 1, near + rounded
            print(f"{label}: {done} kills, equal; {kills.total():,} so far", flush=True)
        except AssertionError as error:
            failed.append(f"{label}: {error}")
    for name in sorted(chains):
        print(f"{name:12} {kills[name]:6,} kills in {chains[name]:4,} chains, all equal")
    print(
        f"{kills.total():,} kills in {chains.total():,} chains, {len(failed)} failed; "
        f"{near:,} on other threads and equal but for rounding"
    )
    for line in failed:
        print(line, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
