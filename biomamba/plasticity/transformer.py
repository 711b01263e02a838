"""A small spiking transformer for images: convolutions split them into tokens, blocks of attention and MLP follow.

    S = LIF(U)                                       spikes of the membranes U; all that a weight meets is 0 or 1
    U = U + W_o LIF(attend(LIF(W_q S), LIF(W_k S), LIF(W_v S)))
    U = U + W_2 LIF(W_1 LIF(U))                      each W followed by a batch norm; the residual runs over membranes

The image is shown for a few steps and the answer is read from the mean of the last spikes. Trained by backpropagation
through the steps with the surrogate derivative of `ops.spike`. Architecture: Spikformer (Zhou et al. 2023) with the
membrane residual of the spike-driven transformer (Yao et al. 2023), which S2TDPT shares.

Shapes: t steps, b images, c channels, n tokens, d features; time and images are one axis (t b) between neurons.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..ops.spike import spike
from .attention import stdp_attention

# Spikformer-4-384 for images of 32 x 32: the sizes that the published energy of S2TDPT follows from
SPIKFORMER = {"d": 384, "blocks": 4, "heads": 12, "steps": 4, "halvings": 2, "convolutions": (48, 96, 192, 384)}

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (..., n, d) to (..., n, d)


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons: u = u + (x - u) / tau at each step, spike above the threshold, reset to 0.

    They begin at rest. The reset has no gradient. That is `neurons.lif` with exp(-dt / its tau) = 1 - 1 / tau.
    """

    def __init__(self, steps: int, tau: float = 2.0, threshold: float = 0.5, steepness: float = 4.0) -> None:
        """Take the number of steps t in the leading axis, tau in steps, and the surrogate's steepness."""
        super().__init__()
        self.steps, self.tau, self.threshold, self.steepness = steps, tau, threshold, steepness

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes (t b, ...) that the input (t b, ...) drives, 0 or 1."""
        u, spikes = torch.zeros_like(x[: len(x) // self.steps]), []
        for x_t in x.chunk(self.steps):
            u = u + (x_t - u) / self.tau
            spikes.append(spike(u, self.threshold, self.steepness))
            u = u * (1 - spikes[-1].detach())
        return torch.cat(spikes)


class Norm(nn.BatchNorm1d):
    """A batch norm over the last axis: (..., d) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed features."""
        out: Tensor = super().forward(x.flatten(0, -2)).view_as(x)
        return out


def weights(d: int, d_out: int) -> nn.Sequential:
    """Return a weight matrix and the norm of what it gives: (..., d) to (..., d_out)."""
    return nn.Sequential(nn.Linear(d, d_out, bias=False), Norm(d_out))


class Block(nn.Module):
    """Attention and an MLP, each added to the membranes."""

    def __init__(self, d: int, heads: int, attention: Attention, neuron: nn.Module, inner: nn.Module) -> None:
        """Make a block of d features; `neuron` stands before weights, `inner` at q, k, v and what is attended to."""
        super().__init__()
        self.heads, self.attention, self.neuron, self.inner = heads, attention, neuron, inner
        self.q, self.k, self.v, self.out = (weights(d, d) for _ in range(4))
        self.attended = Norm(d)
        self.mlp = nn.Sequential(neuron, weights(d, 4 * d), neuron, weights(4 * d, d))

    def forward(self, U: Tensor) -> Tensor:
        """Return the membranes (t b, n, d) after the block."""
        S = self.neuron(U)
        q, k, v = (self._heads(self.inner(w(S))) for w in (self.q, self.k, self.v))
        attended = self.attention(q, k, v).transpose(1, 2).flatten(2)
        U = U + self.out(self.inner(self.attended(attended)))
        out: Tensor = U + self.mlp(U)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """Return features by head (t b, heads, n, d / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """The network, with spikes or, to lay beside it, without.

    attention: one of `attention`, functools.partial for other constants. graded: the same without spikes and time: one
    step, ReLU for the neurons, none at q, k and v. convolutions: channels of those that split the image, d at last;
    without, d / 2 and then d for each halving. halvings: so many of them, the last ones, halve the sides of the image
    before every place of it is a token. tau, steepness: those of `LIF`. `SPIKFORMER` are the published sizes.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        d: int = 64,
        blocks: int = 2,
        heads: int = 4,
        steps: int = 4,
        halvings: int = 1,
        convolutions: Sequence[int] | None = None,
        attention: Attention = stdp_attention,
        graded: bool = False,
        tau: float = 2.0,
        steepness: float = 4.0,
    ) -> None:
        """Make the network.

        Raises ValueError where d is odd or the heads do not divide it, and for convolutions that do not end in d or are
        fewer than the halvings.
        """
        super().__init__()
        if d % heads or d % 2:
            raise ValueError(f"d: got {d}, expected an even multiple of the {heads} heads")
        widths = tuple(convolutions or (d // 2, *[d] * halvings))
        if widths[-1] != d or len(widths) < halvings:
            raise ValueError(f"convolutions: got {widths}, expected {max(halvings, 1)} or more that end in d = {d}")
        self.steps, self.halvings = 1 if graded else steps, halvings
        lif = LIF(steps, tau, steepness=steepness)
        neuron, inner = (nn.ReLU(), nn.Identity()) if graded else (lif, lif)
        whole = len(widths) - halvings
        self.image, *split = (
            nn.Sequential(convolution(*pair), nn.MaxPool2d(2)) if i >= whole else convolution(*pair)
            for i, pair in enumerate(pairwise((channels, *widths)))
        )
        self.split = nn.Sequential(*(nn.Sequential(neuron, each) for each in split))
        self.position = nn.Sequential(neuron, convolution(d, d))
        self.blocks = nn.Sequential(*(Block(d, heads, attention, neuron, inner) for _ in range(blocks)))
        self.neuron, self.head = neuron, nn.Linear(d, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes) of images (b, c, h, w)."""
        U = self.split(self.image(images).repeat(self.steps, 1, 1, 1))  # the same at each step, so convolved once
        U = (U + self.position(U)).flatten(2).mT
        spikes = self.neuron(self.blocks(U)).unflatten(0, (self.steps, -1))
        logits: Tensor = self.head(spikes.mean((0, 2)))
        return logits


def convolution(c: int, c_out: int) -> nn.Sequential:
    """Return a convolution of 3 x 3 that keeps the image's size, and its norm."""
    return nn.Sequential(nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out))
