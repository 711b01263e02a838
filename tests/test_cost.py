"""Laws of cost: what is counted is what torch's own counter sees, plus closed formulas for what it does not."""

import copy
import importlib
import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import biomamba
from biomamba.analysis import cost, energy
from biomamba.analysis.cost import (
    Activations,
    Cost,
    Loop,
    counted,
    measure,
    memory_by_length,
    pieces,
)
from biomamba.analysis.operations import KERNELS, OURS, Counter, Operations
from biomamba.report.text import cost_table, joules_text
from biomamba.rules import BPTT, RTRL, RULES, LearningRule
from sizes import BATCH, D_MODEL, REAL, SummedLoss, chunks, random_model, random_tokens

TAPS, EXPAND, RANK = 4, 2, 2


def random_chunk(t: int) -> biomamba.Chunk:
    """Return a chunk of random tokens, every step labelled."""
    return chunks(*random_tokens(t), t)[0]


def under_way(model: biomamba.Model, rule: LearningRule, t: int, window: int | None = None) -> Loop:
    """Return a loop that has seen a few chunks."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return cost.under_way(model, SummedLoss(), rule, optimizer, random_chunk(t), window, 1.0)


class Nowhere(nullcontext[None]):
    """Stands for torch's tracker of modules, whose hooks do not go with `torch.autograd.grad`."""

    parents = frozenset({"Global"})


def flops(call: Callable[[], None]) -> int:
    """Return what torch's own counter sees."""
    seen = FlopCounterMode(display=False)
    seen.mod_tracker = Nowhere()
    with seen:
        call()
    return seen.get_total_flops()


@pytest.mark.parametrize("length", [1, 8])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("block", REAL)
def test_products_are_those_that_torch_counts(
    block: str, rule: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(block, n_layers=2, backend="torch")
    loop = under_way(model, RULES[rule](model.blocks), length)
    for call in (loop.infer, loop.update):
        with monkeypatch.context() as patch:
            for table in (OURS, KERNELS):
                for name in table:
                    patch.setitem(table, name, lambda *given: 0)
            products = counted(call).multiply_accumulates
        assert 2 * products == flops(call) > 0
        if length > 1:  # the law is not vacuous: the recurrence is beyond torch's counter
            assert counted(call).multiply_accumulates > products


@pytest.mark.parametrize("backend", ["torch", "llvm"])
@pytest.mark.parametrize("length", [1, 8])
@pytest.mark.parametrize("block", REAL)
def test_our_own_part_is_its_closed_formula(block: str, length: int, backend: str) -> None:
    model = random_model(block, n_layers=2, backend=backend)
    by_kernels = backend == "llvm" and (block == "mamba2" or (block == "mamba" and length > 1))
    states = 2 * BATCH * length * EXPAND * D_MODEL * REAL[block]["d_state"] if length > 1 or by_kernels else 0
    bptt, rtrl = (under_way(model, rule(model.blocks), length) for rule in (BPTT, RTRL))
    # our kernels of a selective block take in drive, reading and taps too: 3 and k; twice that in the adjoints
    forward, taps = states, 0
    if by_kernels:
        channels = EXPAND * D_MODEL + (2 * REAL[block]["d_state"] if block == "mamba2" else 0)
        forward, taps = 3 * states, 2 * BATCH * length * channels * TAPS
    assert counted(bptt.infer).multiply_accumulates == flops(bptt.infer) / 2 + forward + taps
    assert counted(bptt.update).multiply_accumulates == flops(bptt.update) / 2 + 3 * (forward + taps)
    extra = counted(rtrl.update).multiply_accumulates - counted(bptt.update).multiply_accumulates
    assert extra == 2 * traces(block, length, backend) > 0


def traces(block: str, t: int, backend: str) -> int:
    """Return the multiply-accumulates that a block's traces cost: Z meets the signal, decays, and takes in t drives."""
    b, d, e, n, k = BATCH, D_MODEL, EXPAND * D_MODEL, REAL[block]["d_state"], TAPS
    alone, own = 2 * b * e * n, b * e * n * (k + 1) * (2 + t)
    rows = t + k - 1 if t > 1 else 1  # that a projection before a convolution has outer products of

    def folded(c: int) -> int:
        return b * e * n * d * (2 + rows) + (b * c * k * d if t == 1 else 0)  # a single step applies its taps first

    if block == "diagonal":
        return 3 * alone + b * e * n * d * (2 + t)
    if block == "mamba2":
        drives = b * t * (e * n * (5 + (2 * k if t > 1 else 0)) + (e + n) * (2 * k + 1)) if backend == "llvm" else 0
        return 2 * alone + b * e * n * d * (2 + t) + folded(e) + folded(n) + 2 * own + drives
    selective = 2 * b * e * n * e * (2 + t) * (1 + k + 1)  # delta and B, from u and from its taps
    return 2 * alone + selective + folded(e) + own + 3 * e * RANK * e  # dt_proj @ x_proj[:r] and its gradients


def test_what_an_operator_of_ours_calls_is_not_counted_again() -> None:
    a, b, h0 = torch.rand(2, 5, 3, 4), torch.rand(2, 5, 3, 4), torch.rand(2, 3, 4)

    def scans(backend: str) -> Operations:
        return counted(lambda: torch.ops.biomamba.scan(a, b, h0, backend))

    assert scans("torch") == scans("llvm") == Operations(multiply_accumulates=b.numel(), bytes=4 * (3 * 120 + 24))
    by_hand = counted(lambda: biomamba.ops.scan.scan_naive(a, b, h0))
    assert by_hand.multiply_accumulates == 0 and by_hand.elementwise == 2 * b.numel()


def test_every_operator_of_ours_has_a_formula() -> None:
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("biomamba::")]
    defined = {re.split("::|[.]", name)[1] for name in names}
    assert {name for name in defined if not name.startswith("llvm_")} == set(OURS)


