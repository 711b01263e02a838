"""Operations that other runtimes lack or do slowly, as simpler ones with the same numbers.

Numbers in the code become constants of the graph, because an exporter may write them in single precision: 0.999 then
is off by 1e-8, and Adam's 1 - 0.999 by 1e-5.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F

from .formulas import TABLE

aten = torch.ops.aten
BY_TORCH = [
    aten.sigmoid_backward,
    aten.threshold_backward,
    aten._fused_rms_norm,
    aten._fused_rms_norm_backward,
    aten._softmax_backward_data,
    aten.unfold_backward,
    aten.addcmul,
    aten.masked_fill,
    aten.new_zeros,
]

ARITHMETIC = (aten.mul, aten.add, aten.sub, aten.div, aten.mul_, aten.add_, aten.sub_, aten.div_)
TENSORS = {
    **{own.Tensor: own.Tensor for own in ARITHMETIC},
    **{own.Scalar: own.Tensor for own in ARITHMETIC},
    aten.pow.Scalar: aten.pow.Tensor_Tensor,
}  # operations with a number in the place of a tensor, and with two tensors


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Return torch.lerp's value by its own formula; torch takes it apart with a test of each number's weight."""
    return start + weight * (end - start) if abs(weight) < 0.5 else end - (end - start) * (1 - weight)


def vector_norm(x: Tensor, ord: float = 2, *others: Any, **options: Any) -> Tensor:  # noqa: A002 - torch's name
    """Return the Euclidean norm of all numbers."""
    if ord != 2 or others or options:
        return NotImplemented  # type: ignore[no-any-return] # which leaves it to torch
    return (x * x).sum().sqrt()


def slice_backward(grad: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int) -> Tensor:
    """Return the gradient with zeros where nothing was taken."""
    if step != 1:
        return NotImplemented  # type: ignore[no-any-return]
    axis, size = dim % len(sizes), sizes[dim]
    first = min(max(start + size if start < 0 else start, 0), size)
    return _padded(grad, axis, first, size - first - grad.shape[axis])


def select_backward(grad: Tensor, sizes: list[int], dim: int, index: int) -> Tensor:
    """Return the gradient with zeros where nothing was taken."""
    axis = dim % len(sizes)
    return _padded(grad.unsqueeze(axis), axis, index % sizes[axis], sizes[axis] - index % sizes[axis] - 1)


def split_with_sizes(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """Return the parts."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _padded(grad: Tensor, axis: int, before: int, after: int) -> Tensor:
    return F.pad(grad, [*[0, 0] * (grad.ndim - 1 - axis), before, after])


def with_constants(made: GraphModule) -> None:
    """Put a tensor in the place of every number that single precision does not hold, in the graph given."""
    for node in [*made.graph.nodes]:
        for place, number in enumerate(node.args[:2]) if node.op == "call_function" else ():
            if isinstance(number, float) and float(np.float32(number)) != number:
                if node.target not in TENSORS:
                    raise ValueError(f"export: {number} in {node.target}, expected it in one of {[*map(str, TENSORS)]}")
                name = f"constant_{node.name}"
                made.register_buffer(name, torch.tensor(number, dtype=node.meta["val"].dtype))
                with made.graph.inserting_before(node):
                    node.update_arg(place, made.graph.get_attr(name))
                node.target = TENSORS[node.target]
    made.recompile()


def table() -> dict[Any, Callable[..., Any]]:
    """Return what `pure.graph` takes."""
    ours: dict[Any, Callable[..., Any]] = {
        aten.lerp.Scalar: lerp,
        aten.linalg_vector_norm.default: vector_norm,
        aten.slice_backward.default: slice_backward,
        aten.select_backward.default: select_backward,
        aten.split_with_sizes.default: split_with_sizes,
    }
    return {**torch._decomp.get_decompositions(BY_TORCH), **ours, **TABLE}
