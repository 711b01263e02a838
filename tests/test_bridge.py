"""Laws of the bridge between STDP and the online learner: images are streams of their rows, and who learns is said."""

import pytest
import torch

import biomamba
from bench.bridge import RULES, Rows, learner_of, measure_network
from bench.network import SPIKES, STEPS
from biomamba.plasticity import network
from biomamba.plasticity.images import Images
from biomamba.testing import check_task


@pytest.fixture
def task() -> Rows:
    """Return images of 4 x 4 that a row does not tell."""
    torch.manual_seed(0)
    x, y = torch.rand(50, 16) + 0.01, torch.arange(50) % 10
    return Rows(Images(x, y), Images(x[:20], y[:20]))


def test_images_are_streams_of_their_rows(task: Rows) -> None:
    check_task(task)
    chunk = next(task.stream("train", batch=3, length=64, seed=0))
    assert chunk.x.shape == (3, 64, 4) and chunk.mask.sum() == 3 * 16 == chunk.reset.sum()
    whole = chunk.x.view(3, 16, 16)
    images = {tuple(image.tolist()): int(y) for image, y in zip(*task.images["train"], strict=True)}
    found = [images[tuple(image.tolist())] for image in whole.flatten(0, 1)]
    assert found == chunk.y[chunk.mask].tolist() and len({tuple(i.tolist()) for i in whole.flatten(0, 1)}) == 48
    other = next(task.stream("train", batch=3, length=64, seed=1))
    assert not torch.equal(other.x, chunk.x)


@pytest.mark.parametrize("name", list(RULES))
def test_a_frozen_block_stays_and_every_other_learns(task: Rows, name: str) -> None:
    torch.manual_seed(0)
    learner = learner_of(name, task)
    before = {key: value.clone() for key, value in learner.model.state_dict().items()}
    reports = list(biomamba.online(task.stream("train", batch=5, length=1, seed=0), learner))
    moved = {
        key.split(".")[0] for key, value in learner.model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved == ({"head"} if name == "frozen block" else {"encoder", "blocks", "norm_f", "head"})
    assert any(0 < float(report.spikes) < 1 for report in reports)


def test_operations_of_the_network_are_those_of_its_spikes(task: Rows) -> None:
    setting = {"images": "digits", "neurons": 7, "seed": 0}
    torch.manual_seed(0)
    row = measure_network(setting, *task.images.values())
    assert row["inference, multiply_accumulates"] == 0 < row["inference, accumulates"]
    sent = network.encode(task.images["train"].x, STEPS, spikes=SPIKES["digits"])
    expected = float(sent.sum()) / len(sent) * 7  # each spike of a pixel meets seven neurons
    assert row["inference, accumulates"] == pytest.approx(expected, rel=0.1)
    assert row["spikes"] > expected / 7 * 0.9
    assert row["learning, accumulates"] >= row["inference, accumulates"] and row["learning, uJ"] > row["inference, uJ"]
