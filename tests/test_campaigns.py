"""A few seconds of each campaign, and that their judges can say no."""

import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from biomamba import checkpoint
from biomamba.cli.main import main
from campaigns import fuzz, kills, mutate, oracle, soak
from campaigns.oracle import outcome
from campaigns.readers import READERS, SMALL

ROOT = Path(__file__).parents[1]
SLOW = ("comparison", "compare")  # to make a sound one
QUICK = [name for name in READERS if name not in SLOW]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_damaged_inputs_are_read_or_refused_in_a_line(name: str, tmp_path: Path) -> None:
    if name not in fuzz.available():
        pytest.skip(f"needs {', '.join(READERS[name].needs)}")
    with oracle.roomy():
        counts, failures = fuzz.campaign(name, 0.1, seed=0, keep=tmp_path, most=20)
    assert not failures and counts.total() >= 1


def test_runs_that_are_killed_machines_that_fail_and_streams_that_do_not_end(tmp_path: Path) -> None:
    words = ["--seconds", "1.5", "--campaigns", "kills,faults,soak", "--keep", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.campaigns", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 failed" in ended.stdout and "steps" in ended.stdout


def test_a_case_is_the_same_whatever_came_before_it() -> None:
    """Values that damage puts in are its own: once one was put into itself, and could not be written."""
    sound = {"a": [1, {"b": 2}], "c": {"d": "e"}}

    def damage() -> list[str]:
        return [json.dumps(mutate.value(sound, random.Random(i))) for i in range(3000)]  # noqa: S311

    assert damage() == damage()


# the judges


def test_a_reader_that_ends_the_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def dies(folder: Path, random: random.Random) -> None:
        if folder.name == "own":
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(fuzz.READERS, "csv", READERS["csv"]._replace(read=dies))
    assert fuzz.apart("csv", 10.0, 0, tmp_path, 3)
    assert f"csv: died of SIGKILL over {tmp_path / 'csv-0-1'}" in capfd.readouterr().err
    assert (tmp_path / "csv-0-1" / "x.csv").exists()
    monkeypatch.undo()
    assert not fuzz.apart("csv", 10.0, 0, tmp_path, 3)


def refused() -> None:
    raise ValueError("got a, expected b")


def broken() -> None:
    raise KeyError("a")


def endless() -> None:
    while True:
        pass


def hungry() -> None:
    """Take 32 MB that nobody had before: of what the process has freed, some may be there."""
    with mmap.mmap(-1, 2**25) as block:
        for at in range(0, 2**25, mmap.PAGESIZE):
            block[at] = 1


def test_a_reader_that_breaks_hangs_or_takes_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(lambda: None).kind == "read"
    assert outcome(refused)[:2] == ("refused", "got a, expected b")
    assert "KeyError" in outcome(broken).line and outcome(broken).kind == "failed"
    assert outcome(lambda: np.ones(10**6), memory=200e6).kind == "read"
    assert "memory" in outcome(hungry, memory=20e6).line
    monkeypatch.setattr(oracle, "SECONDS", 0.1)
    assert "hang" in outcome(endless).line


def test_damage_is_drawn_by_its_case_alone(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    READERS["csv"].make(tmp_path / "sound")
    texts = []
    for i, case in enumerate(("csv-0-1", "csv-0-1", "csv-0-2", "csv-1-1")):
        fuzz.damaged("csv", tmp_path / "sound", tmp_path / str(i), case)
        texts.append((tmp_path / str(i) / "x.csv").read_bytes())
    assert texts[0] == texts[1] and len({*texts}) == 3


def test_values_of_json_are_changed_removed_and_added() -> None:
    before = {"a": [1, 2, {"b": "x"}], "c": 3.5}
    found = [mutate.value(before, random.Random(seed)) for seed in range(300)]  # noqa: S311 - no secret
    assert before == {"a": [1, 2, {"b": "x"}], "c": 3.5}
    assert sum(own != before for own in found) > 250
    assert any(isinstance(own, dict) and "c" not in own for own in found)


def test_runs_that_differ_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert main(["train", *SMALL, "--run.dir", str(one)]) == 0
    shutil.copytree(one, other)
    kills.compare(one, other)
    weights, _ = checkpoint.load(one / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.nextafter(weights[name], torch.tensor(torch.inf))
    checkpoint.save(other / "model.safetensors", weights)
    kills.compare_nearly(one, other)
    with pytest.raises(AssertionError, match=r"model\.safetensors differs"):
        kills.compare(one, other)
    shutil.copy(one / "model.safetensors", other)
    lines = (one / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(AssertionError, match=r"metrics\.jsonl differs"):
        kills.compare(one, other)


def test_memory_that_grows_is_found() -> None:
    flat, growing = [1e8] * 50, [1e8 + 1e6 * i for i in range(50)]
    assert soak.Soaked(1, flat).growth() == 0 and soak.Soaked(1, growing).growth() > soak.GROWTH
