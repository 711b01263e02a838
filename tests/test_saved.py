"""Learners in folders: what was saved goes on to the bit in another process, and what is damaged is one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import biomamba
from biomamba import checkpoint
from biomamba.cli.main import main
from biomamba.saved import FILE
from biomamba.tasks.delay import Delay

TINY = Path(__file__).parent / "tiny.yaml"
GO_ON = """
import sys, torch, biomamba
from test_saved import go_on
torch.manual_seed(7)
learner = biomamba.load(sys.argv[1])
go_on(learner)
learner.save(sys.argv[1] + "-again")
"""
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 4, "n_layers": 2},
    "sgd": {"optimizer": torch.optim.SGD, "rule": "uoro", "block": "diagonal", "d_state": 3},
    "stdp": {"rule": "rtrl_stdp", "rule_options": {"a_post": 0.1, "trace_dtype": "bfloat16"}, "max_drift": 0.5},
    "stllr": {"rule": "stllr", "optimizer": torch.optim.AdamW, "clip": None, "timescales": (1.0, 20.0)},
}


def row(t: int) -> dict[str, float | None]:
    """Return a row; one feature comes late, one is missing at times."""
    drawn = torch.randn(3, generator=torch.Generator().manual_seed(t)).tolist()
    values: dict[str, float | None] = {"a": drawn[0], "b": 100 + drawn[1] if t % 5 else None}
    return values | ({"c": drawn[2]} if t > 3 else {})


def go_on(learner: biomamba.Learner, start: int = 20, stop: int = 40) -> None:
    """Predict, and answer six steps late in an order of its own."""
    for t in range(start, stop):
        learner.predict(row(t), id=f"row {t}", reset=t == 31)
        for late in (3, 6, 5) if t % 2 else ():
            if t - late >= 0:
                learner.learn(f"row {t - late}", ("sit", "stand", 3)[(t - late) % 3])


def same_files(one: Path, other: Path) -> bool:
    """Say whether two saved learners are equal to the bit."""
    (a, facts), (b, others) = (checkpoint.load(folder / FILE) for folder in (one, other))
    return facts == others and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def in_another_process(folder: Path) -> None:
    """Go on with a saved learner, and save it beside."""
    words = [sys.executable, "-c", GO_ON, str(folder)]
    subprocess.run(words, check=True, cwd=Path(__file__).parent, timeout=300)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_goes_on_to_the_bit_in_another_process(kind: str, tmp_path: Path) -> None:
    learner = biomamba.classifier(inputs=3, classes=4, horizon=12, **KINDS[kind])
    go_on(learner, 0, 20)
    assert learner.state is not None and learner.state.waiting
    learner.save(tmp_path / "saved")
    in_another_process(tmp_path / "saved")
    go_on(learner)
    learner.save(tmp_path / "straight")
    assert same_files(tmp_path / "straight", tmp_path / "saved-again")
    assert not same_files(tmp_path / "straight", tmp_path / "saved")  # control
    assert set(learner.rows.classes) == {"sit", "stand", 3} and learner.rows.inputs == ["a", "b", "c"]


def test_n_grams_and_the_task_of_a_saved_learner_go_on(tmp_path: Path) -> None:
    task = Delay(delay=4)
    model = biomamba.Model(**task.spec._asdict(), d_model=8, d_state=4, headdim=4, ngrams=(2,), ngram_logits=(1, 2))
    learner = biomamba.Learner(task, model, biomamba.rules.RTRL(model.blocks), torch.optim.Adam(model.parameters()))
    stream = [chunk for chunk, _ in zip(task.stream("all", batch=2, length=4, seed=0), range(20), strict=False)]
    *_, _ = biomamba.online(stream[:10], learner)
    learner.save(tmp_path / "saved")
    other = biomamba.load(tmp_path / "saved")
    assert other.task == task and other.streams == 2
    for own in (learner, other):
        *_, report = biomamba.online(stream[10:], own)
        assert report.state.steps == 80
        own.save(tmp_path / ("one" if own is learner else "two"))
    assert same_files(tmp_path / "one", tmp_path / "two")
    assert other.predict(3).value in range(8)  # a stream of its own


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    words = ["--config", "delay", "--config", str(TINY), "--run.baselines", "false", "--stream.length", "4"]
    for name, steps in (("half", "40"), ("whole", "80")):
        assert main(["train", *words, "--stream.steps", steps, "--run.dir", str(tmp_path / name)]) == 0
    half = biomamba.load(tmp_path / "half")
    assert half.state is not None and half.state.steps == 40 and half.drift() == 0
    whole = biomamba.load(tmp_path / "whole")
    assert whole.streams is not None
    stream = whole.task.stream("all", batch=whole.streams, length=4, seed=0, start=40)
    for report in biomamba.online(stream, half):
        if report.state.steps == 80:
            break
    for a, b in zip(half.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert report.scores == {name: meter.get() for name, meter in whole.state.meters.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "harm", ["cut", "bits", "format", "sizes", "layers", "optimizer", "rule", "task", "missing", "number"]
)
def test_a_file_that_is_no_learner_is_one_line(harm: str, tmp_path: Path) -> None:
    learner = biomamba.classifier(inputs=2, classes=3)
    learner.learn_one([1.0, 2.0], "a")
    learner.save(tmp_path)
    path = tmp_path / FILE
    if harm in ("cut", "bits"):
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data[:-50] if harm == "cut" else data)
    else:
        tensors, facts = checkpoint.load(path)
        changes: dict[str, Any] = {
            "format": {"format": 99},
            "sizes": {"model": facts["model"] | {"arguments": facts["model"]["arguments"] | {"d_model": 1 << 40}}},
            "layers": {"model": facts["model"] | {"arguments": facts["model"]["arguments"] | {"n_layers": 1 << 40}}},
            "optimizer": {"optimizer": {"name": "lr_scheduler", "groups": []}},
            "rule": {"rule": {"name": "os", "options": {}}},
            "task": {"task": {"name": "Mine", "options": {}}},
            "missing": {"rows": {}},
            "number": {},
            "clip": {"learner": facts["learner"] | {"clip": {}}},
            "window": {"learner": facts["learner"] | {"window": [1]}},
            "inputs": {"rows": facts["rows"] | {"inputs": 1 << 31}},
            "class": {"rows": facts["rows"] | {"classes": ["a", {}]}},
        }
        if harm == "number":
            tensors["rows.targets.last"] = torch.tensor(1.0)  # without an axis
        checkpoint.save(path, tensors, facts | changes[harm])
    with pytest.raises(ValueError, match=r"damaged|save it anew|save with|expected|restore a copy") as error:
        biomamba.load(tmp_path)
    assert "\n" not in str(error.value)
    json.dumps(str(error.value))


def test_what_cannot_be_saved_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    learner = biomamba.classifier(inputs=2, classes=3)
    learner.save(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    learner.learn_one([1.0, 2.0], frozenset({1}))
    with pytest.raises(TypeError, match="cannot be saved"):
        learner.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    with pytest.raises(FileNotFoundError, match=r"no learner\.safetensors and no config\.yaml"):
        biomamba.load(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["class", "value", "none"])
def test_a_run_on_a_table_goes_on_with_rows_in_the_users_units(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Learned row by row after the run, without its file, the weights are those of a run on all rows."""
    draw = torch.randn(90, 2, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1.0, 50]) + 1000
    last = {"class": lambda v: ["lo", "hi"][int(v > 1000)], "value": lambda v: f"{v:.6f}", "none": lambda v: "0"}[kind]
    cells = [[f"{a:.6f}", f"{b:.6f}", last(a)] for a, b in draw.tolist()]
    path, words = tmp_path / "table.csv", ["--config", "arrays", "--task.kind", kind, "--stream.length", "1"]
    words += ["--run.baselines", "false", "--task.inputs", "a", "b", "--task.path", str(path), "--model.d_model", "8"]
    words += [] if kind == "none" else ["--task.label", "y"]
    for name, rows in (("half", 60), ("whole", 90)):
        path.write_text("a,b,y\n" + "\n".join(",".join(row) for row in cells[:rows]) + "\n")
        assert main(["train", *words, "--run.dir", str(tmp_path / name)]) == 0
    path.unlink()
    half, whole = biomamba.load(tmp_path / "half"), biomamba.load(tmp_path / "whole")
    assert half.rows.inputs == ["a", "b"] and half.rows.scaler.count.tolist() == [60, 60]
    known = [{"a": float(row[0]), "b": float(row[1])} for row in cells]
    for t in range(59 if kind == "none" else 60, 89 if kind == "none" else 90):
        prediction = half.predict(known[t])
        answer = {"class": cells[t][2], "value": float(known[t]["a"]), "none": known[min(t + 1, 89)]}[kind]
        assert half.learn(prediction, answer)
    if kind != "none":
        for a, b in zip(half.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        assert half.rows.scaler.sums.tolist() == whole.rows.scaler.sums.tolist()
    value = half.predict(known[0]).value
    assert value in ("lo", "hi") if kind == "class" else (value if kind == "value" else value["b"]) > 700


def test_a_run_on_standard_input_keeps_its_units(tmp_path: Path) -> None:
    rows = [f"{1000 + t % 7},{-t % 3},{('lo', 'hi')[t % 7 > 3]}" for t in range(40)]
    words = [
        sys.executable,
        "-m",
        "biomamba",
        "train",
        "--config",
        "arrays",
        "--task.path",
        "-",
        "--task.classes",
        "lo",
        "hi",
    ]
    words += ["--stream.steps", "100", "--run.baselines", "false", "--run.dir", str(tmp_path / "run")]
    subprocess.run(words, input="a,b,y\n" + "\n".join(rows) + "\n", text=True, check=True, timeout=300)
    learner = biomamba.load(tmp_path / "run")  # nothing is read from standard input again
    assert learner.rows.inputs == ["a", "b"] and learner.rows.classes == ["lo", "hi"]
    assert learner.rows.scaler.count.tolist() == [40, 40] and learner.state is not None and learner.state.steps == 40
    assert abs(float(learner.rows.encode({"a": 1003.0, "b": 1.0})[0, 0, 0])) < 0.2
    assert learner.predict({"a": 1000.0, "b": 1.0}).value in ("lo", "hi")


def test_weights_that_do_not_learn_are_saved_as_such(tmp_path: Path) -> None:
    learner = biomamba.classifier(inputs=2)
    learner.learn_one([1, 2], "left")
    learner.model.head.weight.requires_grad_(False)
    learner.learn_one([2, 1], "right")
    learner.save(tmp_path)
    again = biomamba.load(tmp_path)
    before = again.model.head.weight.detach().clone()
    for own in (learner, again):
        own.learn_one([1, 1], "left")
    assert torch.equal(again.model.head.weight, before)
    ours, theirs = learner.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(again.model.encoder.weight, again.origin[0])  # control: the others go on learning
