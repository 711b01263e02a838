"""A compiled update gives the numbers of the plain one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config  # which reads CXX once, before a test says that there is none
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import biomamba
from biomamba import code_cache, graphs
from biomamba.compiled import Compiled
from biomamba.rules import RULES
from biomamba.state import leaves
from biomamba.tasks.delay import Delay
from biomamba.tasks.language import Language
from sizes import BATCH, D_OUT, VOCAB, SummedLoss, chunks, random_model, random_tokens

pytestmark = pytest.mark.usefixtures("float64")


OPTIMIZERS: dict[str, Any] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.5),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),  # steps outside the graph
}


def after(
    fuse: bool, rule: str, block: str, length: int, window: int | None, resets: float, optimizer: str, t: int = 24
) -> dict[str, torch.Tensor]:
    """Return weights, moments, state and trace after a stream with silent updates, and with resets where asked for."""
    torch.manual_seed(1)
    (x, y), reset = random_tokens(t), torch.rand(BATCH, t) < resets
    stream = [chunk._replace(mask=chunk.mask & (i % 3 == 0)) for i, chunk in enumerate(chunks(x, y, length, reset))]
    stream[::2] = [chunk.map(column_major) for chunk in stream[::2]]  # however its numbers lie
    spiking = {"threshold": 0.5, "spike_rate": 0.2, "feedback": "random"} if rule == "stllr" else {}
    model = random_model(block, n_layers=2 if window else 1, **spiking)
    options: dict[str, Any] = {"a_post": 0.2} if rule == "rtrl_stdp" else {}
    learning, stepping = RULES[rule](model.blocks, **options), OPTIMIZERS[optimizer](model.parameters())
    task: Any = Labelled()
    *_, report = biomamba.online(stream, biomamba.Learner(task, model, learning, stepping, window=window, compile=fuse))
    assert report.state.updates > 1
    moments = {f"{i}.{k}": v for i, own in stepping.state_dict()["state"].items() for k, v in own.items()}
    return {**model.state_dict(), **dict(leaves([report.state.model_state, report.state.trace])), **moments}


def column_major(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor (b, t) with its steps, not its streams, one after the other in memory."""
    return tensor.t().contiguous().t()


class Labelled(SummedLoss):
    """The same loss in a form whose shapes do not depend on the labels."""

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        """Return the sum, nats."""
        return biomamba.metrics.labelled_cross_entropy(out, chunk)


@pytest.mark.parametrize(
    "rule, block, length, window, resets, optimizer",
    [
        ("rtrl", "mamba2", 3, None, 0.0, "adam"),
        pytest.param("rtrl", "mamba2", 1, None, 0.1, "sgd", marks=pytest.mark.slow),
        pytest.param("rtrl_stdp", "mamba2", 3, 6, 0.1, "adam", marks=pytest.mark.slow),
        pytest.param("rtrl_stdp", "mamba", 1, None, 0.0, "plain sgd", marks=pytest.mark.slow),
        pytest.param("stllr", "mamba2", 2, None, 0.1, "adam", marks=pytest.mark.slow),
        pytest.param("uoro", "mamba2", 1, None, 0.0, "adam", marks=pytest.mark.slow),
        pytest.param("factored", "mamba2", 2, None, 0.0, "plain sgd", marks=pytest.mark.slow),
        pytest.param("bptt", "diagonal", 4, None, 0.0, "rmsprop", marks=pytest.mark.slow),
        pytest.param("bptt", "gru", 2, 4, 0.1, "adam", marks=pytest.mark.slow),
        pytest.param("bptt", "gated_delta", 2, 4, 0.1, "adam", marks=pytest.mark.slow),
        pytest.param("bptt", "echo_state", 2, None, 0.0, "rmsprop", marks=pytest.mark.slow),
    ],
)
def test_compiled_is_plain(
    rule: str,
    block: str,
    length: int,
    window: int | None,
    resets: float,
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = after(False, rule, block, length, window, resets, optimizer)
    made = []
    make = Compiled._make

    def counted(self: Compiled, kind: Any, *given: Any) -> Any:
        made.append(kind)
        return make(self, kind, *given)

    monkeypatch.setattr(Compiled, "_make", counted)
    fused = after(True, rule, block, length, window, resets, optimizer)
    assert {kind.labelled for kind in made} == {True, False}
    assert {kind.resets for kind in made} == ({True, False} if resets else {False})
    assert any(kind.formulas for kind in made) == (optimizer != "rmsprop")
    assert plain.keys() == fused.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(
            fused[name], tensor, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


class Weighted(Labelled):
    """A loss that reads `info`: each step by its weight."""

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        """Return the weighted sum, nats."""
        each = torch.nn.functional.cross_entropy(out.transpose(1, 2), chunk.y, reduction="none")
        return (each * chunk.info["weight"] * chunk.mask).sum()


def learned(fuse: bool, task: Any, named: bool = True, weights: bool = True) -> dict[str, torch.Tensor]:
    """Return weights and losses after a few chunks, each with a weight of its own in its info where named."""
    torch.manual_seed(1)
    stream = chunks(*random_tokens(12), 2)
    if named:
        stream = [
            chunk._replace(info={"weight": chunk.mask * (i if weights else 1.0)}) for i, chunk in enumerate(stream)
        ]
    model = random_model("diagonal")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    learner = biomamba.Learner(task, model, RULES["bptt"](model.blocks), optimizer, compile=fuse)
    for _ in biomamba.online(stream, learner):
        pass
    return {name: own.clone() for name, own in model.state_dict().items()}


def test_a_graph_takes_the_info_of_each_chunk_and_needs_none() -> None:
    plain, fused = (learned(fuse, Weighted()) for fuse in (False, True))
    for name, own in plain.items():
        torch.testing.assert_close(fused[name], own, rtol=1e-9, atol=1e-12)
    even = learned(False, Weighted(), weights=False)
    assert not torch.allclose(even["head.weight"], plain["head.weight"])  # control: the weights are read
    bare, named = (learned(True, Labelled(), own) for own in (False, True))
    assert all(torch.equal(bare[name], own) for name, own in named.items())


@pytest.mark.parametrize("task", [Delay(), Language()], ids=["delay", "language"])
def test_a_loss_has_the_same_shapes_for_any_number_of_labels(task: Any) -> None:
    """A graph is made once, for any labels: a loss that picks them out cannot be made one."""
    chunk = next(task.stream("all", batch=2, length=30, seed=0))
    with FakeTensorMode() as shapes:
        fake = chunk.map(shapes.from_tensor)
        out = torch.randn(2, 30, task.spec.d_out)
        assert task.loss(out, fake).shape == ()
        with pytest.raises(DynamicOutputShapeException):
            out[fake.mask]


def learner() -> biomamba.Learner:
    """Return a learner of a small model by a graph."""
    model: Any = random_model("diagonal")
    stepping = torch.optim.SGD(model.parameters(), lr=0.01)
    return biomamba.Learner(Labelled(), model, RULES["bptt"](model.blocks), stepping, compile=True)


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="compile: there is no no-such-compiler here: install it, or do without"):
        learner()
    monkeypatch.undo()

    def broken(*given: Any) -> None:
        raise RuntimeError("C++ compile error\nCommand: g++")

    monkeypatch.setattr(graphs, "_write", broken)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"^compile: C\+\+ compile error: mend the C\+\+ compiler, or do without$"):
        list(biomamba.online(chunks(*random_tokens(6), 2), learner()))


