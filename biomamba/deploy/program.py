"""A learner as one graph of torch operations: what it takes, what it gives, what goes round.

outputs, carried = program(inputs, carried)

inputs   x, y, mask, reset, lr, and of `Chunk.info` what the loss reads, as info.NAME
outputs  out, loss, norm, finite, learned, as `pure.Result` has them; of a prediction alone: out
carried  weights.NAME, moments.NAME.KEY, step, state.BLOCK.NAME, trace.BLOCK...; of a prediction alone: the state
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..pure import Memory, PureUpdate, graph
from ..state import Tree, flat, leaves, tree_map
from ..stream import Chunk
from .decompose import table, with_constants
from .formulas import Formulas

Named = dict[str, Tensor]


class Program(NamedTuple):
    """A graph, and the names of what it takes and gives, in order."""

    graph: GraphModule
    inputs: Named  # an example
    carried: Named  # as it begins
    outputs: Named  # an example

    def feed(self, chunk: Chunk, lr: Tensor) -> list[Tensor]:
        """Return the inputs of a chunk, in order."""
        given = dict(leaves(_inputs(chunk, lr)))
        return [given[name].to(like.dtype) for name, like in self.inputs.items()]


def learning(update: PureUpdate, memory: Memory, chunk: Chunk, lr: Tensor) -> Program:
    """Return the update: predict, then learn. Raises ValueError where the task's loss is no graph."""

    def function(inputs: Tree, carried: Memory) -> Tree:
        none = torch.zeros_like(inputs["mask"])
        own = Chunk(inputs["x"], inputs["y"], inputs["mask"], inputs.get("reset", none), inputs.get("info", {}))
        *outputs, after = update(carried, own, inputs["lr"])
        return [dict(zip(("out", "loss", "norm", "finite", "learned"), outputs, strict=True)), after]

    given = _inputs(chunk, lr)
    return _program(function, given if update.resets else _without(given, "reset"), memory)


def predicting(update: PureUpdate, memory: Memory, chunk: Chunk) -> Program:
    """Return the prediction alone; the weights lie in the file."""

    def function(inputs: Tree, carried: Tree) -> Tree:
        reset = inputs.get("reset", torch.zeros_like(chunk.reset))
        out, state = update.predict(memory.weights, carried["state"], inputs["x"], reset)
        return [{"out": out}, {"state": state}]

    given = {"x": chunk.x, "reset": chunk.reset}
    return _program(function, given if update.resets else _without(given, "reset"), {"state": memory.state})


def _program(function: Callable[..., Tree], inputs: Tree, carried: Tree) -> Program:
    """Return the function's program, without the inputs that nothing reads."""

    def apart(inputs: Tree, carried: Tree) -> Tree:  # an input that is an output too would have two names
        given = {*map(id, flat([inputs, carried]))}
        return tree_map(lambda own: own.clone() if id(own) in given else own, function(inputs, carried))

    try:
        with Formulas():
            made = graph(apart, inputs, carried, table=table())
    except (RuntimeError, GuardOnDataDependentSymNode) as error:
        raise ValueError(
            f"export: the update cannot be written as one graph ({str(error).splitlines()[0]}): "
            "give a task whose loss does not look at its labels to choose what it does"
        ) from error
    outputs, _ = function(inputs, carried)
    given, unread = dict(leaves(inputs)), set[str]()
    placeholders = [node for node in made.graph.nodes if node.op == "placeholder"]
    for name, node in zip(given, placeholders, strict=False):
        if not node.users:
            made.graph.erase_node(node)
            unread.add(name)
    with_constants(made)
    return Program(made, _without(given, *unread), dict(leaves(carried)), outputs)


def _inputs(chunk: Chunk, lr: Tensor) -> Tree:
    return {"x": chunk.x, "y": chunk.y, "mask": chunk.mask, "reset": chunk.reset, "info": chunk.info, "lr": lr}


def _without(tree: Tree, *names: str) -> Tree:
    return {name: own for name, own in tree.items() if name not in names}


def trials(chunks: Iterable[Chunk], resets: bool) -> Iterator[Chunk]:
    """Yield the chunks; of every seventh no step is labelled, one in five begins anew, one holds a value not finite."""
    for i, chunk in enumerate(chunks):
        if i % 7 == 3:
            chunk = chunk._replace(mask=torch.zeros_like(chunk.mask))
        if resets and i % 5 == 2:
            chunk = chunk._replace(reset=torch.ones_like(chunk.reset))
        if i == 4 and chunk.x.is_floating_point():
            chunk = chunk._replace(x=torch.full_like(chunk.x, torch.nan))
        yield chunk


def largest_difference(
    program: Program, run: Callable[[list[Tensor]], list[Tensor]], chunks: Iterable[Chunk], lr: Tensor
) -> float:
    """Return the largest difference of what a target and torch give and carry, each by itself, over the chunks.

    Relative to the number where that is above 1; infinite where one alone is not finite.
    """
    ours, theirs, worst = [*program.carried.values()], [*program.carried.values()], 0.0
    for chunk in chunks:
        given = program.feed(chunk, lr)
        expected, found = flat(program.graph(*given, *ours)), run([*given, *theirs])
        for a, b in zip(expected, found, strict=True):
            if a.numel() and not torch.equal(a, b):
                a, b = a.double(), b.double()
                apart = ((a - b).abs() / a.abs().clamp(min=1)).nan_to_num(torch.inf)
                both = a.isnan() & b.isnan() | (a == b)
                worst = max(worst, float(apart.masked_fill(both, 0).max()))
        ours, theirs = expected[len(program.outputs) :], found[len(program.outputs) :]
    return worst
