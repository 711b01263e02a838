"""Comparisons as jobs of a scheduler: submitit's own executor for one machine stands for Slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biomamba.cli.main import main
from biomamba.experiment import jobs
from biomamba.experiment.cluster import Cluster

TINY = ["--config", "delay", "--config", str(Path(__file__).parent / "tiny.yaml")]
WORDS = ["compare", *TINY, "--rules", "rtrl,bptt", "--seeds", "1", "--costs", "false", "--fidelity", "0", "--jobs", "2"]


def test_without_submitit_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r'pip install "biomamba\[submitit\]"'):
        Cluster(tmp_path, 1, {})


@pytest.mark.slow
def test_jobs_leave_what_processes_leave(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    for launcher in ("local", "submitit"):
        assert main([*WORDS, "--launcher", launcher, "--run.dir", str(tmp_path / launcher)]) == 0
    local, jobs_of = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("local", "submitit"))
    assert local["settings"].keys() == jobs_of["settings"].keys()
    for label, own in local["settings"].items():
        assert own["scores"] == jobs_of["settings"][label]["scores"]
    assert list((tmp_path / "submitit" / "jobs").glob("*_result.pkl")) and not (tmp_path / "local" / "jobs").exists()


@pytest.mark.slow
def test_what_a_job_fails_of_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    given = ["--launcher", "submitit", "--run.dir", str(tmp_path / "run")]
    assert main([*WORDS, *given, "--optim.lr", "1e30", "--optim.clip", "null"]) == 2
    said = capsys.readouterr().err
    assert "failed: biomamba: " in said and "not finite" in said
    assert (
        main([*WORDS, "--launcher", "submitit", "--run.dir", str(tmp_path / "b"), "--launcher_options", "{nobody: 1}"])
        == 2
    )
    assert "launcher_options: " in capsys.readouterr().err


@pytest.mark.slow
def test_jobs_are_stopped_with_the_comparison(tmp_path: Path) -> None:
    """A run that is stopped saves; the comparison goes on with it."""
    pytest.importorskip("submitit")
    words = [*WORDS, "--launcher", "submitit", "--run.dir", str(tmp_path), "--stream.steps", "200000"]
    process = subprocess.Popen(jobs.command(*words), stdout=subprocess.DEVNULL, env=os.environ)
    logs = [tmp_path / f"{rule}-length1-seed0.log" for rule in ("rtrl", "bptt")]
    until = time.monotonic() + 120
    while not all(log.exists() and "step" in log.read_text() for log in logs):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGINT
    until = time.monotonic() + 30
    while not all("saved; to go on" in log.read_text() for log in logs):
        assert time.monotonic() < until, [log.read_text() for log in logs]
        time.sleep(0.2)
