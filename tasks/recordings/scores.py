"""One decision a label: the class with the largest sum of log p over its steps, said at its last one.

Shapes: b rows, t steps, k classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from biomamba.metrics import Confusion
from biomamba.stream import Chunk


class Decisions(Confusion):
    """Which class was said of which label; a label none of whose steps could be scored is none."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Start with nothing counted."""
        super().__init__(classes, self._decide)
        self.held = torch.zeros(0, len(classes) + 1, dtype=torch.float64)  # by row: sums of log p, and how many

    def _decide(self, out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return the classes said (m,) and the true ones (m,) of the labels that end in a chunk."""
        logs = out.detach().cpu().double().log_softmax(-1)
        mask, y, unit = chunk.mask.cpu(), chunk.y.cpu(), chunk.info["unit"].cpu()
        if not len(self.held):
            self.held = torch.zeros(len(logs), logs.shape[-1] + 1, dtype=torch.float64)
        said, true = list[int](), list[int]()
        if not mask.shape[1]:
            return torch.zeros(2, 0, dtype=torch.int64).unbind()  # type: ignore[return-value]
        sums = (torch.cat([logs, torch.ones_like(logs[..., :1])], -1) * mask[..., None]).cumsum(1)
        taken = torch.zeros_like(self.held)
        for step, row in unit.T.nonzero().tolist():
            own = self.held[row] + sums[row, step] - taken[row]
            if own[-1] > 0:
                said.append(int(own[:-1].argmax()))
                true.append(int(y[row, step]))
            self.held[row], taken[row] = 0.0, sums[row, step]
        self.held = self.held + sums[:, -1] - taken
        return torch.tensor(said, dtype=torch.int64), torch.tensor(true, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the sums on their way."""
        return super().state_dict() | {"held": self.held.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state)
        self.held = torch.tensor(state["held"], dtype=torch.float64).view(-1, len(self.classes) + 1)


class LastLabel:
    """The class of the label before on the same row; at first the one given."""

    def __init__(self, first: int, classes: int) -> None:
        """Start with a class."""
        self.first, self.classes, self.known = first, classes, list[int]()

    def predict(self, chunk: Chunk) -> Tensor:
        """Return predictions (b, t, k), with next to no confidence, so that their loss is that of a guess."""
        self.known = self.known or [self.first] * len(chunk.y)
        said = torch.empty_like(chunk.y)
        for row, ends in enumerate(chunk.info["unit"]):
            before = 0
            for end in ends.nonzero()[:, 0].tolist():
                said[row, before : end + 1] = self.known[row]
                self.known[row], before = int(chunk.y[row, end]), end + 1
            said[row, before:] = self.known[row]
        return unsure(said, self.classes)


def unsure(said: Tensor, classes: int) -> Tensor:
    """Return predictions (b, t, k) for classes (b, t), with next to no confidence."""
    return torch.eye(classes)[said] * 1e-4
