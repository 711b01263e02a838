"""A program as ONNX, for onnxruntime (pip install "biomamba[export]")."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor
from torch.fx import GraphModule

from .squeeze import squeezed

OPSET = 18


def write(graph: GraphModule, given: Sequence[Tensor], inputs: list[str], outputs: list[str], file: Path) -> None:
    """Write the file of a graph of tensors like those given, inputs and outputs under these names."""
    with _quiet():
        program = torch.export.export(squeezed(graph, given), (*given,))
        # torch's optimiser takes Adam's + 1e-8 for a + 0 and deletes it
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, external_data=False, optimize=False
        )
    assert made is not None
    for names, values in ((inputs, made.model.graph.inputs), (outputs, made.model.graph.outputs)):
        for name, value in zip(names, values, strict=True):
            value.name = name
    made.save(file)


def load(file: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the file as onnxruntime runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [own.name for own in session.get_inputs()]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter says of itself."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
