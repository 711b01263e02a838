"""The pure update batched over the slots of a page, each with its own weights, moved in place.

    outputs = run(page, shared, chunk, lr, active)          a slot that is not active stays as it is

Shapes: p slots; every tensor of page and chunk has them on a further first axis.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import graphs
from .pure import Memory, PureUpdate, Result, graph
from .state import Tree, flat, tree_map
from .stream import Chunk

OUTPUTS = len(Result._fields) - 1  # all but the memory


class Slot(NamedTuple):
    """What a slot holds."""

    memory: Memory  # of the weights, those that learn
    counts: Tensor  # (3,) int64: steps, updates taken, updates left out because something was not finite


class PageInput(NamedTuple):
    """What a step of a page takes."""

    page: Slot
    shared: dict[str, Tensor]  # weights that do not learn, the same for all
    chunk: Chunk
    lr: Tensor  # ()
    active: Tensor  # (p,) bool


def page_step(update: PureUpdate, labelled: bool, given: PageInput, compiled: bool) -> Callable[..., Sequence[Tensor]]:
    """Return a function of the tensors of a `PageInput` that moves the page and returns what `Result` begins with.

    labelled: False where no step has a label, which is less work. given: an example. compiled: as one graph of kernels.
    """

    def one(slot: Slot, shared: dict[str, Tensor], chunk: Chunk, lr: Tensor) -> Tree:
        memory = slot.memory._replace(weights={**shared, **slot.memory.weights})
        result = update(memory, chunk, lr) if labelled else update.advance(memory, chunk.x, chunk.reset)
        missed = ~result.finite | (chunk.mask.any() & ~result.learned)
        steps = torch.full_like(missed, chunk.x.shape[1], dtype=torch.int64)
        counts = slot.counts + torch.stack([steps, result.learned.long(), missed.long()])
        own = {name: result.memory.weights[name] for name in slot.memory.weights}
        return [*result[:OUTPUTS], Slot(result.memory._replace(weights=own), counts)]

    page, shared, chunk, lr, _ = given
    first = [tree_map(lambda tensor: tensor[0], tree) for tree in (page, chunk)]
    made = graph(one, first[0], shared, first[1], lr)
    axes = [*[0] * len(flat(page)), *[None] * len(shared), *[0] * len(flat(chunk)), None]
    batched = torch.func.vmap(made, in_dims=tuple(axes))

    @torch.no_grad()
    def whole(*tensors: Tensor) -> list[Tensor]:
        *each, active = tensors
        found = batched(*each)
        for old, new in zip(each, found[OUTPUTS:], strict=False):  # the page's tensors come first
            old.copy_(torch.where(active.view(-1, *[1] * (old.ndim - 1)), new, old))
        return list(found[:OUTPUTS])

    return graphs.compile_graph(graph(whole, *flat(given)), flat(given)) if compiled else whole
