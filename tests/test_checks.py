"""Sizes are compared before memory is read: one line says what was given, what was expected and what to type."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import biomamba
from biomamba.blocks import BLOCKS as REGISTRY
from biomamba.loop_state import LoopState
from biomamba.rules import RTRL, RULES
from biomamba.state import Tree, leaves, tree_map
from biomamba.tasks.delay import Delay
from sizes import BATCH, BLOCKS, D_OUT, VOCAB, SummedLoss, chunks, random_model, random_tokens


class Labelled(SummedLoss):
    """The same loss in a form whose shapes do not depend on the labels."""

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        """Return the sum, nats."""
        return biomamba.metrics.labelled_cross_entropy(out, chunk)


REMEMBERING = [name for name in RULES if name != "bptt"]  # which has no trace that could be of other sizes


def says(call: Callable[[], object], kind: type[Exception], line: str) -> None:
    """Assert that the call raises an error of this kind, of one line that matches."""
    with pytest.raises(kind, match=line) as caught:
        call()
    assert caught.type is kind and "\n" not in str(caught.value), str(caught.value)


def read(model: biomamba.Model, streams: int, local: bool = False) -> tuple[torch.Tensor, list[Any]]:
    """Return a loss and the tapes of a chunk of two steps."""
    x, _ = random_tokens(2, streams)
    out, _, tapes = model(x, biomamba.cut(model.init_state(streams)), None, local)
    return out.square().sum(), tapes


def learner(**options: Any) -> tuple[biomamba.Model, RTRL, torch.optim.Optimizer]:
    model = random_model("mamba2", **options)
    return model, RTRL(model.blocks), torch.optim.Adam(model.parameters())


def run(stream: Any, parts: Any, task: Any = None, state: Any = None, **options: Any) -> list[biomamba.Report]:
    return list(biomamba.online(stream, biomamba.Learner(task or SummedLoss(), *parts, **options), state))


@pytest.mark.parametrize("given", [1, 3])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule", REMEMBERING)
def test_a_trace_of_other_streams_is_said(rule: str, block: str, given: int) -> None:
    model = random_model(block)
    learning = RULES[rule](model.blocks)
    loss, tapes = read(model, 2, learning.local)
    line = rf"^trace: of {given} streams?, expected 2: give rule.init\(2\)$"
    says(lambda: learning.advance_traces(tapes, learning.init(given)), ValueError, line)
    says(lambda: learning.past([], tapes, [], learning.init(given)), ValueError, line)
    says(lambda: learning.backward(loss, tapes, learning.init(given)), ValueError, line)
    assert all(p.grad is None for p in model.parameters()), "it had begun"
    learning.backward(loss, tapes, learning.init(2))  # control


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule", RULES)
def test_trace_and_tapes_of_another_model_are_said(rule: str, block: str) -> None:
    model, deep, wide = random_model(block), random_model(block, n_layers=2), random_model(block, d_model=8)
    learning, others = RULES[rule](model.blocks), RULES[rule](deep.blocks)
    move = learning.advance_traces
    _, tapes = read(model, 2, learning.local)
    says(
        lambda: move(tapes, others.init(2)),
        ValueError,
        "trace: of 2 blocks, expected 1: give rule.init",
    )
    says(lambda: move(tapes, None), TypeError, "trace: got NoneType, expected a list of one tree")
    _, deeper = read(deep, 2, learning.local)
    says(
        lambda: move(deeper, learning.init(2)),
        ValueError,
        "tapes: of 2 blocks, expected 1: give those of",
    )
    _, wider = read(wide, 2, learning.local)
    says(
        lambda: move(wider, learning.init(2)),
        ValueError,
        "tapes: block 0 has states .* expected .*: give",
    )
    if rule in REMEMBERING:
        wrong = RULES[rule](wide.blocks).init(2)
        says(
            lambda: move(tapes, wrong),
            ValueError,
            r"trace: 0\.\S+ is \(2, .*, expected \(2, .*: give rule",
        )
    move(tapes, learning.init(2))  # control


@pytest.mark.parametrize("rule", REMEMBERING)
def test_every_tensor_of_a_trace_is_looked_at(rule: str) -> None:
    model = random_model("mamba2", n_layers=2)
    learning = RULES[rule](model.blocks)
    paths = [path for path, _ in leaves(learning.init(2))]
    assert len(paths) > 2 * len(model.blocks[0].influences) - 1
    for path in paths:
        changes: list[tuple[Callable[[torch.Tensor], Any], type[Exception]]] = [
            (lambda tensor: tensor[..., None], ValueError),
            (lambda tensor: tensor[:1], ValueError),
            (lambda tensor: tensor.to(torch.float16), TypeError),
            (lambda tensor: None, ValueError),
        ]
        for change, kind in changes:
            with pytest.raises(kind, match=rf"of 1 stream|{re.escape(path)}"):
                learning.check_trace(changed(learning.init(2), path, change), 2)
    learning.check_trace(changed(learning.init(2), paths[0], torch.clone), 2)  # control


def changed(trace: Tree, path: str, change: Callable[[torch.Tensor], Any]) -> Tree:
    """Return the trace with one tensor changed."""
    names = iter([name for name, _ in leaves(trace)])
    return tree_map(lambda tensor: change(tensor) if next(names) == path else tensor, trace)


def test_a_rule_follows_its_model_to_another_precision() -> None:
    model, rule, _ = learner()
    rule.check_trace(rule.init(2), 2)
    before = rule.init(2)
    model.double()
    rule.check_trace(rule.init(2), 2)
    says(lambda: rule.check_trace(before, 2), TypeError, "trace: 0.A_log is float32, expected float64: give rule.init")


@pytest.mark.parametrize("steps", [{"advance": 3}, {"advance": -1}, {"new": 0}, {"new": 3}])
def test_steps_outside_the_tapes_are_said(steps: dict[str, int]) -> None:
    model, rule, _ = learner()
    loss, tapes = read(model, 2)
    says(lambda: rule.backward(loss, tapes, rule.init(2), **steps), ValueError, r"got -?\d steps, expected [01] to 2, ")
    rule.backward(loss, tapes, rule.init(2), advance=1, new=1)  # control


def test_a_rule_wants_blocks() -> None:
    says(lambda: RTRL([]), ValueError, "blocks: got none, expected those of a model: give model.blocks")
    says(lambda: RTRL([torch.nn.Linear(2, 2)]), TypeError, "blocks: got Linear, expected blocks: give")  # type: ignore[list-item]


def test_model_reads_what_it_was_made_for() -> None:
    tokens, values = random_model("mamba2"), biomamba.Model(d_in=3, d_out=7, d_model=6, d_state=4, headdim=4)
    x, real = random_tokens(4, 2)[0], torch.randn(2, 4, 3)
    for model, given, kind, line in (
        (tokens, x.float(), TypeError, r"x: got float32, expected tokens, int64: give x.long\(\)"),
        (tokens, x.numpy(), TypeError, r"x: got ndarray, expected a tensor: give torch.as_tensor\(x\)"),
        (tokens, x[0], ValueError, r"x: got \(4,\), expected \(streams, steps\): give"),
        (tokens, x[:, :0], ValueError, r"x: got \(2, 0\), expected \(streams, steps\), at least one of each: give"),
        (
            tokens,
            x * 0 + VOCAB,
            ValueError,
            rf"x: tokens from {VOCAB} to {VOCAB}, expected 0 to {VOCAB - 1}: give Model",
        ),
        (tokens, x * 0 - 1, ValueError, rf"x: tokens from -1 to -1, expected 0 to {VOCAB - 1}: give"),
        (values, x, TypeError, r"x: got int64, expected real values: give x.float\(\)"),
        (
            values,
            real.double(),
            TypeError,
            r"x: got float64, expected float32 as the weights: give x.to\(torch.float32",
        ),
        (values, real.numpy(), TypeError, "x: got ndarray, expected a tensor: give"),
        (values, real[..., :2], ValueError, r"x: got \(2, 4, 2\), expected \(streams, steps, 3\): give"),
        (values, real[0], ValueError, r"x: got \(4, 3\), expected \(streams, steps, 3\): give"),
    ):
        says(lambda: model(given, model.init_state(2)), kind, line)  # noqa: B023
    tokens(x, tokens.init_state(2))  # controls
    values(real, values.init_state(2))


@pytest.mark.parametrize("block", BLOCKS)
def test_state_and_reset_belong_to_the_input(block: str) -> None:
    model, (x, _) = random_model(block, n_layers=2), random_tokens(4, 2)
    half = tree_map(lambda tensor: tensor.half(), model.init_state(2))
    for state, kind, line in (
        (model.init_state(1), ValueError, r"state: of 1 stream, expected 2: give model.init_state\(2\)"),
        (model.init_state(3), ValueError, r"state: of 3 streams, expected 2: give model.init_state\(2\)"),
        (model.init_state(2)[:1], ValueError, "state: of 1 block, expected 2: give"),
        (
            random_model(block, n_layers=2, d_model=8).init_state(2),
            ValueError,
            r"state: 0.* is \(2, .* expected .*: give",
        ),
        (half, TypeError, "state: 0.conv is float16, expected float32: give"),
        (None, TypeError, "state: got NoneType, expected a list of one tree for each block: give"),
    ):
        says(lambda: model(x, state), kind, line)  # noqa: B023
    reset = torch.zeros(2, 4, dtype=torch.bool)
    for given, kind, line in (
        (reset[:1], ValueError, r"reset: got \(1, 4\), expected \(2, 4\), as x has streams and steps: give"),
        (reset[:, :3], ValueError, r"reset: got \(2, 3\), expected \(2, 4\)"),
        (reset.float(), TypeError, r"reset: got float32, expected bool: give reset.bool\(\)"),
        (reset.numpy(), TypeError, "reset: got ndarray, expected a tensor"),
    ):
        says(lambda: model(x, model.init_state(2), given), kind, line)  # noqa: B023
    model(x, model.init_state(2), reset)  # control


SIZES = {
    "mamba2": ("d_state", "d_conv", "expand", "headdim"),
    "mamba": ("d_state", "d_conv", "expand", "dt_rank"),
    "diagonal": ("d_state", "expand"),
    "gru": ("expand",),
    "gated_delta": ("d_state", "d_conv", "expand", "headdim"),
}


@pytest.mark.parametrize("block, name", [(block, name) for block, names in SIZES.items() for name in names])
def test_sizes_of_a_block_are_whole_and_at_least_1(block: str, name: str) -> None:
    REGISTRY[block](4, **{name: 1})  # control
    says(lambda: REGISTRY[block](4, **{name: 0}), ValueError, f"^{name}: got 0, expected at least 1: give 1 or more$")
    says(lambda: REGISTRY[block](4, **{name: 1.5}), TypeError, f"^{name}: got 1.5, expected a whole number: give")


@pytest.mark.parametrize("block", [*BLOCKS, "gated_delta"])
def test_bounds_of_a_block_are_positive_and_in_order(block: str) -> None:
    wrong = [{"dt_min": 0.0}, {"dt_min": 0.2, "dt_max": 0.1}, {"dt_max": float("inf")}, {"A_min": -1.0}]
    for bounds in wrong[:3] if block == "mamba3" else wrong:  # whose rates depend on the input alone
        says(lambda: REGISTRY[block](4, **bounds), ValueError, r"expected 0 < \w+ <= \w+, finite: give")  # noqa: B023


@pytest.mark.parametrize(
    "name", ["n_layers", "d_model", "d_out", "vocab", "d_in", "d_state", "headdim", "expand", "d_conv"]
)
def test_sizes_of_a_model_are_at_least_1_and_such_as_tensors_have(name: str) -> None:
    sizes = {"d_out": 3, "d_model": 4, ("d_in" if name == "d_in" else "vocab"): 5}
    biomamba.Model(**sizes | {name: 1})  # control
    wrong = {0: "at least 1", -1: "at least 1", 2**31: "at most", 10**30: "at most"}  # more than a machine's word
    for size, bound in wrong.items():
        line = f"^{name}: got {str(size)[:20]}, expected {bound}"
        says(lambda: biomamba.Model(**sizes | {name: size}), ValueError, line)  # noqa: B023


def test_parts_of_another_model_are_said() -> None:
    stream, parts = chunks(*random_tokens(4), 2), learner()
    _, rule, optimizer = learner()
    says(lambda: run(stream, (parts[0], rule, parts[2])), ValueError, r"rule: of 1 block, not this.*: give RTRL\(model")
    says(
        lambda: run(stream, (*parts[:2], optimizer)),
        ValueError,
        r"optimizer: (\d+) of its \1 parameters are not .*: give Adam\(model",
    )
    frozen = torch.optim.SGD(parts[0].head.parameters(), lr=0.1)
    assert run(stream, (*parts[:2], frozen))[-1].state.updates == 2  # control: a part of the model may learn alone


def test_a_model_for_another_task_is_said() -> None:
    for sizes, line in (
        (
            {"vocab": 20, "d_out": 8},
            r"model: of vocab=20, expected vocab=21 for the task Delay: give Model\(vocab=21\)",
        ),
        ({"vocab": 21, "d_out": 7}, r"model: of d_out=7, expected 8 for the task Delay: give Model\(d_out=8\)"),
        ({"d_in": 21, "d_out": 8}, "model: of d_in=21, expected vocab=21 for the task Delay: give"),
        ({"vocab": 22, "d_out": 9}, None),  # control: it may know more
    ):
        model = biomamba.Model(**sizes, d_model=6, d_state=4, headdim=4)
        parts = model, RTRL(model.blocks), torch.optim.Adam(model.parameters())
        task = Delay(delay=4)
        stream = [next(task.stream("all", batch=2, length=2, seed=0))]
        for loop in (lambda: run(stream, parts, task), lambda: list(biomamba.evaluate(stream, task, model))):  # noqa: B023
            if line:
                says(loop, ValueError, line)
            else:
                assert loop()


def test_chunks_are_looked_at_in_the_midst_of_a_stream() -> None:
    x, y = random_tokens(8)
    good = chunks(x, y, 2)
    a = good[0]
    no = torch.zeros(BATCH, 3, dtype=torch.bool)
    for bad, kind, line in (
        (
            chunks(x[:1], y[:1], 2)[0],
            ValueError,
            f"x: of 1 stream, expected {BATCH}, as in the state or the chunk before",
        ),
        (a._replace(x=a.x.float()), TypeError, "x: got float32, expected tokens"),
        (a._replace(x=a.x.numpy()), TypeError, "x: got ndarray, expected a tensor"),
        (a._replace(x=a.x * 0 + VOCAB), ValueError, f"x: tokens from {VOCAB} to {VOCAB}"),
        (a._replace(mask=no), ValueError, r"mask: got \(3, 3\), expected \(3, 2\), as x has"),
        (a._replace(mask=a.mask.long()), TypeError, "mask: got int64, expected bool"),
        (a._replace(reset=no), ValueError, r"reset: got \(3, 3\), expected \(3, 2\), as x has"),
        (a._replace(y=a.y[:, :1]), ValueError, r"y: got \(3, 1\), expected \(3, 2\)"),
        (a._replace(info={"at": no}), ValueError, r"info\['at'\]: got \(3, 3\), expected \(3, 2\) and more axes"),
        (a._replace(info={"at": a.x.numpy()}), TypeError, r"info\['at'\]: got ndarray, expected a tensor"),
        (a._replace(info=[no]), TypeError, "info: got list, expected tensors by name"),
        (
            a._replace(y=a.y * 0 + D_OUT),
            ValueError,
            f"y: Target {D_OUT} is out of bounds. Expected labels from 0 to 6: give",
        ),
        (tuple(a), TypeError, r"stream: brought tuple, expected Chunk: give Chunk\(x, y, mask, reset\)"),
    ):
        stream: Any = [*good, bad]
        says(lambda: run(stream, learner()), kind, line)  # noqa: B023
        says(lambda: list(biomamba.evaluate(stream, SummedLoss(), random_model("mamba2"))), kind, line)  # noqa: B023
    assert len(run([*good, a._replace(x=a.x.int())], learner())) == 5  # control


def test_a_state_of_other_streams_or_another_model_is_said() -> None:
    x, y = random_tokens(8)
    parts = learner()

    def fresh(streams: int, model: biomamba.Model = parts[0], rule: Any = parts[1]) -> biomamba.LoopState:
        return LoopState.begin(chunks(x[:streams], y[:streams], 2)[0], SummedLoss(), model, rule)

    stream, (wide, its_rule, _) = chunks(x, y, 2), learner(d_model=8)
    stllr = RULES["stllr"](parts[0].blocks)
    for given, kind, line in (
        (
            fresh(2),
            ValueError,
            f"x: of {BATCH} streams, expected 2, as in the state or the chunk before: give",
        ),
        (fresh(BATCH, wide, its_rule), ValueError, "state: 0.conv is .*, expected .*: give model.init_state"),
        (fresh(BATCH, rule=stllr), ValueError, r"trace: .* give rule.init"),
        (parts[0].init_state(3), TypeError, "state: got list, expected a LoopState: give report.state"),
    ):
        says(lambda: run(stream, parts, state=given), kind, line)  # noqa: B023
    said = "expected 2, as in the state"
    says(lambda: list(biomamba.evaluate(stream, SummedLoss(), parts[0], fresh(2))), ValueError, said)
    assert run(stream, parts, state=fresh(BATCH))[-1].state.updates == 4  # control


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_put_into_a_state_between_updates_is_looked_at(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph looks at no size, so what the last update did not leave is looked at before; here it is not compiled."""
    monkeypatch.setattr("biomamba.compiled.compile_graph", lambda graph, given: torch.no_grad()(graph))
    for name, odd in (("state", 2), ("trace", 2), ("state", 4), ("trace", 4)):
        model, rule, optimizer = parts = learner()
        stream = chunks(*random_tokens(12), 2)
        loop = biomamba.online(stream, biomamba.Learner(Labelled(), *parts, compile=compiled))
        next(loop)
        report = next(loop)
        field = "model_state" if name == "state" else name
        setattr(report.state, field, tree_map(torch.clone, getattr(report.state, field)))
        report = next(loop)  # control: another, of the same sizes
        setattr(report.state, field, model.init_state(odd) if name == "state" else rule.init(odd))
        says(lambda: next(loop), ValueError, f"{name}: of {odd} streams, expected {BATCH}: give")  # noqa: B023
        assert optimizer.state  # it did learn before


@pytest.mark.parametrize("compiled", [False, True])
def test_how_a_state_lies_in_memory_does_not_matter(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomamba.compiled.compile_graph", lambda graph, given: torch.no_grad()(graph))
    losses = []
    for lay in (torch.clone, lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)):
        torch.manual_seed(3)
        loop = biomamba.online(
            chunks(*random_tokens(12), 2), biomamba.Learner(Labelled(), *learner(), compile=compiled)
        )
        next(loop)
        report = next(loop)
        report.state.model_state = tree_map(lay, report.state.model_state)
        losses.append([float(report.loss) for report in loop])
    assert losses[0] == losses[1] and len(losses[0]) == 4
