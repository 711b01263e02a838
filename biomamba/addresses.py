"""Where the numbers of a stack of blocks lie, as tables of addresses: what kernels of all layers are given.

Weights, traces and averages belong to the model, the loop and the optimiser, who may put others in their place between
two updates; the tables are made anew when they do. Letters: l layers, m weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .kinds import Kind
from .model import Model
from .moments import Moments


class Addresses:
    """Addresses of weights, gradients, traces and averages."""

    def __init__(self, model: Model, kind: Kind) -> None:
        """Take the model, and the kind of its blocks."""
        self.model, self.parameters = model, [*model.parameters()]
        self.layers = [kind.weights(block) for block in model.blocks]
        self.size = sum(parameter.numel() for parameter in self.parameters)
        self.where: list[int] = []  # the weights lay when the tables were made
        self._traces: dict[tuple[int, ...], list[Tensor]] = {}  # the latest tables, by where all of it lies
        self._averages: dict[tuple[int, ...], Tensor] = {}

    def moved(self) -> bool:
        """Say whether the weights lie elsewhere than before; if so, make their tables and room for their gradients."""
        where = [parameter.data_ptr() for parameter in self.parameters]
        if where == self.where:
            return False
        for parameter in self.parameters:
            parameter.data = parameter.data.contiguous()
        self.where = [parameter.data_ptr() for parameter in self.parameters]
        self._traces, self._averages = {}, {}
        model, encoder = self.model, self.model.encoder
        self.gradient = torch.empty(self.size, dtype=model.head.weight.dtype)  # of all weights, in one piece
        parts = self.gradient.split([parameter.numel() for parameter in self.parameters])
        of = {id(p): part.view(p.shape) for p, part in zip(self.parameters, parts, strict=True)}
        self.gradient_of = of  # by the weight's identity
        self.of_head, self.of_norm, self.of_encoder = (
            of[id(p)] for p in (model.head.weight, model.norm_f.weight, encoder.weight)
        )
        self.of_bias = of[id(encoder.bias)] if isinstance(encoder, nn.Linear) else self.gradient[:0]
        self.weights = torch.tensor([[own.data_ptr() for own in layer] for layer in self.layers])  # (l, ...)
        self.gradients = torch.tensor([[of[id(own)].data_ptr() for own in layer] for layer in self.layers])
        return True

    def traces(self, own: Sequence[Tensor], tables: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return where traces lie, a table (l, m) for each of the lists of their numbers in a layer; none for no list.

        Raises ValueError for a trace that is not in one piece.
        """
        where = tuple([tensor.data_ptr() for tensor in own])
        if where not in self._traces:
            if not all(tensor.is_contiguous() for tensor in own):
                raise ValueError("trace: got tensors that are not in one piece, expected those that an update returned")
            every = torch.tensor(where, dtype=torch.int64).view(len(self.layers), -1)
            none = torch.empty(0, dtype=torch.int64)
            self._traces = {where: [every[:, [*table]].contiguous() if table else none for table in tables]}
        return self._traces[where]

    def knows(self, moments: Moments) -> bool:
        """Say whether `averages` may be asked: they are of the weights' precision, each in one piece."""
        where = tuple([tensor.data_ptr() for tensor in moments.tensors])
        alike = (own.dtype == self.gradient.dtype and own.is_contiguous() for own in moments.tensors)
        return where in self._averages or all(alike)

    def averages(self, moments: Moments) -> Tensor:
        """Return, of each weight, its address, those of Adam's averages, its place among the gradients, size and group.

        (m, 6) int64.
        """
        where = tuple([tensor.data_ptr() for tensor in moments.tensors])
        if where not in self._averages:
            begin, rows = self.gradient.data_ptr(), list[list[int]]()
            for i, p in enumerate(moments.parameters):
                at = (self.gradient_of[id(p)].data_ptr() - begin) // self.gradient.itemsize
                rows.append([p.data_ptr(), *where[2 * i : 2 * i + 2], at, p.numel(), moments.group_of[i]])
            self._averages = {where: torch.tensor(rows)}
        return self._averages[where]
