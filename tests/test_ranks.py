"""Rows of a batch over processes are one process: weights, traces, scores, also across resumes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ranks_cases
from biomamba import checkpoint

SCRIPT = Path(__file__).parent / "ranks_cases.py"
SMALL = ["--run.dtype", "float64", "--run.baselines", "false", "--run.held_out", "false", "--run.report_every", "50"]
TASKS = {
    "delay": (["--model.d_model", "16", "--stream.batch", "5", "--stream.steps", "120"], 120),
    "language": (
        [
            "--model.d_model",
            "16",
            "--stream.batch",
            "8",
            "--task.max_bytes",
            "6000",
            "--model.ngram_bits",
            "8",
            "--rule.window",
            "24",
        ],
        749,
    ),
    "ecg": (
        ["--task.simulate", "true", "--task.label_delay", "3", "--stream.batch", "4", "--stream.steps", "400"],
        400,
    ),
    "an4": (["--model.d_model", "8", "--stream.batch", "4", "--stream.steps", "800"], 800),
}
CLOCK = {"wall_seconds", "steps_per_second"}


def several(ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Have torchrun run the script on so many ranks; on one, train in this process."""
    if ranks == 1:
        return subprocess.CompletedProcess(words, ranks_cases.train(int(words[1]), words[2], list(words[3:])), "", "")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5))])
def test_rows_over_ranks_are_one_process(ranks: int, tmp_path: Path, float64: None) -> None:
    """Rows are unequal, some chunks have no label, some begin anew, one has an input that is not finite."""
    names = ranks_cases.FEW if ranks == 2 else tuple(ranks_cases.CASES)
    done = several(ranks, "cases", str(tmp_path), *names)
    assert done.returncode == 0, done.stderr
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(ranks)]
    for name in names:
        held, counts = ranks_cases.learned(name, None)
        torch.testing.assert_close(found[0][f"{name}/counts"], torch.tensor(counts), rtol=1e-9, atol=1e-9)
        for key, tensor in held.items():
            torch.testing.assert_close(found[0][f"{name}/{key}"], tensor, rtol=1e-9, atol=1e-9, msg=f"{name} {key}")
            if key.startswith(("weight.", "said")):
                assert all(torch.equal(own[f"{name}/{key}"], found[0][f"{name}/{key}"]) for own in found)
        if name == "steps":  # the control: ranks that sum nothing learn otherwise, and drift apart
            alone = [own["control/weight.head.weight"] for own in found]
            assert min(float((one - held["weight.head.weight"]).abs().max()) for one in alone) > 1e-3
            assert float((alone[0] - alone[1]).abs().max()) > 1e-3
    assert counts[1] and held["weight.head.weight"].abs().sum() > 0
    assert ranks_cases.learned("not finite", None)[1][2] == 2.0  # updates left out
    refused = (tmp_path / "refused.txt").read_text().splitlines()
    wanted = (f"at least {ranks}, a row", "compile: got true", "UORO, which counts", "a sum over streams", "one rank")
    assert len(refused) == len(wanted) and all(map(str.__contains__, refused, wanted)), refused


def left(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], dict[str, dict[str, float]], int]:
    """Return the tensors of a run's checkpoint, what it logged, its scores, and the bytes of its traces."""
    tensors, _ = checkpoint.load(folder / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    logged = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
    return tensors, logged, summary["scores"], summary["trace_bytes"]


def near(one: object, other: object) -> bool:
    """Say whether two pieces of JSON are equal but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    return one == other


CHAINS = [("delay", (2, 1))]
ALL = [("delay", (1, 2, 4, 1)), ("language", (1, 2, 4, 1)), ("ecg", (1, 2, 4, 1)), ("an4", (1, 2, 4, 1)), ("an4", (4,))]


@pytest.mark.parametrize("name, chain", [*CHAINS, *(pytest.param(*own, marks=pytest.mark.slow) for own in ALL)])
def test_a_run_goes_on_with_any_number_of_ranks(name: str, chain: tuple[int, ...], tmp_path: Path) -> None:
    """Stopped by a signal to the last rank; what is logged, saved and scored is one process's."""
    words, total = TASKS[name]
    one, other = tmp_path / "one", tmp_path / "other"
    whole = several(1, "train", "0", "", "--config", name, *SMALL, *words, "--run.dir", str(one))
    assert whole.returncode == 0, whole.stderr
    for number, ranks in enumerate(chain):
        last = number == len(chain) - 1
        step = 0 if last else total * (number + 1) // len(chain)
        given = ["--config", name, *SMALL, *words] if number == 0 else ["--config", str(other / "config.yaml")]
        done = several(
            ranks, "train", str(step), "stop", *given, "--run.dir", str(other), "--run.resume", str(number > 0).lower()
        )
        assert (done.returncode == 0) == last, done.stderr
        assert last or ranks == 1 or done.stdout.count("saved; to go on") == 1
    (tensors, *logged), (others, *again) = left(one), left(other)
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        torch.testing.assert_close(others[key], tensor, rtol=1e-9, atol=1e-9, msg=key)
    assert near(logged, again)
    assert not near({"loss": logged[0][-1]["loss"]}, {"loss": logged[0][-1]["loss"] + 1e-6})  # the control


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["kill", "error"])
def test_a_rank_that_dies_ends_all_with_one_line(harm: str, tmp_path: Path) -> None:
    """And what it was saved by goes on as if nothing had been."""
    words = ["--config", "delay", *SMALL, *TASKS["delay"][0], "--run.save_every", "0"]
    assert several(1, "train", "0", "", *words, "--run.dir", str(tmp_path / "one")).returncode == 0
    done = several(2, "train", "60", harm, *words, "--run.dir", str(tmp_path / "two"))
    ours = [line for line in done.stderr.splitlines() if line.startswith("biomamba: ") and "compiling" not in line]
    assert done.returncode and len(ours) == 1, done.stderr
    assert ("another rank ended" if harm == "kill" else "no more of this") in ours[0]
    assert (
        several(
            2, "train", "0", "", "--config", str(tmp_path / "two" / "config.yaml"), "--run.resume", "true"
        ).returncode
        == 0
    )
    torch.testing.assert_close(left(tmp_path / "two")[0], left(tmp_path / "one")[0], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_what_the_first_rank_alone_does(tmp_path: Path) -> None:
    """Predictions and averaged weights are one process's too; what is no work for ranks is one line."""
    words = ["--config", "delay", *SMALL, *TASKS["delay"][0], "--optim.average", "0.9"]
    for ranks in (1, 2):
        told = ["--run.dir", str(tmp_path / str(ranks)), "--run.predictions", str(tmp_path / f"{ranks}.jsonl")]
        assert several(ranks, "train", "0", "", *words, *told).returncode == 0
    lines = [[json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in (1, 2)]
    assert lines[0] and near(lines[0], lines[1])
    torch.testing.assert_close(left(tmp_path / "1")[0], left(tmp_path / "2")[0], rtol=1e-9, atol=1e-9)
    for given, line in (
        (["--stream.batch", "1"], "biomamba: stream.batch: got 1, expected at least 2, a row for each rank"),
        (["--run.compile", "true"], "biomamba: compile: got true"),
        (["--run.dir", str(tmp_path / "1")], "already holds a run"),
        (["--task.delay", "x"], "task.delay"),
    ):
        done = several(2, "train", "0", "", *words, "--run.dir", str(tmp_path / "new"), *given)
        ours = [own for own in done.stderr.splitlines() if own.startswith("biomamba: ") and "compiling" not in own]
        assert done.returncode and len(ours) == 1 and line in ours[0], done.stderr
        assert not (tmp_path / "new").exists()
