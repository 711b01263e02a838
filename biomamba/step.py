"""An optimiser's step that is taken back where it leaves a weight that is not finite.

    keep weights and the optimiser's averages  ->  optimizer.step()  ->  finite? else put back what was kept

The memory of what is kept is used again from step to step; it is as large as weights and averages together.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.optim import Optimizer


class Step:
    """The steps of any torch optimiser on some parameters."""

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        """Take the optimiser, and the parameters whose gradients its steps are given, in order."""
        self.optimizer, self.parameters = optimizer, parameters
        self._held: list[Tensor] = []  # what _kept has the room for
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> bool:
        """Take a step; say whether every weight is finite after it. Where not, all is as it was before, to the bit."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        state, groups = self.optimizer.state, self.optimizer.param_groups
        options = [copy(group) for group in groups]
        averages = {parameter: copy(own) for parameter, own in state.items()}
        held = [*self.parameters, *(v for own in averages.values() for v in own.values() if isinstance(v, Tensor))]
        if [*map(id, held)] != [*map(id, self._held)]:
            self._held, self._kept = held, [torch.empty_like(tensor) for tensor in held]
        torch._foreach_copy_(self._kept, held)
        if self._step():
            return True
        torch._foreach_copy_(held, self._kept)
        for parameter in [*state]:
            if parameter in averages:
                state[parameter] = averages[
                    parameter
                ]  # with what was kept, even where the step put others in its place
            else:
                del state[parameter]  # made by this step
        for group, before in zip(groups, options, strict=True):
            group.clear()
            group.update(before)
        return False

    def _step(self) -> bool:
        """Take the optimiser's step; say whether every weight is finite after it."""
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if "overflow" not in str(error):  # of a rate that the weights' precision does not hold
                raise
            return False
        # a sum is not finite where one number is not
        return bool(torch.isfinite(torch.cat([parameter.flatten() for parameter in self.parameters]).sum()))