def test_every_kernel_of_ours_has_a_formula() -> None:
    kernel = pytest.importorskip("biomamba.ops.llvm.kernel", reason="llvmlite is not installed")
    modules = [
        importlib.import_module(f"biomamba.ops.llvm.{name}")
        for name in ("conv", "influence", "mamba2", "mamba2_chunk", "rows", "scan", "ssm")
    ]
    found = [own.name for module in modules for own in vars(module).values() if isinstance(own, kernel.Kernel)]
    assert {*found} == set(KERNELS)


def test_an_operator_of_ours_without_a_formula_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OURS, "scan")
    with pytest.raises(KeyError, match="scan"), Counter():
        torch.ops.biomamba.scan(torch.rand(1, 2, 1, 1), torch.rand(1, 2, 1, 1), torch.rand(1, 1, 1), "torch")


SPIKES = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])  # three ones


@pytest.mark.parametrize(
    "call, ones, products",
    [
        (lambda s: s @ torch.full((3, 5), 0.5), 3 * 5, 2 * 3 * 5),
        (lambda s: torch.full((5, 2), 0.5) @ s, 5 * 3, 5 * 2 * 3),
        (lambda s: torch.addmm(torch.zeros(5), s, torch.full((3, 5), 0.5)), 3 * 5, 2 * 3 * 5),
        (lambda s: s.expand(4, 2, 3) @ torch.full((4, 3, 5), 0.5), 4 * 3 * 5, 4 * 2 * 3 * 5),
        (lambda s: s @ torch.full((3,), 0.5), 3, 2 * 3),
        (lambda s: torch.nn.functional.linear(s, torch.full((5, 3), 0.5)), 3 * 5, 2 * 3 * 5),
        (lambda s: torch.einsum("bi,ji->bj", s, torch.full((5, 3), 0.5)), 3 * 5, 2 * 3 * 5),
    ],
)
def test_spikes_are_added_and_not_multiplied(call: Callable[[Tensor], Tensor], ones: int, products: int) -> None:
    spiking, graded, silent = (counted(lambda s=s: call(s)) for s in (SPIKES, 0.5 * SPIKES, 0 * SPIKES))
    assert (spiking.multiply_accumulates, spiking.accumulates) == (0, ones)
    assert (graded.multiply_accumulates, graded.accumulates) == (products, 0)
    assert graded == silent  # zeros alone are no spikes


