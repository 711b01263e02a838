"""Laws of the rules: what is called exact is BPTT's gradient to 1e-9, cut anywhere; what is not, is not."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import biomamba
from biomamba.rules import BPTT, RTRL, RTRLSTDP, RULES, LearningRule
from biomamba.rules.base import Signal, Span
from biomamba.state import copy, leaves, tree_map
from sizes import (
    BATCH,
    BLOCKS,
    D_MODEL,
    T,
    error,
    random_model,
    random_state,
    random_tokens,
    summed_gradient,
    windowed_gradient,
)

pytestmark = pytest.mark.usefixtures("float64")
LENGTHS = [1, 3, 17, T]
INSIDE = "blocks."  # the promise is about block parameters; an embedding is upstream


def promised(block: str, name: str) -> bool:
    """Say whether RTRL is promised exact for this parameter of a one-block model."""
    return name.startswith(INSIDE) and not (block == "mamba" and "in_proj" in name)


def random_reset(t: int = T) -> Tensor:
    """Return resets (b, t), some of them in a row."""
    reset = torch.rand(BATCH, t) < 0.05
    reset[0, 10:12] = True
    return reset


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"d_model": 5, "d_state": 7, "d_conv": 2, "expand": 3},
        {"d_model": 4, "d_conv": 1},
        {"d_model": 4, "d_conv": 6},
    ],
)
def test_rtrl_is_bptt_for_one_block(block: str, length: int, resets: bool, sizes: dict[str, int]) -> None:
    if block in ("diagonal", "mamba3"):
        sizes = {key: value for key, value in sizes.items() if key != "d_conv"}
    if block == "mamba3" and "d_state" in sizes:
        sizes = sizes | {"d_state": 6}  # complex: an even number
    if block in ("mamba2", "mamba3") and sizes:
        sizes = sizes | {"headdim": sizes["d_model"]}
    model = random_model(block, **sizes)
    (x, y), reset, state = random_tokens(), random_reset() if resets else None, random_state(model)
    full = summed_gradient(model, BPTT(model.blocks), x, y, T, reset, state)
    exact = summed_gradient(model, RTRL(model.blocks), x, y, length, reset, state)
    truncated = summed_gradient(model, BPTT(model.blocks), x, y, length, reset, state)
    checked = [name for name in full if promised(block, name)]
    assert len(checked) >= 6
    for name in checked:
        assert error(exact[name], full[name]) < 1e-9, name
    if length < T:  # the law is not vacuous: truncation misses what the traces bring
        assert max(error(truncated[name], full[name]) for name in checked) > 1e-2


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("threads", "nan_memory")
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [3, T])
def test_the_laws_hold_on_every_number_of_threads(block: str, length: int) -> None:
    """RTRL is BPTT for one block, and a window of everything is BPTT for three, whatever the threads."""
    test_rtrl_is_bptt_for_one_block(block, length, True, {})
    test_a_window_of_everything_is_bptt_at_any_depth(block, 3, 7)


@pytest.mark.parametrize("length", [1, 3, 17])
@pytest.mark.parametrize("conv", ["exact", "direct"])
def test_mamba_in_proj_is_approximate_and_close(length: int, conv: str) -> None:
    model = random_model("mamba", conv=conv)
    x, y = random_tokens()
    full = summed_gradient(model, BPTT(model.blocks), x, y, T)
    rtrl = summed_gradient(model, RTRL(model.blocks), x, y, length)
    for name in ("blocks.0.in_proj.weight", "blocks.0.conv1d.weight"):
        rows = slice(0, 2 * D_MODEL)  # the x half
        cosine = torch.cosine_similarity(rtrl[name][rows].flatten(), full[name][rows].flatten(), dim=0)
        print(f"{name}, conv={conv}, length {length}: cosine {cosine:.6f}")
        exact = conv == "exact" and "conv1d" in name
        assert (error(rtrl[name], full[name]) < 1e-9) == exact
        assert float(cosine) > 0.99
    z_half = slice(2 * D_MODEL, None)
    name = "blocks.0.in_proj.weight"
    assert error(rtrl[name][z_half], full[name][z_half]) < 1e-9


@pytest.mark.parametrize("block", BLOCKS)
def test_depth_is_approximate_below_the_top_block(block: str) -> None:
    """Two blocks: the upper is exact where its block is, the lower only nearly."""
    model = random_model(block, n_layers=2)
    x, y = random_tokens()
    full = summed_gradient(model, BPTT(model.blocks), x, y, T)
    rtrl = summed_gradient(model, RTRL(model.blocks), x, y, 4)
    for name in full:
        if promised(block, name) and name.startswith("blocks.1."):
            assert error(rtrl[name], full[name]) < 1e-9, name
    assert max(error(rtrl[name], full[name]) for name in full if name.startswith("blocks.0.")) > 1e-6


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("length", [1, 4, 7])
def test_a_window_of_everything_is_bptt_at_any_depth(block: str, n_layers: int, length: int) -> None:
    model = random_model(block, n_layers)
    (x, y), reset = random_tokens(28), random_reset(28)
    full = summed_gradient(model, BPTT(model.blocks), x, y, 28, reset)
    for rule in (RTRL(model.blocks), BPTT(model.blocks)):
        windowed = windowed_gradient(model, rule, x, y, length, 28, reset)
        for name in full:
            assert error(windowed[name], full[name]) < 1e-9, name
    short = windowed_gradient(model, BPTT(model.blocks), x, y, length, length, reset)
    assert max(error(short[name], full[name]) for name in full) > 1e-2


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length,window", [(1, 1), (1, 5), (4, 4), (4, 6), (4, 16), (7, 20)])
def test_a_window_leaves_one_block_exact(block: str, length: int, window: int) -> None:
    model = random_model(block)
    (x, y), reset = random_tokens(), random_reset()
    full = summed_gradient(model, BPTT(model.blocks), x, y, T, reset)
    windowed = windowed_gradient(model, RTRL(model.blocks), x, y, length, window, reset)
    for name in full:
        if promised(block, name):
            assert error(windowed[name], full[name]) < 1e-9, name


def test_a_window_repairs_depth() -> None:
    model = random_model("mamba2", n_layers=4)
    x, y = random_tokens()
    full = summed_gradient(model, BPTT(model.blocks), x, y, T)

    def worst(gradient: dict[str, Tensor]) -> float:
        return max(error(gradient[name], full[name]) for name in full if name.startswith(INSIDE))

    without = windowed_gradient(model, RTRL(model.blocks), x, y, 1, 1)
    repaired = windowed_gradient(model, RTRL(model.blocks), x, y, 1, 16)
    assert worst(repaired) < 0.5 * worst(without)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [1, 5])
def test_stdp_without_its_half_is_rtrl_to_the_bit(block: str, length: int) -> None:
    model = random_model(block, n_layers=2)
    (x, y), reset = random_tokens(), random_reset()
    rtrl = summed_gradient(model, RTRL(model.blocks), x, y, length, reset)
    zero = summed_gradient(model, RTRLSTDP(model.blocks, a_post=0.0), x, y, length, reset)
    some = summed_gradient(model, RTRLSTDP(model.blocks, a_post=0.1), x, y, length, reset)
    assert all(torch.equal(zero[name], rtrl[name]) for name in rtrl)
    assert max(error(some[name], rtrl[name]) for name in rtrl) > 1e-5


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("length", [3, 17, T])
def test_stdp_does_not_depend_on_the_chunk_length(block: str, length: int) -> None:
    model = random_model(block)
    (x, y), reset, state = random_tokens(), random_reset(), random_state(model)
    rule = RTRLSTDP(model.blocks, a_post=0.5, lam=0.7)
    each = summed_gradient(model, rule, x, y, 1, reset, state)
    cut = summed_gradient(model, rule, x, y, length, reset, state)
    windowed = windowed_gradient(model, rule, x, y, 4, 10, reset)
    fresh = summed_gradient(model, rule, x, y, 1, reset)
    for name in each:
        if promised(block, name):
            assert error(cut[name], each[name]) < 1e-9, name
            assert error(windowed[name], fresh[name]) < 1e-9, name


@pytest.mark.parametrize("block", BLOCKS)
def test_the_stdp_half_is_its_formula(block: str) -> None:
    """sum_t g_t R_t pre_t written out, R_t = lam (R_{t-1} + post_{t-1}), for the input weights of each block."""
    model = random_model(block)
    layer, (x, y), lam, t = model.blocks[0], random_tokens(12), 0.6, 12
    reset = random_reset(t)
    out, _, tapes = model(x, biomamba.cut(random_state(model)), reset)
    tapes[0].h.retain_grad()
    torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum").backward()
    rule = RTRLSTDP(model.blocks, a_post=1.0, lam=lam)
    trace = rule.init(BATCH)[0]
    signal, drives = Signal(tapes[0].h0.grad, tapes[0].h.grad, tapes[0].h.grad), layer.drives(tapes[0])
    with torch.no_grad():
        half = rule.gradient(layer, tapes[0], signal, trace, t)  # Z is zero: no causal half
    g = signal.h
    for name in layer.fan_in:
        post, pre, taps = drives[name]
        if layer.influences[name][0] == "n":
            post, signal = post.transpose(2, 3), g.transpose(2, 3)
        else:
            signal = g
        expected = torch.zeros_like(half[name])
        R = torch.zeros_like(post[:, 0])
        for s in range(t):
            R = torch.zeros_like(R) if s == 0 else lam * (R + post[:, s - 1])
            R = R.masked_fill(reset[:, s, None, None], 0)
            if taps is not None:
                k = taps.shape[-1]
                now = torch.einsum("bck,bkj->bcj", taps[:, s], pre[:, s : s + k])
            else:
                now = pre[:, s] if pre.ndim == 4 else pre[:, s].unsqueeze(1).expand(-1, post.shape[2], -1)
            expected += torch.einsum("bcr,bcr,bcj->cj", signal[:, s], R, now)
        assert float(expected.detach().norm()) > 0
        assert error(half[name], expected) < 1e-9, name


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule_class", [RTRL, RTRLSTDP])
def test_one_stream_with_a_reset_is_two_streams(block: str, rule_class: type[LearningRule]) -> None:
    """The gradient of a stream reset in the middle is that of its halves, learned side by side."""
    model = random_model(block)
    rule = rule_class(model.blocks, a_post=0.4) if rule_class is RTRLSTDP else rule_class(model.blocks)
    x, y = random_tokens(24, batch=1)
    reset = torch.zeros(1, 24, dtype=torch.bool)
    reset[0, 12] = True
    one = summed_gradient(model, rule, x, y, 4, reset)
    two = summed_gradient(model, rule, x.view(2, 12), y.view(2, 12), 4)
    blind = summed_gradient(model, rule, x, y, 4)
    for name in one:
        assert error(one[name], two[name]) < 1e-9, name
    assert max(error(blind[name], two[name]) for name in one) > 1e-3


@pytest.mark.parametrize("rule_class", [BPTT, RTRL, RTRLSTDP])
def test_trace_is_plain_tensors_that_do_not_grow(rule_class: type[LearningRule]) -> None:
    model = random_model("mamba2", n_layers=2)
    rule, state = rule_class(model.blocks), model.init_state(BATCH)
    trace = rule.init(BATCH)
    before = biomamba.state.nbytes(trace)
    for length in (1, 5, 2):
        x, _ = random_tokens(length)
        out, after, tapes = model(x, biomamba.cut(state))
        trace, state = rule.backward(out.square().sum(), tapes, trace), copy(after)
        assert all(tensor.grad_fn is None and not tensor.requires_grad for _, tensor in leaves([state, trace]))
    assert biomamba.state.nbytes(trace) == before
    if rule_class is not BPTT:
        assert max(float(tensor.abs().max()) for _, tensor in leaves(trace)) > 0


def test_advance_moves_the_trace_only_that_far() -> None:
    model = random_model("mamba")
    rule = RTRLSTDP(model.blocks, a_post=0.2)
    x, _ = random_tokens(9)
    start = tree_map(torch.randn_like, rule.init(BATCH))

    def carried(x: Tensor, advance: int | None) -> Sequence[object]:
        _, _, tapes = model(x, model.init_state(BATCH))
        return rule.advance_traces(tapes, copy(start), advance)

    for (path, got), (_, want) in zip(leaves(carried(x, 4)), leaves(carried(x[:, :4], None)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, msg=path)
    for (path, got), (_, want) in zip(leaves(carried(x, 0)), leaves(start), strict=True):
        assert torch.equal(got, want), path


def test_rtrl_asks_for_a_leaf() -> None:
    model = random_model("mamba2")
    x, _ = random_tokens(2)
    out, _, tapes = model(x, model.init_state(BATCH))
    with pytest.raises(ValueError, match=r"biomamba\.cut"):
        RTRL(model.blocks).backward(out.sum(), tapes, RTRL(model.blocks).init(BATCH))


def test_stdp_refuses_a_decay_that_does_not_decay() -> None:
    with pytest.raises(ValueError, match=r"got 1\.0, expected 0 <= lam < 1"):
        RTRLSTDP(random_model("mamba2").blocks, lam=1.0)


@pytest.mark.parametrize("steps", [0, 1, 5, 12])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule", RULES)
def test_both_halves_at_once_are_the_halves(rule: str, block: str, steps: int) -> None:
    """gradient_and_advance = gradient, advance: of a trace that remembers, with steps that were learned from before."""
    model, (x, y) = random_model(block), random_tokens(12)
    layer, own = model.blocks[0], RULES[rule](model.blocks)
    for parameter in model.parameters():
        parameter.grad = None
    reset = torch.zeros(BATCH, 12, dtype=torch.bool)
    reset[0, 4] = True
    out, _, tapes = model(x, biomamba.cut(random_state(model)), reset, own.local)
    start = own.advance_traces(tapes, own.init(BATCH))
    loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())
    _, (signal,) = own.signals(loss, [*model.parameters()], tapes)
    with torch.no_grad():
        gradient = own.gradient(layer, tapes[0], signal, copy(start)[0], 7)
        moved = own.advance(layer, tapes[0], copy(start)[0], steps, torch.tensor(True))
        both, after = own.gradient_and_advance(
            layer, tapes[0], signal, copy(start)[0], Span(7, steps, torch.tensor(True))
        )
        held = own.advance(layer, tapes[0], copy(start)[0], steps, torch.tensor(False))
    assert gradient.keys() == both.keys()
    for name in gradient:
        torch.testing.assert_close(both[name], gradient[name], rtol=1e-9, atol=1e-12)
    for (path, one), (_, other), (_, first), (_, still) in zip(
        *(leaves(tree) for tree in (moved, after, start[0], held)), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
        assert torch.equal(still, first), path
    if steps and rule != "bptt":  # the law says nothing if nothing moves
        pairs = zip(leaves(moved), leaves(start[0]), strict=True)
        assert any(not torch.equal(one, first) for (_, one), (_, first) in pairs)


@pytest.mark.parametrize("rule", RULES)
def test_backward_is_the_signals_and_the_past(rule: str) -> None:
    """What a loop of one's own finds in `.grad` is what the online loop learns from, and adds to what is there."""
    model, (x, y) = random_model("mamba2", n_layers=2), random_tokens(12)
    own, parameters = RULES[rule](model.blocks), [*model.parameters()]
    state = random_state(model)
    found = []
    for by_backward in (True, False):
        out, _, tapes = model(x, biomamba.cut(copy(state)), None, own.local)
        trace = own.advance_traces(tapes, own.init(BATCH))
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())
        if by_backward:
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            after = own.backward(loss, tapes, trace)
            gradients = [parameter.grad - 1 for parameter in parameters if parameter.grad is not None]
        else:
            inside, signals = own.signals(loss, parameters, tapes)
            through, after = own.past(parameters, tapes, signals, trace)
            gradients = [a if b is None else a + b for a, b in zip(inside, through, strict=True)]
            assert (rule == "bptt") == all(b is None for b in through)
        found.append([*gradients, *(leaf for _, leaf in leaves(after))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
