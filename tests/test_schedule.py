"""Learning rates along a stream, groups of parameters, and averaged weights beside those that learn."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import biomamba
from biomamba import checkpoint
from biomamba.cli.main import main
from biomamba.experiment import schedule
from biomamba.experiment.build import Experiment
from biomamba.experiment.config import OptimConfig
from biomamba.experiment.parse import parse
from biomamba.report.text import gather

ROOT = Path(__file__).parents[1]
TINY = ["--config", "delay", "--config", str(ROOT / "tests" / "tiny.yaml"), "--run.baselines", "false"]


def experiment(*words: str) -> Experiment:
    return Experiment.from_config(parse([*TINY, *words]).config)


def rates(experiment: Experiment) -> list[float]:
    """Return the rate at which each chunk is learned."""
    found = []

    def noted(chunks: Iterator[biomamba.Chunk]) -> Iterator[biomamba.Chunk]:
        for chunk in chunks:
            found.append(experiment.learner.optimizer.param_groups[0]["lr"])
            yield chunk

    for _ in experiment.online(noted(experiment.stream())):
        pass
    return found


# schedules


@pytest.mark.parametrize(
    ("words", "scheduler"),
    [
        ([], lambda optimizer, n: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        (["--optim.lr_end", "0.001"], lambda o, n: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, n)),
        (
            ["--optim.schedule=cosine", "--optim.lr_end=0.001"],
            lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n, 0.001),
        ),
        (["--optim.schedule=cosine"], lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n, 0.0001)),
        (
            ["--optim.schedule=inverse_sqrt"],
            lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1 / math.sqrt(i + 1)),
        ),
        (
            ["--optim.schedule=inverse_sqrt", "--optim.warmup=20"],
            lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: min((i + 1) / 5, math.sqrt(5 / (i + 1)))),
        ),
    ],
)
def test_the_rate_of_each_update_is_that_of_torchs_scheduler(words, scheduler) -> None:
    own = rates(experiment("--stream.length", "4", "--optim.lr", "0.01", *words))
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.01)
    wanted, follows = list[float](), scheduler(theirs, 15)
    for _ in range(15):
        wanted.append(theirs.param_groups[0]["lr"])
        theirs.step()
        follows.step()
    assert own == pytest.approx(wanted, rel=1e-12)


@given(
    st.sampled_from(["constant", "linear", "cosine", "inverse_sqrt"]),
    st.integers(2, 500),
    st.integers(1, 9),
    st.data(),
)
def test_a_rate_rises_to_lr_in_the_warm_up_and_never_rises_after(name, total, length, data) -> None:
    warm = data.draw(st.integers(0, total - 1))
    ends = name in ("linear", "cosine") and data.draw(st.booleans())
    optim = OptimConfig(lr=0.5, schedule=name, warmup=warm, lr_end=0.01 if ends else None)
    schedule.check(optim, total)
    found = [schedule.rate(optim, done, total, length) for done in range(0, total + 1, length)]
    rising = [value for done, value in zip(range(0, total + 1, length), found, strict=True) if done + length <= warm]
    after = found[len(rising) :]
    assert all(0 < value <= 0.5 for value in found)
    assert rising == sorted(rising) and after == sorted(after, reverse=True)
    assert not rising or rising[0] == pytest.approx(0.5 * length / warm)
    end = schedule.rate(optim, total, total, length)
    root = 0.5 * math.sqrt(min(1, max(warm, length) / (total + length)))
    assert end == pytest.approx({"constant": 0.5, "inverse_sqrt": root}.get(name, 0.01 if ends else 0.005))
    assert schedule.rate(schedule.ended(optim, total, length), 0, 9, 1) == end


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optim.schedule=constant", "--optim.lr_end=0.1"], "schedule constant has no end: give linear or cosine"),
        (["--optim.schedule=inverse_sqrt", "--optim.lr_end=0.1"], "schedule inverse_sqrt has no end"),
        (["--optim.warmup=60"], "optim.warmup: got 60 steps, expected fewer than the 60 of a stream"),
        (["--optim.schedule=cosine", "--stream.steps=null"], "as this task never ends: give 12000"),
        (
            ["--optim.schedule=step"],
            "optim.schedule: got 'step', expected constant or linear or cosine or inverse_sqrt",
        ),
        (["--optim.average=1"], "optim.average: got '1', expected a number above 0 and below 1 or null"),
        (
            ["--optim.groups={A_lag: 0.1}"],
            "got 'A_lag', expected one of encoder.weight, dt_bias, A_log, D, in_proj.weight, conv",
        ),
        (["--optim.groups={A_log: -1}"], "expected numbers, 0 or more, by name, such as {A_log: 0.1} or null"),
        (["--optim.groups={A_log: .nan}"], "optim.groups: got '{A_log: .nan}', expected"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_learned(words, said, tmp_path, capsys) -> None:
    assert main(["train", *TINY, *words, "--run.dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# groups


def test_the_longest_end_of_a_name_gives_a_parameter_its_factor() -> None:
    own = experiment("--model.n_layers", "2", "--optim.groups", "{weight: 0.5, in_proj.weight: 0.25, A_log: 0}")
    named = {id(parameter): name for name, parameter in own.model.named_parameters()}
    factor = {named[id(p)]: group["factor"] for group in own.learner.optimizer.param_groups for p in group["params"]}
    assert factor.keys() == set(named.values())
    for name, value in factor.items():
        wanted = 0.25 if name.endswith("in_proj.weight") else 0.5 if name.endswith("weight") else 1.0
        assert value == (0.0 if name.endswith("A_log") else wanted), name


@pytest.mark.parametrize("fuse", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_groups_factor_scales_its_rate_alone(fuse: str) -> None:
    """Adam's step is its rate times something that no rate changes, so one update shows the factors."""
    words = ["--run.compile", fuse, "--optim.schedule", "cosine", "--optim.warmup", "8", "--run.dtype", "float64"]
    moved = {}
    for label, more in {"plain": [], "groups": ["--optim.groups", "{A_log: 0.1, head.weight: 0}"]}.items():
        own = experiment(*words, *more)
        before = {name: p.detach().clone() for name, p in own.model.named_parameters()}
        updates = (report for report in own.online(own.stream()) if report.norm is not None)
        next(updates)
        moved[label] = {name: p.detach() - before[name] for name, p in own.model.named_parameters()}
    for name, step in moved["plain"].items():
        factor = 0.1 if name.endswith("A_log") else 0.0 if name == "head.weight" else 1.0
        torch.testing.assert_close(moved["groups"][name], factor * step, rtol=1e-9, atol=1e-15)
    assert all(bool(step.any()) for step in moved["plain"].values())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_compiled_groups_and_schedules_are_the_plain_ones(optimizer: str) -> None:
    words = ["--optim.name", optimizer, "--optim.groups", "{A_log: 0.1, in_proj.weight: 2}", "--optim.schedule=cosine"]
    words += ["--optim.warmup=8", "--run.dtype=float64", "--stream.length=4", "--optim.momentum=0.5"]
    ends = []
    for fuse in ("false", "true"):
        own = experiment(*words, "--run.compile", fuse)
        for _ in own.online(own.stream()):
            pass
        ends.append(dict(own.model.named_parameters()))
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=1e-9, atol=1e-12)


