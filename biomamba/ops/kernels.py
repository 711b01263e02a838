"""Which kernels do the work that torch's own operations do slowly: chosen by name, never changed silently.

    torch     torch operations only; every device
    functional  the same operations, but nothing is written to what was given, and no operator of ours is called: for
              torch.func, vmap over many learners, and graphs to export; a trace then moves to new memory
    numba     compiled loops for the CPU (pip install "biomamba[fast]"): one pass over a trace, one over a scan
    triton    the same for a GPU (comes with torch's CUDA builds)
    mamba_ssm the inside of a Mamba-2 chunk by that package (CUDA), the rest as auto

`auto` is numba on a CPU and triton on a GPU where they are installed, torch otherwise; `resolve` says which.
"""

import functools
import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("biomamba", "DEF")  # of our operators, so that graphs may contain them
NAMES = ("auto", "torch", "functional", "numba", "triton", "mamba_ssm")
HOW = {"numba": 'pip install "biomamba[fast]"', "triton": "pip install triton"}


@functools.cache
def resolve(name: str, device: str = "cpu") -> str:
    """Return torch, functional, numba or triton for tensors of a device type (cpu, cuda).

    Raises ValueError for an unknown name and for kernels that this device or this machine does not have.
    """
    if name not in NAMES:
        raise ValueError(f"kernels: got {name!r}, expected one of {', '.join(NAMES)}")
    if name in ("auto", "mamba_ssm"):
        usual = "triton" if device == "cuda" else "numba"
        return usual if _installed(usual) and (device in ("cpu", "cuda")) else "torch"
    if name == "numba" and device != "cpu":
        raise ValueError(f"kernels: numba works on the CPU only, the tensors are on {device}: give auto")
    if name == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("kernels: triton works on a GPU, or with TRITON_INTERPRET=1 step by step: give auto")
    if name in HOW and not _installed(name):
        raise ValueError(f"kernels: {name} is not installed: {HOW[name]}, or give auto")
    return name


@functools.cache
def module(kernels: str, part: str = "kernels") -> Any:
    """Return the module of these kernels; imported late, because it may be absent and takes its time."""
    return importlib.import_module(f".{kernels}_{part}", __package__)


def call(part: str, kernel: str, arguments: str, n: int, *tensors: Tensor, kept: torch.dtype | None = None) -> None:
    """Call one of numba's kernels as an operator of torch: see `numba_operator.call`.

    Raises ValueError for a tensor that does not lie in one piece: the kernel would read others' memory.
    """
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError(f"{kernel}: got a tensor of shape {tuple(tensor.shape)} that is not contiguous")
    module("numba", "operator").call(getattr(module("numba", part), kernel), arguments, n, *tensors, kept=kept)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
