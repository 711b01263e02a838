"""Trackers: what they are told, and what those installed here have written when it is read back."""

import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from biomamba.experiment import trackers
from biomamba.experiment.log import Record, Summary
from biomamba.experiment.trackers import TRACKERS, choose, final, kept, opened, scalars, unless_set

ROOT = Path(__file__).parents[1]
SETTINGS = {"model": {"block": "mamba2", "d_model": 8, "tied": False}, "optim": {"lr": 0.003, "betas": [0.9, 0.99]}}
LINE = {"updates": 5, "skipped": 1, "loss": 1.5, "norm": math.nan, "wall_seconds": 2.0, "steps_per_second": 5.0}
SCORES = {"interval": {"accuracy": 0.25, "loss": math.nan}, "overall": {"accuracy": 0.5, "loss": math.inf}}
RECORD = Record(**dict.fromkeys((field.name for field in fields(Record)), math.nan) | LINE | SCORES | {"step": 10})
END = {"steps": 40, "scores": {"accuracy": {"all": 0.75, "last_tenth": math.nan}}}
SUMMARY = Summary(**dict.fromkeys((field.name for field in fields(Summary)), None) | END)
FINAL = {"final/accuracy/all": 0.75}


def at(step: int, loss: float) -> Record:
    return replace(RECORD, step=step, loss=loss)


