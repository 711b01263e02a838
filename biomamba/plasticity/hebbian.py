"""Hebbian rules on rates: what fires together wires together, and what keeps it from growing without end.

    w_ij  <-  w_ij + lr < y_i (x_j - ...) >                                  x_j presynaptic, y_i postsynaptic activity

Each rule takes both activities (y = x @ w.T for a linear neuron) and returns new weights; < > is the mean over the
samples given, all of which meet the same weights. Nothing carries an autograd graph. Activities, weights and lr have
no unit; taus count calls.

Shapes: w (i, j); x (..., j) and y (..., i), any leading axes of samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor


@torch.no_grad()
def hebb(w: Tensor, x: Tensor, y: Tensor, *, lr: float = 0.01) -> Tensor:
    """Return w + lr <y x> (Hebb 1949). Unstable: where y = w x, the weights grow without end."""
    return w + lr * _mean_product(y, x)


class Means(NamedTuple):
    """Running means of pre x (j,) and post y (i,) activity."""

    x: Tensor
    y: Tensor


@torch.no_grad()
def covariance(
    w: Tensor, means: Means, x: Tensor, y: Tensor, *, lr: float = 0.01, tau: float = 100.0
) -> tuple[Tensor, Means]:
    """Return w + lr <(y - y_mean) (x - x_mean)> and the means, each moved by 1 / tau of the way (Sejnowski 1977).

    The means are read before this call's samples are taken in.
    """
    w = w + lr * _mean_product(y - means.y, x - means.x)
    return w, Means(*(mean + (_mean(now) - mean) / tau for mean, now in zip(means, (x, y), strict=True)))


@torch.no_grad()
def oja(w: Tensor, x: Tensor, y: Tensor, *, lr: float = 0.01) -> Tensor:
    """Return w + lr <y (x - y w)> (Oja 1982): each row of w goes to the first principal component, of length 1.

    For y = w x and x of mean 0. Needs lr well below 1 / <|x|^2>.
    """
    return w + lr * (_mean_product(y, x) - _mean(y.square()).unsqueeze(-1) * w)


@torch.no_grad()
def sanger(w: Tensor, x: Tensor, y: Tensor, *, lr: float = 0.01) -> Tensor:
    """Return w + lr <y x - lower(y y) w> (Sanger 1989): row k of w goes to the principal component k.

    lower: the triangle with its diagonal, so that a row learns what the rows above it leave. For y = w x and x of
    mean 0; the first row is Oja's. Needs lr well below 1 / <|x|^2>.
    """
    return w + lr * (_mean_product(y, x) - _mean_product(y, y).tril() @ w)


@torch.no_grad()
def bcm(
    w: Tensor, theta: Tensor, x: Tensor, y: Tensor, *, lr: float = 0.01, tau: float = 10.0
) -> tuple[Tensor, Tensor]:
    """Return w + lr <y (y - theta) x> and the threshold theta (i,), moved by 1 / tau of the way to <y^2>.

    Bienenstock, Cooper and Munro (1982), with the sliding threshold of Intrator and Cooper (1992): of K orthogonal
    patterns, equally often, a neuron ends at y = K for one and 0 for the others. theta is read before it slides, and
    has to slide faster than the weights move: lr tau |x|^2 well below 1.
    """
    w = w + lr * _mean_product(y * (y - theta), x)
    return w, theta + (_mean(y.square()) - theta) / tau


def _mean_product(y: Tensor, x: Tensor) -> Tensor:
    """Return <y x> (i, j)."""
    y, x = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
    return y.T @ x / len(x)


def _mean(values: Tensor) -> Tensor:
    """Return the mean (n,) of values (..., n) over the samples."""
    return values.reshape(-1, values.shape[-1]).mean(0)
