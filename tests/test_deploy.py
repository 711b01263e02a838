"""An exported learner gives torch's numbers, in the runtime that it is exported to."""

import json
import runpy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.cli.main import main
from biomamba.deploy import decompose
from biomamba.deploy.program import largest_difference, learning, trials
from biomamba.rules import RULES
from biomamba.tasks.delay import Delay
from sizes import REAL, random_model
from test_pure import Labelled, learner, pure, stream

onnx = pytest.importorskip("onnx", reason='pip install "biomamba[export]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "biomamba[export]"')
pytest.importorskip("onnxscript", reason='pip install "biomamba[export]"')
ENOUGH = 300
EXAMPLES = Path(__file__).parents[1] / "examples"


class Session:
    """An exported file as its users run it: onnxruntime, numpy, and what lies beside the file."""

    def __init__(self, file: Path, level: Any = None) -> None:
        """Read the three files."""
        from safetensors.numpy import load_file

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if level is not None:
            options.graph_optimization_level = level
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.facts = json.loads(file.with_suffix(".json").read_text())
        self.carried = load_file(file.with_suffix(".safetensors"))

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Return the outputs; what is carried goes round."""
        found = self.session.run(None, inputs | self.carried)
        names = [own["name"] for own in self.facts["outputs"]]
        outputs = dict(zip(names, found[: len(names)], strict=True))
        carried = [own["name"] for own in self.facts["carried"]]
        self.carried = dict(zip(carried, found[len(names) :], strict=True))
        return outputs


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "block, length, layers, optimizer",
    [
        ("mamba2", 1, 1, "adam"),
        *(
            pytest.param(block, length, layers, optimizer, marks=pytest.mark.slow)
            for block in REAL
            for length, layers, optimizer in ((1, 2, "sgd"), (8, 1, "adam"), (8, 2, "adam"), (1, 1, "adam"))
            if (block, length, layers) != ("mamba2", 1, 1)
        ),
    ],
)
def test_a_learner_in_onnxruntime_is_torchs(
    block: str, length: int, layers: int, optimizer: str, tmp_path: Path
) -> None:
    """With resets, steps that are not labelled, and a state that is not finite, over many updates."""
    own = learner(block, optimizer=optimizer, n_layers=layers)
    facts = biomamba.export(own, stream(length, 20), tmp_path / "learner.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"learner.{end}" for end in ("json", "onnx", "safetensors")
    ]
    session, losses = Session(tmp_path / "learner.onnx"), []
    assert facts == session.facts and facts["proof"]["largest_difference"] < 1e-9
    for i, chunk in enumerate(stream(length, ENOUGH)):
        report = own.update(chunk)
        found = session(
            **{name: getattr(chunk, name).numpy() for name in ("x", "y", "mask", "reset")}, lr=np.array(1e-2)
        )
        np.testing.assert_allclose(found["out"], report.out.numpy(), rtol=1e-9, atol=1e-9)
        assert found["learned"] == (report.norm is not None)
        losses.append(float(found["loss"]))
        if i == 100:  # something that is not finite came in: nothing moves
            held = {name: array.copy() for name, array in session.carried.items()}
            held["state.0.ssm"][:] = np.nan
            broken, session.carried = session.carried, held
            assert not session(
                x=chunk.x.numpy(),
                y=chunk.y.numpy(),
                mask=~chunk.mask.numpy(),
                reset=chunk.reset.numpy() * False,
                lr=np.array(1e-2),
            )["learned"]
            assert all(np.array_equal(held[name], own, equal_nan=True) for name, own in session.carried.items())
            session.carried = broken
    for name, weight in own.model.named_parameters():
        np.testing.assert_allclose(session.carried[f"weights.{name}"], weight.detach().numpy(), rtol=1e-9, atol=1e-9)
    control = learner(block, optimizer=optimizer, n_layers=layers).model
    assert not np.allclose(session.carried["weights.head.weight"], control.head.weight.detach().numpy(), atol=1e-3)
    assert session.carried["step"] == (own.state.updates if optimizer == "adam" else 0)  # type: ignore[union-attr]


def test_a_file_that_gives_other_numbers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one from which torch's optimiser deleted Adam's + 1e-8, so that a zero gradient becomes no number."""
    own, chunks, lr = small(), [*islice(small().task.stream("all", batch=1, length=1, seed=0), 20)], torch.tensor(1e-2)
    update = pure(own)
    program, tried = learning(update, update.memory(1), chunks[0], lr), [*trials(chunks, resets=True)]
    update.formulas = tuple(own._replace(eps=0.0) for own in update.formulas)
    wrong = learning(update, update.memory(1), chunks[0], lr).graph
    assert largest_difference(program, lambda given: list(program.graph(*given)), tried, lr) == 0
    assert largest_difference(program, lambda given: list(wrong(*given)), tried, lr) >= 1
    monkeypatch.setattr("biomamba.deploy.onnxruntime.write", lambda *given: None)
    monkeypatch.setattr("biomamba.deploy.onnxruntime.load", lambda file: lambda given: list(wrong(*given)))
    with pytest.raises(ValueError, match=r"onnx differs from torch by .* nothing was written"):
        biomamba.export(own, chunks, tmp_path / "l.onnx")
    assert not [*tmp_path.iterdir()]


