"""Operations, counted where they happen: every operator that torch runs, ours too, on the numbers it is given.

    joules  ~  4.6 pJ (multiply-accumulates + elementwise operations) + 0.9 pJ accumulates

The picojoules are those of 32-bit arithmetic at 45 nm (Horowitz 2014), the field's convention: an estimate that knows
nothing of memory traffic, so bytes are counted apart. What our own operators do inside is known by formula. The
depthwise convolution, written as shifted products, and the recurrence of a chunk of one step are elementwise here. A
norm or a loss that torch has as a single operator counts once per number.
Letters: b streams, t steps, e channels, n states, k taps, j inputs of a weight matrix, Z a trace.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..ops.mamba2 import TRACES

MULTIPLY_ACCUMULATE, ACCUMULATE = 4.6e-12, 0.9e-12  # joules
FACTORS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}  # argument of the first factor
FUSED = {"_fused_adam": 7, "_fused_adamw": 7, "_fused_sgd": 1}  # passes over the weights of torch's own loops
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
MOVES = {
    *("clone", "copy", "_foreach_copy", "_to_copy", "cat", "stack", "repeat", "flip", "roll", "constant_pad_nd"),
    *("where", "masked_fill", "index", "index_put", "_index_put_impl", "index_select", "gather", "scatter"),
    *("embedding", "slice_backward", "select_backward", "slice_scatter", "select_scatter"),
    *("zero", "_foreach_zero", "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"),
    *("fill", "full", "full_like", "new_full", "arange", "scalar_tensor"),
}  # numbers are put somewhere, none is computed
OVERWRITTEN = {("copy", "self"), ("fill", "self"), ("zero", "self")}  # written unread
PICKED = {("embedding", "weight"), ("index", "self"), ("index_select", "self"), ("gather", "self")}  # read in part


@dataclass(frozen=True)
class Operations:
    """How much is computed, and how many bytes are read and written for it.

    multiply_accumulates: of matrix products, of the recurrence and of traces
    accumulates: additions of matrix products and convolutions with spikes, where one factor holds only 0 and 1
    elementwise: all other arithmetic on real numbers, one for each that comes out, or goes in where they are summed up
    bytes: of every tensor that an operator reads and writes, caches ignored
    """

    multiply_accumulates: float = 0
    accumulates: float = 0
    elementwise: float = 0
    bytes: float = 0

    def __add__(self, other: "Operations") -> "Operations":
        """Return the sum of both."""
        return Operations(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __truediv__(self, count: int) -> "Operations":
        """Return the share of one of `count`."""
        return Operations(*(a / count for a in astuple(self)))

    @property
    def joules(self) -> float:
        """The estimate; every elementwise operation, additions too, counts as a multiply-accumulate."""
        return MULTIPLY_ACCUMULATE * (self.multiply_accumulates + self.elementwise) + ACCUMULATE * self.accumulates


class Counter(TorchDispatchMode):
    """Adds up in `total` what the operators inside its `with` cost."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Operations()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it; what it calls in its turn is not seen."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.total += count(func, args, kwargs, out)
        return out


