"""Plain trees of tensors: what a model knows of the past, and what a rule remembers of it.

A tree is a tensor, or a tuple, list, dict or named tuple of trees; None is an empty tree.
States and traces are such trees, with the streams on axis 0 of every tensor. They live in the hands of
the loop, which resets, saves, measures and moves them without asking the model or the rule.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tree = Any


class BlockState(NamedTuple):
    """What one block keeps between two steps."""

    conv: Tensor  # (b, k - 1, d) the last inputs of the block, oldest first
    ssm: Tensor  # (b, e, n) the state h of the recurrence


def tree_map(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Return the tree with `function` applied to every tensor."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: tree_map(function, branch) for key, branch in tree.items()}
    branches = [tree_map(function, branch) for branch in tree]
    return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its path, such as `0.ssm`."""
    if tree is None:
        return
    if isinstance(tree, Tensor):
        yield path, tree
        return
    if isinstance(tree, dict):
        items = list(tree.items())
    elif hasattr(tree, "_fields"):
        items = list(zip(tree._fields, tree, strict=True))
    else:
        items = list(enumerate(tree))
    for key, branch in items:
        yield from leaves(branch, f"{path}.{key}" if path else str(key))


def flat(tree: Tree) -> list[Tensor]:
    """Return every tensor, in the order of `leaves`, without the paths: it is called at every update."""
    if tree is None:
        return []
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    for branch in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(branch, Tensor):  # asked here too, because a call takes longer than all else
            found.append(branch)
        else:
            found += flat(branch)
    return found


def cut(state: Tree) -> Tree:
    """Return the state as fresh leaves: no graph to the past, and a `.grad` for the learning signal."""
    return tree_map(lambda tensor: tensor.detach().requires_grad_(), state)


def copy(tree: Tree) -> Tree:
    """Return the tree without a graph, in memory of its own (a state is a slice of a chunk's tensors)."""
    return tree_map(lambda tensor: tensor.detach().clone(), tree)


def where(go: Tensor, new: Tree, old: Tree) -> Tree:
    """Return the new tree where go, () bool, is true, else the old one of the same form, in memory of its own."""
    before = iter(flat(old))
    return tree_map(lambda tensor: torch.where(go, tensor.detach(), next(before)), new)


def forget(tree: Tree, reset: Tensor) -> Tree:
    """Return the tree with the streams where `reset` (b,) is true as if they had seen nothing."""

    def clear(tensor: Tensor) -> Tensor:
        where = reset.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
        return tensor.masked_fill(where, 0)

    return tree_map(clear, tree)


def nbytes(tree: Tree) -> int:
    """Return the bytes of all tensors of the tree."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in leaves(tree))


def is_finite(tree: Tree) -> bool:
    """Say whether no tensor of the tree holds an infinity or a NaN."""
    return all(bool(torch.isfinite(tensor).all()) for _, tensor in leaves(tree))
