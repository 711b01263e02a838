"""How a projection and the taps after it push on the state: silu(conv1d(in_proj(input))), as selective blocks have it.

Shapes: b streams, t steps, d model width, c channels or states, k conv taps.
"""

import torch
from torch import Tensor, nn

from ..ops.influence import Drive


def dsilu(x: Tensor) -> Tensor:
    """Return silu'(x)."""
    s = x.sigmoid()
    return s * (1 + x * (1 - s))


def kernel(conv1d: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Return the taps (c, k) and the bias (c,) of a depthwise convolution."""
    assert conv1d.bias is not None
    return conv1d.weight.squeeze(1), conv1d.bias


def conv_sides(raw: Tensor, slope: Tensor, weight: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what silu(conv(raw)) passes on: of each tap (b, t, c, k), and to the taps and bias (b, t, c, k + 1).

    raw (b, k-1+t, c), slope (b, t, c) silu' after the convolution, weight (c, k), mask as `tap_mask` gives it.
    """
    t, k = slope.shape[1], weight.shape[1]
    taps = slope.unsqueeze(-1) * weight
    seen = raw.unsqueeze(1) if t == 1 else torch.stack([raw[:, i : i + t] for i in range(k)], dim=2)
    if mask is not None:
        taps, seen = taps * mask.unsqueeze(2), seen * mask.unsqueeze(3)
    by_slope = slope.unsqueeze(2)
    own = torch.cat([seen * by_slope, by_slope], dim=2)
    return taps, own.transpose(2, 3)  # in memory the channels lie side by side, as a trace wants them


def conv_drives(
    post: Tensor, inputs: Tensor, raw: Tensor, slope: Tensor, weight: Tensor, mask: Tensor | None
) -> tuple[Drive, Drive]:
    """Return the drives of a projection and of the taps, where silu(conv(projection)) pushes by `post`.

    post (b, t, e, n), inputs (b, k-1+t, d) of the projection, the rest as `conv_sides` takes it.
    """
    taps, own = conv_sides(raw, slope, weight, mask)
    return Drive(post, inputs.detach(), taps), Drive(post, own)
