"""Kernels as operators of torch, called by their address: no Python stands between, and graphs may contain them."""

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import LIBRARY
from .compile import address, libraries, torch_library
from .kernel import Kernel

GRAIN = 1 << 20  # bytes of tensors for each thread: with less, starting it takes longer than its share of the work


class Call(NamedTuple):
    """A call whose sizes have been checked."""

    operator: Callable[..., None]
    sizes: tuple[int, ...]
    bytes: int

    def __call__(self, *tensors: Tensor) -> None:
        """Call it, on one thread, with tensors like those whose sizes were checked."""
        self.operator(1, *self.sizes, *tensors)


_known: dict[Any, Call] = {}
_one_at_a_time = threading.Lock()


def call(kernel: Kernel, *tensors: Tensor) -> None:
    """Call a kernel, on at most as many threads as torch uses.

    Raises ValueError for tensors whose sizes do not agree.
    """
    key = (kernel, *[(tensor.shape, tensor.dtype, tensor.is_contiguous(), tensor.device) for tensor in tensors])
    found = _known.get(key)
    if found is None:
        found = _known[key] = bound(kernel, tensors)
    threads = max(1, min(torch.get_num_threads(), found.bytes // GRAIN))
    found.operator(threads, *found.sizes, *tensors)


def bound(kernel: Kernel, tensors: Sequence[Tensor]) -> Call:
    """Return the call for tensors like those given, whose sizes it checks. Raises ValueError as `call` does."""
    sizes = kernel.bind(tensors)
    constants = tuple(sizes[name] for name in kernel.constants)
    with _one_at_a_time:  # torch takes each operator once, and several threads may ask for it
        operator = _operator(kernel, *kernel.precisions(tensors), constants)
    return Call(operator, tuple(sizes[name] for name in kernel.sizes), sum(tensor.nbytes for tensor in tensors))


@functools.cache
def _operator(
    kernel: Kernel, number: torch.dtype, stored: torch.dtype, constants: tuple[int, ...]
) -> Callable[..., None]:
    """Return the operator for some precisions and constants, compiled and made known to torch."""
    overload = "_".join([str(number), str(stored), *map(str, constants)]).replace("torch.", "")
    named, parallel = dict(zip(kernel.constants, constants, strict=True)), libraries()
    entry = address(f"{kernel.name}_{overload}", lambda: kernel.module(number, stored, named, parallel))
    name = f"llvm_{kernel.name}.{overload}"
    LIBRARY.define(f"{name}({_schema(kernel)}) -> ()", tags=(torch.Tag.needs_fixed_stride_order,))
    LIBRARY.impl(name, lambda *given: None, "Meta")
    library, torch_cpu = ctypes.c_void_p(), _torch()
    where = __file__.encode(), ctypes.c_uint32(0), ctypes.byref(library)
    failed = torch_cpu.aoti_torch_library_init_impl(b"biomamba", b"CPU", *where)
    if failed or torch_cpu.aoti_torch_library_impl(library, name.encode(), ctypes.c_void_p(entry)):
        raise RuntimeError(
            f"torch {torch.__version__} did not take the kernel {name}: install another, or kernels torch"
        )
    return getattr(getattr(torch.ops.biomamba, f"llvm_{kernel.name}"), overload)  # type: ignore[no-any-return]


def _schema(kernel: Kernel) -> str:
    """Return the operator's arguments in torch's notation."""
    sizes = [f"int size_{name}" for name in kernel.sizes]
    tensors = [
        f"Tensor({name}!) {name}" if argument.written else f"Tensor {name}"
        for name, argument in kernel.arguments.items()
    ]
    return ", ".join(["int threads", *sizes, *tensors])


@functools.cache
def _torch() -> ctypes.CDLL:
    """Return torch's library, which takes operators by its stable C interface."""
    return ctypes.CDLL(str(torch_library()))