def test_numbers_of_the_code_are_not_rounded() -> None:
    """An exporter may write them in single precision."""
    from biomamba.pure import graph

    made = graph(lambda x: [x * 0.1 + 0.001, 0.999**x], torch.ones((), dtype=torch.float64))
    before = [float(own) for own in made(torch.ones((), dtype=torch.float64))]
    decompose.with_constants(made)
    assert [float(own) for own in made(torch.ones((), dtype=torch.float64))] == before
    assert sorted(float(own) for own in made.buffers()) == [0.001, 0.1, 0.999]
    with pytest.raises(ValueError, match=r"0\.1 in aten\.leaky_relu"):
        decompose.with_constants(graph(lambda x: torch.nn.functional.leaky_relu(x, 0.1), torch.ones(1)))


@pytest.mark.parametrize("start, end, weight", [(1.5, -2.0, 0.1), (1.5, -2.0, 0.9)])
def test_a_lerp_taken_apart_is_torchs(start: float, end: float, weight: float) -> None:
    a, b = torch.tensor(start), torch.tensor(end)
    torch.testing.assert_close(decompose.lerp(a, b, weight), a.lerp(b, weight))


@pytest.mark.parametrize("dim, start, end", [(0, 0, 2), (1, 1, 3), (-1, -3, 9), (1, 2, 2)])
def test_gradients_of_parts_are_torchs(dim: int, start: int, end: int) -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    part = torch.ops.aten.slice(x, dim, start, end)
    grad = torch.randn_like(part)
    (expected,) = torch.autograd.grad(part, x, grad)
    assert torch.equal(decompose.slice_backward(grad, [3, 4, 5], dim, start, end, 1), expected)
    chosen = x.select(dim, start)
    (expected,) = torch.autograd.grad(chosen, x, torch.ones_like(chosen))
    assert torch.equal(decompose.select_backward(torch.ones_like(chosen), [3, 4, 5], dim, start), expected)


