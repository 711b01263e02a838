"""Laws of what a run says: it is what the loop scores, it leaves before anything is learned, and it changes nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biomamba.cli.main import main
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse
from biomamba.experiment.predictions import Latency, Predictions
from biomamba.learner import Learner
from biomamba.tasks.arrays import Arrays

ONLY = ["--run.baselines", "false", "--run.threads", "1"]
KINDS = {
    "delay": ["delay"],
    "language": ["language", "--stream.batch", "2"],
    "fsdd": ["fsdd", "--task.simulate", "true"],
    "an4": ["an4", "--task.simulate", "true"],
    "ecg": ["ecg", "--task.simulate", "true"],
    "eeg": ["eeg", "--task.simulate", "true"],
    "arrays": ["arrays"],
    "arrays-value": ["arrays", "--task.kind", "value"],
    "arrays-none": ["arrays", "--task.kind", "none", "--stream.batch", "3"],
    "windowed": ["delay", "--rule.window", "16", "--model.n_layers", "2"],
}


def words(config: str, *more: str) -> list[str]:
    return ["--config", config, "--model.d_model", "16", *more, *ONLY]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(argv: list[str], path: Path, chunks: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Yield the reports of a loop, and the lines that were in the file when each chunk was about to be learned."""
    experiment = Experiment.from_config(parse([*argv, "--run.predictions", str(path)]).config)
    predictions = Predictions.of(experiment.config.run, experiment.task)
    assert predictions is not None
    with predictions:
        before = 0
        reports = experiment.online(experiment.stream(), None, predictions)
        for _, report in zip(range(chunks), reports, strict=False):
            new = lines(path)[before:]
            before += len(new)
            yield report, new
        reports.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_says_what_the_loop_scores(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("neurokit2", reason="neurokit2 is not installed: it simulates the beats")
    argv, found = words(*KINDS[kind]), 0
    task = Experiment.from_config(parse(argv).config).task
    for report, new in told(argv, tmp_path / "x.jsonl", 40):
        answers = task.answers(report.out, report.chunk)  # of the same update, which has learned by now
        at = answers.asked.T.nonzero().tolist()
        assert [line.get("stream", 0) for line in new] == [stream for _, stream in at]
        for line, (step, stream) in zip(new, at, strict=True):
            values = answers.values[stream, step].double().tolist()
            if answers.is_class:
                assert set(line["probabilities"].values()) <= set(values)
                best = max(values)
                names = answers.names or range(len(values))
                assert line["probabilities"][str(line["prediction"])] == best == values[names.index(line["prediction"])]
            else:
                own = line["prediction"]
                told_values = list(own.values()) if isinstance(own, dict) else [own]
                assert told_values == [None if np.isnan(value) else value for value in values]
            assert line["time"] == (None if task.step_seconds is None else line["row"] * task.step_seconds)
        found += len(new)
    assert found > 4


def test_lines_are_there_before_anything_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "x.jsonl", list[int]()
    update = Learner.update

    def watched(self: Learner, chunk: Any) -> Any:
        weights = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        seen.append(len(lines(path)))
        report = update(self, chunk)
        assert len(lines(path)) == seen[-1]  # and none comes of the learning
        assert not torch.equal(weights, torch.cat([p.detach().flatten() for p in self.model.parameters()]))
        return report

    monkeypatch.setattr(Learner, "update", watched)
    for _ in told(words("arrays"), path, 5):
        pass
    assert seen == [4, 8, 12, 16, 20]


def test_after_learning_it_would_say_something_else(tmp_path: Path) -> None:
    """The control: lines taken from the weights after the update are other lines."""
    argv = words("arrays", "--optim.lr", "0.1")
    experiment = Experiment.from_config(parse(argv).config)
    for _, new in told(argv, tmp_path / "x.jsonl", 1):
        chunk = next(experiment.stream())
        model = experiment.model
        first = model(chunk.x, model.init_state(1))[0].softmax(-1)[0, 0].tolist()
        assert list(new[0]["probabilities"].values()) == pytest.approx(first, rel=1e-6)
        next(experiment.online(experiment.stream()))
        after = model(chunk.x, model.init_state(1))[0].softmax(-1)[0, 0].tolist()
        assert list(new[0]["probabilities"].values()) != pytest.approx(after, rel=1e-3)


def test_predictions_change_no_weight_and_resume_with_the_run(tmp_path: Path) -> None:
    argv = ["train", *words("arrays", "--stream.steps", "400", "--run.report_every", "400")]
    said = tmp_path / "said.jsonl"
    assert main([*argv, "--run.dir", str(tmp_path / "silent")]) == 0
    assert main([*argv, "--run.dir", str(tmp_path / "told"), "--run.predictions", str(said)]) == 0
    silent, told_ = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("silent", "told"))
    assert silent == told_
    assert [line["row"] for line in lines(said)] == list(range(400))
    summary = json.loads((tmp_path / "told" / "summary.json").read_text())
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert json.loads((tmp_path / "silent" / "summary.json").read_text())["latency_ms"] == {}
    again = tmp_path / "again.jsonl"
    begun = [*argv, "--run.dir", str(tmp_path / "cut"), "--run.predictions", str(again), "--run.save_every", "0"]
    config = parse(begun[1:]).config
    from biomamba.experiment.run import Run

    run = Run.begin(Experiment.from_config(config))
    stream = run.experiment.stream()
    assert run.predictions is not None
    with run.predictions:
        for report in run.experiment.online(stream, None, run.predictions):
            run.state, steps = report.state, report.state.steps
            run.progress.update(report, 1.0)
            if steps == 100:
                run.save(stream)
            if steps == 120:  # killed here: 20 lines that the checkpoint does not know of
                break
    run.close()  # its process would have ended
    assert len(lines(again)) == 120
    assert main(["train", "--config", str(tmp_path / "cut" / "config.yaml"), "--run.resume", "true"]) == 0
    assert again.read_text() == said.read_text()


