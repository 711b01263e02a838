"""Laws of STDP attention and its network: scores are their definition, weights meet spikes alone, files are checked."""

import io
import itertools
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.attention import learn
from bench.spikformer import LESS, PUBLISHED, counted, rate
from biomamba.analysis.operations import Counter
from biomamba.plasticity import attention, images, neurons
from biomamba.plasticity.attention import dot_product_attention, first_spike_time, softmax_attention, stdp_attention
from biomamba.plasticity.augment import Augmentation
from biomamba.plasticity.images import PART, PIXELS, Images, cifar, digits
from biomamba.plasticity.transformer import LIF, Transformer

ATTENTIONS = [stdp_attention, dot_product_attention, softmax_attention]


@pytest.fixture
def spikes() -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v of 2 x 3 heads, 7 tokens, 5 features, a silent and a full token among them."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = ((torch.rand(2, 3, 7, 5, generator=generator) < 0.5).double() for _ in range(3))
    q[..., 0, :], k[..., 1, :], q[..., 2, :] = 0, 0, 1
    return q, k, v


def slow(q: Tensor, k: Tensor, v: Tensor, A: float, tau: float, T_max: float, offset: float) -> Tensor:
    """Return the attention of one head (n, d), spike by spike."""
    (n, d), out = q.shape, torch.zeros_like(v)
    for i, j in itertools.product(range(n), range(n)):
        t_q = T_max * (1 - sum(1 for spike in q[i] if spike) / d)
        t_k = T_max * (1 - sum(1 for spike in k[j] if spike) / d)
        size = A * math.exp(-abs(t_q - t_k) / tau)
        out[i] += (offset + (size if round(t_q - t_k, 9) < 0 else -size)) * v[j]
    return out


@pytest.mark.parametrize("constants", [(0.9, 0.5, 1.0, 0.9), (0.3, 2.0, 4.0, 0.0)], ids=["as published", "others"])
def test_stdp_attention_is_its_definition(spikes: tuple[Tensor, ...], constants: tuple[float, ...]) -> None:
    names = dict(zip(("A", "tau", "T_max", "offset"), constants, strict=True))
    q, k, v = spikes
    found = stdp_attention(q, k, v, **names)
    for at in itertools.product(range(2), range(3)):
        torch.testing.assert_close(found[at], slow(q[at], k[at], v[at], *constants), rtol=0, atol=1e-12)
    assert not torch.allclose(found, stdp_attention(k, q, v, **names))  # who is first matters


@pytest.mark.parametrize(
    "query, key, expected",
    [
        (0.25, 0.75, 0.9 + 0.9 * math.exp(-1)),  # the query half a trial before the key
        (0.75, 0.25, 0.9 - 0.9 * math.exp(-1)),
        (0.5, 0.5, 0.0),  # together: the offset is cancelled
        (0.0, 1.0, 0.9 + 0.9 * math.exp(-2)),  # every feature spikes, none does
    ],
)
def test_a_single_pair_scores_by_who_fires_first(query: float, key: float, expected: float) -> None:
    score = attention.stdp_scores(torch.tensor([query]).double(), torch.tensor([key]).double())
    assert score.item() == pytest.approx(expected, abs=1e-12)


def test_only_the_number_of_spikes_counts_not_which_features(spikes: tuple[Tensor, ...]) -> None:
    q, k, v = spikes
    other = q[..., torch.tensor([3, 0, 4, 1, 2])]
    assert torch.equal(first_spike_time(q), first_spike_time(other)) and not torch.equal(q, other)
    torch.testing.assert_close(stdp_attention(other, k, v), stdp_attention(q, k, v), rtol=0, atol=1e-12)
    assert not torch.allclose(dot_product_attention(other, k, v), dot_product_attention(q, k, v))


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_tokens_have_no_order(attend: Any, spikes: tuple[Tensor, ...]) -> None:
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    again = attend(*(part[..., order, :] for part in spikes))
    torch.testing.assert_close(again, attend(*spikes)[..., order, :], rtol=0, atol=1e-12)