@pytest.mark.slow
def test_a_graph_refuses_tokens_and_labels_that_there_are_none_of() -> None:
    good, own = chunks(*random_tokens(6), 2), learner()
    for chunk in good:
        own.update(chunk)  # control
    before = {name: weight.clone() for name, weight in own.model.state_dict().items()}
    for wrong, line in (
        (good[0]._replace(x=good[0].x * 0 + VOCAB), f"x: tokens from {VOCAB} to {VOCAB}"),
        (good[0]._replace(y=good[0].y * 0 + D_OUT), f"y: Labels from {D_OUT} to {D_OUT}"),
    ):
        with pytest.raises(ValueError, match=line):
            own.update(wrong)
    assert all(torch.equal(weight, before[name]) for name, weight in own.model.state_dict().items())


def test_a_graph_has_the_name_of_all_that_makes_it_what_it_is() -> None:
    def named(function: Any, *given: torch.Tensor) -> str:
        return graphs.digest(make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*given), given)

    ones, constant, other = torch.ones(2, 3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.5])
    usual = named(lambda x: [x + constant], ones)
    assert usual == named(lambda x: [x + constant], torch.zeros(2, 3))  # whatever the numbers it is given
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    on_more = named(lambda x: [x + constant], ones)
    torch.set_num_threads(threads)
    names = {
        usual,
        on_more,
        named(lambda x: [x - constant], ones),
        named(lambda x: [x + other], ones),
        named(lambda x: [x + 1.0], ones),
        named(lambda x: [x + 1.0000000000000002], ones),
        named(lambda x: [x + constant], ones.float()),
        named(lambda x: [x + constant], torch.ones(3, 3)),
        named(lambda x: [x + constant], torch.ones(3, 2).t()),
    }
    assert len(names) == 9


def test_what_is_not_used_for_a_month_leaves_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own, other = (code_cache.home("graphs") / name for name in ("own", "other"))
    for folder in (own, other):
        folder.mkdir(parents=True)
    for path in (own / "old.pt2", own / "used.pt2", other / "old.pt2"):
        code_cache.keep(path, b"code")
    for path in (own / "old.pt2", own / "used.pt2", other):
        os.utime(path, (0, 0))
    code_cache.use(own / "used.pt2")
    assert code_cache.folder("graphs", "own") == own
    assert [*own.parent.rglob("*.pt2")] == [own / "used.pt2"] and not other.exists()


PROGRAM = """
import sys, torch
from torch.fx.experimental.proxy_tensor import make_fx
from biomamba import graphs
made = make_fx(lambda x: [torch.tanh(x) + 1])(torch.ones(3))
found = graphs.compile_graph(made, [torch.ones(3)])(torch.full((3,), 0.5))
print(float(found[0][0]), "torch._inductor.compile_fx" in sys.modules)
"""


@pytest.mark.slow
def test_a_second_process_finds_the_graph_and_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    def start() -> tuple[str, str]:
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    (first, said), (second, silent) = start(), start()
    assert said == "biomamba: compiling a graph once, about half a minute\n" and silent == ""
    number, compiled = first.split()
    assert float(number) == pytest.approx(1.462117157, abs=1e-6) and compiled == "True"
    assert second == f"{number} False\n"
    (file,) = (tmp_path / "biomamba" / "graphs").glob("*/*.pt2")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    third, told = start()
    assert third == first and told == said and start() == (second, "")
