"""Kernels as operators of torch, called by their address: no Python stands between, and graphs may contain them."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels import LIBRARY
from .compile import address, libraries
from .kernel import Kernel

_known: dict[Any, tuple[Callable[..., None], tuple[int, ...]]] = {}  # calls whose sizes have been checked


def call(kernel: Kernel, *tensors: Tensor) -> None:
    """Call a kernel, on as many threads as torch uses. Raises ValueError for tensors whose sizes do not agree."""
    key = (kernel, *[(tensor.shape, tensor.dtype, tensor.is_contiguous(), tensor.device) for tensor in tensors])
    found = _known.get(key)
    if found is None:
        sizes = kernel.bind(tensors)
        constants = tuple(sizes[name] for name in kernel.constants)
        found = _operator(kernel, *kernel.precisions(tensors), constants), tuple(sizes[name] for name in kernel.sizes)
        _known[key] = found
    operator, sizes = found
    operator(torch.get_num_threads(), *sizes, *tensors)


@functools.cache
def _operator(kernel: Kernel, number: torch.dtype, stored: torch.dtype, constants: tuple[int, ...]) -> Callable[..., None]:
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
        raise RuntimeError(f"torch {torch.__version__} did not take the kernel {name}: install another, or kernels torch")
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
    folder = Path(torch.__file__).with_name("lib")
    return ctypes.CDLL(str(next(path for path in folder.iterdir() if path.stem in ("libtorch_cpu", "torch_cpu"))))
