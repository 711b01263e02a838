"""How numba compiles our kernels: for the precision at hand, once; the result is kept on disk."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import torch
from numba import types

_sources = sorted(Path(__file__).parent.glob("numba_*.py"))
VERSION = f"{zlib.crc32(b''.join(path.read_bytes() for path in _sources)):08x}"

_torch_threads = torch.get_num_threads()
numba.set_num_threads(1)  # starts numba's threads, which may set the number that torch uses
torch.set_num_threads(_torch_threads)


def jit(function: Any, *, parallel: bool = False, inline: str = "never") -> Any:
    """Return the function compiled.

    Numba keeps it on disk for its own file; a kernel contains functions of the other files too, so its name there
    tells the version of them all. No fast-math: where arrays lie decides whether a loop is vectorised, and the numbers
    must not depend on that.
    """
    named = _named(function, function.__qualname__, parallel, {})
    return numba.njit(cache=True, nogil=True, error_model="numpy", parallel=parallel, inline=inline)(named)


def boxed(function: Any, name: str, constants: dict[str, Any], parallel: bool) -> int:
    """Return the address of a function of a stack, its length and 0, compiled; it sees the constants as its globals."""
    signature = types.void(types.CPointer(types.int64), types.int64, types.int64)
    named = _named(function, name, parallel, constants)
    return int(numba.cfunc(signature, cache=True, error_model="numpy", parallel=parallel)(named).address)


def _named(function: Any, name: str, parallel: bool, constants: dict[str, Any]) -> FunctionType:
    """Return the function under a name that tells the version."""
    named = FunctionType(function.__code__, function.__globals__ | constants, function.__name__)
    named.__qualname__ = f"{name}{'_threaded' if parallel else ''}_{VERSION}"
    return named


inlined = functools.partial(jit, inline="always")  # a part of one kernel: compiled once, with that


def threads() -> int:
    """Return how many threads torch uses, as far as numba has them."""
    return min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))


def threaded(function: Any) -> Callable[..., None]:
    """Return function(parts, ...) without its first argument: as many parts as torch has threads share its pranges.

    A single part is compiled without threads: quicker to compile, and to call.
    """
    alone, shared = jit(function), jit(function, parallel=True)

    @functools.wraps(function)
    def call(*given: Any) -> None:
        parts = threads()
        if parts == 1:
            alone(1, *given)
            return
        numba.set_num_threads(parts)
        shared(parts, *given)

    return call


def are_kept() -> bool:
    """Say whether kernels of this version lie on disk, where numba looks for them."""
    return any(Path(jit(are_kept)._cache.cache_path).glob(f"*_{VERSION}*"))
