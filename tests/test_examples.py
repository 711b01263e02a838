"""Every example runs as it stands, and does what it says."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

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
    assert "second half, learning on in another process: sensitivity N 0." in printed
    before, on, learner = scope["before"], scope["on"], scope["learner"]
    assert int(before.sum()) > 100 and int(on.sum()) > 100
    assert learner.drift() > 0 == scope["frozen"].drift() and len(learner.state.waiting) >= scope["one_patient"].LATE
    assert learner.state.updates - scope["frozen"].state.updates == int(on.sum()) - scope["one_patient"].LATE
