"""What an optimiser with a formula holds of its weights, and what its next step asks for: for steps that we take.

torch makes an optimiser's averages at its first step; from then on `find` finds them, wherever they were loaded from.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from .pure import MOMENTS, formulas_of, group_of, has_formula

SMALL, SAFE = 1e3, 1e15  # of rates and clip; of weights and averages: sizes from where no step goes beyond 1e38


class Moments:
    """The averages of an optimiser with a formula."""

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor], clip: float | None) -> None:
        """Take the optimiser, the parameters that learn, and the largest norm of their gradient."""
        self.optimizer, self.parameters, self.clip = optimizer, parameters, clip
        self.known = has_formula(optimizer, parameters)
        self.group_of = group_of(optimizer, parameters)
        self.rates = parameters[0].new_zeros(len(optimizer.param_groups), 2)
        self.largest = torch.finfo(self.rates.dtype).max
        self.tensors: list[Tensor] = []  # all of a parameter together
        self.counts: list[Tensor] = []  # Adam's: one tensor of the steps taken, for each parameter
        self.step: Tensor | None = None  # the first parameter's, as the optimiser holds it since then
        self.has_room = False  # weights and averages were far from the largest numbers when they were found

    @property
    def formulas(self) -> tuple[Any, ...]:
        """The formula of each of the optimiser's groups, with its options as they are now."""
        return formulas_of(self.optimizer)

    def find(self) -> bool:
        """Find the averages; say whether they are there."""
        group, state = self.optimizer.param_groups[0], self.optimizer.state
        names = MOMENTS[type(self.optimizer)] if group.get("momentum", True) else ()
        own = state[self.parameters[0]] if names else {}
        if any(own.get(name) is None for name in names):
            return False
        if names and (not self.tensors or own[names[0]] is not self.tensors[0] or own.get("step") is not self.step):
            # the first time, after a loading, or where others have made the counts views of theirs
            self.tensors = [state[parameter][name] for parameter in self.parameters for name in names]
            self.has_room = (
                largest([*self.parameters, *self.tensors]) < SAFE and self.parameters[0].dtype != torch.float16
            )
            if "step" in own:  # becomes a view of one tensor, which one addition moves
                self.counts = [torch.stack([state[parameter]["step"] for parameter in self.parameters])]
                for i, parameter in enumerate(self.parameters):
                    state[parameter]["step"] = self.counts[0][i]
            self.step = own.get("step")
        return True

    @property
    def bounded(self) -> bool:
        """Whether no step by these options can leave a weight that is not finite.

        A gradient is at most clip. Adam makes of those seen a step of at most lr / sqrt((1 - b2) (1 - b1^2 / b2)), by
        Cauchy and Schwarz, SGD one of lr clip / (1 - momentum). What weights and averages held before is below SAFE.
        """
        return all(map(self._is_bounded, self.optimizer.param_groups))

    def _is_bounded(self, group: dict[str, Any]) -> bool:
        """Say whether that holds of a group."""
        clip, decay = self.clip, group["weight_decay"]
        if not self.has_room or clip is None or not all(0 <= rate <= SMALL for rate in (clip, group["lr"], decay)):
            return False
        if type(self.optimizer) is SGD:
            return bool(group["momentum"] <= 0.999 and group["lr"] * decay <= 1)
        first, second = group["betas"]
        return bool(first <= 0.999 and first**2 < 0.999 * second and second <= 1 - 1e-8 and group["eps"] >= 1e-12)

    def paced(self) -> Tensor:
        """Return what changes from step to step, two numbers a group (r, 2).

        They are the learning rate, for Adam over one correction, and 1 over the other's root.
        """
        step = self.optimizer.state[self.parameters[0]]["step"].item() + 1 if self.counts else 0
        written = self.rates.numpy() if self.rates.device.type == "cpu" else self.rates  # the same memory
        for number, group in enumerate(self.optimizer.param_groups):
            written[number, 0], written[number, 1] = self._pace(group, step)
        return self.rates

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, which finds the averages of its own optimiser."""
        return self.__dict__ | {"tensors": [], "counts": [], "step": None, "has_room": False}

    def paced_ahead(self, steps: int) -> Tensor:
        """Return the same of the next steps of Adam (steps, r, 2), as long as nobody changes the rates."""
        first, groups = self.optimizer.state[self.parameters[0]]["step"].item() + 1, self.optimizer.param_groups
        each = [[self._pace(group, first + i) for group in groups] for i in range(steps)]
        return torch.tensor(each, dtype=torch.float64).to(self.rates)

    def _pace(self, group: dict[str, Any], step: float) -> tuple[float, float]:
        """Return the two numbers of a group; without Adam, step 0, the second is 1."""
        rate, root = group["lr"], 1.0
        if step:
            first, second = group["betas"]
            rate, root = rate / (1 - first**step), (1 - second**step) ** -0.5
        return rate if rate <= self.largest else math.inf, root  # what this precision does not hold


def largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest size of any number in the tensors; nan where one is."""
    return float(torch.stack([tensor.detach().abs().max() for tensor in tensors]).max())
