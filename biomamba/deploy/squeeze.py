"""The same graph without axes of size 1, and without the operations that only put them in and take them out.

A small step's graph is full of such axes: one stream, one step, sums over one number. To begin an operation costs a
runtime about as much as its few numbers do. So a graph is run once more on what stands for its tensors, and recorded:

    Held(tensor, small, shape)   a value of `shape`, whose numbers are those of `small`, spread to `shape`;
                                 tensor holds the numbers of `small`, in their order, in whichever shape

What works on each number by itself, sums up, or picks out works on what is there; all else on the values as they are.
A number may be rounded otherwise only where torch sums in another order.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
Size = tuple[int, ...]


class Held(NamedTuple):
    """What stands for a tensor."""

    tensor: Tensor
    small: Size
    shape: Size


def squeezed(made: GraphModule, given: Sequence[Tensor]) -> GraphModule:
    """Return a graph of the same numbers as one that `pure.graph` made for tensors like those given."""
    pure = _recorded(functionalize(made), given)  # nothing is written in place, so that values can be shared
    found = _recorded(Squeezed(pure).run, given)
    found.graph.eliminate_dead_code()
    found.recompile()
    return found


def _recorded(function: Callable[..., Any], given: Sequence[Tensor]) -> GraphModule:
    def whole(*tensors: Tensor) -> Any:
        return function(*tensors)

    return make_fx(whole, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)


class Squeezed(Interpreter):
    """Runs a graph on what stands for its tensors."""

    def __init__(self, made: GraphModule) -> None:
        """Take the graph."""
        super().__init__(made, garbage_collect_values=False)
        self.known: dict[Any, tuple[Tensor, Tensor]] = {}  # what was made of which tensor, so that it is made once
        self.filled: dict[int, Any] = {}  # the number that a tensor holds alone
        self.turned: dict[int, tuple[Tensor, list[int]]] = {}  # of which tensor another has the axes in another order

    def run_node(self, n: Node) -> Any:
        """Return what stands for a node's value."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            given = {id(own.tensor) for node, own in self.env.items() if node.op == "placeholder"}
            whole = [self.whole(own) for own in args[0]]
            return [own.clone() if id(own) in given else own for own in whole]  # else one would have two names
        if n.op != "call_function":
            return _held(super().run_node(n))
        if n.target is operator.getitem:
            return args[0][args[1]]
        like = n.meta.get("val")
        found = self.simpler(n, args, kwargs) if isinstance(like, Tensor) and like.numel() else None
        if found is None:
            args, kwargs = tree_map_only(Held, self.whole, (args, kwargs), is_leaf=lambda own: isinstance(own, Held))
            return tree_map_only(Tensor, _held, n.target(*args, **kwargs))  # type: ignore[operator]
        assert found.shape == _shape(n) and found.tensor.numel() == math.prod(found.small), (n, found)
        return found._replace(tensor=found.tensor.to(n.meta["val"].dtype))

    def simpler(self, n: Node, args: Any, kwargs: Any) -> Held | None:
        """Return what stands for a value where there is a rule for the operation, else None."""
        target: Any = n.target
        rule = RULES.get(target.overloadpacket)
        if target is aten.view.dtype or (rule in (Squeezed.summed, Squeezed.along) and kwargs):
            return None  # to be read, or summed, in another precision
        if rule is not None:
            return rule(self, n, *args)
        if torch.Tag.pointwise not in target.tags:
            return None
        if target in ONES and args[1] == 1 and args[0].tensor.dtype == n.meta["val"].dtype:
            return self.same(n, args[0])
        return self.pointwise(target, args, kwargs, _shape(n))

    def once(self, key: Any, tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return what is made of a tensor."""
        if (key, id(tensor)) not in self.known:
            self.known[key, id(tensor)] = tensor, make()
        return self.known[key, id(tensor)][1]

    def formed(self, held: Held, size: Size, exact: bool = True) -> Tensor:
        """Return the numbers of `small` as a tensor of a size; not exact: but for leading axes of size 1."""
        tensor = held.tensor
        if tuple(tensor.shape) == size or (not exact and _stripped(tensor.shape) == _stripped(size)):
            return tensor
        return self.once(size, tensor, lambda: tensor.reshape(size))

    def full(self, held: Held) -> Held:
        """Return it with all its numbers there."""
        if held.small == held.shape:
            return held
        if id(held.tensor) in self.filled:
            number, own = self.filled[id(held.tensor)], held.tensor
            return _held(torch.full(held.shape, number, dtype=own.dtype, device=own.device))
        kept = [i for i, size in enumerate(held.shape) if size != 1]
        few, many = (tuple(size[i] for i in kept) for size in held[1:])
        tensor = self.formed(held, few)
        return Held(self.once((few, many), tensor, lambda: tensor.expand(many).contiguous()), held.shape, held.shape)

    def whole(self, held: Held) -> Tensor:
        """Return the value as it is."""
        held = self.full(held)
        return self.formed(held, held.shape)

    def fill(self, n: Node, *args: Any) -> Held:
        """Return one number for all."""
        like, kind = n.meta["val"], n.target.overloadpacket  # type: ignore[union-attr]
        number = FILLS[kind] if kind in FILLS else args[NUMBER[kind]]
        tensor = torch.full((), number, dtype=like.dtype, device=like.device)
        self.filled[id(tensor)] = number
        self.known["filled", id(tensor)] = tensor, tensor
        return Held(tensor, (1,) * like.ndim, tuple(like.shape))

    def same(self, n: Node, held: Held, *_: Any) -> Held | None:
        """Return the same numbers, under the node's shape; None where their number differs."""
        shape = _shape(n)
        if math.prod(shape) != math.prod(held.shape) or held.tensor.device != n.meta["val"].device:
            return None
        if held.small == held.shape or _squeezed(held.shape) != _squeezed(shape):
            return Held(self.full(held).tensor, shape, shape)
        kept = iter([own for own, whole in zip(held.small, held.shape, strict=True) if whole != 1])
        return Held(held.tensor, tuple(1 if size == 1 else next(kept) for size in shape), shape)

    def along(self, n: Node, held: Held, over: Any, *_: Any) -> Held | None:
        """Return the same where an operation goes along axes of size 1."""
        return self.same(n, held) if all(held.shape[i] == 1 for i in _axes(over, len(held.shape))) else None

    def padded(self, n: Node, held: Held, pads: Sequence[int], *value: Any) -> Held | None:
        """Return a frame of numbers around it."""
        if not any(pads):
            return self.same(n, held)
        size = _stripped(held.shape)
        size = (1,) * (len(pads) // 2 - len(size)) + size
        shape = _shape(n)
        return Held(aten.constant_pad_nd(self.formed(self.full(held), size), pads, *value), shape, shape)

    def windowed(self, n: Node, held: Held, *_: Any) -> Held | None:
        """Return the same where there is one window."""
        return self.same(n, held) if _squeezed(held.shape) == _squeezed(_shape(n)) else None

    def expanded(self, n: Node, held: Held, *_: Any) -> Held:
        """Return it spread further."""
        shape = _shape(n)
        return Held(held.tensor, _leading(held.small, len(shape)), shape)

    def pointwise(self, target: Any, args: Any, kwargs: Any, shape: Size) -> Held:
        """Return an operation on each number by itself."""
        rank, values = len(shape), [own for own in (*args, *kwargs.values()) if isinstance(own, Held)]
        sizes = zip(*(_leading(own.small, rank) for own in values), strict=True)
        small = tuple(next((size for size in each if size != 1), 1) for each in sizes)
        kept = [i for i, size in enumerate(small) if size != 1]

        def own(given: Any) -> Any:
            if not isinstance(given, Held):
                return given
            size = _leading(given.small, rank)
            return self.formed(given, _stripped([size[i] for i in kept]), exact=False)

        found = target(*map(own, args), **{name: own(given) for name, given in kwargs.items()})
        return Held(found, small, shape)

    def summed(self, n: Node, held: Held, given: Any = None, *_: Any) -> Held:
        """Return a sum, or another number of many, over some axes."""
        shape, rank = _shape(n), len(held.shape)
        over = _axes(given, rank) or [*range(rank)]
        if any(held.small[i] != held.shape[i] for i in over):
            held = self.full(held)
        left = tuple(
            1 if i in over else size for i, size in enumerate(held.small) if len(shape) == rank or i not in over
        )
        there, tensor = [i for i, size in enumerate(held.small) if size != 1], held.tensor
        if any(i in over for i in there):
            target: Any = n.target
            tensor = self.formed(held, _squeezed(held.small), exact=False)
            first = tensor.ndim - len(there)
            dims = [first + at for at, i in enumerate(there) if i in over]
            alone = target._overloadname == "default" and given is None
            tensor = target(tensor) if alone else target(tensor, dims[0] if isinstance(given, int) else dims)
        return Held(tensor, left, shape)

    def permuted(self, n: Node, held: Held, *args: Any) -> Held:
        """Return the axes in another order."""
        order = _order(n.target.overloadpacket, args, len(held.shape))  # type: ignore[union-attr]
        small, shape = tuple(held.small[i] for i in order), _shape(n)
        there = [i for i in order if held.small[i] != 1]
        dims = [sorted(there).index(i) for i in there]
        if dims == sorted(dims):
            return Held(held.tensor, small, shape)
        tensor = self.formed(held, _squeezed(held.small))
        if id(tensor) in self.turned:
            tensor, before = self.turned[id(tensor)]
            dims = [before[i] for i in dims]
        if dims != sorted(dims):
            start, tensor = tensor, self.once(("permute", *dims), tensor, lambda: tensor.permute(dims))
            self.turned[id(tensor)] = start, dims
        return Held(tensor, small, shape)

    def part(self, n: Node, held: Held, axis: int = 0, *args: Any) -> Held | None:
        """Return a slice, or one of an axis."""
        same = self.same(n, held)
        if same is not None:
            return same
        axis %= len(held.shape)
        if held.small[axis] != held.shape[axis]:
            held = self.full(held)
        tensor = self.formed(held, _squeezed(held.small), exact=False)
        dim = -sum(size != 1 for size in held.small[axis:])
        shape, chosen = _shape(n), n.target.overloadpacket is aten.select  # type: ignore[union-attr]
        left = held.small[:axis] + (() if chosen else (shape[axis],)) + held.small[axis + 1 :]
        return Held(n.target(tensor, dim, *args), left, shape)  # type: ignore[operator]

    def joined(self, n: Node, parts: Sequence[Held], axis: int = 0) -> Held:
        """Return the parts side by side."""
        shape = _shape(n)
        axis %= len(shape)
        if n.target.overloadpacket is aten.stack:  # type: ignore[union-attr]
            sizes = ((own, (*own.shape[:axis], 1, *own.shape[axis:])) for own in map(self.full, parts))
            parts = [Held(own.tensor, size, size) for own, size in sizes]
        parts = [self.full(own) for own in parts if math.prod(own.shape)]
        if len(parts) == 1:
            return parts[0]
        kept = [i for i, size in enumerate(shape) if size != 1 or i == axis]
        tensors = [self.formed(own, tuple(own.small[i] for i in kept)) for own in parts]
        return Held(torch.cat(tensors, kept.index(axis)), shape, shape)

    def batched(self, n: Node, a: Held, b: Held) -> Held | None:
        """Return one product of matrices."""
        shape = _shape(n)
        if shape[0] != 1:
            return None
        a, b = self.full(a), self.full(b)
        return Held(self.formed(a, a.shape[1:]) @ self.formed(b, b.shape[1:]), shape, shape)


ONES = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.pow.Tensor_Scalar}  # nothing by 1
FILLS = {aten.zeros_like: 0, aten.new_zeros: 0, aten.ones_like: 1}
NUMBER = {aten.scalar_tensor: 0, aten.full: 1, aten.full_like: 1, aten.new_full: 2}  # which argument it is
RULES: dict[Any, Callable[..., Held | None]] = {
    **dict.fromkeys([*FILLS, *NUMBER], Squeezed.fill),
    **dict.fromkeys([aten.detach, aten.alias, aten.clone, aten.lift_fresh_copy, aten._to_copy], Squeezed.same),
    **dict.fromkeys([aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze], Squeezed.same),
    **dict.fromkeys([aten.flip, aten.cumsum], Squeezed.along),
    **dict.fromkeys([aten.sum, aten.mean, aten.amax, aten.amin, aten.any, aten.all], Squeezed.summed),
    **dict.fromkeys([aten.t, aten.transpose, aten.permute], Squeezed.permuted),
    **dict.fromkeys([aten.select, aten.slice], Squeezed.part),
    **dict.fromkeys([aten.cat, aten.stack], Squeezed.joined),
    aten.expand: Squeezed.expanded,
    aten.constant_pad_nd: Squeezed.padded,
    aten.unfold: Squeezed.windowed,
    aten.bmm: Squeezed.batched,
}


def _held(tensor: Tensor) -> Held:
    return Held(tensor, tuple(tensor.shape), tuple(tensor.shape))


def _shape(n: Node) -> Size:
    return tuple(n.meta["val"].shape)


def _axes(given: Any, rank: int) -> list[int]:
    """Return axes counted from the first."""
    return [i % rank for i in ([given] if isinstance(given, int) else given or [])] if rank else []


def _order(kind: Any, args: Any, rank: int) -> list[int]:
    """Return which axis comes where."""
    if kind is aten.permute:
        return _axes(args[0], rank)
    found = [*range(rank)]
    if not found:
        return found
    a, b = args if args else (0, rank - 1)
    found[a], found[b] = found[b], found[a]
    return found


def _leading(size: Size, rank: int) -> Size:
    """Return a size with axes of size 1 before it."""
    return (1,) * (rank - len(size)) + size


def _squeezed(size: Sequence[int]) -> Size:
    """Return a size without axes of size 1."""
    return tuple(own for own in size if own != 1)


def _stripped(size: Sequence[int]) -> Size:
    """Return a size without the leading axes of size 1."""
    first = next((i for i, own in enumerate(size) if own != 1), len(size))
    return tuple(size[first:])