# averaged weights


def test_averaged_weights_predict_before_they_move_and_follow_the_formula() -> None:
    own = experiment("--optim.average", "0.5", "--stream.length", "3")
    task, average = own.task, own.average
    assert average is not None
    chunks = list(own.stream())
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, d_state=4, headdim=4)  # takes the averaged weights by hand
    mean = {name: weight.detach().clone() for name, weight in own.model.named_parameters()}
    state, meters, updates = model.init_state(2), task.meters(), 0
    for report, chunk in zip(own.online(own.stream()), chunks, strict=True):
        model.load_state_dict(mean)
        with torch.no_grad():
            out, state, _ = model(chunk.x, state, chunk.reset if bool(chunk.reset.any()) else None)
        for meter in meters.values():
            meter.update(out, chunk)
        if report.norm is not None:
            d = 0.0 if not updates else min(0.5, (1 + updates) / (10 + updates))
            for name, weight in own.model.named_parameters():
                mean[name] = d * mean[name] + (1 - d) * weight.detach()
            updates += 1
    assert updates > 8
    for name, weight in average.model.named_parameters():
        torch.testing.assert_close(weight.detach(), mean[name])
        assert not torch.equal(weight, own.model.get_parameter(name))
    assert average.scores["loss"]["all"] == pytest.approx(meters["loss"].get(), rel=1e-5)


def test_what_learns_is_as_without_an_average(tmp_path) -> None:
    for name, words in {"with": ["--optim.average", "0.99"], "without": []}.items():
        assert main(["train", *TINY, *words, "--run.dir", str(tmp_path / name), "--run.held_out", "true"]) == 0
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("with", "without")]
    assert summaries[0]["scores"] == summaries[1]["scores"] and summaries[1]["averaged"] == {}
    weights = [checkpoint.load(tmp_path / name / "model.safetensors")[0] for name in ("with", "without")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (tmp_path / "without" / "average.safetensors").exists()


def test_averaged_weights_are_in_the_summary_the_folder_and_evaluate(tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    words = ["--optim.average", "0.9", "--run.held_out", "true", "--run.dir", str(folder)]
    assert main(["train", *TINY, *words]) == 0
    assert "rtrl, averaged" in capsys.readouterr().out
    averaged, _ = checkpoint.load(folder / "average.safetensors")
    own = experiment(*words)
    checkpoint.load_weights(own.model, averaged)
    summary = json.loads((folder / "summary.json").read_text())
    beside = gather({"rtrl": [folder]})["baselines"]["rtrl, averaged"]["loss"]
    assert {part: own["mean"] for part, own in beside.items()} == summary["averaged"]["loss"]
    told = summary["averaged"]["loss"]
    assert told.keys() == {"all", "last_tenth", "held_out"}
    found = own.evaluate(own.task.held_out, own.total, "averaged").scores["loss"]["all"]
    assert told["held_out"] == found
    assert main(["evaluate", str(folder)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("averaged, learning off"))
    assert f"{found:.4f}" in row


def test_n_gram_tables_are_shared_and_predict_before_they_learn(tmp_path) -> None:
    """With n-grams alone, a zero head, and rates of zero the averaged weights are the others: so are the scores."""
    words = [
        "--config",
        "language",
        "--task.paths",
        str(ROOT / "LICENSE"),
        "--model.d_model",
        "8",
        "--model.headdim",
        "4",
    ]
    words += ["--model.ngram_bits", "8", "--optim.groups", "{weight: 0, bias: 0, A_log: 0, D: 0, dt_bias: 0}"]
    own = Experiment.from_config(parse([*words, "--optim.average", "0.9", "--stream.steps", "400"]).config)
    *_, report = own.online(own.stream())
    assert own.average is not None and own.average.model.ngrams is own.model.ngrams
    assert own.average.scores["bits_per_byte"]["all"] == pytest.approx(report.scores["bits_per_byte"], rel=1e-6)
