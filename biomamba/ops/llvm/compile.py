"""Machine code of kernels: made at the first use of each, kept on disk (`code_cache`), loaded from there next time."""

import functools
import hashlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import torch
from llvmlite import ir

from ... import code_cache

_lock = threading.Lock()
_loaded: list[Any] = []  # what code must not outlive


@functools.cache
def processor() -> Any:
    """Return LLVM's model of this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def torch_library() -> Path:
    """Return the file of torch's library for the CPU."""
    folder, names = Path(torch.__file__).with_name("lib"), ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll")
    return next(folder / name for name in names if (folder / name).exists())


@functools.cache
def libraries() -> bool:
    """Have torch's library and its threads found by kernels; say whether there are threads that a kernel can start.

    torch brings GNU OpenMP on Linux. Where there is none, kernels use one thread.
    """
    llvm.load_library_permanently(str(torch_library()))
    for found in torch_library().parent.glob("libgomp*"):
        llvm.load_library_permanently(str(found))
    return all(llvm.address_of_symbol(name) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"))


@functools.cache
def version() -> str:
    """Return what tells this machine code from another: sources, LLVM and processor."""
    facts = llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return code_cache.version(sorted(Path(__file__).parent.glob("*.py")), *facts)


def address(name: str, write: Callable[[], ir.Module]) -> int:
    """Return where the function `entry` of a kernel lies, compiling what `write` returns where it is not on disk."""
    with _lock:
        libraries()
        file = code_cache.folder("kernels", version()) / f"{name}.o"
        code_cache.use(file)
        code = _read(file)
        if code is None:
            _announce()
            code = compiled(write())
            code_cache.keep(file, hashlib.sha256(code).digest() + code)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), processor())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _loaded.append(engine)
        return int(engine.get_function_address("entry"))


def compiled(module: ir.Module) -> bytes:
    """Return the machine code of a module, an object file."""
    machine = processor()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    checked = llvm.parse_assembly(str(module))
    checked.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    # kernels say themselves what is a vector and what is unrolled
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(checked, passes)
    return machine.emit_object(checked)  # type: ignore[no-any-return]


@functools.cache
def _announce() -> None:
    print("biomamba: compiling CPU kernels once, about 2 s", file=sys.stderr, flush=True)


def _read(file: Path) -> bytes | None:
    """Return the code that was kept; None where there is none, or where it is not whole."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    digest, code = kept[:32], kept[32:]
    return code if hashlib.sha256(code).digest() == digest else None
