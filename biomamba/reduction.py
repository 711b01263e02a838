"""How a task's loss reduces the losses of single steps, as torch calls it: mean, sum or batchmean.

    dL/dout_s  =  c dl_s/dout_s           l_s: the loss of a chunk that holds step s alone

Tables that learn a row at a time want each step's own dl_s/dout_s, whatever the number of steps in a chunk.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .stream import Chunk, Task

KINDS: dict[str, Callable[[Chunk], int]] = {  # 1 / c
    "mean": lambda chunk: int(chunk.mask.sum()),
    "sum": lambda chunk: 1,
    "batchmean": lambda chunk: len(chunk.mask),
}
NEAR = 1e-3  # how far a measured c may be from that of a kind


class Reduction:
    """The reduction of one task's loss: found from its gradients as soon as one kind alone fits them.

    Where none does, c is measured in each chunk.
    """

    def __init__(self, task: Task) -> None:
        """Take the task."""
        self.task, self.kinds = task, set(KINDS)

    def own(self, gradient: Tensor, out: Tensor, chunk: Chunk) -> Tensor | int:
        """Return 1 / c: what makes the gradient (b, t, d_out) of a chunk's loss to `out` that of each step's own."""
        counts = {kind: KINDS[kind](chunk) for kind in self.kinds}
        if len(set(counts.values())) == 1:
            return next(iter(counts.values()))
        measured = own_over_whole(self.task, gradient, out, chunk)
        self.kinds = {kind for kind, count in counts.items() if abs(float(measured) / count - 1) < NEAR}
        return measured if not self.kinds else counts[next(iter(self.kinds))]


def own_over_whole(task: Task, gradient: Tensor, out: Tensor, chunk: Chunk) -> Tensor:
    """Return 1 / c, by the step whose gradient is the largest."""
    t = gradient.shape[1]
    at = int((gradient.square().sum(-1) * chunk.mask).argmax())
    i, s = at // t, at % t
    alone = out[i : i + 1, s : s + 1].detach().requires_grad_()
    (own,) = torch.autograd.grad(task.loss(alone, chunk.map(lambda field: field[i : i + 1, s : s + 1])), alone)
    whole = gradient[i, s]
    return (own * own).sum() / (own * whole).sum()
