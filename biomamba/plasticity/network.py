"""A network that learns classes of images by STDP, after Diehl and Cook (2015); labels name its neurons afterwards.

    u decays over tau; u_i += gain w_i . spikes                    a spike where u_i >= 1 + theta_i
    dw_ij = lr (1 - w_ij) post_i (x_j - target)                    x: the trace of pre spikes
    theta_i += theta_plus post_i, and decays over tau_theta

A spike puts its neuron to 0 and every other neuron lower by `inhibition`, no lower than -inhibition; where several
reach their threshold in a step, the one farthest above it spikes. Thresholds adapt, so that every neuron finds images
of its own; after each change the weights of a neuron have the mean `mean` again.

Other than in the paper: weights and thresholds are held while a batch of images is shown, and the changes of the batch
are added up; all images come with the same total rate, where the paper shows faint ones again; what the inhibitory
neurons do is done at once, without simulating them.

Shapes: b images, t steps, j pixels, i neurons. Potentials in units of the threshold at rest, times in ms.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .associative import traced
from .neurons import decay


class Network(NamedTuple):
    """Weights w (i, j) from 0 to 1 and adaptive thresholds theta (i,) above the threshold at rest."""

    w: Tensor
    theta: Tensor


def start(inputs: int, neurons: int, *, mean: float = 0.1, generator: torch.Generator | None = None) -> Network:
    """Return random weights of that mean, and thresholds that have not adapted."""
    return Network(normalised(torch.rand(neurons, inputs, generator=generator), mean), torch.zeros(neurons))


def normalised(w: Tensor, mean: float) -> Tensor:
    """Return weights w (i, j) scaled so that those of each neuron have this mean, at most 1 each."""
    return (w * (mean / w.mean(1, keepdim=True))).clamp(max=1)


def encode(images: Tensor, steps: int, *, spikes: float, generator: torch.Generator | None = None) -> Tensor:
    """Return Poisson spikes (b, t, j) of images (b, j) of 0 and more: `spikes` a step from a whole image on average.

    Raises ValueError for an image that is 0 everywhere or below 0 somewhere.
    """
    if bool((images < 0).any()) or not bool((images.sum(1) > 0).all()):
        raise ValueError("images: got one of no brightness or below 0, expected pixels of 0 and more, some above")
    probability = (spikes * images / images.sum(1, keepdim=True)).clamp(max=1)
    random = torch.rand(len(images), steps, images.shape[1], generator=generator, device=images.device)
    return (random < probability.unsqueeze(1)).to(images.dtype)


@torch.no_grad()
def show(
    network: Network, sent: Tensor, *, gain: float = 0.1, tau: float = 100.0, inhibition: float = 3.0, dt: float = 1.0
) -> Tensor:
    """Return the spikes (b, t, i) of neurons at rest to pre spikes (b, t, j)."""
    current, fading = gain * (sent @ network.w.T), decay(tau, dt)
    u, neuron, spikes = torch.zeros_like(current[:, 0]), torch.arange(len(network.w), device=sent.device), []
    for arriving in current.unbind(1):
        u = fading * u + arriving
        above, winner = (u - network.theta).max(1, keepdim=True)
        fired = above >= 1
        spike = (neuron == winner) & fired
        u = torch.where(fired, (u - inhibition).clamp(min=-inhibition), u).masked_fill(spike, 0)
        spikes.append(spike)
    return torch.stack(spikes, 1)


@torch.no_grad()
def learn(
    network: Network,
    sent: Tensor,
    post: Tensor,
    *,
    lr: float = 0.003,
    target: float = 0.4,
    mean: float = 0.1,
    theta_plus: float = 0.05,
    tau_x: float = 20.0,
    tau_theta: float = 1e4,
    dt: float = 1.0,
) -> Network:
    """Return the network after it was shown pre spikes (b, t, j) and spiked post (b, t, i); tau_theta in images."""
    spikes = post.to(sent.dtype).flatten(0, 1)
    met, count = spikes.T @ traced(sent, tau=tau_x, dt=dt).flatten(0, 1), spikes.sum(0)
    w = network.w + lr * (1 - network.w) * (met - target * count.unsqueeze(1))
    theta = math.exp(-len(sent) / tau_theta) * network.theta + theta_plus * count
    return Network(normalised(w.clamp(0, 1), mean), theta)


@torch.no_grad()
def assign(counts: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the class (i,) to whose images (b,) each neuron spikes most, from its spike counts (b, i)."""
    one = torch.nn.functional.one_hot(labels, classes).to(torch.float64)
    return ((one / one.sum(0).clamp(min=1)).T @ counts.to(torch.float64)).argmax(0)


@torch.no_grad()
def classify(counts: Tensor, assigned: Tensor, classes: int) -> Tensor:
    """Return the class (b,) whose neurons spike most on average, from spike counts (b, i) and their classes (i,)."""
    one = torch.nn.functional.one_hot(assigned, classes).to(torch.float64)
    return (counts.to(torch.float64) @ (one / one.sum(0).clamp(min=1))).argmax(1)