class Told:
    """A tracker that remembers, in `all_told`, which may be shared."""

    def __init__(self, all_told: list[object], name: str = "told") -> None:
        self.all_told, self.name = all_told, name

    def record(self, record: Record) -> None:
        self.all_told.append((self.name, record.step))

    def finish(self, summary: Summary) -> None:
        self.all_told.append((self.name, summary.scores))

    def close(self) -> None:
        self.all_told.append((self.name, "closed"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the trackers `one` and `two` were told; `broken` does not open."""
    all_told: list[object] = []

    def broken(*given: object) -> Told:
        raise OSError("the disk is full")

    monkeypatch.setitem(TRACKERS, "one", lambda *given: Told(all_told, "one"))
    monkeypatch.setitem(TRACKERS, "two", lambda *given: Told(all_told, "two"))
    monkeypatch.setitem(TRACKERS, "broken", broken)
    return all_told


def test_a_line_has_the_names_of_its_scores_and_only_finite_numbers() -> None:
    there = {name: value for name, value in LINE.items() if name != "norm"}
    assert scalars(RECORD) == {"interval/accuracy": 0.25, "overall/accuracy": 0.5, **there}
    assert final(SUMMARY) == FINAL


def test_what_is_opened_is_told_and_closed(told: list[object], tmp_path: Path) -> None:
    with opened(["one", "two"], tmp_path, SETTINGS, 0) as several:
        for tracker in several:
            tracker.record(RECORD)
            tracker.finish(SUMMARY)
        before = list(told)
    assert before == [(name, what) for name in ("one", "two") for what in (10, SUMMARY.scores)]
    assert told == [*before, ("two", "closed"), ("one", "closed")]


def test_all_are_closed_when_the_run_is_stopped_or_one_does_not_open(told: list[object], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), opened(["one"], tmp_path, SETTINGS, 0):
        raise KeyboardInterrupt
    assert told == [("one", "closed")]
    with pytest.raises(OSError, match="full"), opened(["one", "broken", "two"], tmp_path, SETTINGS, 0):
        raise AssertionError("it was opened")
    assert told == [("one", "closed")] * 2  # two was never open


def test_names_are_separated_by_commas_and_unknown_ones_are_told_which_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose(None) == []
    monkeypatch.setitem(TRACKERS, "json", Told)  # packages that are always there
    monkeypatch.setitem(TRACKERS, "csv", Told)
    assert choose("json, csv,json") == ["json", "csv"]
    for text, name in {"json,tensorbord": "tensorbord", "": "", "json,": ""}.items():
        with pytest.raises(ValueError, match=f"run.trackers: got '{name}', expected tensorboard, wandb, trackio, "):
            choose(text)


def test_a_missing_package_gives_the_pip_line_even_where_a_folder_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(TRACKERS, "nowhere", Told)
    monkeypatch.syspath_prepend(tmp_path)
    line = r'^run.trackers: nowhere is not installed: pip install "biomamba\[nowhere\]"$'
    with pytest.raises(ImportError, match=line):
        choose("nowhere")
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(ImportError, match=line):
        choose("nowhere")
    (tmp_path / "nowhere" / "__init__.py").touch()
    assert choose("nowhere") == ["nowhere"]  # control: now it is a package


def test_a_run_that_goes_on_keeps_its_identity_and_one_that_begins_gets_another(tmp_path: Path) -> None:
    first = kept(tmp_path / "wandb", 0)
    assert kept(tmp_path / "wandb", 20) == first
    assert kept(tmp_path / "wandb", 0) != first
    assert kept(tmp_path / "trackio", 20)  # a tracker that was not asked for before


def test_the_environment_goes_before_what_is_chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "by the user")
    monkeypatch.delenv("FREE", raising=False)
    with unless_set(GIVEN="chosen", FREE="chosen"):
        assert (os.environ["GIVEN"], os.environ["FREE"]) == ("by the user", "chosen")
    assert (os.environ["GIVEN"], os.environ.get("FREE")) == ("by the user", None)


def track(name: str, folder: str, done: str, whole: str, *told: str) -> None:
    """Track a part of a run; `told` are its lines, such as 10:1.5, a step and a loss."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:  # by which wandb speaks to a process of its own
            raise AssertionError(f"connected to {address}")
        connect(self, address)

    socket.socket.connect = refuse
    with opened([name], Path(folder), SETTINGS, int(done)) as (tracker,):
        for step, loss in (pair.split(":") for pair in told):
            tracker.record(at(int(step), float(loss)))
        if whole == "whole":
            tracker.finish(SUMMARY)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"the package {name} is not installed")


@pytest.fixture
def part(tmp_path: Path) -> object:
    """Return a function that tracks a part of a run in the folder `run`, in a process of its own, as resuming is."""
    for empty in ("run", "home", "here"):
        (tmp_path / empty).mkdir()

    def tell(name: str, done: int, *told: str, whole: bool = False) -> None:
        chosen = ("WANDB", "TRACKIO", "XDG", "HF_")
        own = {key: value for key, value in os.environ.items() if not key.startswith(chosen)}
        own |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        words = [name, str(tmp_path / "run"), str(done), "whole" if whole else "stopped", *told]
        program = "import sys, test_trackers; test_trackers.track(*sys.argv[1:])"
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program, *words]
        ended = subprocess.run(command, env=own, cwd=tmp_path / "here", capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""

    return tell


@needs("tensorboard")
@pytest.mark.slow
def test_tensorboard_shows_a_resumed_run_once_and_one_begun_anew_alone(part, tmp_path: Path) -> None:
    part("tensorboard", 0, "10:1.5", "20:nan", "30:9.0")  # killed: the last checkpoint was that of step 20
    part("tensorboard", 20, "30:1.25", "40:1.0", whole=True)
    events = read_events(tmp_path / "run" / "tensorboard")
    assert series(events, "loss") == {10: 1.5, 30: 1.25, 40: 1.0}
    assert series(events, "interval/accuracy") == dict.fromkeys([10, 20, 30, 40], 0.25)
    assert series(events, "final/accuracy/all") == {40: 0.75}
    assert set(events.Tags()["scalars"]) == {*scalars(RECORD), *FINAL}
    assert hyperparameters(events) == {
        "model.block": "mamba2",
        "model.d_model": 8.0,
        "model.tied": False,
        "optim.lr": 0.003,
        "optim.betas": "[0.9, 0.99]",
    }
    part("tensorboard", 0, "10:5.0")
    assert series(read_events(tmp_path / "run" / "tensorboard"), "loss") == {10: 5.0}
    only_the_run(tmp_path, "tensorboard")


@needs("wandb")
def test_wandb_has_both_parts_of_a_resumed_run_under_one_id(part, tmp_path: Path) -> None:
    part("wandb", 0, "10:1.5", "20:nan")
    part("wandb", 20, "30:1.25", "40:1.0", whole=True)
    first, second = (read_wandb(path) for path in sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb")))
    assert [first["loss"], second["loss"]] == [{10: 1.5}, {30: 1.25, 40: 1.0}]
    assert [first["skipped"], second["skipped"]] == [{10: 1, 20: 1}, {30: 1, 40: 1}]
    assert first["identity"] == second["identity"] == ("biomamba", "run", (tmp_path / "run/wandb/id").read_text())
    assert first["config"] == second["config"] == SETTINGS
    assert FINAL.items() <= second["summary"].items()
    assert not FINAL.keys() & first["summary"].keys()
    part("wandb", 0, "10:5.0")
    third = read_wandb(sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))[-1])
    assert third["identity"] != first["identity"]
    only_the_run(tmp_path, "wandb")


