"""Rows of a batch over processes: each learns from its own rows, and all take the same step.

    dL/dtheta  =  sum over ranks of dL/dtheta through the rank's own rows          L: the loss of all rows

Every rank reads the whole stream and keeps its rows: what a row brings may depend on how many there are (parts of a
text, utterances dealt over rows) and on what the model said of it, and reading costs little beside learning. So each
knows all labels and resets; only model state, trace and outputs are of its own rows. An update takes two collectives:
what was said, with whether all is finite, before any trace is moved; then the gradient, before it is clipped.
Shapes: b rows of all ranks, t steps.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from .state import Tree, tree_map
from .stream import Chunk, Task


class Asked(NamedTuple):
    """What a rank would have all do between two updates."""

    stop: bool = False
    save: bool = False


class Said(NamedTuple):
    """What all ranks say of a chunk."""

    out: Tensor  # (b, t, d_out)
    spikes: Tensor  # (l,) share of spikes of each block
    finite: Tensor  # () bool: everything is, on every rank


class Ranks:
    """The processes among which the rows of a batch are spread, and this one's place among them."""

    def __init__(self) -> None:
        """Take this process's place in the default group of torch.distributed."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.asks, self.asked = Asked(), Asked()
        self.checked = False  # that the loss is a sum over rows

    @classmethod
    def join(cls, device: str) -> "Ranks | None":
        """Meet the other processes that torchrun started, by gloo on the CPU, by nccl on GPUs; None without torchrun.

        Raises ValueError for fewer GPUs than processes on this machine.
        """
        if not started():
            return None
        kind = torch.device(device).type
        if kind == "cuda":
            local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if device != "cuda" or local >= there:
                raise ValueError(f"run.device: got {device}, expected cuda and at most {there} processes a machine")
            torch.cuda.set_device(local)
        store, rank, size = _store()
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=size)
        return cls()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process of each machine go before the others, so that data are fetched once."""
        behind = int(os.environ.get("LOCAL_RANK", self.rank)) > 0
        if behind:
            _together(dist.barrier)
        yield
        if not behind:
            _together(dist.barrier)

    def rows(self, batch: int, rank: int | None = None) -> slice:
        """Return the rows of a rank (default: this one) among `batch`; ranks differ by one row at most.

        Raises ValueError for fewer rows than ranks.
        """
        if batch < self.size:
            raise ValueError(f"stream.batch: got {batch}, expected at least {self.size}, a row for each rank")
        rank = self.rank if rank is None else rank
        return slice(batch * rank // self.size, batch * (rank + 1) // self.size)

    def placed(self, own: Tensor, batch: int) -> Tensor:
        """Return the tensor's rows in their place among `batch`, zeros elsewhere."""
        at = self.rows(batch)
        before, behind = (own.new_zeros(many, *own.shape[1:]) for many in (at.start, batch - at.stop))
        return torch.cat([before, own, behind])

    def say(self, out: Tensor, spikes: Tensor, finite: Tensor, batch: int) -> Said:
        """Return what all say of a chunk; out, spikes and finite are of this rank's rows.

        What a rank asks for by `agree` goes with it.
        """
        flags = torch.stack([~finite, *finite.new_tensor(self.asks)])
        parts = [self.placed(out, batch), spikes * (len(out) / batch), flags.to(out.dtype)]
        said, shares, counts = self._sum([part.detach() for part in parts])
        none, stop, save = (counts == 0).unbind()
        self.asked = Asked(not bool(stop), not bool(save))
        return Said(said, shares, none)

    def agree(self, stop: bool, save: bool) -> Asked:
        """Return what some rank asked for before the last update, and ask for the next; all are told the same."""
        self.asks = Asked(stop, save and not self.asked.save)
        return self.asked

    def reduce(
        self, gradients: Sequence[Tensor], rows: Sequence[Tensor], batch: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients summed over ranks, and those to single rows put together (b, ...)."""
        found = self._sum([*gradients, *(self.placed(own, batch) for own in rows)])
        return found[: len(gradients)], found[len(gradients) :]

    def whole(self, own: Tensor, batch: int) -> Tensor:
        """Return the rows of all ranks (b, ...) of a tensor that holds this one's."""
        return self._sum([self.placed(own, batch)])[0]

    def mean(self, shares: Tensor, own: int, batch: int) -> Tensor:
        """Return the mean over all rows of means over `own` rows of this rank, which alone are on the graph."""
        part = shares * (own / batch)
        (whole,) = self._sum([part.detach()])
        return whole + part - part.detach()

    def gather(self, tree: Tree, batch: int) -> Tree:
        """Return a tree of all rows on the first rank, on others one of no use; all call it at the same time."""
        return tree_map(lambda own: self._gathered(own.contiguous(), batch), tree)

    def check_loss(self, task: Task, out: Tensor, chunk: Chunk) -> None:
        """Raise ValueError once where the loss is no sum over rows, whatever it is divided by; out (b, t, d_out)."""
        if self.checked:
            return
        self.checked, at = True, self.rows(len(out))

        def slope(given: Tensor) -> Tensor:
            leaf = given.detach().requires_grad_()
            return torch.autograd.grad(task.loss(leaf, chunk), leaf)[0][at]

        if not torch.allclose(slope(out), slope(self.placed(out[at], len(out))), rtol=1e-4, equal_nan=True):
            raise ValueError(
                "task: its loss of one stream depends on what is said of others, expected a sum over streams: "
                "leave torchrun out"
            )

    def _sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum over ranks of each tensor, by one collective."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _together(lambda: dist.all_reduce(flat))
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _gathered(self, own: Tensor, batch: int) -> Tensor:
        """Return the rows of all ranks where this is the first."""
        if self.rank:
            _together(lambda: dist.send(own, 0))
            return own
        parts = [own]
        for other in range(1, self.size):
            at = self.rows(batch, other)
            part = own.new_empty(at.stop - at.start, *own.shape[1:])
            _together(lambda part=part, other=other: dist.recv(part, other))  # type: ignore[misc]
            parts.append(part)
        return torch.cat(parts)


def started() -> bool:
    """Say whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def first_to_say() -> bool:
    """Say whether no other rank has said why it ended; the first to fail knows the cause."""
    if not started():
        return True
    try:
        return bool(_store()[0].add("biomamba/ended", 1) == 1)
    except (RuntimeError, ValueError):  # torchrun is gone
        return os.environ["RANK"] == "0"


@cache
def _store() -> tuple[Any, int, int]:
    """Return where the processes leave word for each other, this one's rank, and how many there are."""
    store, rank, size = next(iter(rendezvous("env://")))
    return store, rank, size


def _together(collective: Callable[[], object]) -> None:
    """Do what all ranks do at the same time. Raises ConnectionError where one is gone."""
    try:
        collective()
    except RuntimeError as error:
        raise ConnectionError(
            "another rank ended, so all end: the run goes on from its last checkpoint with --run.resume true"
        ) from error
