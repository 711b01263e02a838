"""What is given, compared with what is expected before memory is read: one line says both, and what to type.

A tree of tensors (a state, a trace) has a form: paths, sizes, precisions and devices, the number of streams left out.
"""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .state import Tree, leaves

LARGEST = torch.finfo(torch.float32).max  # number that weights can have
MOST = 2**30  # of a size: a product of two is one that a tensor can have


class Leaf(NamedTuple):
    """What is expected of one tensor of a tree."""

    path: str
    sizes: tuple[int, ...]  # behind the streams
    dtype: torch.dtype
    device: torch.device


Form = tuple[Leaf, ...]


def form(tree: Tree) -> Form:
    """Return the form of a tree."""
    return tuple(Leaf(path, tuple(t.shape[1:]), t.dtype, t.device) for path, t in leaves(tree))


def check_tree(name: str, tree: Tree, expected: Form, blocks: int, streams: int, give: str) -> None:
    """Raise where a state or trace, one tree for each block, is of another form or number of streams.

    give: what to type, with {} in the place of the number of streams.
    Raises TypeError for what is no list of trees and for another precision, ValueError for anything else.
    """
    give = give.format(streams)
    if not isinstance(tree, list | tuple):
        raise TypeError(f"{name}: got {type(tree).__name__}, expected a list of one tree for each block: give {give}")
    if len(tree) != blocks:
        raise ValueError(f"{name}: of {counted(len(tree), 'block')}, expected {blocks}: give {give}")
    found = list(leaves(tree))
    if [path for path, _ in found] != [leaf.path for leaf in expected]:
        paths, wanted = {path for path, _ in found}, {leaf.path for leaf in expected}
        odd = sorted(paths ^ wanted)
        at = f"{'without' if odd[0] in wanted else 'with'} {odd[0]}" if odd else "in another order"
        raise ValueError(f"{name}: {at}, which is not what this model and rule keep: give {give}")
    for (path, tensor), leaf in zip(found, expected, strict=True):
        if tensor.shape != (streams, *leaf.sizes):
            if tensor.shape[1:] == leaf.sizes:
                raise ValueError(f"{name}: of {counted(len(tensor), 'stream')}, expected {streams}: give {give}")
            wanted_sizes = (streams, *leaf.sizes)
            raise ValueError(f"{name}: {path} is {tuple(tensor.shape)}, expected {wanted_sizes}: give {give}")
        if tensor.dtype != leaf.dtype:
            raise TypeError(
                f"{name}: {path} is {dtype_name(tensor.dtype)}, expected {dtype_name(leaf.dtype)}: give {give}"
            )
        if tensor.device != leaf.device:
            raise ValueError(f"{name}: {path} is on {tensor.device}, expected {leaf.device}: give {give}")


def check_sizes(**sizes: Any) -> None:
    """Raise TypeError for a size that is no whole number, ValueError for one below 1 or above `MOST`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name}: got {size!r}, expected a whole number: give 1 or more")
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected at least 1: give 1 or more")
        if size > MOST:
            raise ValueError(f"{name}: got {str(size)[:20]}, expected at most {MOST:,}: give less")


def check_range(low: str, high: str, least: float, most: float) -> None:
    """Raise ValueError unless 0 < least <= most, both finite."""
    if not 0 < least <= most <= LARGEST:
        raise ValueError(f"{low}, {high}: got {least} and {most}, expected 0 < {low} <= {high}, finite: give them so")


def check_positive(name: str, value: float) -> None:
    """Raise TypeError for what is no number, ValueError unless 0 < value, finite."""
    if not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number above 0: give {name}=1")
    if not 0 < value <= LARGEST:
        raise ValueError(f"{name}: got {value}, expected a number above 0, finite: give {name}=1")


def check_finite(**values: float | None) -> None:
    """Raise ValueError for a number that is not finite; None is none."""
    for name, value in values.items():
        if value is not None and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{name}: got {str(value)[:20]}, expected a finite number: give one such as 1")


def check_tensor(name: str, given: Any) -> None:
    """Raise TypeError for what is no tensor."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{name}: got {type(given).__name__}, expected a tensor: give torch.as_tensor({name})")


def check_mask(name: str, given: Any, streams: int, steps: int) -> None:
    """Raise TypeError for what is no tensor of bool, ValueError for one that is not (b, t)."""
    check_tensor(name, given)
    if given.dtype != torch.bool:
        raise TypeError(f"{name}: got {dtype_name(given.dtype)}, expected bool: give {name}.bool()")
    if given.shape != (streams, steps):
        raise ValueError(
            f"{name}: got {tuple(given.shape)}, expected {(streams, steps)}, as x has streams and steps: "
            f"give torch.zeros{(streams, steps)}.bool() for none"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a precision."""
    return str(dtype).removeprefix("torch.")


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def check_headdim(headdim: int, channels: int) -> int:
    """Return the channels of a head, all of them at most. Raises ValueError where heads of so many do not fit."""
    headdim = min(headdim, channels)
    if channels % headdim:
        raise ValueError(
            f"headdim {headdim} does not divide expand * d_model = {channels}: choose a divisor of {channels}"
        )
    return headdim
