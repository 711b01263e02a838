"""Fidelity tells how near a gradient is to full BPTT: 1 where a law says so, less where one says that too."""

from itertools import islice
from typing import Any

import pytest
import torch

import biomamba
from biomamba.analysis.fidelity import by_bptt, by_rule, fidelity, immediate, layer, near
from biomamba.rules import BPTT, RTRL, Factored
from biomamba.tasks.delay import Delay
from biomamba.tasks.language import Language
from sizes import random_model

pytestmark = pytest.mark.usefixtures("float64")


def of_delay(rule: Any, length: int, n_layers: int = 1, window: int | None = None, **options: Any) -> dict[str, Any]:
    """Return the fidelity on 48 steps of store-recall, whose chunks hold different numbers of recalls, or none."""
    torch.manual_seed(0)
    model = biomamba.Model(
        vocab=21, d_out=8, d_model=8, n_layers=n_layers, d_state=3, headdim=4, dt_min=0.05, **options
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    stream = Delay(delay=6).stream("all", batch=4, length=length, seed=0)
    found = fidelity(model, Delay(delay=6), rule(model.blocks), islice(stream, 48 // length), window)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return found


@pytest.mark.parametrize("length", [1, 4, 16])
def test_rtrl_of_one_block_is_at_1_and_truncation_is_not(length: int) -> None:
    rtrl, truncated = of_delay(RTRL, length), of_delay(BPTT, length)
    assert abs(rtrl["layers"]["blocks.0"]["cosine"] - 1) < 1e-9 and abs(rtrl["layers"]["blocks.0"]["ratio"] - 1) < 1e-9
    assert truncated["parameters"]["blocks.0.A_log"]["cosine"] < 0.99
    assert abs(truncated["layers"]["head"]["cosine"] - 1) < 1e-9  # nothing of the head's gradient is in the past
    assert rtrl["parameters"].keys() >= {"blocks.0.A_log", "encoder.weight", "head.weight"}


def test_one_chunk_is_full_backpropagation() -> None:
    for found in (of_delay(BPTT, 48, n_layers=2), of_delay(BPTT, 4, n_layers=2, window=48)):
        assert abs(found["all"]["cosine"] - 1) < 1e-9 and abs(found["all"]["ratio"] - 1) < 1e-9


def test_depth_costs_what_a_window_gives_back() -> None:
    without = of_delay(RTRL, 1, n_layers=3)["layers"]["blocks.0"]["cosine"]
    repaired = of_delay(RTRL, 1, n_layers=3, window=16)["layers"]["blocks.0"]["cosine"]
    assert without < repaired < 1


def test_both_gradients_are_of_the_same_loss() -> None:
    """Language's loss is a mean over the chunk: the sum over chunks weighs each alike, in both."""
    task = Language(paths=[__file__])
    model = biomamba.Model(vocab=256, d_out=256, d_model=8, d_state=3, headdim=4)
    stream = islice(task.stream("all", batch=3, length=5, seed=0), 4)
    got, chunks = by_rule(model, task, BPTT(model.blocks), stream, None)
    full = by_bptt(model, task, chunks)
    assert len(chunks) == 4 and [chunk.x.shape for chunk in chunks] == [(3, 5)] * 4
    torch.testing.assert_close(got["head.weight"], full["head.weight"], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(got["blocks.0.A_log"], full["blocks.0.A_log"], rtol=1e-3)


def test_near_of_known_vectors() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])
    assert near([a], [b]) == pytest.approx({"cosine": 0.6, "ratio": 0.6, "gap": 0.4})
    assert near([2 * a[:1], a[1:]], [a]) == {"cosine": 1.0, "ratio": 2.0, "gap": 0.0}
    assert near([0 * a], [b]) == {"cosine": None, "ratio": 0.0, "gap": None}
    assert near([a], [0 * b]) == {"cosine": None, "ratio": None, "gap": None}
    tilted = near([torch.tensor([1.0, 1e-7])], [torch.tensor([1.0, 0.0])])
    assert tilted["gap"] == pytest.approx(0.5e-14, rel=1e-6) and tilted["cosine"] == pytest.approx(1.0)


def test_through_the_past_alone_rules_differ_where_the_whole_is_near_1() -> None:
    """Of one block RTRL's credit through the past is BPTT's; without traces there is none at length 1."""
    found = {rule.__name__: of_delay(rule, 1) for rule in (RTRL, BPTT, Factored)}
    block = {name: own["past"]["layers"]["blocks.0"] for name, own in found.items()}
    assert block["RTRL"]["gap"] < 1e-18 and abs(block["RTRL"]["ratio"] - 1) < 1e-9
    assert block["BPTT"] == {"cosine": None, "ratio": 0.0, "gap": None}
    assert block["Factored"]["gap"] > 100 * block["RTRL"]["gap"]
    assert found["BPTT"]["past"]["layers"]["head"]["ratio"] is None  # the head has no past
    longer = of_delay(BPTT, 16)["past"]["layers"]["blocks.0"]
    assert longer["gap"] > 0.01 and 0 < longer["ratio"] < 1  # inside of 16 steps there is some


@pytest.mark.parametrize("length", [1, 5])
def test_the_immediate_gradient_is_that_of_single_steps(length: int) -> None:
    """Of a loss that is a sum over steps, it does not depend on how steps are put in chunks."""
    torch.manual_seed(0)
    task = Delay(delay=4)
    model = biomamba.Model(vocab=21, d_out=8, d_model=8, d_state=3, headdim=4, dt_min=0.05)
    chunks = list(islice(task.stream("all", batch=2, length=length, seed=0), 20 // length))
    found = immediate(model, task, chunks)
    single = [chunk.between(s, s + 1) for chunk in chunks for s in range(length)]
    alone, _ = by_rule(model, task, BPTT(model.blocks), iter(single), None)
    for name, own in alone.items():
        torch.testing.assert_close(found[name], own, rtol=1e-9, atol=1e-12)
    whole = by_bptt(model, task, chunks)
    assert not torch.allclose(whole["blocks.0.A_log"], found["blocks.0.A_log"], rtol=1e-3)  # control


def test_every_parameter_has_a_layer() -> None:
    model = random_model("mamba2", n_layers=2)
    assert {layer(name) for name, _ in model.named_parameters()} == {"encoder", "blocks.0", "blocks.1", "head"}
