"""Graphs of torch operations as compiled code, made once for a machine: AOTInductor's packages, kept on disk.

    graph -> digest of its operations, what it is given and threads -> the package of that name, loaded, or made

Loading takes milliseconds; making takes a C++ compiler, and half a minute.
"""

import functools
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from . import code_cache

OPTIONS = {
    "aot_inductor.package": True,
    "size_asserts": False,  # who calls a graph has chosen it by its sizes
    "memory_planning": True,  # of a single step, allocating each intermediate would take longer than computing it
}


def check_compiler() -> None:
    """Raise ValueError where this machine has no C++ compiler."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if shutil.which(name) is None:
        raise ValueError(f"compile: there is no {name} here: install it, or do without")


def compile_graph(made: GraphModule, given: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return the graph as code for tensors like those given, on their device. Raises ValueError where it cannot be."""
    try:
        if any(tensor.device.type != "cpu" for tensor in given):
            with torch._inductor.config.patch(size_asserts=False):
                return torch._inductor.standalone_compile(made, [*given])
        return _kept(made, given)
    except Exception as error:  # whatever a compiler that does not work makes of it
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"compile: {told}: mend the C++ compiler, or do without") from error


def _kept(made: GraphModule, given: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return the package of a graph as torch runs it, from disk where it is there and whole."""
    file = code_cache.folder("graphs", _version()) / f"{digest(made, given)}.pt2"
    code_cache.use(file)
    try:
        return load(file)
    except RuntimeError:  # not there, or damaged
        print("biomamba: compiling a graph once, about half a minute", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="biomamba-") as aside:
            package = Path(aside) / file.name
            _write(made, given, package)
            run = load(package)
            code_cache.keep(file, package.read_bytes())
        return run


def load(package: Path) -> Callable[..., Sequence[Tensor]]:
    """Return a package as torch runs it, on one thread at a time. Raises RuntimeError for what is none."""
    run = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", True, 1, -1).boxed_run
    return lambda *tensors: run([*tensors])


def digest(made: GraphModule, given: Sequence[Tensor]) -> str:
    """Return what tells a graph and what it is given from others: operations, constants, sizes, threads."""
    found = hashlib.sha256(made.code.encode())
    found.update(repr([(t.shape, t.stride(), t.dtype) for t in given]).encode())
    found.update(repr(torch.get_num_threads()).encode())  # among which a graph shares its work out
    for node in made.graph.find_nodes(op="get_attr"):
        constant = getattr(made, node.target)
        found.update(repr((constant.shape, constant.dtype)).encode() + constant.contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def _write(made: GraphModule, given: Sequence[Tensor], package: Path) -> None:
    """Write the package of a graph."""
    from torch._inductor import aot_compile  # which takes a second
    from torch._inductor.package.package import package_aoti

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package_aoti(str(package), cast(Any, aot_compile(made, (*given,), options=OPTIONS)))


@functools.cache
def _version() -> str:
    """Return what tells this code from another: how it is made, torch and the processor."""
    return code_cache.version([Path(__file__)], torch.__version__, torch.version.git_version, _processor())


def _processor() -> list[Any]:
    """Return the processor's name and what it can do, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), sorted(told)]
