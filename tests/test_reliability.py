"""Nothing is lost, nothing goes on as another run: two writers, edited configs, changed data, killed comparisons."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from biomamba import Model, checkpoint
from biomamba.cli.main import main
from biomamba.durable import MEMORY, clear, replacing
from biomamba.experiment import files, jobs, memory
from biomamba.experiment.build import Experiment, build_learner, task_of
from biomamba.experiment.digest import Digest
from biomamba.experiment.lock import Lock
from biomamba.experiment.parse import parse
from biomamba.experiment.run import Run
from biomamba.report import data, exports, page
from biomamba.report import text as tables
from biomamba.rules import RULES, LearningRule
from biomamba.state import nbytes
from biomamba.tasks.delay import Delay
from campaigns import kills

ROOT = Path(__file__).parents[1]
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


def test_a_run_killed_after_its_last_checkpoint_ends_as_if_it_had_not_been(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(half, capsys) == (0, "")
    shutil.copytree(half, tmp_path / "straight")
    (half / "summary.json").unlink()
    assert resumed(half, capsys) == (0, "")
    kills.compare(tmp_path / "straight", half)
    assert json.loads((half / "summary.json").read_text())["trace_bytes"] > 0


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


def test_a_folder_in_memory_holds_files_as_others_do() -> None:
    if not MEMORY.is_dir():
        pytest.skip(f"no {MEMORY}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as held:
        path = Path(held) / "a.txt"
        path.write_text("old")
        with replacing(path) as beside:
            assert beside != path and path.read_text() == "old"
            beside.write_text("new")
        assert path.read_text() == "new"
    with replacing(Path("/dev/stdout")) as own:  # the control
        assert own == Path("/dev/stdout")


def test_what_a_killed_process_was_writing_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    left, other = tmp_path / ".biomamba-x1", tmp_path / "keep"
    left.mkdir()
    other.mkdir()
    (left / "half").write_text("half")
    (tmp_path / ".biomamba-link").symlink_to(other)
    clear(tmp_path)
    assert not left.exists() and other.exists() and (tmp_path / ".biomamba-link").is_symlink()


# what a user may have typed or left behind


DEEP = "[" * 2000 + "]" * 2000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{a: [", "cannot be read as YAML"),
        ("[1, 2]", "holds no keys"),
        (DEEP, "deep"),
        ("a: &a [*a]", "deep"),
        (LAUGHS, "over 10,000 values"),
        ("run: {seed: 2020-13-45}", "cannot be read as YAML"),
    ],
)
def test_a_config_is_plain_values_and_not_too_many(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        files.read(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 500
    path.write_text("run: &r {seed: 3}\n")
    assert files.read(path) == {"run.seed": 3}  # control


@pytest.mark.parametrize("text", ["", "{a: [", "[1]", DEEP])
def test_a_runs_own_config_that_is_broken_is_one_line(
    half: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (half / "config.yaml").write_text(text)
    words = ["--stream.steps", "300", "--run.report_every", "1", "--run.baselines", "false", "--run.save_every", "0.01"]
    assert main(["train", *TINY, *words, "--run.dir", str(half), "--run.resume", "true"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said.startswith("biomamba: ") and ("config" in said or "task.name" in said)


@pytest.mark.parametrize("word", ["model.d_model=1000000", "model.d_model=1000000000", "stream.batch=1000000000000"])
def test_more_memory_than_there_is_is_refused_before_it_is_asked_for(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, f"--{word}", "--run.dir", str(tmp_path / "run")]) == 2
    assert "memory: weights, state and trace need" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_a_model_needs_is_counted_without_making_it() -> None:
    own = parse([*TINY, "--model.n_layers", "3"]).config
    learner = build_learner(own, task_of(own))
    exact = 2 * sum(nbytes(p) for p in learner.model.parameters())
    exact += nbytes(learner.model.init_state(2)) + nbytes(learner.rule.init(2))
    sizes = {"d_model": 8, "d_state": 4, "headdim": 4}

    def layer() -> tuple[Model, LearningRule]:
        made = Model(**task_of(own).spec._asdict(), **sizes)
        return made, RULES["rtrl"](made.blocks)  # type: ignore[arg-type]

    before = os.sysconf
    for there, fits in ((exact, True), (exact - 1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sysconf", lambda name, n=there: 1 if name == "SC_PAGE_SIZE" else n)
            if fits:
                memory.check(layer, 3, 2)
            else:
                with pytest.raises(ValueError, match="memory"):
                    memory.check(layer, 3, 2)
    assert os.sysconf is before


def test_a_run_is_replaced_only_when_the_new_one_has_saved_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert main(["train", *TINY, "--run.dir", str(folder)]) == 0
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def left() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}

    again = ["train", *TINY, "--run.dir", str(folder), "--run.overwrite", "true", "--run.seed", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_learn", lambda *given: (_ for _ in ()).throw(ValueError("no first step")))
        assert main(again) == 2
    assert left() == {name: own for name, own in kept.items() if name != ".lock"}
    with monkeypatch.context() as patch:  # killed before its first checkpoint: the next to come puts the old one back
        patch.setattr(Run, "_learn", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Run, "discard", lambda self: None)
        assert main(again) == 128 + signal.SIGINT
    assert (folder / ".replaced").is_dir() and not (folder / "model.safetensors").exists()
    assert main(["train", *TINY, "--run.dir", str(folder)]) == 2
    assert left() == {name: own for name, own in kept.items() if name != ".lock"}
    assert main(again) == 0
    assert left().keys() == kept.keys() - {".lock"} and left()["model.safetensors"] != kept["model.safetensors"]


def test_a_lock_whose_file_was_taken_away_keeps_nobody_out_and_is_taken_anew(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    waiting = threading.Thread(target=lambda: taken.append(Lock(tmp_path)))
    taken: list[Lock] = []
    waiting.start()
    time.sleep(0.3)
    (tmp_path / ".lock").unlink()
    held.release()
    waiting.join()
    with pytest.raises(ValueError, match="is in use by"):
        Lock(tmp_path, patience=0.0)
    taken[0].release()
    Lock(tmp_path, patience=0.0).release()  # control


def test_a_checkpoint_that_does_not_fit_leaves_the_weights_as_they_were(half: Path) -> None:
    settings = parse(["--config", str(half / "config.yaml"), "--run.resume", "true"]).config
    tensors, facts = checkpoint.load(half / "checkpoint.safetensors")
    name = next(key for key in tensors if key.startswith("loop.trace"))
    weights = {key: own + 1 for key, own in tensors.items() if key.startswith("model.")}
    tensors |= weights  # others than those that are drawn
    damaged = [
        ({key: own for key, own in tensors.items() if key != name}, facts),
        (tensors | {"loop.x": torch.zeros(())}, facts),
        (tensors | {"rng": torch.zeros(8)}, facts),
        (tensors, facts | {"loop": facts["loop"] | {"optimizer": {"state": {}, "groups": []}}}),
        (tensors, facts | {"loop": {}}),
        (tensors, facts | {"progress": 3}),
        (tensors, {key: own for key, own in facts.items() if key != "digest"}),
        *((tensors, facts | {"digest": facts["digest"] | {"steps": steps}}) for steps in (None, "3", 10**9)),
    ]
    for held, told in damaged:
        checkpoint.save(half / "checkpoint.safetensors", held, told)
        experiment = Experiment.from_config(settings)
        before = checkpoint.weights(experiment.model)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors|trace|parameter groups") as error:
            Run.resume(experiment, half)
        assert "\n" not in str(error.value)
        assert all(torch.equal(own, before[key]) for key, own in experiment.model.state_dict().items())
    checkpoint.save(half / "checkpoint.safetensors", tensors, facts)
    experiment = Experiment.from_config(settings)
    Run.resume(experiment, half).close()  # control
    assert all(torch.equal(own, weights[f"model.{key}"]) for key, own in experiment.model.state_dict().items())


def test_a_disk_that_is_full_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    checkpoint.save(path, {"w": torch.ones(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="make room on the disk"):
            checkpoint.save(path, {"w": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(path)[0]["w"].shape == (10,) and [*tmp_path.iterdir()] == [path]


def test_standard_input_is_kept_only_where_it_will_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held: list[int] = []
    finish = Run.finish

    def watched(self: Run) -> object:
        held.append(len(self.experiment.task._table.held.getvalue()))  # type: ignore[attr-defined]
        return finish(self)

    monkeypatch.setattr(Run, "finish", watched)
    words = ["train", "--config", "arrays", "--task.path", "-", "--task.classes", "0", "1", "--stream.steps", "1000"]
    lines = "".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(60)).encode()
    for baselines in ("true", "false"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
        assert main([*words, "--run.baselines", baselines, "--run.dir", str(tmp_path / baselines)]) == 0
    assert held[0] > 300 and held[1] == 0
    assert (tmp_path / "true" / "model.safetensors").read_bytes() == (
        tmp_path / "false" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "key, value, told", [("block", "mamba9", "KeyError: 'mamba9'"), ("n_layers", "null", "NoneType")]
)
def test_weights_of_a_run_whose_config_is_damaged_are_refused_in_a_line(
    key: str, value: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", *TINY, "--run.baselines", "false"]
    assert main([*words, "--run.dir", str(run)]) == 0
    assert main([*words, "--model.from", str(run), "--run.dir", str(tmp_path / "control")]) == 0
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {value}", text))
    capsys.readouterr()
    assert main([*words, "--model.from", str(run), "--run.dir", str(tmp_path / "own")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"biomamba: {run} does not hold what goes on here") and told in line


def test_numbers_of_a_comparison_that_are_none_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *TINY, "--rules", "rtrl", "--seeds", "1", "--costs", "false", "--fidelity", "0"]
    words += ["--run.baselines", "false", "--run.dir", str(tmp_path), "--run.resume", "true"]
    assert main(words) == 0  # control
    (path,) = tmp_path.glob("*/summary.json")
    summary = json.loads(path.read_text())
    for key in ("trace_bytes", "steps"):
        path.write_text(json.dumps(summary | {key: [3]}))
        capsys.readouterr()
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"biomamba: {tmp_path}: its files are damaged")


def test_damaged_files_of_a_report_are_one_line(half: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the plots of a report need matplotlib: pip install "biomamba[plot]"')
    folder = tmp_path / "done"
    assert main(["train", *TINY, "--run.dir", str(folder), "--run.baselines", "false"]) == 0
    page.page([data.read(folder)])  # control
    summary, named = json.loads((folder / "summary.json").read_text()), tables.gather({"rtrl": [folder]})
    assert exports.tidy(named, ["optim.lr"])[0]["optim.lr"] == 0.003
    others = [summary | harm for harm in ({"scores": 3}, {"scores": {}}, {"versions": []}, {"seed": {}})]
    for wrong in ({}, *others):
        (folder / "summary.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="done") as error:
            page.page([data.read(folder)])
        assert "\n" not in str(error.value)
    (folder / "summary.json").write_text("{")
    for call in (lambda: tables.gather({"rtrl": [folder]}), lambda: exports.tidy(named, []), lambda: data.read(folder)):
        with pytest.raises(ValueError, match=r"done/summary\.json is no JSON"):
            call()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text('{"step": "x"}\n' * 3)
    with pytest.raises(ValueError, match="done"):
        page.page([data.read(folder)])


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as beside:
        beside.write_text("through")
    reader.join()
    assert read == ["through"] and pipe.is_fifo()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_standard_streams_that_are_closed_are_no_file_of_the_run(closed: tuple[int, ...], tmp_path: Path) -> None:
    """A file that is opened has the lowest number that is free: 2 would be the one that errors go to."""
    source = (
        "import os, sys\n"
        "from biomamba.cli import main as own\n"
        "def opened(argv):\n"
        "    file = open(sys.argv[1], 'w')\n"
        "    print('said'); print('wrong', file=sys.stderr); os.write(2, b'wrong')\n"
        "    return 0 if file.fileno() > 2 else 1\n"
        "own._run = opened\n"
        "sys.exit(own.main(['info']))\n"
    )
    shell = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    words = [sys.executable, "-c", source, str(tmp_path / "file")]
    ended = subprocess.run(["sh", "-c", f'exec "$@" {shell}', "sh", *words], capture_output=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "file").read_bytes()


def test_no_room_for_what_is_printed_is_an_exit_code_of_its_own() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    words = [sys.executable, "-m", "biomamba"]
    with Path("/dev/full").open("w") as full:
        printed = subprocess.run([*words, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        said = subprocess.run([*words, "nothing"], stdout=subprocess.PIPE, stderr=full, text=True, cwd=ROOT)
    assert printed.returncode == 2
    assert re.fullmatch(r"biomamba: printing: .*No space left on device: print into another file\n", printed.stderr)
    assert (said.returncode, said.stdout) == (2, "")


def test_an_interrupt_while_the_last_is_printed_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.StringIO):
        def flush(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", Interrupted())
    assert main(["--help"]) == 128 + signal.SIGINT