def test_softmax_attention_is_torchs(spikes: tuple[Tensor, ...]) -> None:
    expected = nn.functional.scaled_dot_product_attention(*spikes)
    torch.testing.assert_close(softmax_attention(*spikes), expected, rtol=0, atol=1e-12)


def test_scores_carry_the_gradient_of_the_spike_times() -> None:
    times = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))  # no two alike
    assert torch.autograd.gradcheck(attention.stdp_scores, [t.clone().requires_grad_() for t in times])
    tie = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    attention.stdp_scores(tie, torch.full((1,), 0.5, dtype=torch.float64)).sum().backward()
    assert tie.grad is not None and tie.grad.item() == 0


def test_lif_is_the_neuron_of_neurons() -> None:
    """Step by step, with exp(-dt / tau) = 1 - 1 / tau; a reset and a silence are among what is seen."""
    steps, x = 20, torch.rand(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer, u, seen = LIF(steps, tau=3.0, threshold=0.6), torch.zeros(8, dtype=torch.float64), []
    for x_t in x:
        fired, u = neurons.lif(u, x_t, tau=-1 / math.log(1 - 1 / 3.0), threshold=0.6, dt=1.0)
        seen.append(fired)
    expected = torch.stack(seen).double()
    assert torch.equal(layer(x), expected) and 0 < expected.mean() < 0.5
    assert not torch.equal(LIF(steps, tau=2.0, threshold=0.6)(x), expected)


def test_lif_has_the_surrogate_gradient_through_time() -> None:
    x = torch.tensor([[0.4], [0.4]], dtype=torch.float64, requires_grad=True)
    layer = LIF(2, tau=2.0, threshold=0.5, steepness=4.0)
    layer(x)[1].backward()  # u_2 = 0.3 without a spike before; d u_2 / d x_1 = 1 / 4
    psi = 1 / (4.0 * 0.2 + 1) ** 2
    torch.testing.assert_close(x.grad, psi * torch.tensor([[0.25], [0.5]], dtype=torch.float64))


def watched(network: Transformer, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return every layer with weights, and what it was given."""
    seen: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: seen.append((layer, given[0])))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_weights_meet_spikes_alone() -> None:
    """But for the first, which sees the image, and the head, which sees mean spikes."""
    torch.manual_seed(0)
    x = torch.rand(3, 3, 16, 16)
    for graded in (False, True):
        network = Transformer(3, 5, d=16, blocks=2, heads=2, steps=3, halvings=2, graded=graded)
        binary = [bool(((given == 0) | (given == 1)).all()) for _, given in watched(network, x)]
        assert len(binary) == 1 + 2 + 1 + 2 * 6 + 1 and not binary[0] and not binary[-1]
        assert all(binary[1:-1]) is not graded


def test_operations_of_the_network_are_those_of_its_spikes() -> None:
    torch.manual_seed(0)
    network, x = settled(Transformer(1, 10, d=16, heads=2)), torch.rand(2, 1, 8, 8)
    expected = 0.0
    for layer, given in watched(network, x)[1:-1]:
        w = layer.weight
        if isinstance(layer, nn.Conv2d):
            padded = nn.functional.unfold(given, 3, padding=1)  # every tap that a spike meets
            expected += float(padded.sum()) * w.shape[0]
        else:
            expected += float(given.sum()) * w.shape[0]
    values = [16 * float(spikes.sum()) for spikes in values_of(network, x)]  # each spike of v is added for 16 queries
    with Counter() as counter, torch.no_grad():
        network(x)
    assert expected > 0 and min(values) > 0
    assert counter.total.accumulates == expected + sum(values)
    assert counter.total.multiply_accumulates == 2 * (64 * 9 * 8 + 16 * 10)  # the image, and the head


def settled(network: Transformer) -> Transformer:
    """Return the network with norms that know what to expect, so that its neurons speak."""
    with torch.no_grad():
        for _ in range(30):
            network(torch.rand(16, 1, 8, 8))
    return network.eval()


def values_of(network: Transformer, x: Tensor) -> list[Tensor]:
    """Return v of every block."""
    found: list[Tensor] = []

    def watch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append(v)
        return stdp_attention(q, k, v)

    for block in network.blocks:
        block.attention = watch  # type: ignore[union-attr,assignment]
    with torch.no_grad():
        network(x)
    return found


@pytest.mark.parametrize("attend", ATTENTIONS)
@pytest.mark.parametrize("graded", [False, True])
def test_every_parameter_learns(attend: Any, graded: bool) -> None:
    torch.manual_seed(0)
    network = Transformer(1, 10, d=32, heads=2, attention=attend, graded=graded)
    network(torch.rand(8, 1, 8, 8))[:, 0].square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def trained(train: Images, epochs: int) -> Transformer:
    """Return a small network after some epochs."""
    torch.manual_seed(0)
    network = Transformer(1, 10, d=32, blocks=1, heads=2)
    learn(network, train, epochs, Augmentation(), compiled=False)
    return network.eval()


def test_training_moves_every_parameter_and_gives_kernels_back_as_they_were_shaped() -> None:
    torch.manual_seed(0)
    before = Transformer(1, 10, d=32, blocks=1, heads=2).state_dict()
    after = trained(Images(torch.rand(128, 1, 8, 8), torch.arange(128) % 10), 1).state_dict()
    assert {name: p.shape for name, p in before.items()} == {name: p.shape for name, p in after.items()}
    assert [name for name, p in after.items() if torch.equal(p, before[name])] == []


@pytest.mark.slow
def test_digits_are_learned_and_noise_is_not() -> None:
    """Four epochs already tell digits apart; with the labels in another order nothing is there to learn."""
    train, test = digits()
    assert (len(train.y), len(test.y), tuple(test.x.shape[1:])) == (1437, 360, (1, 8, 8))
    assert test.y.bincount().min() >= 34 and float(train.x.min()) >= 0 and float(train.x.max()) <= 1
    shuffled = train._replace(y=train.y[torch.randperm(len(train.y), generator=torch.Generator().manual_seed(0))])
    right, control = (float((trained(t, 4)(test.x).argmax(1) == test.y).float().mean()) for t in (train, shuffled))
    assert right > 0.85 and control < 0.25


def test_the_published_sizes_give_the_published_energy() -> None:
    """Counted, and by hand: convolutions 48-96-192-384 and one of position, four blocks, 64 tokens of 384."""
    found = counted(10)
    places = [32 * 32, 32 * 32, 32 * 32, 16 * 16, 8 * 8]
    weights = [9 * a * b for a, b in itertools.pairwise((3, 48, 96, 192, 384, 384))]
    blocks, head = 4 * 12 * 384**2, 384 * 10
    assert found["weights"] == sum(w * n for w, n in zip(weights, places, strict=True)) + 64 * blocks + head
    assert found["all"] == found["weights"] + 4 * 2 * 64**2 * 384
    assert found["first"] == weights[0] * places[0]
    norms = 2 * (48 + 96 + 192 + 384 + 384) + 4 * 2 * (5 * 384 + 1536 + 384)  # ours: one more a block
    assert found["parameters"] == sum(weights) + blocks + head + 10 + norms
    biases = 4 * (5 * 384 + 1536)  # theirs, before norms, which take them away
    assert round((found["parameters"] - 4 * 2 * 384 + biases) / 1e6, 2) == 9.32
    without = PUBLISHED / (1 - LESS)
    assert 4.6e-12 * found["weights"] < without < 4.6e-12 * found["all"]
    needed = rate(found["weights"], found["first"])
    assert needed == pytest.approx(0.146, abs=5e-4)
    again = 4.6e-12 * found["first"] + needed * 4 * 0.9e-12 * (found["weights"] - found["first"])
    assert again == pytest.approx(PUBLISHED)
    assert counted(100)["parameters"] > found["parameters"]


def test_the_first_convolutions_are_those_of_d_and_the_halvings() -> None:
    torch.manual_seed(0)
    plain = Transformer(1, 10, d=32, heads=2, halvings=2)
    torch.manual_seed(0)
    given = Transformer(1, 10, d=32, heads=2, halvings=2, convolutions=(16, 32, 32))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(plain(x), given(x))
    with torch.no_grad():
        tokens = Transformer(1, 10, d=32, heads=2, halvings=2, convolutions=(8, 32)).split(torch.rand(4, 8, 4, 4))
    assert tokens.shape == (4, 32, 2, 2)


def test_errors_of_the_network_say_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"convolutions: got \(8, 16\), expected 1 or more that end in d = 64"):
        Transformer(1, 10, convolutions=(8, 16))
    with pytest.raises(ValueError, match="expected 3 or more"):
        Transformer(1, 10, halvings=3, convolutions=(32, 64))
    with pytest.raises(ValueError, match="even multiple of the 3 heads"):
        Transformer(1, 10, d=64, heads=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many images an official file has here: 3, so that tests write kilobytes."""
    monkeypatch.setattr(images, "PART", 3)
    return 3


def official(folder: Path, classes: int, part: int) -> dict[str, np.ndarray]:
    """Write random files as the official ones are laid out; return their records."""
    train, test, labels = images.FILES[classes]
    rng, written = np.random.default_rng(0), {}
    inner = folder / f"cifar-{classes}-batches-bin"
    inner.mkdir(parents=True)
    for name in (*train, test):
        records = rng.integers(0, 256, (part * (5 if name == "train.bin" else 1), labels + PIXELS), dtype=np.uint8)
        records[:, :labels] = rng.integers(0, classes, (len(records), labels))
        (inner / name).write_bytes(records.tobytes())
        written[name] = records
    return written


def packed(folder: Path, archive: Path) -> Path:
    """Pack a folder as the official archives are."""
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, arcname=".")
    return archive


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_cifar_is_read_as_it_was_written(classes: int, form: str, tmp_path: Path, small: int) -> None:
    written = official(tmp_path / "c", classes, small)
    path = packed(tmp_path / "c", tmp_path / "c.tar.gz") if form == "archive" else tmp_path / "c"
    (train, test), labels = cifar(classes, path), images.FILES[classes][2]
    expected = np.concatenate([written[name] for name in images.FILES[classes][0]])
    assert train.x.shape == (5 * small, 3, 32, 32) and test.x.shape == (small, 3, 32, 32)
    np.testing.assert_array_equal(train.y, expected[:, labels - 1])
    np.testing.assert_array_equal((train.x * 255).round().flatten(1), expected[:, labels:])


def test_official_files_are_of_the_official_size() -> None:
    assert 5 * PART == 50_000 and PART * (1 + PIXELS) == 30_730_000


def test_wrong_files_are_named(tmp_path: Path, small: int) -> None:
    official(tmp_path / "c", 10, small)
    whole = packed(tmp_path / "c", tmp_path / "c.tar.gz")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut.tar.gz: not a whole .tar.gz"):
        cifar(10, cut)
    with pytest.raises(ValueError, match=r"c.tar.gz: train.bin: missing"):
        cifar(100, whole)
    file = next((tmp_path / "c").rglob("data_batch_3.bin"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: 9,218 bytes, expected 9,219"):
        cifar(10, tmp_path / "c")
    file.write_bytes(bytes([10]) + bytes(3 * (1 + PIXELS) - 1))
    with pytest.raises(ValueError, match="class 10, expected below 10"):
        cifar(10, tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary.tar.gz"):
        cifar(10, tmp_path / "none")
    with pytest.raises(ValueError, match="expected 10 or 100"):
        cifar(11)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "batches.meta").write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match="pickles"):
        cifar(10, tmp_path)


def test_cifar_of_a_folder_for_datasets(tmp_path: Path) -> None:
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = {split: rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}
    for split, of in pixels.items():
        buffers = [io.BytesIO() for _ in of]
        for picture, buffer in zip(of, buffers, strict=True):
            image.fromarray(picture).save(buffer, "PNG")
        columns = {"img": [{"bytes": b.getvalue(), "path": None} for b in buffers], "label": [3, 1, 4, 1]}
        features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{split}.parquet")
    train, test = cifar(10, tmp_path)
    assert train.y.tolist() == test.y.tolist() == [3, 1, 4, 1]
    np.testing.assert_array_equal((test.x * 255).round().permute(0, 2, 3, 1), pixels["test"])
    with pytest.raises(ValueError, match=r"'label'.*expected train and test with the columns img and fine_label"):
        cifar(100, tmp_path)