def test_what_a_file_holds_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text("1,2\n")
    argv = ["train", *words("arrays", "--stream.steps", "8"), "--run.dir", str(tmp_path / "x")]
    assert main([*argv, "--run.predictions", str(tmp_path / "mine.csv")]) == 2
    assert "already holds something" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "1,2\n" and not (tmp_path / "x").exists()


def table(tmp_path: Path, label: list[float], bad: int | None = None) -> Path:
    path = tmp_path / "table.csv"
    x = np.sin(np.arange(len(label)))
    cells = [f"{'' if i == bad else x[i]},{label[i]}" for i in range(len(label))]
    path.write_text("\n".join(["x,y", *cells]) + "\n")
    return path


def values(path: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    argv = words("arrays", "--task.kind", "value", "--task.path", str(path), "--stream.length", "1", *more)
    return [line for _, new in told(argv, out, 10**6) for line in new]


def test_values_are_in_the_units_of_the_table_and_know_no_label_yet_to_come(tmp_path: Path) -> None:
    label = [1000 + 10 * float(np.sin(i)) for i in range(200)]
    said = values(table(tmp_path, label), tmp_path / "a.jsonl")
    assert said[0]["prediction"] is None  # nothing is known of the unit yet
    assert all(abs(line["prediction"] - 1000) < 60 for line in said[20:])
    assert np.std([line["prediction"] for line in said[100:]]) > 1  # not the mean alone
    label[100:] = [5.0] * 100
    other = values(table(tmp_path, label), tmp_path / "b.jsonl")
    assert other[:101] == said[:101] and other[101] != said[101]
    plain = values(table(tmp_path, label), tmp_path / "c.jsonl", "--task.scale", "false")
    assert abs(plain[1]["prediction"]) < 100


def test_a_row_that_cannot_be_used_is_held(tmp_path: Path) -> None:
    said = values(table(tmp_path, [float(i % 3) for i in range(30)], bad=7), tmp_path / "a.jsonl")
    assert [line["row"] for line in said if line.get("held")] == [7]
    assert len(said) == 30


def test_a_source_that_waits_for_each_answer_gets_it(tmp_path: Path) -> None:
    """The reader of the lines can act on them: the next row is sent only when the last one's prediction was read."""
    command = [sys.executable, "-m", "biomamba", "train", *words("arrays", "--task.path", "-", "--stream.steps", "40")]
    command += ["--task.classes", "up", "down", "--stream.length", "1", "--run.dir", str(tmp_path / "live")]
    with subprocess.Popen(
        [*command, "--run.predictions", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdin and run.stdout and run.stderr
        right = list[bool]()
        print("x,y", file=run.stdin, flush=True)
        for i in range(40):
            print(f"{i % 2},{'up' if i % 2 else 'down'}", file=run.stdin, flush=True)
            line = json.loads(run.stdout.readline())
            assert line["row"] == i
            right.append(line["prediction"] == ("up" if i % 2 else "down"))
        run.stdin.close()
        assert run.stdout.read() == "" and "accuracy" in run.stderr.read()  # standard output holds lines alone
        assert run.wait() == 0
    assert sum(right[20:]) > 15


def test_quantiles_are_within_one_per_cent() -> None:
    drawn, own = np.random.default_rng(0).lognormal(-6, 1, 5000), Latency()
    assert np.isnan(own.quantile(0.5)) and own.milliseconds() == {}
    for value in drawn:
        own.add(float(value))
    again = Latency()
    again.load_state_dict(json.loads(json.dumps(own.state_dict())))
    for share in (0.5, 0.99):
        exact = float(np.quantile(drawn, share, method="inverted_cdf"))
        assert exact <= again.quantile(share) * 1.0001 <= exact * 1.0102
    own.add(0.0)
    own.add(1e9)


def test_the_table_of_a_plain_task_needs_no_word_of_its_own() -> None:
    chunk = next(Arrays().stream("all", batch=1, length=3, seed=0))
    from biomamba.stream import Benchmark

    answers = Benchmark.answers(Arrays(), torch.zeros(1, 3, 2), chunk)
    assert answers.is_class and answers.values.tolist() == [[[0.5, 0.5]] * 3]
