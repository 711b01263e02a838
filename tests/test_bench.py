"""The measurements' settings are ones that can be learned: every row of every table has a config and a task."""

import pytest

from bench import ecg, eeg, rules, speech
from bench.grid import Row, config_of
from biomamba.experiment.build import make_task


def made(name: str, setting: Row) -> None:
    """Make the task of a setting, without a look at its data."""
    task = config_of(name, setting).task
    make_task(task.name, **task.options)


def test_keys_of_a_config_are_those_with_a_point() -> None:
    config = config_of("fsdd", {"row": "rtrl, 4", "stream.length": 4, "optim.lr_end": "null", "seed": 7})
    assert (config.stream.length, config.optim.lr_end, config.run.seed) == (4, None, 7)
    with pytest.raises(ValueError, match=r"task\.steps"):
        made("ecg", {"task.steps": "sample", "seed": 0})
    with pytest.raises(ValueError, match="qrs_unlike"):  # a task is made: its own checks are asked
        made("ecg", {"task.step": "sample", "task.gate": 0, "seed": 0})


@pytest.mark.parametrize("table", speech.TABLES)
def test_settings_of_speech(table: str) -> None:
    for setting in {row["row"]: row for row in speech.settings(table)}.values():
        made(setting["config"], setting)


@pytest.mark.parametrize("stage", eeg.STAGES)
def test_settings_of_eeg(stage: str) -> None:
    for setting in eeg.STAGES[stage]:
        made("eeg", setting["options"] | {"seed": 0})


def test_settings_of_the_rules() -> None:
    for name, label in ((name, label) for name in rules.TASKS for label in rules.FIELD):
        setting = rules.field(name, label, 1e-3)[0]
        made(setting["config"], setting)


def test_settings_of_ecg() -> None:
    for part in ecg.PARTS:
        assert ecg.part_task(part).step == "beat"
    assert ecg.task_of(samples=True).step == "sample"
    for own in ecg.GAP.values():
        ecg.task_of().derived(**own.get("options", {}), simulate=True)
