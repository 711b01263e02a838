"""Laws of the network that learns by STDP: its steps are their definition, and it learns what it did not know."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from biomamba.plasticity import images, network
from biomamba.plasticity.network import Network


def small() -> tuple[Network, Tensor]:
    """Return a network of five neurons, and spikes that make it busy (b, t, j)."""
    net = network.start(12, 5, mean=0.3)
    return Network(net.w.double(), 0.2 * torch.rand(5).double()), (torch.rand(3, 80, 12) < 0.2).double()


def test_showing_images_is_its_definition() -> None:
    net, sent = small()
    spikes = network.show(net, sent, gain=0.3, tau=50.0, inhibition=0.7)
    assert spikes.sum() > 20 and len(set(spikes.nonzero()[:, 2].tolist())) == 5
    for b in range(3):
        u = [0.0] * 5
        for t in range(80):
            u = [
                math.exp(-1 / 50) * u[i] + 0.3 * sum(float(net.w[i, j] * sent[b, t, j]) for j in range(12))
                for i in range(5)
            ]
            above = [u[i] - float(net.theta[i]) for i in range(5)]
            winner = max(range(5), key=lambda i: above[i])
            fired = above[winner] >= 1
            assert spikes[b, t].nonzero().flatten().tolist() == ([winner] if fired else [])
            if fired:
                u = [0.0 if i == winner else max(u[i] - 0.7, -0.7) for i in range(5)]


def test_learning_is_the_sum_over_spikes() -> None:
    net, sent = small()
    post = network.show(net, sent, gain=0.3)
    learned = network.learn(net, sent, post, lr=0.01, target=0.4, mean=0.3, theta_plus=0.05, tau_theta=100.0)
    w, theta = net.w.clone(), net.theta * math.exp(-3 / 100)
    for b, t, i in post.nonzero().tolist():
        for j in range(12):
            x = sum(math.exp(-(t - s) / 20) * float(sent[b, s, j]) for s in range(t + 1))
            w[i, j] += 0.01 * (1 - net.w[i, j]) * (x - 0.4)
        theta[i] += 0.05
    w = network.normalised(w.clamp(0, 1), 0.3)
    assert torch.allclose(learned.w, w, atol=1e-12) and torch.allclose(learned.theta, theta, atol=1e-12)
    assert float((learned.w - net.w).abs().max()) > 0.01
    silent = network.learn(net, sent, torch.zeros_like(post), tau_theta=1e9)
    assert torch.allclose(silent.theta, net.theta)


def test_images_come_with_the_same_rate() -> None:
    x = torch.rand(2, 40) * torch.tensor([[0.1], [1.0]])
    sent = network.encode(x, 4000, spikes=3.0)
    assert torch.allclose(sent.sum((1, 2)) / 4000, torch.tensor([3.0, 3.0]), rtol=0.05)
    with pytest.raises(ValueError, match="no brightness or below 0"):
        network.encode(torch.zeros(1, 4), 10, spikes=1.0)


def test_neurons_are_named_by_labels_and_vote() -> None:
    counts = torch.tensor([[5, 0, 1], [4, 1, 0], [0, 6, 1], [0, 0, 9]])
    assigned = network.assign(counts, torch.tensor([0, 0, 1, 1]), 2)
    assert assigned.tolist() == [0, 1, 1]
    assert network.classify(torch.tensor([[3, 2, 2], [1, 3, 0]]), assigned, 2).tolist() == [0, 1]


def test_it_learns_digits_that_random_weights_do_not_tell() -> None:
    source = torch.Generator().manual_seed(0)
    train, test = images.digits()
    few = images.Images(train.x[:300].flatten(1), train.y[:300])
    shares = []
    for epochs in (0, 4):
        net = network.start(64, 50, generator=source)
        for _ in range(epochs):
            for which in torch.randperm(300, generator=source).split(20):
                sent = network.encode(few.x[which], 60, spikes=10.0, generator=source)
                net = network.learn(net, sent, network.show(net, sent))
        counts = [
            network.show(net, network.encode(x, 60, spikes=10.0, generator=source)).sum(1)
            for x in (few.x, test.x.flatten(1))
        ]
        found = network.classify(counts[1], network.assign(counts[0], few.y, 10), 10)
        shares.append(float((found == test.y).double().mean()))
    assert shares[0] < 0.7 < 0.8 < shares[1]


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 60, "t10k": 10}
    monkeypatch.setattr(images, "FASHION_PARTS", sizes)
    for name, number in sizes.items():
        for kind, n in (("images-idx3", 784), ("labels-idx1", 1)):
            dimensions = b"\x03" + bytes(12) if n > 1 else b"\x01" + bytes(4)
            content = np.arange(n * number, dtype=np.uint8) if n == 1 else np.zeros(n * number, dtype=np.uint8)
            whole = gzip.compress(b"\0\0\x08" + dimensions + content.tobytes(), 1)
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(whole)
    train, test = images.fashion(tmp_path)
    assert train.x.shape == (60, 1, 28, 28) and test.y[:3].tolist() == [0, 1, 2]
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(7)))
    with pytest.raises(ValueError, match="expected an IDX file of 10 bytes"):
        images.fashion(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    for damaged in (b"", b"<!DOCTYPE html>", gzip.compress(bytes(18))[:15], gzip.compress(bytes(2**24))):
        labels.write_bytes(damaged)  # the last: more than it may unpack to
        with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: (not a whole .gz|[\d,]+ bytes, expected)"):
            images.fashion(tmp_path)
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        images.fashion(tmp_path / "nowhere")
