"""Laws of the readout by recursive least squares: it is the closed form, step by step, and nothing else learns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from biomamba import checkpoint
from biomamba.cli.main import main
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse
from biomamba.readout import RLS
from biomamba.rules import BPTT
from biomamba.tasks.delay import Delay
from sizes import BATCH, D_OUT, SummedLoss, chunks, random_model, random_tokens

TINY = ["--config", "delay", "--config", str(Path(__file__).parent / "tiny.yaml")]


def closed_form(Phi: Tensor, Y: Tensor, mask: Tensor, W: Tensor, forgetting: float, ridge: float) -> Tensor:
    """Return the minimum of the weighted squares of labelled steps, Phi (b, t, d) and Y (b, t, d_out)."""
    A, B = ridge * torch.eye(Phi.shape[-1]), ridge * W
    for s in range(Phi.shape[1]):
        if mask[:, s].any():
            x, y = Phi[mask[:, s], s], Y[mask[:, s], s]
            A, B = forgetting * A + x.T @ x, forgetting * B + y.T @ x
    return torch.linalg.solve(A, B.T).T


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("forgetting, ridge", [(1.0, 1.0), (1.0, 1e-3), (0.9, 0.5)])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_least_squares_are_their_closed_form(forgetting: float, ridge: float, length: int) -> None:
    """After 40 steps of three streams, some unlabelled, whatever the chunks; with another forgetting it is not."""
    torch.manual_seed(0)
    Phi, Y, mask = torch.randn(BATCH, 40, 5), torch.randn(BATCH, 40, 2), torch.rand(BATCH, 40) < 0.6
    mask[:, 10:12] = False
    weight = torch.nn.Parameter(torch.randn(2, 5))
    expected = closed_form(Phi, Y, mask, weight.detach().clone(), forgetting, ridge)
    other = closed_form(Phi, Y, mask, weight.detach().clone(), forgetting * 0.99, ridge)
    rls = RLS([weight], forgetting, ridge)
    for s in range(0, 40, length):
        at = slice(s, s + length)
        assert rls.learn(Phi[:, at], Y[:, at], mask[:, at])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(weight, other, rtol=1e-4)  # control


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block, length, window", [("echo_state", 1, None), ("echo_state", 4, 8), ("mamba2", 3, None)])
def test_the_loop_predicts_by_all_steps_before_and_learns_the_head_alone(
    block: str, length: int, window: int | None
) -> None:
    """Every prediction is made by the closed form of the steps before its chunk, and no weight but the head's moves."""
    model, (x, y) = random_model(block, 2), random_tokens(20)
    reset, began = torch.rand(BATCH, 20) < 0.1, {name: own.clone() for name, own in model.state_dict().items()}
    stream = [chunk._replace(mask=torch.rand(chunk.mask.shape) < 0.7) for chunk in chunks(x, y, length, reset)]
    parts, _, _ = model.body(x, model.init_state(BATCH), reset)
    Phi, Y = parts[-1].detach(), F.one_hot(y, D_OUT).double()
    mask, W = torch.cat([chunk.mask for chunk in stream], dim=1), began["head.weight"]
    rls = RLS(model.head.parameters(), 0.95, 0.1)
    learner = biomamba.Learner(SummedLoss(), model, BPTT(model.blocks), rls, window)  # type: ignore[arg-type]
    for i, report in enumerate(biomamba.online(stream, learner)):
        at = slice(i * length, (i + 1) * length)
        before = closed_form(Phi[:, : i * length], Y[:, : i * length], mask[:, : i * length], W, 0.95, 0.1)
        torch.testing.assert_close(report.out, Phi[:, at] @ before.T, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(model.head.weight, W)
    for name, own in model.state_dict().items():
        assert torch.equal(own, began[name]) == (name != "head.weight"), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_readout_goes_on_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    task = Delay(delay=4)
    torch.manual_seed(0)
    model = biomamba.Model(**task.spec._asdict(), d_model=12, block="echo_state").to(dtype)
    rls = RLS(model.head.parameters(), 0.99)
    learner = biomamba.Learner(task, model, BPTT(model.blocks), rls)
    for report in biomamba.online(task.stream("all", batch=2, length=4, seed=0), learner):
        if report.state.steps == 200:
            break
    learner.save(tmp_path)
    again, snapshot = biomamba.load(tmp_path), learner.snapshot()

    def go_on(own: biomamba.Learner) -> Tensor:
        assert own.state is not None and own.state.steps == 200
        for report in biomamba.online(task.stream("all", batch=2, length=4, seed=0, start=200), own):
            if report.state.steps == 400:
                break
        return own.model.head.weight.detach().clone()

    straight = go_on(learner)
    assert torch.equal(go_on(again), straight)
    assert again.optimizer.state[again.model.head.weight]["P"].dtype == torch.float64
    learner.rollback(snapshot)
    assert torch.equal(go_on(learner), straight)
    learner.rollback(snapshot)
    learner.optimizer.state[model.head.weight]["P"] *= 1.01
    assert not torch.equal(go_on(learner), straight)  # control


def test_answers_in_any_order_come_to_the_same() -> None:
    """Without forgetting the order of answers does not matter, nor how late they are."""
    heads = []
    for late in (0, 3):
        torch.manual_seed(0)
        learner = biomamba.regressor(inputs=2, outputs=1, rule="bptt", block="echo_state", scale=False)
        model = learner.model.double()
        own = biomamba.Learner(
            learner.task, model, BPTT(model.blocks), RLS(model.head.parameters()), rows=learner.rows, horizon=8
        )
        for t in range(30):
            own.predict([float(t % 3), float(t % 5)], id=t)
            if t >= late:
                assert own.learn(t - late, float((t - late) % 4))
        for t in range(30 - late, 30):
            assert own.learn(t, float(t % 4))
        heads.append(model.head.weight.detach())
    torch.testing.assert_close(heads[1], heads[0], rtol=1e-9, atol=1e-11)


def test_a_run_by_the_command_is_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*TINY, "--model.block", "echo_state", "--rule.name", "bptt", "--optim.name", "rls"]
    assert main(["train", *given, "--run.dir", str(tmp_path / "whole")]) == 0
    own = Experiment.from_config(parse(given).config)
    assert [len(group["params"]) for group in own.learner.optimizer.param_groups] == [1]
    assert main(["train", *given, "--run.dir", str(tmp_path / "again")]) == 0
    one, other = (checkpoint.load(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "again"))
    assert {"optimizer.0.P", "optimizer.0.weight"} < one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert main(["train", *given, "--run.compile", "true", "--run.dir", str(tmp_path / "other")]) == 2
    assert "optimizer: got RLS, which no graph and no other rank knows" in capsys.readouterr().err


