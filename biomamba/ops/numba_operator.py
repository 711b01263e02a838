"""Operators of torch that are kernels of numba, called by their address: no Python stands between.

torch's C interface hands an operator a stack of 64-bit words: numbers as they are, of each tensor a handle, from which
the address of its numbers and its sizes are asked, and which is to be given back. A kernel is a function
(handles, states, number, stored): handles are the number of parts to work in, then one of each tensor, which lies in
one piece; `states` is a tuple of n zeros, so each n is compiled for; number and stored are the precisions of what is
computed and of traces.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import carray, types
from torch import Tensor

from .kernels import LIBRARY
from .numba_jit import boxed, jit, threads
from .numba_kernels import pointer

REAL: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bfloat16: np.uint16,  # its bits
}
_FILES = "libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"
_path = next(path for path in Path(torch.__file__).with_name("lib").iterdir() if path.name in _FILES)
_torch = ctypes.CDLL(str(_path))
llvmlite.binding.load_library_permanently(str(_path))  # where numba's linker looks for the names below
_get_data = types.ExternalFunction("aoti_torch_get_data_ptr", types.int32(types.int64, types.voidptr))
_get_sizes = types.ExternalFunction("aoti_torch_get_sizes", types.int32(types.int64, types.voidptr))
_delete = types.ExternalFunction("aoti_torch_delete_tensor_object", types.int32(types.int64))
_set_threads = types.ExternalFunction("set_num_threads", types.void(types.intp))  # numba's


@jit
def data(handle):
    """Return where a tensor's numbers lie; 0 for one of no numbers."""
    found = np.empty(1, np.int64)
    _get_data(handle, found.ctypes)
    return found[0]


@jit
def size(handle, axis):
    """Return the tensor's size along an axis."""
    found = np.empty(1, np.int64)
    _get_sizes(handle, found.ctypes)
    return carray(pointer(found[0]), (axis + 1,), np.int64)[axis]


@jit
def sizes(handle):
    """Return the first three sizes of a tensor."""
    return size(handle, 0), size(handle, 1), size(handle, 2)


@jit
def array(handle, shape, number):
    """Return a tensor as an array."""
    return carray(pointer(data(handle)), shape, number)


# what the adapter below sees as its globals, other ones for each operator; numba takes globals for constants
kernel: Any = None
states: tuple[int, ...] = ()
number = stored = np.float32
shared = False  # among threads


def _adapter(stack, length, none):
    handles = carray(stack, (length,))
    if shared:
        _set_threads(handles[0])
    kernel(handles, states, number, stored)
    for handle in handles[1:]:
        _delete(handle)


def call(kernel: Any, arguments: str, n: int, *tensors: Tensor, kept: torch.dtype | None = None) -> None:
    """Call the operator that is a kernel for n states, with as many parts as torch uses threads.

    arguments: the operator's, beside the number of parts, in torch's notation. The first tensor tells the precision of
    the numbers, kept that of traces. Where a graph is made, the operator becomes a part of it, and so does the number
    of parts.
    """
    parts = threads()
    _operator(kernel, arguments, tensors[0].dtype, kept or tensors[0].dtype, n, parts > 1)(parts, *tensors)


@functools.cache
def _operator(
    kernel: Any, arguments: str, number: torch.dtype, kept: torch.dtype, n: int, parallel: bool
) -> Callable[..., None]:
    """Return the operator, compiled and made known to torch."""
    packet = kernel.py_func.__name__
    overload = f"{number}_{kept}_{n}{'_threaded' if parallel else ''}".replace("torch.", "")
    constants = {"kernel": kernel, "states": (0,) * n, "number": REAL[number], "stored": REAL[kept], "shared": parallel}
    address = boxed(_adapter, f"{packet}_{overload}", constants, parallel)
    name = f"{packet}.{overload}"
    LIBRARY.define(f"{name}(int parts, {arguments}) -> ()", tags=(torch.Tag.needs_fixed_stride_order,))
    LIBRARY.impl(name, lambda *given: None, "Meta")
    library = ctypes.c_void_p()
    where = __file__.encode(), ctypes.c_uint32(0), ctypes.byref(library)
    failed = _torch.aoti_torch_library_init_impl(b"biomamba", b"CPU", *where)
    if failed or _torch.aoti_torch_library_impl(library, name.encode(), ctypes.c_void_p(address)):
        raise RuntimeError(
            f"torch {torch.__version__} did not take the kernel {name}: install another, or kernels torch"
        )
    return getattr(getattr(torch.ops.biomamba, packet), overload)  # type: ignore[no-any-return]
