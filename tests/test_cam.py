"""Laws of Grad-CAM and of augmentation: maps lie where the class comes from, and each image is changed by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attention import blanked
from biomamba.plasticity.augment import Augmentation, erased, mixed, shifted
from biomamba.plasticity.cam import cam
from biomamba.plasticity.images import Images
from biomamba.plasticity.transformer import Transformer


def settled(**options: Any) -> Transformer:
    """Return a network in float64 whose norms know what to expect."""
    torch.manual_seed(0)
    network = Transformer(2, 3, d=16, heads=2, blocks=2, **options).double()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(16, 2, 8, 8, dtype=torch.float64))
    return network.eval()


def looking(graded: bool) -> Transformer:
    """Return a network whose logit of class c is the mean of channel c of the image, for c = 0 and 1."""
    network = Transformer(2, 3, d=16, heads=2, halvings=0, convolutions=(16,), graded=graded).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.zero_()
        network.head.bias.zero_()
        network.image[0].weight[0, 0, 1, 1] = network.image[0].weight[1, 1, 1, 1] = 1.0  # type: ignore[index,union-attr]
        network.head.weight[0, 0] = network.head.weight[1, 1] = 1.0
    return network


@pytest.mark.parametrize("graded", [False, True])
def test_a_map_is_where_the_class_comes_from(graded: bool) -> None:
    network, images = looking(graded), torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    images[:, 0, :2, :3], images[:, 1, 4:, 2:] = 0.9, 0.7
    own = cam(network, images, torch.tensor([0, 1]))
    for found, channel in zip(own, (0, 1), strict=True):
        assert torch.equal(found > 0, images[0, channel] > 0)
        assert found[found > 0].std() < 1e-9 < found.max()
    assert not cam(network, images, torch.tensor([2, 2])).any()  # nothing speaks for a class that nothing feeds


def test_blanking_what_a_map_names_takes_the_class_away_and_another_map_does_not() -> None:
    images = torch.zeros(8, 2, 6, 6, dtype=torch.float64)
    images[::2, 0, :2, :3], images[1::2, 1, 4:, 3:] = 0.9, 0.9
    found = blanked(looking(graded=True), Images(images, torch.arange(8) % 2), seed=0)
    assert found["another's map"] == 1.0 and found["own map"] == 0.5  # nothing left is called class 0
    maps = torch.tensor(found["cams"])
    assert torch.equal(maps > 0, images.sum(1) > 0) and float(maps.max()) == 1.0


def definition(network: Transformer, image: Tensor, wanted: int, eps: float) -> Tensor:
    """Return the map (n,) by moving every feature of the membranes behind the last block, one at a time."""
    seen: list[Tensor] = []
    network.blocks[-1].register_forward_hook(lambda layer, given, out: seen.append(out))
    network(image)
    U = seen[0].detach()

    def logit(moved: Tensor) -> Tensor:
        return network.head(network.neuron(moved).mean((0, 1)))[wanted]

    alpha = []
    for k in range(U.shape[-1]):
        by = torch.zeros_like(U)
        by[..., k] = eps
        alpha.append((logit(U + by) - logit(U - by)) / (2 * eps) / U[..., 0].numel())
    return (U.mean(0) * torch.stack(alpha)).sum(-1).clamp(min=0)


def test_a_map_is_that_of_finite_differences() -> None:
    """Without spikes, where there are differences to take; another class has another map."""
    network, image = settled(graded=True, halvings=1), torch.rand(1, 2, 8, 8, dtype=torch.float64)
    expected = definition(network, image, 1, 1e-6).view(1, 1, 4, 4).detach()
    expected = nn.functional.interpolate(expected, (8, 8), mode="bilinear")[0, 0]
    found = cam(network, image, torch.tensor([1]))[0]
    assert found.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(cam(network, image, torch.tensor([0]))[0], expected, rtol=1e-2)


def test_a_map_leaves_the_network_as_it_was_and_knows_no_other_image() -> None:
    network, images = settled(halvings=1).train(), torch.rand(3, 2, 8, 8, dtype=torch.float64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    classes = torch.tensor([0, 1, 2])
    maps = cam(network, images, classes)
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(block._forward_hooks for block in network.blocks)
    torch.testing.assert_close(cam(network, images[1:2], classes[1:2])[0], maps[1])
    assert not torch.equal(cam(network, images, classes, block=0), maps)
    with pytest.raises(ValueError, match=r"expected \(b, c, h, w\) and \(b,\)"):
        cam(network, images[0], classes[0])


def test_each_image_is_moved_by_itself() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 26).view(1, 1, 5, 5).repeat(60, 2, 1, 1)
    found = shifted(x, 1)
    offsets = {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            padded = torch.nn.functional.pad(x[0], (1, 1, 1, 1))[:, 1 + down : 6 + down, 1 + right : 6 + right]
            offsets[down, right] = int((found == padded).flatten(1).all(1).sum())
    assert sum(offsets.values()) == 60 and min(offsets.values()) > 0


def test_augmentation_changes_what_it_says() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(200, 1, 6, 6) + 0.1, torch.arange(200) % 3
    same, targets = Augmentation()(x, y, 3)
    assert torch.equal(same, x) and torch.equal(targets.argmax(1), y) and bool((targets.sum(1) == 1).all())
    flipped, _ = Augmentation(flip=True)(x, y, 3)
    turned = (flipped == x.flip(-1)).flatten(1).all(1)
    assert 70 < int(turned.sum()) < 130 and torch.equal(flipped[~turned], x[~turned])
    gone = erased(x, 3) == 0
    rows, columns = gone.any(-1).sum(-1), gone.any(-2).sum(-1)
    assert torch.equal(gone.sum((-1, -2)), rows * columns) and int(rows.max()) == 3 == int(columns.max())
    blend, shares = mixed(x, targets, 1.0)
    torch.testing.assert_close(shares.sum(1), torch.ones(200))
    assert float(shares.max(1).values.min()) < 0.7
    inside = Augmentation(mixup=1.0, shift=1, erase=2)(x, y, 3)[0]
    assert inside.shape == x.shape and not torch.equal(blend, x)
    torch.testing.assert_close(mixed(x, x[:, 0].flatten(1), 1.0)[1].view_as(x).sum(), x.sum(), rtol=0.05, atol=0)
