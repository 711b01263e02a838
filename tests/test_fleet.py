"""A fleet of learners is the learners one by one."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.rules import RULES
from biomamba.state import flat, leaves, nbytes
from biomamba.tasks.delay import Delay
from sizes import random_model
from test_pure import Labelled, learner, pure, stream

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch has no batched form of some operations
]
MEMBERS = 5


def chunks(length: int, steps: int) -> list[biomamba.Chunk]:
    """Return chunks of all members side by side, some steps without a label, some that begin anew."""
    return stream(length, steps, MEMBERS)


def rows(chunk: biomamba.Chunk, ids: list[int]) -> biomamba.Chunk:
    """Return the streams of some members."""
    return chunk.map(lambda own: own[ids])


def present(step: int) -> list[Hashable]:
    """Return who is there at a step: some miss it, in any order."""
    torch.manual_seed(step)
    return [int(i) for i in torch.randperm(MEMBERS) if (int(i) + step) % 3 or step % 4 == 0]


def one_by_one(own: list[biomamba.Learner], ids: list[Any], chunk: biomamba.Chunk) -> list[biomamba.Report]:
    """Return what each learner says of its stream, having learned from it."""
    return [own[i].update(rows(chunk, [i])) for i in ids]


def differing(one: biomamba.Learner, other: biomamba.Learner) -> float:
    """Return the largest difference of all that two learners hold."""
    found = []
    for own in (one, other):
        assert own.state is not None
        found.append(dict(leaves(pure(own).memory(1, own.state.model_state, own.state.trace))))
    assert found[0].keys() == found[1].keys()
    return max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0] if found[0][name].numel())


def others(block: str, rule: str = "rtrl", optimizer: str = "adam", n_layers: int = 1) -> list[biomamba.Learner]:
    """Return learners of one architecture, each of its own weights, some with a past."""
    found = [learner(block, rule, optimizer, n_layers=n_layers, seed=i) for i in range(MEMBERS)]
    for i in (1, 3):
        for chunk in stream(2, 4, 1):
            found[i].update(chunk)
    return found


CASES: list[Any] = [
    ("mamba2", "rtrl", "adam", 1, 1),
    ("diagonal", "rtrl", "adam", 3, 2),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("mamba2", "rtrl", "adam", 3, 2),
            ("mamba", "rtrl", "adam", 1, 1),
            ("mamba", "rtrl", "sgd", 3, 2),
            *(("mamba2", rule, "sgd", 2, 1) for rule in RULES if rule != "rtrl"),
        )
    ),
]


@pytest.mark.parametrize("block, rule, optimizer, length, layers", CASES)
def test_a_fleet_is_its_learners_one_by_one(block: str, rule: str, optimizer: str, length: int, layers: int) -> None:
    """Members miss steps, come in any order, begin anew, have steps without a label; a page is not full, one is."""
    own = others(block, rule, optimizer, layers)
    fleet = biomamba.Fleet(own[0], page=2, compile=False)
    for i, each in enumerate(own):
        fleet.add(i, each)
    for step, chunk in enumerate(chunks(length, 9)):
        ids = present(step)
        reports = one_by_one(own, ids, chunk)
        some = rows(chunk, ids)  # type: ignore[arg-type]
        found = fleet.step(ids, some.x, some.y, some.mask, some.reset)
        torch.testing.assert_close(found.out, torch.cat([report.out for report in reports]), rtol=1e-9, atol=1e-9)
        assert found.learned.tolist() == [report.norm is not None for report in reports]
    assert differing(own[0], own[1]) > 1e-2  # the control: the members are not the same
    for i, each in enumerate(own):
        alone = fleet.learner(i)
        assert differing(alone, each) < 1e-9
        assert alone.state is not None and each.state is not None
        for name in ("steps", "updates", "skipped"):
            assert getattr(alone.state, name) == getattr(each.state, name)


def test_a_member_goes_on_as_a_learner_and_comes_back(tmp_path: Path) -> None:
    """Through its folder, bit for bit."""
    torch.manual_seed(0)
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, d_state=4, headdim=4)
    task, optimizer = Delay(delay=4), torch.optim.Adam(model.parameters(), lr=1e-2)
    fleet = biomamba.Fleet(biomamba.Learner(task, model, biomamba.rules.RTRL(model.blocks), optimizer), compile=False)
    for name in ("a", "b", "c"):
        fleet.add(name)
    parts = [chunk for _, chunk in zip(range(12), task.stream("all", batch=3, length=2, seed=0), strict=False)]
    for chunk in parts[:6]:
        fleet.step(["a", "b", "c"], *chunk[:4])
    fleet.learner("b").save(tmp_path / "b")
    fleet.remove("b")
    assert "b" not in fleet and len(fleet) == 2
    fleet.add("d")  # into the slot that was left
    back = biomamba.load(tmp_path / "b")
    fleet.add("b", back)
    found = [fleet.step(["a", "c", "b"], *rows(chunk, [0, 2, 1])[:4]).out[2] for chunk in parts[6:]]
    expected = [back.update(rows(chunk, [1])).out[0] for chunk in parts[6:]]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-9, atol=1e-9)
    fresh = fleet.learner("d")
    assert fresh.state is not None and fresh.state.steps == 0
    assert torch.equal(fresh.model.head.weight, model.head.weight)


def test_members_on_the_disk_come_back_without_a_difference(tmp_path: Path) -> None:
    template, found = learner("mamba2"), []
    for limit in (None, 1):  # bytes: one page is held
        fleet = biomamba.Fleet(template, page=2, compile=False, limit=limit, folder=tmp_path / "pages")
        for i in range(MEMBERS):
            fleet.add(i)
        assert len([*tmp_path.glob("pages/*")]) == (0 if limit is None else 2)
        for step, chunk in enumerate(chunks(2, 8)):
            ids = present(step)
            fleet.step(ids, *rows(chunk, ids)[:4])  # type: ignore[arg-type]
        assert fleet.pages.nbytes == fleet.nbytes * (2 if limit else 6)
        found.append([own for i in range(MEMBERS) for own in flat(fleet.pages.read(*place(fleet, i)))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    for i in range(MEMBERS):
        fleet.remove(i)
    assert not [*tmp_path.glob("pages/*")]


def place(fleet: biomamba.Fleet, id: Hashable) -> tuple[int, int]:  # noqa: A002
    """Return where a member lies."""
    return fleet.members[id].page, fleet.members[id].slot


def test_what_is_not_finite_stops_one_member_alone() -> None:
    torch.manual_seed(0)
    model: Any = biomamba.Model(d_in=3, d_out=7, d_model=6, block="diagonal", d_state=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    own = biomamba.Learner(Labelled(), model, RULES["rtrl"](model.blocks), optimizer)  # type: ignore[arg-type]
    fleet = biomamba.Fleet(own, compile=False)
    for i in range(3):
        fleet.add(i)
    x, y = torch.randn(3, 1, 3), torch.tensor([[1], [2], [3]])
    fleet.step([0, 1, 2], x, y)
    before = [fleet.pages.read(*place(fleet, i)) for i in range(3)]
    x[1] = torch.nan
    report = fleet.step([0, 1, 2], x, y)
    assert report.finite.tolist() == report.learned.tolist() == [True, False, True]
    after = [fleet.pages.read(*place(fleet, i)) for i in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(flat(before[1].memory), flat(after[1].memory), strict=True))
    assert not torch.equal(before[2].memory.weights["head.weight"], after[2].memory.weights["head.weight"])
    assert after[1].counts.tolist() == [2, 1, 1]


def test_weights_that_do_not_learn_are_shared() -> None:
    """The head alone for each member, by a rule without traces: what is left of a member is small."""
    model = random_model("mamba2")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "head.weight")
    optimizer = torch.optim.Adam([model.head.weight], lr=1e-2)
    own = biomamba.Learner(Labelled(), model, RULES["bptt"](model.blocks), optimizer)  # type: ignore[arg-type]
    fleet = biomamba.Fleet(own, compile=False)
    for i in range(2):
        fleet.add(i)
    assert fleet.nbytes < nbytes(pure(learner("mamba2")).memory(1)) / 4
    twins = [learner("mamba2") for _ in range(2)]
    for twin in twins:
        for name, parameter in twin.model.named_parameters():
            parameter.requires_grad_(name == "head.weight")
    alone = [
        biomamba.Learner(
            Labelled(),  # type: ignore[arg-type]
            twin.model,
            RULES["bptt"](twin.model.blocks),
            torch.optim.Adam([twin.model.head.weight], lr=1e-2),
        )
        for twin in twins
    ]
    for chunk in stream(3, 6, 2):
        fleet.step([0, 1], *chunk[:4])
        one_by_one(alone, [0, 1], chunk)
    for i in range(2):
        torch.testing.assert_close(fleet.learner(i).model.head.weight, alone[i].model.head.weight)
    assert not torch.allclose(alone[0].model.head.weight, alone[1].model.head.weight)


@pytest.mark.slow
def test_a_compiled_fleet_is_an_eager_one(tmp_path: Path) -> None:
    own, found = learner("mamba2"), []
    for compiled in (False, True):
        fleet = biomamba.Fleet(own, page=2, compile=compiled, limit=1, folder=tmp_path)
        for i in range(3):
            fleet.add(i)
        for step, chunk in enumerate(chunks(1, 9)):
            ids = [0, 1, 2] if step % 2 else [2, 0]
            fleet.step(ids, *rows(chunk, ids)[:4])
        assert any(kind[1] for kind in fleet._kinds.values()) == compiled
        found.append([fleet.learner(i) for i in range(3)])
    for one, other in zip(*found, strict=True):
        assert differing(one, other) < 1e-9


def test_what_a_fleet_cannot_take_is_said_in_one_line_and_changes_nothing() -> None:
    own = learner("diagonal")
    fleet = biomamba.Fleet(own, compile=False)
    fleet.add(0)
    x, y = torch.tensor([[1]]), torch.tensor([[1]])
    fleet.step([0], x, y)
    before = fleet.pages.read(*place(fleet, 0))
    mask = torch.tensor([[True]])
    for given, message in (
        (([1], x, y), "id: got 1, expected one of the 1 member: fleet.add"),
        (([0, 0], x.repeat(2, 1), y.repeat(2, 1)), "ids: got one twice"),
        (([0], x.repeat(2, 1), y.repeat(2, 1)), "ids: got 1, expected 2"),
        (([0], x + 100, y), "x: tokens from 101 to 101"),
        (([0], x, y + 100), "y: labels from 101 to 101"),
        (([0], x, y.repeat(1, 2)), r"y: got \(1, 2\), expected \(1, 1\)"),
        (([0], x, None, mask), "y: got None with a mask"),
    ):
        with pytest.raises(ValueError, match=message):
            fleet.step(*given)  # type: ignore[arg-type]
    after = fleet.pages.read(*place(fleet, 0))
    assert all(torch.equal(a, b) for a, b in zip(flat(before), flat(after), strict=True))
    for other, message in (
        (learner("mamba2"), "learner: of another model, rule or optimiser"),
        (learner("diagonal", optimizer="sgd"), "learner: of another model, rule or optimiser"),
    ):
        with pytest.raises(ValueError, match=message):
            fleet.add(1, other)
    with pytest.raises(ValueError, match="id: got 0, which is in the fleet already"):
        fleet.add(0)
    many = learner("diagonal")
    many.update(stream(1, 1)[0])
    with pytest.raises(ValueError, match="several streams, expected one stream"):
        fleet.add(1, many)
    window = learner("diagonal")
    window.window = 4
    with pytest.raises(ValueError, match="learner: has a window or a max_drift"):
        biomamba.Fleet(window)
    assert len(fleet) == 1 and isinstance(fleet.learner(0).model.head.weight, Tensor)
