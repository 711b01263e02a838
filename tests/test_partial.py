"""Learners of which a part alone learns: their gradients, and fleets of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import biomamba
from biomamba.blocks import BLOCKS as REGISTRY
from biomamba.rules import BPTT, RTRL
from biomamba.state import nbytes
from biomamba.tasks.delay import Delay
from sizes import BLOCKS, random_model, random_tokens, summed_gradient
from test_fleet import differing, rows
from test_pure import Labelled, learner, stream

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
PARTS = ("head", "bias", "lora")
MEMBERS = 3


@pytest.mark.parametrize("block", [name for name in BLOCKS if REGISTRY[name].adaptable])
def test_low_rank_additions_learn_exactly(block: str) -> None:
    """Summed over chunks of any length, B's gradient is that of the whole stream; without a trace it is not."""
    model = random_model(block, lora=2)
    x, y = random_tokens(24)
    kept = [name for name in model.blocks[0].influences if name.startswith("in_proj.")]
    whole = summed_gradient(model, BPTT(model.blocks), x, y, 24)
    exact = [name for name in whole if name.endswith("_proj.B")]
    assert len(exact) == 2 and model.blocks[0].fan_in[kept[0]] == 2
    if block == "mamba":  # whose in_proj is approximate whatever learns in it
        exact = ["blocks.0.out_proj.B"]
    for length in (1, 5):
        found = summed_gradient(model, RTRL(model.blocks, influences=kept), x, y, length)
        for name in exact:
            torch.testing.assert_close(found[name], whole[name], rtol=1e-9, atol=1e-9)
    truncated = summed_gradient(model, BPTT(model.blocks), x, y, 1)
    assert block == "mamba" or float((truncated[exact[0]] - whole[exact[0]]).abs().max()) > 1e-3


@pytest.mark.parametrize("block", BLOCKS)
def test_traces_of_some_are_what_they_are_among_all(block: str) -> None:
    model = random_model(block)
    x, y = random_tokens(20)
    some = [name for name in model.blocks[0].influences if name in ("A_log", "dt_bias", "dt_proj.bias")]
    whole, part = RTRL(model.blocks), RTRL(model.blocks, influences=some)
    assert 0 < nbytes(part.init(2)) < nbytes(whole.init(2)) / 4
    all_of, some_of = (summed_gradient(model, rule, x, y, 3) for rule in (whole, part))
    for name in all_of:
        same = torch.allclose(all_of[name], some_of[name], rtol=1e-9, atol=1e-9)
        if name.removeprefix("blocks.0.") in some:
            assert same, name
        if name.endswith("in_proj.weight"):  # the control: what keeps no trace gets the chunk's share
            assert not same
    with pytest.raises(ValueError, match="influences: got 'A', expected some of "):
        RTRL(model.blocks, influences=["A"])


@pytest.mark.parametrize("train", PARTS)
@pytest.mark.parametrize("block, layers", [("mamba2", 1), pytest.param("mamba", 2, marks=pytest.mark.slow)])
def test_members_with_a_part_of_their_own_are_learners_of_it(
    train: Any, block: str, layers: int, tmp_path: Path
) -> None:
    """Each as `fleet.learner` gives it, saved and loaded among them; what does not learn is held once."""
    base = learner(block, n_layers=layers)
    for chunk in stream(2, 4, 1):
        base.update(chunk)
    fleet = biomamba.Fleet(base, page=2, compile=False, train=train, rank=2)
    whole = biomamba.Fleet(base, page=2, compile=False)
    for i in range(MEMBERS):
        fleet.add(i)
    alone = [fleet.learner(i) for i in range(MEMBERS)]
    before = [own.model.state_dict() for own in alone]
    for number, chunk in enumerate(stream(2, 9, MEMBERS)):
        ids = [i for i in range(MEMBERS) if (i + number) % 3]
        for i in ids:
            alone[i].update(rows(chunk, [i]))
        part = rows(chunk, ids)
        fleet.step(ids, part.x, part.y, part.mask, part.reset)
    after = [fleet.learner(i) for i in range(MEMBERS)]
    assert all(differing(one, other) < 1e-9 for one, other in zip(after, alone, strict=True))
    assert differing(after[0], after[1]) > 1e-3  # the control
    moved = {n for n, w in after[0].model.state_dict().items() if not torch.equal(w, before[0][n])}
    kinds = {"head": "head.", "bias": "bias", "lora": "_proj.B"}
    assert moved and all("head." in n or kinds[train] in n or after[0].model.get_parameter(n).ndim == 1 for n in moved)
    assert any(kinds[train] in n for n in moved)
    assert fleet.nbytes < 0.7 * whole.nbytes  # of mamba, whose taps reach everything; of mamba2 under a half
    after[1].save(tmp_path)
    fleet.remove(1)
    fleet.add("again", biomamba.load(tmp_path, task=Labelled()))
    assert differing(fleet.learner("again"), after[1]) == 0


def test_parts_that_cannot_learn_are_one_line() -> None:
    with pytest.raises(ValueError, match="train: got 'tail', expected one of head, bias, lora"):
        biomamba.Fleet(learner("mamba2"), compile=False, train="tail")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with the rule UORO, expected RTRL or BPTT"):
        biomamba.Fleet(learner("mamba2", "uoro"), compile=False, train="head")


def test_open_steps_are_settled_before_a_learner_joins() -> None:
    """The member goes on as the learner whose answers never came."""
    torch.manual_seed(0)
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, d_state=4, headdim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    own = biomamba.Learner(Delay(delay=4), model, RTRL(model.blocks), optimizer)
    own.learn(own.predict(3), 1)
    tickets = [own.predict(token) for token in (4, 9, 2)]
    own.learn(tickets[1], 5)
    fleet = biomamba.Fleet(own, compile=False)
    with pytest.raises(ValueError, match=r"has open steps .*learner.settle\(\)"):
        fleet.add("a", own)
    own.settle()
    assert own.state is not None and not own.state.waiting and not own.state.x.shape[1]
    assert not own.learn(tickets[2], 1)
    fleet.add("a", own)
    own.settle()
    said = fleet.step(["a"], torch.tensor([[7]])).out[0, 0]
    torch.testing.assert_close(said, own.predict(7).out, rtol=1e-9, atol=1e-9)
    assert float((said - fleet.step(["a"], torch.tensor([[8]])).out[0, 0]).abs().max()) > 1e-6  # the control
