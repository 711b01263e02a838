"""A projection that learns by a low-rank addition alone: y = (W + B A) x, W and A held.

LoRA-FA (Zhang et al. 2023), LoRA (Hu et al. 2022) with A as drawn. B then sees A x, r numbers in place of the j of x,
and so does its trace: e n r numbers in place of e n j. Shapes: r rank, j inputs.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Block


class LowRank(nn.Linear):
    """A linear layer whose weight W and A (r, j) stay; B (outputs, r), zero at first, learns."""

    def __init__(self, of: nn.Linear, rank: int) -> None:
        """Take a layer's weight and bias, and draw A: the inputs' projections are as large as they are."""
        super().__init__(of.in_features, of.out_features, bias=False, device="meta")
        self.weight, self.bias = of.weight, of.bias
        self.weight.requires_grad_(False)
        like = of.weight.detach()
        self.A = nn.Parameter(torch.randn_like(like[:1].expand(rank, -1)) / of.in_features**0.5, requires_grad=False)
        self.B = nn.Parameter(like.new_zeros(of.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own word
        """Return (W + B A) x."""
        return F.linear(input, self.weight, self.bias) + F.linear(F.linear(input, self.A), self.B)


def adapt(block: Block, rank: int) -> None:
    """Have a block's in_proj and out_proj learn by a low-rank addition alone.

    Raises ValueError for a block of another kind than the library's.
    """
    if not block.adaptable:
        raise ValueError(f"lora: got {rank} for the block {type(block).__name__}, expected one that is adaptable")
    for name in ("in_proj", "out_proj"):
        setattr(block, name, LowRank(cast(nn.Linear, getattr(block, name)), rank))
    block.fan_in = {name: rank if name.startswith("in_proj.") else own for name, own in block.fan_in.items()}


def learned(linear: nn.Linear) -> Tensor:
    """Return the rows that learn: the weight, or B."""
    return linear.B if isinstance(linear, LowRank) else linear.weight


def seen(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """Return what those rows are multiplied by: the inputs, or A times them."""
    return F.linear(inputs, linear.A) if isinstance(linear, LowRank) else inputs
