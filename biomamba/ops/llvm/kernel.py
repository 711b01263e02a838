"""A kernel: what it is called with, and the check of all sizes that comes before a number is read.

    @kernel("n", h=given("b t e n"), C=given("b t n"), y=result("b t e"))
    def read(part, h, C, y): ...

Sizes have names; a tensor's shape is written in them, sums too: "b k-1+t c". All tensors of a call must agree on them.
Those named first (here n) are known when the kernel is compiled, the others when it runs.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from .language import (
    BFLOAT16,
    BYTE,
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT,
    Array,
    Scratch,
    Size,
    Value,
    builder,
    call,
    choose,
    fixed,
    integer,
    loop,
    smaller,
    writing,
)

NUMBERS: dict[torch.dtype, Any] = {torch.float32: FLOAT, torch.float64: DOUBLE}
STORED: dict[torch.dtype, Any] = NUMBERS | {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


class Argument(NamedTuple):
    """A tensor that a kernel is called with."""

    shape: tuple[str, ...]
    kind: str = "number"  # of the precision computed in; trace: perhaps of half the bytes; flag: bool; index: int64
    written: bool = False
    optional: bool = False  # an empty tensor of one axis stands for none


def given(shape: str) -> Argument:
    """Say that a tensor of numbers is read."""
    return Argument(tuple(shape.split()))


def result(shape: str) -> Argument:
    """Say that a tensor of numbers is written."""
    return Argument(tuple(shape.split()), written=True)


def trace(shape: str) -> Argument:
    """Say that a trace is read and written, of the precision of numbers, of bfloat16 or of float16."""
    return Argument(tuple(shape.split()), "trace", written=True)


def flags(shape: str, optional: bool = False) -> Argument:
    """Say that a tensor of bools is read; where optional, there may be none."""
    return Argument(tuple(shape.split()), "flag", optional=optional)


def index(shape: str, written: bool = False) -> Argument:
    """Say that a tensor of int64 is read, or written; the caller has seen to it that the rows it names are there."""
    return Argument(tuple(shape.split()), "index", written=written)


class Part:
    """Which part of a kernel's work is to be done: rows are shared out, each row is done whole."""

    def __init__(self, number: Value, count: Value, scratch: Scratch, kind: Any) -> None:
        """Take which of how many parts, memory for what is on the way, and the type of the numbers."""
        self.number, self.count, self.scratch, self.kind = number, count, scratch, kind

    def range(self, rows: Size, unit: int = 1) -> tuple[Value, Value]:
        """Return where this part's share of the rows begins and ends, in whole units."""
        units = (integer(rows) + (unit - 1)) // unit
        lo, hi = (units * part // self.count * unit for part in (self.number, self.number + 1))
        return integer(smaller(lo, rows)), integer(smaller(hi, rows))

    def rows(self, rows: Size) -> Iterator[Value]:
        """Write a loop over this part's share of the rows."""
        return loop(*self.range(rows))

    def empty(self, *shape: Size) -> Array:
        """Return room for numbers."""
        return self.scratch.array(self.kind, *shape)


class Kernel:
    """A function of a part and of arrays, to be compiled for some sizes and precisions."""

    def __init__(self, write: Callable[..., None], constants: Sequence[str], arguments: Mapping[str, Argument]) -> None:
        """Take what writes it."""
        self.write, self.name, self.arguments = write, write.__name__, dict(arguments)
        self.__doc__ = write.__doc__
        self.constants = tuple(constants)
        words = (
            word for argument in arguments.values() for size in argument.shape for word in re.findall("[a-z]+", size)
        )
        flagged = [f"has_{name}" for name, argument in arguments.items() if argument.optional]
        self.sizes = (*dict.fromkeys(words), *flagged)

    def bind(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """Return the sizes by name. Raises ValueError for tensors that do not agree, or that no kernel can read."""
        number, found = tensors[self._first()].dtype, dict[str, int]()
        shapes = [tuple(tensor.shape) for tensor in tensors]
        stored = self.precisions(tensors)[1]
        half = stored in (torch.bfloat16, torch.float16) and number == torch.float32
        allowed = {
            "number": (number,),
            "trace": (stored,) if half else (number,),
            "flag": (torch.bool,),
            "index": (torch.int64,),
        }
        for (name, argument), tensor, shape in zip(self.arguments.items(), tensors, shapes, strict=True):
            kinds = allowed[argument.kind]
            if tensor.dtype not in kinds or number not in NUMBERS:
                expected = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
                raise ValueError(
                    f"{self.name}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, expected {expected}"
                )
            if tensor.device.type != "cpu" or not (tensor.is_contiguous() or 0 in shape):
                raise ValueError(f"{self.name}: {name} of shape {shape} is not contiguous on the CPU")
            if argument.optional:
                found[f"has_{name}"] = int(shape != (0,))
            if len(shape) == len(argument.shape):
                for size, word in zip(shape, argument.shape, strict=True):
                    if word.isalpha():
                        found.setdefault(word, size)
        for (name, argument), shape in zip(self.arguments.items(), shapes, strict=True):
            absent = argument.optional and not found[f"has_{name}"]
            wanted = tuple(evaluated(word, found) for word in argument.shape)
            if shape != wanted and not absent:
                words = " ".join(argument.shape)
                raise ValueError(f"{self.name}: {name} is of shape {shape}, expected {wanted} ({words})")
        return dict.fromkeys(self.sizes, 0) | found  # those of nothing but what is absent are 0

    def _first(self) -> int:
        """Return which argument tells the precision."""
        return next(i for i, argument in enumerate(self.arguments.values()) if argument.kind == "number")

    def precisions(self, tensors: Sequence[Tensor]) -> tuple[torch.dtype, torch.dtype]:
        """Return the precision of the numbers, and that of traces."""
        number = tensors[self._first()].dtype
        traces = (
            t.dtype for t, argument in zip(tensors, self.arguments.values(), strict=True) if argument.kind == "trace"
        )
        return number, next(traces, number)

    def module(
        self, number: torch.dtype, stored: torch.dtype, constants: Mapping[str, int], parallel: bool
    ) -> ir.Module:
        """Return the kernel for these sizes and precisions, as a module whose function torch can call.

        parallel: whether there are functions to start torch's threads by.
        """
        module = ir.Module(self.name)
        work = self._work(module, "work", NUMBERS[number], STORED[stored], constants)
        _entry(module, work, len(self.sizes), len(self.arguments), parallel)
        return module

    def _work(
        self, module: ir.Module, name: str, number: Any, stored: Any, constants: Mapping[str, int]
    ) -> ir.Function:
        """Write the function that does a part of the work: of words (sizes, then addresses), which part, how many."""
        words = INT.as_pointer()
        work = ir.Function(module, ir.FunctionType(ir.VoidType(), [words, INT, INT]), name)
        work.linkage = "internal"
        work.attributes.add("noinline")
        with writing(work):
            given_words = Array(work.args[0], (len(self.sizes) + len(self.arguments),))
            sizes: dict[str, Size] = {name: given_words[i] for i, name in enumerate(self.sizes)}
            sizes |= constants
            scratch = Scratch()
            part = Part(Value(work.args[1]), Value(work.args[2]), scratch, number)
            arrays = []
            for i, (name, argument) in enumerate(self.arguments.items()):
                kind = {"number": number, "trace": stored, "flag": BYTE, "index": INT}[argument.kind]
                address = given_words[len(self.sizes) + i]
                array = Array(pointer(address, kind), [evaluated(word, sizes) for word in argument.shape])
                array.there = integer(sizes[f"has_{name}"]) > 0 if argument.optional else None
                arrays.append(array)
            self.write(part, *arrays)
            scratch.free()
        return work

    def within(self, *arrays: Array) -> None:
        """Have the kernel that is being written do all the work of this one on arrays of its own, packed."""
        sizes = dict[str, Size]()
        for argument, array in zip(self.arguments.values(), arrays, strict=True):
            sizes |= {word: size for word, size in zip(argument.shape, array.shape, strict=True) if word.isalpha()}
        constants = {name: fixed(sizes[name]) for name in self.constants}
        each = dict(zip(self.arguments, arrays, strict=True))
        first = next(
            a for a, argument in zip(arrays, self.arguments.values(), strict=True) if argument.kind == "number"
        )
        stored = next((each[name].stored for name, own in self.arguments.items() if own.kind == "trace"), first.stored)
        module, name = builder().module, f"work.{self.name}"
        found = module.globals.get(name) or self._work(module, name, first.stored, stored, constants)
        with builder().goto_entry_block():
            words = Array(builder().alloca(INT, len(self.sizes) + len(arrays)), (len(self.sizes) + len(arrays),))
        for i, name in enumerate(self.sizes):
            flag = each[name.removeprefix("has_")].there if name.startswith("has_") else None
            words[i] = integer(sizes[name]) if flag is None else Value(builder().zext(flag.ir, INT))
        for i, array in enumerate(arrays):
            words[len(self.sizes) + i] = Value(builder().ptrtoint(array.pointer, INT))
        builder().call(found, [words.pointer, INT(0), INT(1)])


def kernel(constants: str = "", **arguments: Argument) -> Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function that writes it."""
    return lambda write: Kernel(write, constants.split(), arguments)


def evaluated(size: str, sizes: Mapping[str, Any]) -> Any:
    """Return the size that a sum of names and numbers stands for, such as k-1+t."""
    total: Any = 0
    for sign, word in re.findall(r"([+-]?)([a-z]+|\d+)", size):
        term = sizes.get(word, -1) if word.isalpha() else int(word)
        total = total - term if sign == "-" else term + total
    return total


def pointer(address: Value, kind: Any) -> Any:
    """Return an address as a pointer to numbers of a type."""
    return builder().inttoptr(address.ir, kind.as_pointer())


def _entry(module: ir.Module, work: ir.Function, sizes: int, tensors: int, parallel: bool) -> None:
    """Write the function that torch calls with a stack of words: the number of threads, sizes, handles of tensors.

    From a handle the address of a tensor's numbers is asked; it is given back. Threads are those of torch's own pool
    (GNU OpenMP). A thread makes one call, of a function that is not inlined, with integers: an address, its part of the
    work, and of how many.
    """
    words, int32 = INT.as_pointer(), ir.IntType(32)
    share = ir.Function(module, ir.FunctionType(ir.VoidType(), [words]), "share")
    share.linkage = "internal"
    with writing(share):
        if parallel:
            numbers = [builder().sext(call(f"omp_get_{what}", int32), INT) for what in ("thread_num", "num_threads")]
            builder().call(work, [share.args[0], *numbers])
        else:
            builder().call(work, [share.args[0], INT(0), INT(1)])
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [words, INT, INT]), "entry")
    with writing(entry):
        stack = Array(entry.args[0], (1 + sizes + tensors,))
        facts = Array(builder().alloca(INT, sizes + tensors), (sizes + tensors,))
        for i in range(sizes):
            facts[i] = stack[1 + i]
        for i in range(sizes, sizes + tensors):
            call("aoti_torch_get_data_ptr", int32, stack[1 + i].ir, facts.address(i))
        with choose(stack[0] > 1) as (several, one):
            with several:
                if parallel:
                    threads = builder().trunc(stack[0].ir, int32)
                    call("GOMP_parallel", ir.VoidType(), share, facts.pointer, threads, int32(0))
                else:
                    builder().call(share, [facts.pointer])
            with one:
                builder().call(work, [facts.pointer, INT(0), INT(1)])
        for i in range(sizes, sizes + tensors):
            call("aoti_torch_delete_tensor_object", int32, stack[1 + i].ir)
