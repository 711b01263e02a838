"""The command line: runs, their folders, resuming, comparing, and one line for what goes wrong."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biomamba import checkpoint
from biomamba.cli import evaluate
from biomamba.cli.compare import Compare
from biomamba.cli.main import main
from biomamba.cli.variants import variants, with_seeds
from biomamba.experiment import build, jobs, log
from biomamba.experiment.parse import parse
from biomamba.experiment.run import RUN_FILES, Run
from biomamba.tasks import Delay

ROOT = Path(__file__).parents[1]
TINY = ["--config", "delay", "--config", str(ROOT / "tests" / "tiny.yaml")]
TEXT = str(ROOT / "LICENSE")
CLOCK = {"wall_seconds", "steps_per_second"}


def run(folder, *words, stop_at=None, monkeypatch=None):
    """Train; with `stop_at`, a SIGTERM comes after that many updates."""
    if stop_at is None:
        return main(["train", *TINY, "--run.dir", str(folder), *words])
    online = build.online

    def stopping(*args, **kwargs):
        for count, report in enumerate(online(*args, **kwargs), start=1):
            if count == stop_at:
                signal.raise_signal(signal.SIGTERM)
            yield report

    with monkeypatch.context() as patch:
        patch.setattr(build, "online", stopping)
        return main(["train", *TINY, "--run.dir", str(folder), *words])


def left(folder):
    """Return all that a run leaves behind and that a clock does not change."""
    tensors, facts = checkpoint.load(folder / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    metrics = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
    averaged = facts.get("average"), summary["averaged"]
    return tensors, facts["loop"], metrics, summary["scores"], averaged, summary["updates"]


def same(a, b):
    """Say whether two runs left the same behind, to the bit."""
    (tensors, *rest), (others, *other_rest) = left(a), left(b)
    equal = tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    return equal and rest == other_rest


KINDS = {
    "rtrl": ["--rule.name", "rtrl", "--stream.length", "4"],
    "window": ["--rule.name", "rtrl", "--stream.length", "4", "--rule.window", "10"],
    "stdp": ["--rule.name", "rtrl_stdp", "--rule.a_post", "0.1", "--stream.length", "3", "--optim.name", "rmsprop"],
    "bptt": ["--rule.name", "bptt", "--stream.length", "4", "--rule.window", "9", "--optim.name", "sgd"],
    "momentum": ["--model.block", "mamba", "--optim.name", "sgd", "--optim.momentum", "0.9", "--run.dtype", "float64"],
    "uoro": ["--rule.name", "uoro", "--stream.length", "3"],
    "factored": ["--rule.name", "factored", "--model.block", "mamba"],
    "spiking": ["--rule.name=stllr", "--rule.feedback=random", "--model.threshold=0.5", "--model.spike_rate=0.2"],
    "rate": ["--optim.lr_end", "1e-5"],
    "schedule": ["--optim.schedule=inverse_sqrt", "--optim.warmup=9", "--optim.groups={A_log: 0.1, dt_bias: 0}"],
    "average": ["--optim.average=0.9", "--run.held_out=true", "--rule.window=10", "--stream.length=4"],
    "spelling": ["--task.name=speech_ctc", "--task.simulate=true", "--stream.split=train", "--stream.steps=400"],
}


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_resume_is_bit_for_bit_even_twice(words, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, *words) == 0
    assert run(parts, *words, stop_at=5, monkeypatch=monkeypatch) == 128 + signal.SIGTERM
    assert not (parts / "summary.json").exists()
    assert run(parts, *words, "--run.resume", "true", stop_at=4, monkeypatch=monkeypatch) == 128 + signal.SIGTERM
    assert run(parts, *words, "--run.resume", "true") == 0
    assert same(whole, parts)


def test_the_learning_rate_ends_where_it_should(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(
        Run, "save", lambda own, *given, **how: rates.append(own.experiment.learner.optimizer.param_groups[0]["lr"])
    )
    run(
        tmp_path / "run",
        "--optim.lr",
        "0.1",
        "--optim.lr_end",
        "0.02",
        "--run.save_every",
        "0",
        "--run.baselines=false",
    )
    assert rates[-1] == pytest.approx(0.02)
    steps = [a - b for a, b in itertools.pairwise(rates)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=0.2)  # the last chunk may be shorter
    assert 0.1 - rates[0] == pytest.approx(steps[0])


@pytest.mark.parametrize(
    "lost", ["loop.trace", "loop.state", "optimizer", "model", "average.model", "average.loop.state"]
)
def test_resume_needs_every_part(lost, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ["--optim.average", "0.9"]
    run(whole, *words)
    run(parts, *words, stop_at=30, monkeypatch=monkeypatch)
    tensors, facts = checkpoint.load(parts / "checkpoint.safetensors")
    touched = [name for name in tensors if name.startswith(lost)]
    assert touched
    halved = {name: tensor / 2 if name in touched else tensor for name, tensor in tensors.items()}
    checkpoint.save(parts / "checkpoint.safetensors", halved, facts)
    assert run(parts, *words, "--run.resume", "true") == 0
    assert not same(whole, parts)


def test_updates_made_together_are_those_made_one_by_one(tmp_path, monkeypatch):
    """To the byte, resumed too; what happens between two updates is refused."""
    words = ["--stream.length", "1", "--stream.steps", "200"]
    run(tmp_path / "apart", *words)
    run(tmp_path / "together", *words, "--stream.together", "16")
    run(tmp_path / "parts", *words, "--stream.together", "16", stop_at=3, monkeypatch=monkeypatch)
    assert run(tmp_path / "parts", *words, "--stream.together", "16", "--run.resume") == 0
    for name in ("together", "parts"):
        weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("apart", name)]
        assert weights[0] == weights[1]
    for between in (["--optim.average", "0.9"], ["--optim.schedule", "cosine"], ["--run.predictions", "p.jsonl"]):
        assert run(tmp_path / "refused", *words, "--stream.together", "16", *between) == 2


def test_resume_on_a_text(tmp_path, monkeypatch):
    words = ["--task.name", "language", "--task.paths", TEXT, "--stream.length", "8"]
    words += ["--stream.split", "train", "--rule.window", "12"]
    run(tmp_path / "whole", *words)
    run(tmp_path / "parts", *words, stop_at=3, monkeypatch=monkeypatch)
    assert run(tmp_path / "parts", *words, "--run.resume") == 0
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_the_generator_comes_back(tmp_path, monkeypatch):
    run(tmp_path / "run", stop_at=5, monkeypatch=monkeypatch)
    tensors, facts = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    tensors["rng"] = torch.Generator().manual_seed(99).get_state()
    checkpoint.save(tmp_path / "run" / "checkpoint.safetensors", tensors, facts)
    restored = []
    finish = Run.finish
    monkeypatch.setattr(Run, "finish", lambda *given: restored.append(torch.get_rng_state()) or finish(*given))
    run(tmp_path / "run", "--run.resume")
    assert torch.equal(restored[0], tensors["rng"])


def test_kill_loses_at_most_what_came_after_the_last_checkpoint(tmp_path):
    words = ["--stream.steps", "600", "--run.baselines", "false", "--run.report_every", "100", "--run.save_every"]
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "train",
        *TINY,
        *words,
        "0",
        "--run.dir",
        str(tmp_path / "killed"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, facts = checkpoint.load(tmp_path / "killed" / "checkpoint.safetensors")
    step = facts["loop"]["steps"]
    assert 99 <= step < 600
    assert run(tmp_path / "killed", *words, "null", "--run.resume") == 0
    assert run(tmp_path / "whole", *words, "null") == 0
    (a, *_), (b, *_) = left(tmp_path / "killed"), left(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_what_is_loaded_lies_as_new_tensors_do(tmp_path):
    """A product over memory aligned otherwise may round otherwise, and a resumed run would leave its track."""
    path = tmp_path / "odd.safetensors"
    checkpoint.save(path, {f"{size}": torch.ones(size) for size in range(1, 40)}, {"text": "of any length"})
    tensors, _ = checkpoint.load(path)
    assert {tensor.data_ptr() % 64 for tensor in tensors.values()} == {torch.empty(1).data_ptr() % 64}


def test_equal_runs_write_equal_files(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        checkpoint.save(path, {"b": torch.ones(2), "a": torch.ones(3)}, {"steps": 1})
    assert len({path.read_bytes() for path in paths}) == 1


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=25, monkeypatch=monkeypatch)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "of": "an update that was lost"}\n{"half a li')
    assert run(tmp_path / "parts", "--run.resume") == 0
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_resume_before_the_first_checkpoint_starts_over(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=25, monkeypatch=monkeypatch)
    (tmp_path / "parts" / "checkpoint.safetensors").unlink()
    assert run(tmp_path / "parts", "--run.resume") == 0
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_resume_refuses_another_experiment_and_says_when_finished(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run(folder, stop_at=5, monkeypatch=monkeypatch)
    before = (folder / "checkpoint.safetensors").read_bytes()
    capsys.readouterr()
    assert run(folder, "--run.resume", "--optim.lr", "0.1") == 2
    assert capsys.readouterr().err.startswith("biomamba: optim.lr: the run has 0.003, given is 0.1")
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert main(["train", "--config", str(folder / "config.yaml"), "--run.resume"]) == 0
    capsys.readouterr()
    assert run(folder, "--run.resume") == 0
    assert "is finished: nothing is left to resume" in capsys.readouterr().out


def test_resume_refuses_other_data(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a few words " * 100)
    words = ["--task.name", "language", "--task.paths", str(text)]
    run(tmp_path / "run", *words, stop_at=5, monkeypatch=monkeypatch)
    text.write_text("a few more words " * 100)
    assert run(tmp_path / "run", *words, "--run.resume") == 2
    assert "biomamba: task: the run learned from" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_checkpoint_is_one_line(harm, tmp_path, monkeypatch, capsys):
    run(tmp_path / "run", stop_at=5, monkeypatch=monkeypatch)
    file = tmp_path / "run" / "checkpoint.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes({"cut": data[:-100], "flip": data, "empty": b""}[harm])
    capsys.readouterr()
    assert run(tmp_path / "run", "--run.resume") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {file} is damaged")
    assert said.count("\n") == 1


def test_a_run_is_overwritten_only_when_told(tmp_path, capsys):
    assert run(tmp_path / "run") == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    assert run(tmp_path / "run", "--run.seed", "1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert run(tmp_path / "run", "--run.overwrite", "--task.delay", "1") == 2
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    assert run(tmp_path / "run", "--run.seed", "1", "--run.overwrite") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == 1


def test_without_a_folder_every_run_gets_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", *TINY, "--run.baselines=false"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["delay-rtrl-seed0-001", "delay-rtrl-seed0-002"]


def test_what_a_run_leaves_behind(tmp_path, capsys):
    assert run(tmp_path / "run", "--stream.length", "7") == 0
    folder = tmp_path / "run"
    assert {file.name for file in folder.iterdir()} == {*RUN_FILES, ".lock"} - {"average.safetensors"}
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1
    assert "SIMULATED: store-recall, delay 4" in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {field.name for field in fields(log.Summary)}
    assert all(f"    {name}: " in log.Summary.__doc__ for name in summary)
    assert summary["scores"].keys() == summary["baselines"]["frozen"].keys() == {"accuracy", "loss"}
    assert summary["baselines"].keys() == {"frozen", "chance"}
    assert summary["steps"] == 60
    assert summary["trace_bytes"] > 0
    assert summary["peak_rss_bytes"] > 10_000_000
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{field.name for field in fields(log.Record)}] * len(lines)
    assert all(f"    {name}: " in log.Record.__doc__ for name in lines[0])
    assert [line["step"] for line in lines] == [14, 21, 35, 42, 56, 60]
    assert lines[-1]["overall"]["loss"] == summary["scores"]["loss"]["all"]
    weights = load_file(folder / "model.safetensors")
    assert {f"model.{name}" for name in weights} < load_file(folder / "checkpoint.safetensors").keys()
    for file in folder.iterdir():
        assert not file.read_bytes().startswith((b"\x80", b"PK"))  # a pickle, torch.save's archive


def test_the_last_tenth_is_the_same_steps_at_every_length(tmp_path):
    frozen = []
    for length in ("1", "7", "64"):
        words = ["--stream.steps", "200", "--stream.length", length, "--optim.lr", "1e-30", "--optim.name", "sgd"]
        run(tmp_path / length, *words)
        frozen.append(json.loads((tmp_path / length / "summary.json").read_text()))
    for one in frozen:
        for name, parts in one["scores"].items():
            assert parts == pytest.approx(one["baselines"]["frozen"][name], rel=1e-5)
    assert frozen[0]["scores"]["loss"]["all"] != pytest.approx(frozen[0]["scores"]["loss"]["last_tenth"], rel=1e-3)


def test_evaluate_scores_with_learning_off_and_on(tmp_path, capsys):
    words = ["--task.name", "language", "--task.paths", TEXT, "--run.baselines=false"]
    assert run(tmp_path / "run", *words) == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "80"]) == 0
    out = capsys.readouterr().out
    assert "it overlaps what was learned from" in out
    off, on = (next(line for line in out.splitlines() if line.startswith(f"learning {way}")) for way in ("off", "on"))
    assert float(on.split()[2]) < float(off.split()[2])
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_what_is_held_out_is_scored_by_the_learned_weights(tmp_path, capsys):
    words = ["--task.name", "language", "--task.paths", TEXT, "--stream.split", "train"]
    assert run(tmp_path / "run", *words, "--run.held_out", "true") == 0
    assert "loss held out" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    held_out = {label: own["loss"]["held_out"] for label, own in summary["baselines"].items()}
    assert held_out["frozen"] > summary["scores"]["loss"]["held_out"]  # it has learned
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "split valid" in out and "nothing of it was learned from" in out
    off = next(line for line in out.splitlines() if line.startswith("learning off")).split()
    assert float(off[4]) == pytest.approx(summary["scores"]["loss"]["held_out"], abs=1e-4)


@pytest.mark.slow
def test_each_part_is_learned_by_itself_from_the_same_weights(tmp_path, capsys):
    words = ["--task.name", "ecg", "--task.simulate", "true", "--stream.split", "train", "--stream.length", "64"]
    words += ["--stream.steps", "2000", "--optim.lr", "0.01", "--run.report_every", "1000", "--task.decimate", "36"]
    assert run(tmp_path / "run", *words, "--run.baselines=false") == 0
    settings = parse(["--config", str(tmp_path / "run" / "config.yaml")])
    settings, task = settings.config, build.make_task(settings.config.task.name, **settings.config.task.options)
    weights, _ = checkpoint.load(tmp_path / "run" / "model.safetensors")
    scored = evaluate.adapt(settings, task, "test", weights)
    parts = list(task.parts("test").values())
    apart = [evaluate.adapt(settings, part, "test", weights).meters["accuracy"].matrix for part in parts]
    assert len(parts) > 1
    assert torch.equal(scored.meters["accuracy"].matrix, sum(apart))
    assert scored.meters["accuracy"].matrix.sum() > 100
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--each", "true"]) == 0
    assert "each by itself" in capsys.readouterr().out
    run(tmp_path / "delay", "--run.baselines=false")
    assert main(["evaluate", str(tmp_path / "delay"), "--each", "true"]) == 2
    assert "each: got true, expected false, as split valid of delay has no parts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "learned, split, endless, words",
    [
        ("train", "valid", False, "nothing of it was learned from"),
        ("all", "valid", False, "overlaps"),
        ("valid", "valid", False, "the very stream"),
        ("all", "valid", True, "drawn apart"),
    ],
)
def test_evaluate_says_what_overlaps(learned, split, endless, words):
    assert words in evaluate.overlap(Delay(), learned, split, endless)


def test_weights_that_are_not_finite_are_refused(tmp_path, capsys):
    run(tmp_path / "run", "--run.baselines=false")
    weights, _ = checkpoint.load(tmp_path / "run" / "model.safetensors")
    weights["head.weight"][0, 0] = torch.nan
    checkpoint.save(tmp_path / "run" / "model.safetensors", weights)
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "weight head.weight is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, line",
    [
        (["trian"], "got 'trian', expected one of the commands train, compare, fidelity, report, evaluate, "),
        (["train", "seed"], "got 'seed', expected options such as --run.seed 3"),
        (["evaluate"], "evaluate: expected the folder of a finished run"),
        (["evaluate", "nowhere"], "no config.yaml in nowhere"),
        (["train", *TINY, "--run.resume"], "run.dir: got None, expected the folder of the run to resume"),
        (["train", *TINY, "--run.resume", "--run.dir", "no"], "run.dir: got 'no', expected the folder of the run"),
        (["train", "--task.name", "language", "--task.paths", "no.txt"], "no file or folder no.txt"),
        (["train", "--task.paths", os.devnull], f"no file or folder {os.devnull}"),
        (
            ["train", "--task.max_bytes", "100", "--stream.batch", "16"],
            "stream.length: got 16 steps, expected at most the 6 steps",
        ),
        (["train", "--stream.steps", "100000000"], "stream.steps: got 100000000, expected at most"),
        (["train", "--task.name", "delay"], "stream.steps: got null, expected a number"),
        (["train", "--rule.window", "2"], "rule.window: got 2 steps, expected at least stream.length"),
        (["train", "--run.device", "nonsense"], "run.device: got 'nonsense'"),
        (["train", *TINY, "--model.headdim", "5"], "headdim 5 does not divide"),
        (["compare", *TINY, "--rules", "rtrl,bp"], "rule.name: got 'bp', expected one of"),
        (["compare", *TINY, "--lengths", "1,x"], "stream.length: got 'x', expected a whole number"),
        (["compare", *TINY, "--lengths", "8", "--windows", "2"], "windows: got 2, expected at least one"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {line}")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_one_line(tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    assert main(["train", "--task.paths", str(tmp_path / "empty.txt"), "--run.dir", str(tmp_path / "run")]) == 2
    assert "is empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_one_line(capsys):
    assert main(["train", "--run.device", "cuda"]) == 2
    assert capsys.readouterr().err == "biomamba: run.device: got 'cuda', which torch cannot use here: give cpu\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(build, "build_model", lambda *given: {}["bug"])
    with pytest.raises(KeyError):
        main(["train", *TINY])


def test_compare(tmp_path, capsys):
    words = ["--rules", "rtrl_stdp,bptt", "--lengths", "1", "--seeds", "2", "--jobs", "2"]
    words += ["--rule.a_post", "0.1", "--stream.steps", "40", "--run.dir", str(tmp_path / "compare")]
    assert main(["compare", *TINY, *words]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "compare" / "compare.json").read_text())
    labels = ["rtrl_stdp-length1", "bptt-length1"]
    known = [*labels, "frozen", "chance"]
    assert list(result["settings"]) == labels
    assert result["baselines"].keys() == {"frozen", "chance"}
    rows = [line.split()[0] for line in out.splitlines() if line.strip() and line.split()[0] in known]
    assert rows == known
    stdp = result["settings"]["rtrl_stdp-length1"]
    assert stdp["seeds"] == [0, 1]
    assert stdp["samples"] == 80
    assert stdp["scores"]["loss"]["all"]["spread"] > 0
    assert stdp["trace_bytes"] > result["settings"]["bptt-length1"]["trace_bytes"] == 0
    assert (tmp_path / "compare" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert stdp["cost"]["learning"]["multiply_accumulates"] > stdp["cost"]["inference"]["multiply_accumulates"] > 0
    assert [row["label"] for row in result["memory"]] == [
        "rtrl_stdp-length1",
        "BPTT of the whole stream",
        "bptt-length1",
    ]
    near = {row["label"]: row["layers"]["blocks.0"]["cosine"] for row in result["fidelity"]["rows"]}
    assert near.keys() == set(labels) and near["rtrl_stdp-length1"] != near["bptt-length1"]
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "compare"), "-o", str(page)]) == 0
    assert page.read_bytes() == (tmp_path / "compare" / "report.html").read_bytes()
    assert "rtrl_stdp" in page.read_text()
    config = (tmp_path / "compare" / "rtrl_stdp-length1-seed0.yaml").read_text()
    assert "a_post: 0.1" in config
    assert main(["compare", *TINY, *words]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    """A finished run is not repeated, and the numbers are those of a comparison that was never stopped."""
    words = ["compare", *TINY, "--rules", "rtrl,uoro", "--seeds", "1", "--costs", "false", "--fidelity", "8"]
    assert main([*words, "--run.dir", str(tmp_path / "whole")]) == 0
    run_all = jobs.run_all

    def stopping(commands, *others):
        run_all(dict(itertools.islice(commands.items(), 1)), *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_all", stopping)
        assert main([*words, "--run.dir", str(tmp_path / "parts")]) == 130
    done = tmp_path / "parts" / "rtrl-length1-seed0" / "summary.json"
    before = done.stat().st_mtime_ns
    assert main([*words, "--run.dir", str(tmp_path / "parts"), "--run.resume", "true"]) == 0
    assert done.stat().st_mtime_ns == before
    whole, parts = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("whole", "parts"))
    assert whole["fidelity"] == parts["fidelity"] | {"weights": whole["fidelity"]["weights"]}
    for label, own in whole["settings"].items():
        assert own["scores"] == parts["settings"][label]["scores"]


def test_fidelity_by_length_and_depth(tmp_path, capsys):
    words = ["--rules", "rtrl,bptt", "--lengths", "1,5", "--depths", "1,2", "--segment", "20", "--updates", "0,3"]
    folder = tmp_path / "near"
    assert main(["fidelity", *TINY, *words, "--run.dir", str(folder)]) == 0
    found = json.loads((folder / "fidelity.json").read_text())
    rows = {(row["rule"], row["length"], row["depth"]): row for row in found["rows"] if row["updates"] == 3}
    assert len(rows) == 8 and len(found["rows"]) == 16 and found["steps"] == 20
    for length in (1, 5):
        block = rows["rtrl", length, 1]["layers"]["blocks.0"]
        assert abs(block["cosine"] - 1) < 1e-9 and abs(block["ratio"] - 1) < 1e-9
        assert rows["bptt", length, 1]["layers"]["blocks.0"] != block
        assert rows["rtrl", length, 2]["layers"].keys() == {"encoder", "blocks.0", "blocks.1", "head"}
    out = capsys.readouterr().out
    assert "weights after 0, 3 updates of rtrl" in out and "rtrl-length5" in out
    assert main(["fidelity", *TINY, "--segment", "70", "--updates", "0", "--run.dir", str(tmp_path / "far")]) == 2
    assert "updates: after 0 only 60 steps are left, expected 70 or more" in capsys.readouterr().err


def test_report_needs_folders(tmp_path, capsys):
    for words, line in (
        ([], "report: got no folder, expected RUN_DIR... -o report.html"),
        ([str(tmp_path), "--wide"], "report: got --wide, expected RUN_DIR... -o report.html"),
    ):
        assert main(["report", *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"biomamba: {line}") and said.count("\n") == 1


def test_compare_takes_every_rule_length_and_window_that_fit():
    asked = Compare(rules="rtrl, bptt", lengths="1,8", windows="4,none", seeds=2)
    plan = variants(TINY, asked, parse(TINY).config)
    assert list(plan) == [f"{rule}-length{end}" for rule in ("rtrl", "bptt") for end in ("1-window4", "1", "8")]
    assert [one.run.seed for one in with_seeds(plan["bptt-length8"], 2)] == [0, 1]
    assert plan["rtrl-length1-window4"].rule.window == 4


def test_compare_tells_why_a_run_failed_and_what_to_install(tmp_path, monkeypatch, capsys):
    words = ["compare", *TINY, "--rules", "rtrl_stdp", "--seeds", "1", "--stream.steps", "20", "--run.baselines=false"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*words, "--run.dir", str(tmp_path / "good")]) == 0
    assert 'pip install "biomamba[plot]"' in capsys.readouterr().out
    assert (tmp_path / "good" / "compare.json").exists()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no interpreter >&2; exit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert main([*words, "--run.dir", str(tmp_path / "bad")]) == 2
    assert "biomamba: rtrl_stdp-length1-seed0 failed: no interpreter (all it said: " in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["1e30", "1e38"])
def test_a_run_that_left_out_most_of_its_updates_is_no_success(rate, tmp_path, capsys):
    assert main(["train", *TINY, "--run.dir", str(tmp_path / "run"), "--optim.lr", rate]) == 2
    said = capsys.readouterr().err
    assert "updates were not finite" in said and "lower optim.lr" in said and said.count("\n") == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    assert main(["train", *TINY, "--run.dir", str(tmp_path / "control")]) == 0
