"""Every example runs as it stands, and does what it says."""

import json
import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import biomamba
from biomamba.cli.main import main
from biomamba.tasks.ecg import Ecg

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


def test_the_notebook_knows_a_simulated_patient_by_learning_from_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("neurokit2", reason="neurokit2 is not installed: it simulates the beats")
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)  # a folder named there would take minutes off the tests' time
    cells = json.loads((EXAMPLES / "adapt_to_a_patient.ipynb").read_text())["cells"]
    scope: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "adapt_to_a_patient", "exec"), scope)  # noqa: S102  our own text
    printed = capsys.readouterr().out
    assert printed.startswith("SIMULATED") and "learning off" in printed and "learning on" in printed
    for score in ("frozen", "adapted"):
        jk = scope[score]
        assert isinstance(jk, float) and jk > 0.8
    task, model, own = (scope[name] for name in ("one", "model", "own"))
    assert isinstance(model, biomamba.Model) and isinstance(own, biomamba.Model) and isinstance(task, Ecg)
    assert not torch.equal(model.head.weight, own.head.weight)  # the patient's weights have moved from the population's
    torch.manual_seed(1)
    drawn = biomamba.Model(d_in=task.spec.d_in, d_out=task.spec.d_out, d_model=32, d_state=4, headdim=4)
    for report in biomamba.evaluate(task.stream("test", batch=1, length=256, seed=0), task, drawn):
        jk = report.scores["jk"]
    assert jk < 0.4  # the control: nothing learned


def test_the_side_is_seen_once_and_asked_for_seconds_later() -> None:
    """The law of the recording: the sign of the pulse is the side, and nothing else says it."""
    example = runpy.run_path(str(EXAMPLES / "sorting_line.py"))
    x, side = example["simulate"](60_000)
    begins = np.flatnonzero((side >= 0) & (np.roll(side, 1) < 0))
    assert len(begins) > 60 and set(side.tolist()) == {-1, 0, 1}
    waits = []
    for before, begin in pairwise(begins):
        between = x[before + 10 : begin, 0]
        sums = np.convolve(between, np.ones(10), "valid")  # over as many rows as a pulse lasts
        at = int(np.abs(sums).argmax())
        assert (sums[at] > 0) == (side[begin] == 1)
        assert np.abs(sums[: max(0, at - 10)]).max(initial=0) < 10 and np.abs(sums[at + 10 :]).max(initial=0) < 10
        waits.append((len(between) - at) / 50)
    assert 1.9 < min(waits) < 4 and 18 < max(waits) < 20.1
    assert (side[begins[0] :][:10] == side[begins[0]]).all()  # as long as the beam is broken
    shown, asked = x[side >= 0], side[side >= 0]
    for channel in range(3):  # what is seen while it is asked for says nothing: as good as a coin
        for sign in (shown[:, channel] > np.median(shown[:, channel])) == (asked == 1), asked == 1:
            assert abs(sign.mean() - 0.5) < 0.15


def test_the_recording_is_learned_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runpy.run_path(str(EXAMPLES / "sorting_line.py"))["write"](tmp_path / "sorting.csv", 8_000)
    monkeypatch.chdir(tmp_path)
    words = ["train", "--config", "arrays", "--config", str(EXAMPLES / "sorting_line.yaml"), "--stream.batch", "4"]
    words += ["--stream.steps", "60", "--run.compile", "false", "--run.baselines", "false", "--run.dir", "run"]
    assert main(words) == 0
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["timescales"] == "auto" and written["task"]["horizon"] == 1000
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"] == 0
