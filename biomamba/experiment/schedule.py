"""The learning rate along a stream, and the optimiser's groups of parameters, each with a factor of it.

    constant       lr
    linear         lr + (lr_end - lr) p                            p: share of the steps after the warm-up
    cosine         lr_end + (lr - lr_end) (1 + cos(pi p)) / 2      Loshchilov and Hutter 2017
    inverse_sqrt   lr / sqrt(t / w)                                w: steps of the warm-up, or of one update

While the warm-up lasts the rate rises in a straight line to lr. t: time steps of each stream.
"""

import math
import re
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .config import OptimConfig

USUAL_END = 0.01  # of lr, where lr_end is not given: an online learner never stands still


def name_of(optim: OptimConfig) -> str:
    """Return the schedule; without one, the rate moves to lr_end in a straight line where that is given."""
    return optim.schedule or ("constant" if optim.lr_end is None else "linear")


def rate(optim: OptimConfig, done: int, total: int, length: int) -> float:
    """Return the learning rate of an update of `length` steps after `done` of `total` steps."""
    name = name_of(optim)
    first: float = optim.lr
    warm: int = optim.warmup
    if done + length <= warm:
        return first * (done + length) / warm
    if name == "inverse_sqrt":
        return first * math.sqrt(min(1.0, max(warm, length) / (done + length)))
    if name == "constant":
        return first
    last: float = first * USUAL_END if optim.lr_end is None else optim.lr_end
    gone, left = max(0, done - warm), total - warm
    if name == "linear":
        return first + (last - first) * gone / left
    return last + (first - last) * (1 + math.cos(math.pi * gone / left)) / 2


def set_rates(optimizer: Optimizer, value: float) -> None:
    """Set the learning rate of every group to its factor's share."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["factor"]


def ended(optim: OptimConfig, total: int, length: int) -> OptimConfig:
    """Return what an optimiser goes on with, at the rate that it had at the end of `total` steps."""
    return replace(optim, lr=rate(optim, total, total, length), lr_end=None, schedule=None, warmup=0, average=None)


def check(optim: OptimConfig, total: int) -> None:
    """Raise ValueError for a schedule that a stream of `total` steps cannot have."""
    name = name_of(optim)
    if optim.lr_end is not None and name in ("constant", "inverse_sqrt"):
        raise ValueError(f"optim.lr_end: got {optim.lr_end:g}, but schedule {name} has no end: give linear or cosine")
    if optim.warmup >= total:
        raise ValueError(f"optim.warmup: got {optim.warmup} steps, expected fewer than the {total} of a stream")


def groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Return torch's groups of the parameters that learn: by the factors of optim.groups.

    Those whose names end in a key have its factor, others 1; of several keys the longest counts. Raises ValueError for
    one that no parameter's name ends in.
    """
    found: dict[float, list[nn.Parameter]] = {}
    factors = optim.groups or {}
    names, used = {name: own for name, own in model.named_parameters() if own.requires_grad}, set[str]()
    for name, parameter in names.items():
        fitting = [key for key in factors if f".{name}".endswith(f".{key}")]
        used.update(fitting)
        found.setdefault(factors[max(fitting, key=len)] if fitting else 1.0, []).append(parameter)
    for key in factors:
        if key not in used:
            ends = dict.fromkeys(re.sub(r"^blocks\.\d+\.", "", name) for name in names)
            raise ValueError(f"optim.groups: got {key!r}, expected one of {', '.join(ends)}")
    return [{"params": own, "factor": factor, "lr": optim.lr * factor} for factor, own in found.items()]
