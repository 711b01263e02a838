"""Where a network looks: Grad-CAM (Selvaraju et al. 2017), the map of an image that speaks for a class.

    alpha_k = mean over the places of dy_c / dA_k            map = max(0, sum over k of alpha_k A_k)

A are the membranes behind a block, their mean over the steps; y_c is the logit of the class. The gradient through
spikes is that of the surrogate.

Shapes: b images, c channels, h x w pixels; t steps, n places of the image, d features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .transformer import Transformer


def cam(network: Transformer, images: Tensor, classes: Tensor, *, block: int = -1) -> Tensor:
    """Return maps (b, h, w), 0 and more, of what speaks for each image (b, c, h, w) being of a class (b,).

    block: behind which block the membranes are, the last by default. The network is taken as it infers (eval), and
    left as it was. Raises ValueError where there are not as many classes as images.
    """
    if images.ndim != 4 or classes.shape != images.shape[:1]:
        raise ValueError(
            f"got images {tuple(images.shape)} and classes {tuple(classes.shape)}, expected (b, c, h, w) and (b,)"
        )
    found: list[Tensor] = []
    hook = network.blocks[block].register_forward_hook(lambda layer, given, out: found.append(out))
    training = network.training
    try:
        with torch.enable_grad():
            logits = network.eval()(images)
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), found)
    finally:
        hook.remove()
        network.train(training)
    A, by = (part.detach().unflatten(0, (network.steps, -1)).mean(0) for part in (found[0], gradient))  # (b, n, d)
    maps = (A * by.mean(1, keepdim=True)).sum(-1).clamp(min=0)
    h, w = (side >> network.halvings for side in images.shape[-2:])
    return F.interpolate(maps.view(-1, 1, h, w), images.shape[-2:], mode="bilinear")[:, 0]
