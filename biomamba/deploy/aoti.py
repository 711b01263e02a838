"""A program as a package of compiled code (AOTInductor), for torch without Python; needs a C++ compiler."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule


def write(graph: GraphModule, given: Sequence[Tensor], inputs: list[str], outputs: list[str], file: Path) -> None:
    """Write the package of a graph of tensors like those given; inputs and outputs have an order, no names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (*given,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))


def load(file: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the package as torch runs it."""
    run = torch._inductor.aoti_load_package(str(file))
    return lambda tensors: list(run(*tensors))
