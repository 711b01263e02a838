"""Every example runs as it stands, and does what it says."""

import json
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from biomamba.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_traces_decide_in_the_quickstart() -> None:
    example = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    rules = example["biomamba"].rules
    assert example["learn"](rules.RTRL) > 0.8
    assert example["learn"](rules.BPTT) < 0.3  # the control; chance is 0.125


def test_the_task_of_ones_own_is_learned() -> None:
    example = runpy.run_path(str(EXAMPLES / "your_task.py"))
    assert example["main"]() > 0.8
    assert example["main"](rate=0.0) < 0.7  # the control: the weights as they were drawn


def test_the_rule_of_ones_own_is_exact_for_what_it_keeps_and_truncates_the_rest() -> None:
    errors = runpy.run_path(str(EXAMPLES / "your_rule.py"))["main"]()
    for name in ("A_log", "dt_bias"):
        own, truncated = errors[name]
        assert own < 1e-9 and truncated > 0.1
    own, truncated = errors["in_proj.weight"]
    assert own > 1e-3 and truncated > 1e-3


@pytest.mark.slow
def test_the_notebook_follows_a_simulated_patient_and_goes_on_in_another_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("neurokit2", reason="neurokit2 is not installed: it simulates the beats")
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)  # a folder named there would take minutes off the tests' time
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where a notebook runs
    cells = json.loads((EXAMPLES / "one_patient.ipynb").read_text())["cells"]
    scope: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "one_patient", "exec"), scope)  # noqa: S102  our own text
    printed = capsys.readouterr().out
    assert printed.startswith("SIMULATED") and "second half, learning off" in printed
    assert "second half, learning on in another process: sensitivity N " in printed
    before, on, learner = scope["before"], scope["on"], scope["learner"]
    assert int(before.sum()) > 100 and int(on.sum()) > 100
    assert learner.drift() > 0 == scope["frozen"].drift() and len(learner.state.waiting) >= scope["one_patient"].LATE
    assert learner.state.updates - scope["frozen"].state.updates == int(on.sum()) - scope["one_patient"].LATE


def test_the_side_is_seen_once_and_asked_for_seconds_later() -> None:
    """The law of the recording: the sign of the pulse is the side, and nothing else says it."""
    example = runpy.run_path(str(EXAMPLES / "sorting_line.py"))
    x, side = example["simulate"](60_000)
    asked_at = np.flatnonzero(side >= 0)
    assert len(asked_at) > 60 and set(side.tolist()) == {-1, 0, 1} and np.diff(asked_at).min() > 100
    waits = []
    for before, last in pairwise(asked_at):
        begin = last - 9  # of the rows in which the beam is broken
        between = x[before + 1 : begin, 0]
        sums = np.convolve(between, np.ones(10), "valid")  # over as many rows as a pulse lasts
        at = int(np.abs(sums).argmax())
        assert (sums[at] > 0) == (side[last] == 1)
        assert np.abs(sums[: max(0, at - 10)]).max(initial=0) < 10 and np.abs(sums[at + 10 :]).max(initial=0) < 10
        waits.append((len(between) - at) / 50)
    assert 1.9 < min(waits) < 4 and 18 < max(waits) < 20.1
    said = side[side >= 0]
    assert abs((said[1:] == said[:-1]).mean() - 0.5) < 0.15  # nor does the label before
    shown, asked = x[side >= 0], side[side >= 0]
    for channel in range(3):  # what is seen while it is asked for says nothing: as good as a coin
        for sign in (shown[:, channel] > np.median(shown[:, channel])) == (asked == 1), asked == 1:
            assert abs(sign.mean() - 0.5) < 0.15


def test_the_recording_is_learned_as_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(EXAMPLES / "sorting_line.py"))["write"](tmp_path / "sorting.csv", 8_000)
    monkeypatch.chdir(tmp_path)
    words = ["train", "--config", "arrays", "--config", str(EXAMPLES / "sorting_line.yaml"), "--stream.batch", "4"]
    words += ["--stream.steps", "60", "--run.baselines", "false", "--run.dir", "run"]
    assert main(words) == 0
    assert "states begin with time constants of 333 to 3000 steps" in capsys.readouterr().out
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["timescales"] == "auto" and written["task"]["horizon"] == 1000
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"] == 0
