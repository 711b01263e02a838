"""Which backend does the work that torch's own operations do slowly: chosen by name, never changed silently.

    torch     torch operations only; every device
    functional  the same operations, but nothing is written to what was given, and no operator of ours is called: for
              torch.func, vmap over many learners, and graphs to export; a trace then moves to new memory
    unfused   the same with few operations rather than few numbers: for runtimes that begin each operation by itself
    llvm      our own for the CPU (pip install "biomamba[fast]"): one pass over a trace, one over a scan
    triton    the same for a GPU (comes with torch's CUDA builds)
    mamba_ssm the inside of a Mamba-2 chunk by that package (CUDA), the rest as auto

`auto` is llvm on a CPU and triton on a GPU where they are installed, torch otherwise; `resolve` says which.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("biomamba", "DEF")  # of our operators, so that graphs may contain them
FUNCTIONAL = ("functional", "unfused")
NAMES = ("auto", "torch", *FUNCTIONAL, "llvm", "triton", "mamba_ssm")
HOW = {"llvm": 'pip install "biomamba[fast]"', "triton": "pip install triton"}


@functools.cache
def resolve(name: str, device: str = "cpu") -> str:
    """Return torch, functional, unfused, llvm or triton for tensors of a device type (cpu, cuda).

    Raises ValueError for an unknown name and for a backend that this device or this machine does not have.
    """
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(NAMES)}")
    if name in ("auto", "mamba_ssm"):
        usual = "triton" if device == "cuda" else "llvm"
        return usual if _installed(usual) and (device in ("cpu", "cuda")) else "torch"
    if name == "llvm" and device != "cpu":
        raise ValueError(f"backend: llvm works on the CPU only, the tensors are on {device}: give auto")
    if name == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("backend: triton works on a GPU, or with TRITON_INTERPRET=1 step by step: give auto")
    if name in HOW and not _installed(name):
        raise ValueError(f"backend: {name} is not installed: {HOW[name]}, or give auto")
    return name


@functools.cache
def module(name: str) -> Any:
    """Return a module of kernels, such as llvm.conv; imported late, because it may be absent and takes its time."""
    return importlib.import_module(f".{name}", __package__)


def call(name: str, *tensors: Tensor) -> None:
    """Call one of our kernels for the CPU by module and name, such as conv.conv: see `llvm.operator.call`."""
    module("llvm.operator").call(_kernel(name), *tensors)


def bound(name: str, *tensors: Tensor) -> Callable[..., None]:
    """Return one of our kernels for the CPU, to be called on tensors like those given: see `llvm.operator.bound`."""
    found: Callable[..., None] = module("llvm.operator").bound(_kernel(name), tensors)
    return found


def _kernel(name: str) -> Any:
    """Return a kernel by module and name."""
    part, _, kernel = name.partition(".")
    return getattr(module(f"llvm.{part}"), kernel)


def _installed(name: str) -> bool:
    return importlib.util.find_spec({"llvm": "llvmlite"}.get(name, name)) is not None
