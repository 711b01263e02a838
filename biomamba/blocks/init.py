"""Initial weights that several blocks share."""

import math

import torch
from torch import Tensor


def dt_bias_init(size: int, dt_min: float, dt_max: float, floor: float = 1e-4) -> Tensor:
    """Return biases whose softplus is log-uniform in [dt_min, dt_max] (the official initialisation)."""
    dt = torch.exp(torch.rand(size) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