def count(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Operations:
    """Return what one call of an operator cost, given what it returned.

    Raises KeyError for an operator of ours without a formula in `OURS` or `KERNELS`.
    """
    space, name = func._schema.name.split("::")
    name = name.removesuffix("_")
    if name in ALLOCATIONS or _is_view(func, tensors([args, kwargs]), tensors(out)):
        return Operations()
    read, written = _traffic(func, name, args, kwargs, out)
    traffic = sum(map(distinct_bytes, [*read, *written]))
    if space == "biomamba" and name.startswith("llvm_"):
        named = {argument.name.removeprefix("size_"): value for argument, value in _given(func, args, kwargs)}
        return Operations(KERNELS[name.removeprefix("llvm_")](named), bytes=traffic)
    if space == "biomamba":
        return Operations(OURS[name](*args), bytes=traffic)
    if name in FACTORS:
        first = FACTORS[name]
        return _of_product(args[first], args[first + 1], traffic)
    if name == "convolution" and _ones(args[0]):
        return Operations(accumulates=_of_convolution(*args), bytes=traffic)
    if func.overloadpacket in flop_registry:  # convolutions, attention: two flops each
        return Operations(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out) // 2, bytes=traffic)
    if name in FUSED:
        return Operations(elementwise=_of_optimizer(name, args[0], **kwargs), bytes=traffic)
    if name in MOVES or not any(tensor.is_floating_point() for tensor in written):
        return Operations(bytes=traffic)
    sizes = [_numbers(argument) for argument in (*args, *kwargs.values(), written)]
    return Operations(elementwise=max(sizes), bytes=traffic)


def _of_product(left: Tensor, right: Tensor, traffic: int) -> Operations:
    """Return the cost of a matrix product: with spikes, one addition per spike and column, else all products.

    A factor without a single 1 is no spikes: zeros alone may be a signal that is absent.
    """
    columns = right.shape[-1] if right.ndim > 1 else 1
    products = left.numel() * columns
    shares = [products // factor.numel() * ones for factor in (left, right) if (ones := _ones(factor))]
    return Operations(accumulates=min(shares), bytes=traffic) if shares else Operations(products, bytes=traffic)


def _of_convolution(spikes: Tensor, weight: Tensor, bias: Any, *others: Any) -> int:
    """Return the additions of a convolution of spikes: one for each tap and channel that a spike meets."""
    return int(torch.convolution(spikes.double(), torch.ones_like(weight).double(), None, *others).sum())


def _ones(factor: Tensor) -> int:
    """Return how many 1 a tensor of 0 and 1 holds; 0 where there are other numbers."""
    ones = factor == 1
    return int(ones.sum()) if bool((ones | (factor == 0)).all()) else 0


def _of_traces(Z: list[Tensor], gradient: Tensor, axes: str, post: Any, pre: Any, taps: Any, *others: Any) -> int:
    """Return for each number of Z: one to meet the signal, one to decay, one for each outer product that arrives.

    A single step's taps are first applied to the inputs.
    """
    total = 0
    for z, p, q, w in zip(Z, post, pre, taps, strict=True):
        total += z.numel() * (2 + (p.shape[1] if q.numel() else 0)) + w.numel() * q.shape[-1]
    return total


def _of_mamba2(sizes: dict[str, int]) -> int:
    """Return the same for a Mamba-2 block, with what its drives are made of.

    Taps are applied to the inputs of a single step, and to what the states push in a chunk.
    """
    b, t, e, n, j, k = (sizes[name] for name in "btenjk")
    rows = 1 if t == 1 else k - 1 + t  # outer products that arrive at the traces of x and B
    passes = b * e * n * (2 * 2 + j * (2 + t) + 2 * j * (2 + rows) + 2 * (k + 1) * (2 + t))
    taps = b * t * k * ((e + n) * j if t == 1 else 2 * e * n)
    return passes + taps + b * t * (5 * e * n + (e + n) * (2 * k + 1))  # the products of m and its sums; the sides


def _steps(sizes: dict[str, int], each: int) -> int:
    return sizes["b"] * sizes["t"] * each


def _of_mamba2_chunk(sizes: dict[str, int]) -> int:
    """Return the multiply-accumulates of the convolution and of the states, u B and what decays."""
    return sizes["b"] * sizes["t"] * ((sizes["e"] + 2 * sizes["n"]) * sizes["k"] + 2 * sizes["e"] * sizes["n"])


def _product(sizes: dict[str, int], names: str) -> int:
    return math.prod(sizes[name] for name in names)


OURS: dict[str, Callable[..., int]] = {
    "scan": lambda a, b, h0, backend: b.numel(),
    "scan_adjoint": lambda a, g, h0, h, backend: 2 * h.numel(),
    "contract_and_advance": _of_traces,
}  # multiply-accumulates, of what an operator is given
KERNELS: dict[str, Callable[[dict[str, int]], int]] = {
    "conv": lambda sizes: _product(sizes, "btck"),
    "conv_adjoint": lambda sizes: 2 * _product(sizes, "btck"),
    "selective_scan": lambda sizes: 2 * _product(sizes, "bten"),  # u B, and what decays
    "selective_scan_adjoint": lambda sizes: 4 * _product(sizes, "bten"),  # to a, u, B and h0
    "readout": lambda sizes: _product(sizes, "bten"),
    "readout_adjoint": lambda sizes: 2 * _product(sizes, "bten"),
    "scan": lambda sizes: _product(sizes, "btm"),
    "scan_adjoint": lambda sizes: 2 * _product(sizes, "btm"),
    "alone": lambda sizes: 2 * _product(sizes, "bm"),
    "dense": lambda sizes: _product(sizes, "bcrj") * (2 + sizes["t"]),
    "tapped": lambda sizes: _product(sizes, "bcrj") * 3 + _product(sizes, "bckj"),
    "of_channel": lambda sizes: _product(sizes, "bnke") * (2 + sizes["t"]),
    "of_state": lambda sizes: _product(sizes, "bnke") * (2 + sizes["t"]),
    "contract_and_advance_mamba2": _of_mamba2,
    "mamba2_states": _of_mamba2_chunk,
    "mamba2_states_adjoint": lambda sizes: 2 * _of_mamba2_chunk(sizes),
    "mamba2_output": lambda sizes: _product(sizes, "bten"),
    "mamba2_output_adjoint": lambda sizes: 2 * _product(sizes, "bten"),
    "read": lambda sizes: _product(sizes, "btkc"),
    "learn": lambda sizes: 2 * _product(sizes, "btkc"),
}  # multiply-accumulates of a kernel for the CPU, of the sizes that it is given
ELEMENTWISE: dict[str, Callable[[dict[str, int]], int]] = {
    "mamba2_states": lambda sizes: _steps(sizes, 4 * sizes["e"] + 4 * sizes["n"] + 6 * sizes["g"]),  # silu, silu'
    "mamba2_states_adjoint": lambda sizes: _steps(sizes, 2 * sizes["e"] + 2 * sizes["n"] + 6 * sizes["g"]),
    "mamba2_output": lambda sizes: _steps(sizes, 6 * sizes["e"]),  # D x, gate, norm
    "mamba2_output_adjoint": lambda sizes: _steps(sizes, 11 * sizes["e"]),
}  # what such a kernel does beside, which other blocks leave to torch


def _of_optimizer(
    name: str,
    weights: list[Tensor],
    *,
    weight_decay: float,
    momentum: float = 0,
    nesterov: bool = False,
    amsgrad: bool = False,
    **others: Any,
) -> int:
    """Return the elementwise operations of a fused step: those of torch's loop over the weights."""
    passes = FUSED[name] + (weight_decay != 0) + 2 * (momentum != 0) + nesterov + amsgrad
    return passes * sum(weight.numel() for weight in weights)


def _traffic(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that an operator reads, and those that it writes."""
    written = {id(tensor): tensor for tensor in tensors(out)}  # one that works in place returns what it was given
    read = []
    for argument, value in _given(func, args, kwargs):
        if (name, argument.name) in PICKED:
            read += tensors(out)  # as many numbers as come out
        elif not (argument.is_out or _is_overwritten(func, name, argument) or _is_pattern(name)):
            read += tensors(value)
        if _writes(argument) and argument.name != "grads":  # a fused optimiser writes them only to unscale them
            written |= {id(tensor): tensor for tensor in tensors(value)}
    return read, list(written.values())


def _is_overwritten(func: Any, name: str, argument: Any) -> bool:
    """Say whether an operator writes to an argument unread; ours read of what they write the traces alone."""
    ours = func._schema.name.startswith("biomamba::")
    return (name, argument.name) in OVERWRITTEN or (ours and _writes(argument) and argument.name not in ("Z", *TRACES))


def _is_pattern(name: str) -> bool:
    """Say whether an operator takes a tensor for its shape alone."""
    return name.startswith("new_") or name.endswith("_like")


def _given(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the declaration and the value of each argument that was given."""
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            yield argument, args[i]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


def _is_view(func: Any, given: list[Tensor], returned: list[Tensor]) -> bool:
    """Say whether what comes out is what went in, seen otherwise."""
    if not returned or any(map(_writes, func._schema.arguments)):
        return False
    return {place(tensor) for tensor in returned} <= {place(tensor) for tensor in given}


def _writes(argument: Any) -> bool:
    """Say whether an operator declares that it writes to this argument."""
    return argument.alias_info is not None and argument.alias_info.is_write


def _numbers(argument: Any) -> int:
    """Return how many real numbers an argument holds."""
    return sum(tensor.numel() for tensor in tensors(argument) if tensor.is_floating_point())


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors among whatever an operator takes or returns."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place(tensor: Tensor) -> int:
    """Return what tells one piece of memory from another, while it is held."""
    return int(tensor.untyped_storage()._cdata)


def distinct_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, a number that is spread along an axis counted once."""
    return (
        tensor.element_size()
        * torch.Size(
            size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size
        ).numel()
    )
