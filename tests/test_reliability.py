"""Nothing is lost, nothing goes on as another run: two writers, edited configs, changed data, killed comparisons."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from biomamba import checkpoint
from biomamba.cli.main import main
from biomamba.durable import clear, replacing
from biomamba.experiment import jobs
from biomamba.experiment.digest import Digest
from biomamba.experiment.lock import Lock
from biomamba.tasks.delay import Delay

TINY = ["--config", "delay", "--config", str(Path(__file__).with_name("tiny.yaml"))]
HOLD = "import sys, time; from pathlib import Path; from biomamba.experiment.lock import Lock\n"
HOLD += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def half_a_run(folder: Path, *words: str) -> None:
    """Begin a run, and stop it by a signal after its first checkpoint."""
    ended = threading.Event()

    def interrupt() -> None:
        while not (folder / "checkpoint.safetensors").exists():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    code = main(
        ["train", *TINY, "--run.dir", str(folder), "--run.save_every", "0.01", "--run.baselines", "false", *words]
    )
    ended.set()
    waiting.join()
    assert code == 128 + signal.SIGINT


def resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code of going on with a run, and what it said last."""
    capsys.readouterr()
    code = main(["train", "--config", str(folder / "config.yaml"), "--run.resume", "true"])
    return code, capsys.readouterr().err.strip()


# one writer


def test_a_folder_has_one_writer_who_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"{tmp_path} is in use by process {other.pid} on .*: wait for it"):
            Lock(tmp_path, patience=0.2)
        assert f"waiting for process {other.pid}" in capsys.readouterr().err
        other.kill()
    with Lock(tmp_path, patience=0.0):
        pass  # control: the system lets go what a killed process held


def test_one_who_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    program = HOLD.replace("60", "0.5")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        Lock(tmp_path).release()


@pytest.mark.parametrize("words", [["--run.overwrite", "true"], ["--run.resume", "true"]], ids=" ".join)
def test_a_run_that_is_going_on_is_left_alone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert main(["train", *TINY, "--run.dir", str(folder)]) == 0
    (folder / "summary.json").unlink()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("biomamba.experiment.lock.Lock.__init__.__defaults__", (0.1,))
    with Lock(folder):
        assert main(["train", "--config", str(folder / "config.yaml"), *words]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == {
        name: own for name, own in kept.items() if name != ".lock"
    }


def test_runs_stop_when_the_comparison_that_started_them_is_killed(tmp_path: Path) -> None:
    words = [
        "compare",
        *TINY,
        "--stream.steps",
        "4000000",
        "--rules",
        "bptt",
        "--seeds",
        "1",
        "--run.dir",
        str(tmp_path),
    ]
    with subprocess.Popen(jobs.command(*words), env=os.environ | {"PYTHONPATH": str(jobs.ROOT)}) as parent:
        held, until = tmp_path / "bptt-length1-seed0" / ".lock", time.monotonic() + 120
        while not (held.exists() and held.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        parent.kill()
    child = int(held.read_text().split()[1])
    until = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    Lock(held.parent).release()


# the same run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that stopped on its way."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    half_a_run(folder, "--stream.steps", "300", "--run.report_every", "1")
    assert not (folder / "summary.json").exists()
    return folder


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(str(stopped), str(folder)))
    return folder


def test_a_run_that_stopped_goes_on(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control of all that follow."""
    assert resumed(half, capsys) == (0, "")
    steps = [json.loads(line)["step"] for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 300


@pytest.mark.parametrize("key, value", [("lr", "0.5"), ("seed", "3"), ("clip", "9.0"), ("name", "sgd")])
def test_a_config_that_was_edited_is_refused(
    half: Path, key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (half / "config.yaml").read_text().splitlines()
    section = "run:" if key == "seed" else "optim:"
    at = next(i for i in range(lines.index(section), len(lines)) if lines[i].strip().startswith(f"{key}:"))
    lines[at] = f"  {key}: {value}"
    (half / "config.yaml").write_text("\n".join(lines) + "\n")
    code, said = resumed(half, capsys)
    assert code == 2 and f"{section[:-1]}.{key}: the run has" in said and "\n" not in said


def test_data_that_were_changed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, folder = tmp_path / "rows.csv", tmp_path / "run"
    rows = [f"{i % 7},{i % 3},{'ab'[i % 2]}" for i in range(4000)]
    table.write_text("\n".join(["x,y,label", *rows]) + "\n")
    words = ["--task.name", "arrays", "--task.path", str(table), "--task.label", "label", "--stream.steps", "300"]
    half_a_run(folder, *words)
    turned = [row.replace("a", "c").replace("b", "a").replace("c", "b") for row in rows]
    for changed in (turned, [*rows[:20], "9,9,b", *rows[21:]]):
        table.write_text("\n".join(["x,y,label", *changed]) + "\n")
        code, said = resumed(folder, capsys)
        assert code == 2 and "other data than the run began with" in said
    table.write_text("\n".join(["x,y,label", *rows]) + "\n")
    assert resumed(folder, capsys)[0] == 0  # control


def test_a_digest_does_not_depend_on_the_length_of_chunks() -> None:
    task = Delay()
    one, other = Digest(), Digest()
    whole = next(task.stream("train", batch=2, length=8, seed=0))
    one.update(whole)
    for s in range(8):
        other.update(whole.between(s, s + 1))
    assert one.state_dict() == other.state_dict()
    changed = whole._replace(y=whole.y + 1)
    assert one.fits([whole.between(0, 3), whole.between(3)]) and not one.fits([changed]) and not one.fits([])


def test_metrics_that_are_shorter_than_the_checkpoint_says_are_refused(
    half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (half / "metrics.jsonl").read_bytes()
    (half / "metrics.jsonl").write_bytes(lines[: len(lines) // 2])
    code, said = resumed(half, capsys)
    assert code == 2 and "metrics.jsonl holds" in said


def test_weights_in_the_place_of_a_checkpoint_are_refused(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(half / "checkpoint.safetensors", {"w": torch.zeros(2)})
    code, said = resumed(half, capsys)
    assert code == 2 and "is no checkpoint" in said


# files


def test_what_a_user_keeps_beside_a_file_is_not_touched(tmp_path: Path) -> None:
    own = tmp_path / ".tmp-mine"
    own.write_text("mine")
    outside = tmp_path / "outside"
    outside.write_text("not to be written")
    (tmp_path / "saved.safetensors.new").symlink_to(outside)
    checkpoint.save(tmp_path / "saved.safetensors", {"w": torch.ones(2)})
    assert own.read_text() == "mine" and outside.read_text() == "not to be written"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".tmp-mine", "outside", "saved.safetensors", "saved.safetensors.new"
    ]  # fmt: skip
    assert checkpoint.load(tmp_path / "saved.safetensors")[0]["w"].sum() == 2


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    begun = replacing(path)
    begun.__enter__().write_text("ne")
    assert path.read_text() == "old"
    assert not begun.__exit__(RuntimeError, RuntimeError("killed"), None)  # it is raised again
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"


def test_what_a_killed_process_was_writing_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    left, other = tmp_path / ".biomamba-x1", tmp_path / "keep"
    left.mkdir()
    other.mkdir()
    (left / "half").write_text("half")
    (tmp_path / ".biomamba-link").symlink_to(other)
    clear(tmp_path)
    assert not left.exists() and other.exists() and (tmp_path / ".biomamba-link").is_symlink()