@needs("trackio")
def test_trackio_goes_on_in_one_run_and_begins_another_anew(part, tmp_path: Path) -> None:
    part("trackio", 0, "10:1.5", "20:nan")
    part("trackio", 20, "30:1.25", "40:1.0", whole=True)
    identity = (tmp_path / "run" / "trackio" / "id").read_text()
    rows, config = read_trackio(tmp_path / "run" / "trackio" / "biomamba.db")
    assert {(run, step): row["loss"] for run, step, row in rows if "loss" in row} == {
        (f"run-{identity}", 10): 1.5,
        (f"run-{identity}", 30): 1.25,
        (f"run-{identity}", 40): 1.0,
    }
    assert [row for _, step, row in rows if step == 20] == [scalars(at(20, math.nan))]
    assert [row for _, step, row in rows if step == 40] == [scalars(at(40, 1.0)), FINAL]
    assert [config[section] for section in SETTINGS] == list(SETTINGS.values())
    part("trackio", 0, "10:5.0")
    rows, _ = read_trackio(tmp_path / "run" / "trackio" / "biomamba.db")
    assert [row["loss"] for run, _, row in rows if run != f"run-{identity}"] == [5.0]
    only_the_run(tmp_path, "trackio")


def test_trackio_refuses_a_second_folder_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "trackio", type("Stand", (), {"TRACKIO_DIR": tmp_path / "first" / "trackio"}))
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    with pytest.raises(ValueError, match=r"already writes to .*first.trackio in this process, expected .*second"):
        trackers.Trackio(tmp_path / "second", SETTINGS, 0)
    assert not (tmp_path / "second").exists()


def only_the_run(folder: Path, name: str) -> None:
    """Assert that neither the home nor the working folder was written to, and of the run's only the tracker's own."""
    left = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    assert left == [f"run/{name}"]


def read_events(folder: Path) -> object:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def series(events, name: str) -> dict[int, float]:
    shown = events.Scalars(name)
    assert len({event.step for event in shown}) == len(shown)  # no step twice
    return {event.step: event.value for event in shown}


def hyperparameters(events) -> dict[str, object]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (content,) = [c for tag, c in events.PluginTagToContent("hparams").items() if tag.endswith("session_start_info")]
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def read_wandb(path: Path) -> dict[str, object]:
    """Return the scalars by name and step, and what the run is called, from wandb's file of a short offline run."""
    from wandb.proto.wandb_internal_pb2 import Record as Written

    found: dict[str, object] = {"summary": {}}
    data, begin = path.read_bytes(), 7  # a header; before each record its checksum, its length and its kind
    while begin < len(data):
        end = begin + 7 + int.from_bytes(data[begin + 4 : begin + 6], "little")
        written = Written.FromString(data[begin + 7 : end])
        begin = end
        for item in written.history.item:
            found.setdefault(item.nested_key[0], {})[written.history.step.num] = json.loads(item.value_json)
        found["summary"] |= {item.key: json.loads(item.value_json) for item in written.summary.update}
        if written.HasField("run"):
            found["identity"] = (written.run.project, written.run.display_name, written.run.run_id)
            found["config"] = {i.key: json.loads(i.value_json) for i in written.run.config.update if i.key in SETTINGS}
    return found


def read_trackio(path: Path) -> tuple[list[tuple[str, int, dict[str, float]]], dict[str, object]]:
    """Return run, step and numbers of each line, and the first run's config, from trackio's data base."""
    with sqlite3.connect(path) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        (config,) = base.execute("SELECT config FROM configs ORDER BY id").fetchone()
    base.close()
    return [(run, step, json.loads(metrics)) for run, step, metrics in rows], json.loads(config)