@pytest.mark.parametrize("block", REAL)
def test_a_spiking_block_adds_one_row_per_spike(block: str) -> None:
    model, graded = (random_model(block, threshold=threshold) for threshold in (0.5, None))
    loop, plain = (under_way(each, BPTT(each.blocks), 8) for each in (model, graded))
    with torch.no_grad():
        _, _, tapes = model(loop.inputs.chunk.x, loop.inputs.state)
    spikes = int((tapes[0].pre_activation > 0.5).sum())
    assert 0 < spikes < tapes[0].pre_activation.numel()
    ours, theirs = counted(loop.infer), counted(plain.infer)
    assert ours.accumulates == spikes * D_MODEL and theirs.accumulates == 0
    assert theirs.multiply_accumulates - ours.multiply_accumulates == tapes[0].pre_activation.numel() * D_MODEL


@pytest.mark.parametrize("channels", [(4, 6, 1), (4, 8, 4)])
def test_convolutions_are_counted(channels: tuple[int, int, int]) -> None:
    c_in, c_out, groups = channels
    layer, x = torch.nn.Conv1d(c_in, c_out, 3, groups=groups), torch.rand(2, c_in, 10)
    assert counted(lambda: layer(x)).multiply_accumulates == 2 * c_out * 8 * c_in // groups * 3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_adds_what_each_spike_meets(groups: int) -> None:
    """Two spikes in the middle meet all nine taps, the one in the corner four, each in every channel of its group."""
    spikes = torch.zeros(1, 2, 5, 5)
    spikes[0, 0, 2, 2] = spikes[0, 1, 1, 2] = spikes[0, 1, 4, 4] = 1
    layer = torch.nn.Conv2d(2, 6, 3, padding=1, groups=groups)
    spiking, graded = counted(lambda: layer(spikes)), counted(lambda: layer(0.5 * spikes))
    assert (spiking.multiply_accumulates, spiking.accumulates) == (0, (9 + 9 + 4) * 6 // groups)
    assert (graded.multiply_accumulates, graded.accumulates) == (6 * 25 * 2 // groups * 9, 0)


def test_elementwise_and_bytes_of_plain_operators() -> None:
    x, y, row = torch.rand(3, 4), torch.rand(3, 4), torch.rand(4)
    table, index = torch.rand(100, 4), torch.tensor([1, 2])
    size = 4 * 12
    expected: list[tuple[Callable[[], Any], Operations]] = [
        (lambda: x + y, Operations(elementwise=12, bytes=3 * size)),
        (lambda: x + row, Operations(elementwise=12, bytes=2 * size + 16)),
        (lambda: x + row.expand(3, 4), Operations(elementwise=12, bytes=2 * size + 16)),  # read once
        (lambda: x.mul_(y), Operations(elementwise=12, bytes=3 * size)),
        (lambda: torch.mul(x, y, out=x), Operations(elementwise=12, bytes=3 * size)),
        (lambda: torch._foreach_add_([x, y], 1.0), Operations(elementwise=24, bytes=4 * size)),
        (lambda: x.sum(), Operations(elementwise=12, bytes=size + 4)),
        (lambda: x.clone(), Operations(bytes=2 * size)),
        (lambda: x.copy_(y), Operations(bytes=2 * size)),
        (lambda: x > y, Operations(bytes=2 * size + 12)),
        (lambda: table[index], Operations(bytes=2 * 32 + 16)),
        (lambda: torch.nn.functional.embedding(index, table), Operations(bytes=2 * 32 + 16)),
        (lambda: torch.zeros_like(x), Operations(bytes=size)),
        (lambda: (x.view(12).view(3, 4).T[0].unsqueeze(0).expand(9, 3), x.detach()), Operations()),
        (lambda: (torch.empty(3, 4), x.new_empty(9), x.split(1)), Operations()),
    ]
    for at, (call, cost_of_it) in enumerate(expected):
        assert counted(call) == cost_of_it, at


@pytest.mark.parametrize(
    "optimizer, options",
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ],
)
def test_a_fused_optimizer_costs_what_its_loop_does(optimizer: type, options: dict[str, Any]) -> None:
    found = []
    for how in ({"fused": True}, {"foreach": False}):
        weights = [torch.nn.Parameter(torch.rand(size)) for size in (7, 30)]
        for weight in weights:
            weight.grad = torch.rand_like(weight)
        taken = optimizer(weights, lr=0.1, **options, **how)
        taken.step()
        found.append(counted(taken.step).elementwise)
    assert found[0] == found[1] >= 37


@pytest.mark.parametrize("backend", ["torch", "llvm"])
def test_traces_are_read_once_and_written_once(backend: str) -> None:
    model = random_model("mamba2", n_layers=2, backend=backend)
    exact, half = (under_way(model, RTRL(model.blocks, dtype), 4) for dtype in (None, "bfloat16"))
    saved = biomamba.state.nbytes(exact.inputs.trace) - biomamba.state.nbytes(half.inputs.trace)
    assert counted(exact.update).bytes - counted(half.update).bytes == 2 * saved > 0


def test_joules_are_the_published_picojoules() -> None:
    operations_ = Operations(multiply_accumulates=1e12, accumulates=2e12, elementwise=3e12, bytes=1e15)
    assert operations_.joules == pytest.approx(4 * 4.6 + 2 * 0.9)
    assert operations_ / 2 + operations_ / 2 == operations_


def test_activations_are_what_autograd_saves_each_once() -> None:
    weight, x = torch.nn.Parameter(torch.rand(5, 5)), torch.rand(3, 5, requires_grad=True)
    saved, careless = Activations([weight]), Activations([])
    for each in (saved, careless):
        with each:
            y = (x @ weight).exp()  # saves x, the weight, and its own result
            (y * y.view(15).view(3, 5)).sum().backward()  # saves its result once more, seen twice
    assert saved.nbytes == 4 * (15 + 15)
    assert careless.nbytes == saved.nbytes + 4 * 25


@pytest.mark.parametrize("rule", [BPTT, RTRL])
@pytest.mark.parametrize("block", REAL)
def test_activations_grow_linearly_and_traces_do_not(block: str, rule: type[LearningRule]) -> None:
    model = random_model(block, n_layers=2)
    found = [costs(model, rule(model.blocks), t) for t in (8, 16, 24, 48)]
    eight, sixteen, more, double = (each.activation_bytes for each in found)
    assert sixteen - eight == more - sixteen == (double - more) / 3 > 0
    assert len({each.trace_bytes for each in found}) == 1
    assert (found[0].trace_bytes > 0) == (rule is RTRL)
    assert found[0].state_bytes == biomamba.state.nbytes(model.init_state(BATCH))


def costs(model: biomamba.Model, rule: LearningRule, t: int, window: int | None = None, batch: int = BATCH) -> Cost:
    """Return what learning from a random chunk costs."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return measure(model, SummedLoss(), rule, optimizer, chunks(*random_tokens(t, batch), t)[0], window)


def test_memory_by_length_is_flat_for_a_rule_and_grows_for_the_whole_stream() -> None:
    model = random_model("mamba2", n_layers=2)
    before, long = copy.deepcopy(model.state_dict()), random_chunk(64)
    rtrl = memory_by_length("rtrl", model, SummedLoss(), RTRL(model.blocks), long, 4, steps=(16, 32, 64))
    bptt = memory_by_length("bptt", model, SummedLoss(), BPTT(model.blocks), long, steps=(16, 32, 64))
    assert [row.steps for row in rtrl] == [row.steps for row in bptt] == [16, 32, 64]
    assert len({(row.state_bytes, row.trace_bytes, row.activation_bytes) for row in rtrl}) == 1
    first, second, third = (row.activation_bytes for row in bptt)
    assert third - second == 2 * (second - first) > 0
    assert [row.trace_bytes for row in bptt] == [0, 0, 0] and rtrl[0].trace_bytes > 0
    assert rtrl[0].activation_bytes == costs(model, RTRL(model.blocks), 4).activation_bytes
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    windowed = memory_by_length("w", model, SummedLoss(), RTRL(model.blocks), long, 4, steps=(64,), window=16)
    assert windowed[0].activation_bytes > rtrl[0].activation_bytes


def test_pieces_are_the_chunk() -> None:
    long = random_chunk(11)
    cut = pieces(long, 10, 4)
    assert [piece.x.shape[1] for piece in cut] == [4, 4, 2]
    assert torch.equal(torch.cat([piece.y for piece in cut], dim=1), long.y[:, :10])
    assert cut[0].y.untyped_storage().nbytes() < long.y.untyped_storage().nbytes()  # in memory of its own


@pytest.mark.parametrize("rule", RULES)
def test_measuring_leaves_weights_and_optimizer_as_they_were(rule: str) -> None:
    model = random_model("mamba2", n_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    learner = RULES[rule](model.blocks)
    for _ in biomamba.online([random_chunk(4)], biomamba.Learner(SummedLoss(), model, learner, optimizer)):
        pass
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
    found = measure(model, SummedLoss(), learner, optimizer, random_chunk(4), window=8)
    after = [model.state_dict(), optimizer.state_dict()["state"]]
    same = [
        torch.equal(a, b)
        for (_, a), (_, b) in zip(biomamba.state.leaves(before), biomamba.state.leaves(after), strict=True)
    ]
    assert len(same) > 20 and all(same)
    assert json.loads(json.dumps(asdict(found)))["learning"]["bytes"] > found.inference.bytes > 0
    assert found.learning_joules == found.learning.joules > found.inference_joules > 0
    assert found.inference_seconds > 0 and found.learning_seconds > 0


def test_weights_do_move_inside() -> None:
    model = random_model("mamba2")
    loop, before = under_way(model, RTRL(model.blocks), 4), copy.deepcopy(model.state_dict())
    loop.update()
    assert not all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_costs_are_per_time_step_and_stream() -> None:
    model = random_model("diagonal")
    one, more = (costs(model, BPTT(model.blocks), 8, batch=batch) for batch in (2, 6))
    assert one.inference.multiply_accumulates == more.inference.multiply_accumulates
    e, n = EXPAND * D_MODEL, REAL["diagonal"]["d_state"]
    by_hand = D_MODEL * 2 * e + e * D_MODEL + D_MODEL * 7 + e * n  # in_proj, out_proj, head, recurrence
    assert one.inference.multiply_accumulates == by_hand
    assert 3 * one.state_bytes == more.state_bytes


def test_a_window_is_replayed_at_every_update() -> None:
    model = random_model("diagonal")
    plain, windowed = (costs(model, BPTT(model.blocks), 4, window) for window in (None, 10))
    assert plain.inference == windowed.inference
    assert windowed.learning.multiply_accumulates == 2.5 * plain.learning.multiply_accumulates


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda model, chunk: {"chunk": chunk._replace(mask=~chunk.mask)}, "chunk: got none with a label"),
        (lambda model, chunk: {"window": 3}, "window: got 3 steps, expected at least the 4"),
        (lambda model, chunk: setattr(model.blocks[0], "backend", "mamba_ssm") or {}, "backend: got mamba_ssm"),
    ],
)
def test_what_cannot_be_measured_is_said(wrong: Callable[..., dict[str, Any]], line: str) -> None:
    model, chunk = random_model("mamba2"), random_chunk(4)
    optimizer, given = torch.optim.Adam(model.parameters()), {"chunk": chunk}
    with pytest.raises(ValueError, match=line):
        measure(model, SummedLoss(), RTRL(model.blocks), optimizer, **(given | wrong(model, chunk)))


def test_an_update_that_is_not_finite_is_said() -> None:
    model, chunk = random_model("mamba2"), random_chunk(4)

    class Infinite(SummedLoss):
        def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
            return super().loss(out, chunk) / 0

    with pytest.raises(FloatingPointError, match="is not finite: lower the learning rate"):
        measure(model, Infinite(), RTRL(model.blocks), torch.optim.Adam(model.parameters()), chunk)


def test_a_chunk_longer_than_there_is_is_said() -> None:
    model = random_model("mamba2")
    with pytest.raises(ValueError, match="got 8, expected at most the 6 steps"):
        memory_by_length("rtrl", model, SummedLoss(), RTRL(model.blocks), random_chunk(6), 2, steps=(4, 8))


CPU = torch.device("cpu")


def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the counters of two packages, of a core inside one and of the whole machine; return the first."""
    for name, holder, energy_uj in [
        ("intel-rapl:0", "package-0", 2_000_000),
        ("intel-rapl:0:0", "core", 1_500_000),
        ("intel-rapl:1", "package-1", 500_000),
        ("intel-rapl:2", "psys", 9_000_000),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{holder}\n")
        (tmp_path / name / "energy_uj").write_text(f"{energy_uj}\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "SECONDS", 0.01)
    return tmp_path / "intel-rapl:0" / "energy_uj"


def test_joules_of_a_cpu_are_those_of_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = counters(tmp_path, monkeypatch)
    assert energy.counter(CPU) == pytest.approx(2.5)

    def use() -> None:
        first.write_text(str(int(first.read_text()) + 3_000_000))

    assert energy.measured(use, CPU) == pytest.approx(3.0)
    assert energy.measured(lambda: first.write_text("0"), CPU) is None  # the counter began anew


def test_measured_joules_are_per_step_and_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, model = counters(tmp_path, monkeypatch), random_model("mamba2")
    update = Loop.update

    def dear(self: Loop) -> None:
        first.write_text(str(int(first.read_text()) + 12_000_000))
        update(self)

    monkeypatch.setattr(Loop, "update", dear)
    found = costs(model, RTRL(model.blocks), 4)
    assert found.measured_joules == pytest.approx(12.0 / (4 * BATCH))
    assert "learning measured: 1 J" in cost_table(found)


def test_joules_that_may_not_be_read_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    assert energy.measured(lambda: None, CPU) is None
    model = random_model("mamba2")
    found = costs(model, RTRL(model.blocks), 4)
    assert found.measured_joules is None and "learning measured: not measured" in cost_table(found)
    first = counters(tmp_path, monkeypatch)
    first.unlink()
    assert energy.counter(CPU) is None


def test_joules_of_a_gpu_are_nvmls(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def total(handle: str) -> int:
        if handle != "GPU-abc":
            raise NVMLError
        return 1500

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    assert energy.counter(torch.device("cuda")) == 1.5
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="other"))
    assert energy.counter(torch.device("cuda")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.counter(torch.device("cuda")) is None


@pytest.mark.parametrize(
    "joules, text", [(None, "not measured"), (2.5, "2.5 J"), (3e-6, "3 uJ"), (4.6e-12, "0.0046 nJ")]
)
def test_joules_read_well(joules: float | None, text: str) -> None:
    assert joules_text(joules) == text
