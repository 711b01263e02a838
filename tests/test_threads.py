"""A second thread is used where it pays; what torch had is torch's again between updates."""

import os
from typing import Any

import pytest
import torch

import biomamba
from biomamba import threads
from biomamba.compiled import Compiled
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse
from biomamba.rules import RTRL
from sizes import SummedLoss, chunks, random_model, random_tokens

MIB = 1 << 20


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have four cores, and torch as many threads."""
    monkeypatch.setattr(threads, "available", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("nbytes, chosen", [(0, 1), (2 * MIB - 1, 1), (2 * MIB, 2), (24 * MIB, 4)])
def test_more_threads_for_more_bytes_but_never_more_than_torch_has(nbytes: int, chosen: int) -> None:
    assert threads.resolve(None, nbytes) == chosen
    assert threads.resolve(3, nbytes) == 3  # control: who asks gets them


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("number", [0, -1, 5, 100_000])
def test_an_impossible_number_is_said(number: int) -> None:
    line = f"^threads: got {number}, expected 1 to 4, the cores of this process: give None to have it chosen$"
    model = random_model("mamba2")
    rule, optimizer, stream = RTRL(model.blocks), torch.optim.Adam(model.parameters()), chunks(*random_tokens(4), 2)
    for call in (
        lambda: threads.resolve(number, 0),
        lambda: next(biomamba.online(stream, biomamba.Learner(SummedLoss(), model, rule, optimizer, threads=number))),
        lambda: next(biomamba.evaluate(stream, SummedLoss(), model, threads=number)),
    ):
        with pytest.raises(ValueError, match=line):
            call()
    threads.resolve(4, 0)  # control


@pytest.mark.parametrize("number", [1.5, "2", True])
def test_what_is_no_number_is_said(number: Any) -> None:
    with pytest.raises(TypeError, match=r"^threads: got .*, expected a whole number: give None to have it chosen$"):
        threads.resolve(number, 0)


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= threads.available() <= (os.cpu_count() or 1)


class Counted(SummedLoss):
    """Notes the number of threads that a loss is computed with."""

    def __init__(self) -> None:
        """Start with nothing noted."""
        self.inside: list[int] = []

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        """Return the sum, nats."""
        self.inside.append(torch.get_num_threads())
        return super().loss(out, chunk)


@pytest.fixture
def two() -> Any:
    """Let torch use two threads, where its default in these tests is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("asked, inside", [(None, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("learning", [True, False])
def test_torch_has_its_own_number_between_updates(
    asked: int | None, inside: int, learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the stream, which is the user's, and after an error."""
    monkeypatch.setattr(threads, "available", lambda: 2)
    model, task, outside = random_model("mamba2"), Counted(), []

    def stream() -> Any:
        for chunk in chunks(*random_tokens(6), 2):
            outside.append(torch.get_num_threads())
            yield chunk
        yield chunk._replace(y=chunk.y + 100)

    if learning:
        optimizer = torch.optim.Adam(model.parameters())
        loop = biomamba.online(stream(), biomamba.Learner(task, model, RTRL(model.blocks), optimizer, threads=asked))
    else:
        loop = biomamba.evaluate(stream(), task, model, threads=asked)
    for report in (next(loop), next(loop), next(loop)):
        outside.append(torch.get_num_threads())
        assert report.threads == inside
    with pytest.raises(ValueError, match="y: Target"):
        next(loop)
    assert outside == [2] * 6 and torch.get_num_threads() == 2
    assert task.inside == [inside] * 4


@pytest.mark.usefixtures("two")
def test_traces_that_are_large_get_two_threads() -> None:
    """2 MiB of trace in one block, in all streams together; half as many streams are the control."""
    found = []
    for streams in (16, 8):
        model, task = random_model("mamba2", d_model=32, d_state=16), Counted()
        optimizer = torch.optim.Adam(model.parameters())
        stream = chunks(*random_tokens(1, streams), 1)
        (report,) = biomamba.online(stream, biomamba.Learner(task, model, RTRL(model.blocks), optimizer))
        found.append((report.threads, biomamba.state.nbytes(report.state.trace) // MIB))
        assert task.inside == [report.threads]
    assert found[0][0] == 2 and 2 <= found[0][1] <= found[1][1] * 2 + 1
    assert found[1] == (1, found[1][1]) or found[1][1] >= 2


def test_a_graph_is_made_for_a_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomamba.compiled.compile_graph", lambda graph, given: torch.no_grad()(graph))
    monkeypatch.setattr(threads, "available", lambda: 2)
    kinds, make = [], Compiled._make

    def noted(self: Compiled, kind: Any, seen: Any) -> Any:
        kinds.append(kind)
        return make(self, kind, seen)

    monkeypatch.setattr(Compiled, "_make", noted)

    class Labelled(SummedLoss):
        def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
            return biomamba.metrics.labelled_cross_entropy(out, chunk)

    for number in (1, 2):
        model = random_model("mamba2", backend="torch")
        optimizer = torch.optim.Adam(model.parameters())
        parts = Labelled(), model, RTRL(model.blocks), optimizer
        list(biomamba.online(chunks(*random_tokens(6), 2), biomamba.Learner(*parts, compile=True, threads=number)))
    assert [kind.threads for kind in kinds] == [1, 2]


def test_scores_of_an_experiment_are_taken_on_the_threads_of_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(number: int | None, nbytes: int) -> int:
        asked.append(number)
        return 1

    settings = parse(["--config", "delay", "--stream.steps", "40", "--run.threads", "1"]).config
    own = Experiment.from_config(settings)
    monkeypatch.setattr(threads, "resolve", resolve)
    own.evaluate("valid", 40, "a split")
    assert asked == [1]