@pytest.mark.slow
def test_a_prediction_alone_holds_its_weights(tmp_path: Path) -> None:
    own = learner("diagonal")
    facts = biomamba.export(own, stream(2, 8), tmp_path / "p.onnx", learns=False)
    assert [given["name"] for given in facts["inputs"]] == ["x", "reset"]
    assert all(given["name"].startswith("state.0.") for given in facts["carried"])
    session = Session(tmp_path / "p.onnx")
    reports = biomamba.evaluate(stream(2, 8), Labelled(), own.model)  # type: ignore[arg-type]
    for chunk, report in zip(stream(2, 8), reports, strict=True):
        out = session(x=chunk.x.numpy(), reset=chunk.reset.numpy())["out"]
        np.testing.assert_allclose(out, report.out.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_level_of_onnxruntimes_optimiser_learns_alike(tmp_path: Path) -> None:
    """In single precision, in which files usually are; what is on the command line writes them."""
    file = tmp_path / "learner.onnx"
    biomamba.export(learner("mamba2"), stream(1, 20), file)
    levels, found = onnxruntime.GraphOptimizationLevel, []
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL):
        session = Session(file, level)
        for chunk in islice(stream(1, ENOUGH), ENOUGH):
            given = {name: getattr(chunk, name).numpy() for name in ("x", "y", "mask", "reset")}
            session(**given, lr=np.array(1e-2, np.float32))
        found.append(session.carried["weights.head.weight"])
    expected = learner("mamba2")
    for chunk in stream(1, ENOUGH):
        expected.update(chunk)
    for weight in found:
        np.testing.assert_allclose(weight, expected.model.head.weight.detach().numpy(), atol=1e-4)


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path) -> None:
    own = learner("diagonal")
    for options, message in (
        ({"to": "tflite"}, "to: got 'tflite', expected one of onnx, aoti"),
        ({"to": "aoti"}, "file: got l.onnx, expected a name ending in .pt2"),
    ):
        with pytest.raises(ValueError, match=message):
            biomamba.export(own, stream(1, 2), tmp_path / "l.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunks: got none"):
        biomamba.export(own, [], tmp_path / "l.onnx")
    own.window = 4
    with pytest.raises(ValueError, match="learner: has a window or a max_drift, or is frozen"):
        biomamba.export(own, stream(1, 2), tmp_path / "l.onnx")
    model: Any = random_model("diagonal", ngrams=(2,), ngram_bits=4)
    tables = biomamba.Learner(Labelled(), model, RULES["rtrl"](model.blocks), torch.optim.Adam(model.parameters()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n-gram tables, which learn outside"):
        biomamba.export(tables, stream(1, 2), tmp_path / "l.onnx")
    model = random_model("diagonal")
    choosing = biomamba.Learner(Choosing(), model, RULES["rtrl"](model.blocks), torch.optim.Adam(model.parameters()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="export: the update cannot be written as one graph"):
        biomamba.export(choosing, stream(1, 2), tmp_path / "l.onnx")
    assert not [*tmp_path.iterdir()]


class Choosing(Labelled):
    """A loss that looks at its labels."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the sum, nats."""
        return super().loss(out, chunk) if bool(chunk.mask.any()) else out.sum() * 0


def small() -> biomamba.Learner:
    """Return a learner of four tokens in single precision."""
    torch.manual_seed(0)
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, block="diagonal", d_state=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return biomamba.Learner(Delay(delay=4), model, biomamba.rules.RTRL(model.blocks), optimizer)


def test_the_example_learns_in_onnxruntime_and_saves_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "learner.onnx"
    sizes = "--model.block diagonal --model.d_model 8 --model.d_state 4 --stream.steps 60 --run.baselines false"
    assert main(["train", "--config", "delay", *sizes.split(), "--run.dir", str(run)]) == 0
    assert main(["export", str(run), "-o", str(file)]) == 0
    assert f"{file.with_suffix('.json')} says what it is called with: x, y, mask, reset, lr" in capsys.readouterr().out
    example = runpy.run_path(str(EXAMPLES / "learn_in_onnxruntime.py"))
    assert example["main"](file, steps=600) > 0.9
    assert example["main"](file, steps=10) == 1.0  # from where it was saved
    assert "import torch" not in (EXAMPLES / "learn_in_onnxruntime.py").read_text()


@pytest.mark.slow
def test_a_saved_learner_of_rows_is_exported(tmp_path: Path) -> None:
    own = biomamba.regressor(2, d_model=8, d_state=4, headdim=4)
    for i in range(5):
        own.learn_one({"a": i, "b": -i}, float(i))
    own.save(tmp_path / "saved")
    file = tmp_path / "learner.onnx"
    assert main(["export", str(tmp_path / "saved"), "-o", str(file), "--resets", "false"]) == 0
    session, x, y = Session(file), np.zeros((1, 1, 2), np.float32), np.ones((1, 1, 1), np.float32)
    weight = own.model.head.weight.detach().numpy()
    np.testing.assert_array_equal(session.carried["weights.head.weight"], weight)
    lr = np.array(session.facts["lr"], np.float32)
    found = [session(x=x, y=y, mask=np.array([[True]]), lr=lr)["loss"] for _ in range(50)]
    assert found[-1] < found[0] / 4


@pytest.mark.slow
def test_the_example_learns_in_a_compiled_package(tmp_path: Path) -> None:
    own, file = small(), tmp_path / "learner.pt2"
    facts = biomamba.export(own, own.task.stream("all", batch=1, length=1, seed=0), file, to="aoti")
    assert facts["proof"]["largest_difference"] < 1e-5
    example = runpy.run_path(str(EXAMPLES / "learn_in_aotinductor.py"))
    assert example["main"](file, steps=400) > 0.9
    assert example["main"](file, steps=10) == 1.0