class Unchecked(SummedLoss):
    """A loss that looks at no label."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return 0."""
        return out.sum() * 0


def test_what_cannot_learn_by_least_squares_is_one_line() -> None:
    tables = random_model("echo_state", ngrams=(2,))
    with pytest.raises(ValueError, match="RLS with n-gram tables"):
        biomamba.Learner(SummedLoss(), tables, BPTT(tables.blocks), RLS(tables.head.parameters()))  # type: ignore[arg-type]
    model = random_model("echo_state")
    with pytest.raises(ValueError, match="params: got 5, expected one matrix"):
        RLS(model.parameters())
    for options, line in (
        ({"forgetting": 0.0}, "forgetting: got 0.0, expected a share"),
        ({"ridge": 0.0}, "ridge: got"),
    ):
        with pytest.raises(ValueError, match=line):
            RLS(model.head.parameters(), **options)
    with pytest.raises(TypeError, match="RLS: has no step by a gradient"):
        RLS(model.head.parameters()).step()
    tied = biomamba.Model(vocab=7, d_out=7, d_model=6, block="echo_state", tied=True)
    with pytest.raises(ValueError, match="RLS with a tied head"):
        biomamba.Learner(SummedLoss(), tied, BPTT(tied.blocks), RLS([tied.head.weight]))  # type: ignore[arg-type]
    (x, y), rls = random_tokens(4), RLS(model.head.parameters())
    learner = biomamba.Learner(Unchecked(), model, BPTT(model.blocks), rls)  # type: ignore[arg-type]
    for wrong, line in (
        (y + 7, "y: got class"),
        (torch.stack([y, y], -1), r"y: got \(3, 4, 2\), expected a class or 7"),
    ):
        with pytest.raises(ValueError, match=line):
            learner.update(chunks(x, wrong, 4)[0])
