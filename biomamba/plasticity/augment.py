"""Changes of images that leave their class, drawn for each image by itself.

    shift by up to so many pixels, empty where nothing was; flip left and right; erase a rectangle (Zhong et al. 2020);
    mixup (Zhang et al. 2018): x = lam x_i + (1 - lam) x_j,  y the same of both classes,  lam ~ Beta(alpha, alpha)

Shapes: b images, c channels, h x w pixels; k classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made: pixels of the shift, whether to flip, the rectangle's longest side, mixup's alpha."""

    shift: int = 0
    flip: bool = False
    erase: int = 0
    mixup: float = 0.0

    def __call__(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return changed images (b, c, h, w) and the share of each class (b, k) in them."""
        targets = F.one_hot(y, classes).to(x.dtype)
        if self.shift:
            x = shifted(x, self.shift)
        if self.flip:
            x = torch.where((torch.rand(len(x), device=x.device) < 0.5)[:, None, None, None], x.flip(-1), x)
        if self.erase:
            x = erased(x, self.erase)
        return mixed(x, targets, self.mixup) if self.mixup else (x, targets)


def shifted(x: Tensor, most: int) -> Tensor:
    """Return images moved by up to `most` pixels either way, along both sides."""
    (b, c, h, w), device = x.shape, x.device
    by = torch.randint(0, 2 * most + 1, (2, b, 1), device=device)
    rows, columns = (torch.arange(side, device=device) + each for side, each in zip((h, w), by, strict=True))
    padded = F.pad(x, (most, most, most, most))
    image, channel = torch.arange(b, device=device)[:, None, None, None], torch.arange(c, device=device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def erased(x: Tensor, longest: int) -> Tensor:
    """Return images with a rectangle set to 0, each side of it from 0 to `longest` pixels, its centre anywhere."""
    b, _, h, w = x.shape
    gone = torch.ones(b, 1, 1, 1, dtype=torch.bool, device=x.device)
    for axis, side in ((2, h), (3, w)):
        size, centre = torch.randint(0, longest + 1, (b, 1)), torch.rand(b, 1) * side
        at = torch.arange(side) + 0.5
        inside = ((at - centre).abs() <= size / 2).to(x.device)
        gone = gone & inside.view(b, 1, *((side, 1) if axis == 2 else (1, side)))
    return x.masked_fill(gone, 0)


def mixed(x: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return each image mixed with another one of the batch, and their classes likewise."""
    lam = torch.distributions.Beta(alpha, alpha).sample((len(x),)).to(x)
    other = torch.randperm(len(x), device=x.device)
    of_images, of_classes = lam[:, None, None, None], lam[:, None]
    x = of_images * x + (1 - of_images) * x[other]
    return x, of_classes * targets + (1 - of_classes) * targets[other]
