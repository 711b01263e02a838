"""Laws of Mamba-2 with several groups of heads: streaming, exact traces under every rule that promises them, resets."""

from typing import Any

import pytest
import torch

import biomamba
from biomamba import rules, testing
from biomamba.blocks import Mamba2
from biomamba.state import nbytes
from sizes import BATCH, D_MODEL, chunks, random_model, random_tokens, summed_gradient, windowed_gradient

GROUPS: list[dict[str, Any]] = [{"ngroups": 2, "headdim": 2}, {"ngroups": 3, "headdim": 4}]
grouped = pytest.mark.parametrize("options", GROUPS, ids=lambda options: f"{options['ngroups']} groups")


@grouped
def test_the_block_keeps_its_contract(options: dict[str, Any]) -> None:
    testing.check_block(Mamba2, d_state=5, **options)


@grouped
@pytest.mark.parametrize("backend", ["llvm", "torch", "functional"])
@pytest.mark.parametrize("length", [1, 3])
def test_rtrl_is_bptt(
    options: dict[str, Any], backend: str, length: int, float64: None, threads: int, nan_memory: None
) -> None:
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="the kernels need llvmlite")
    x, y = random_tokens(12)
    reset = torch.rand(BATCH, 12) < 0.1
    model = random_model("mamba2", backend=backend, **options)
    whole = summed_gradient(model, rules.BPTT(model.blocks), x, y, 12, reset)
    found = summed_gradient(model, rules.RTRL(model.blocks), x, y, length, reset)
    short = summed_gradient(model, rules.BPTT(model.blocks), x, y, length, reset)
    for name, wanted in whole.items():
        if name.startswith("blocks"):
            torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
    rows = model.blocks[0].sizes[2] // options["ngroups"]
    first = 2 * model.blocks[0].sizes[0]
    for begin in range(first, first + model.blocks[0].sizes[2], rows):  # the control: truncation loses every group's B
        a, b = (own["blocks.0.in_proj.weight"][begin : begin + rows] for own in (short, whole))
        assert float((a - b).norm() / b.norm()) > 1e-2


@pytest.mark.parametrize("rule", ["rtrl", "rtrl_stdp", "factored", "stllr", "uoro"])
def test_every_rule_reads_groups(rule: str) -> None:
    model = random_model("mamba2", **GROUPS[0])
    own = rules.RULES[rule](model.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = random_tokens(24)
    losses = [
        float(report.loss)
        for report in biomamba.online(chunks(x, y, 12) * 20, biomamba.Learner(_Loss(), model, own, optimizer))
    ]
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


def test_rtrl_stdp_without_its_half_is_rtrl(float64: None) -> None:
    x, y = random_tokens(12)
    model = random_model("mamba2", **GROUPS[0])
    own = [rules.RTRL(model.blocks), *(rules.RTRLSTDP(model.blocks, a_post=a_post) for a_post in (0.0, 0.1))]
    found = [summed_gradient(model, rule, x, y, 3) for rule in own]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["blocks.0.in_proj.weight"], found[2]["blocks.0.in_proj.weight"])


def test_a_window_and_two_halves_agree(float64: None) -> None:
    x, y = random_tokens(24)
    model = random_model("mamba2", n_layers=2, **GROUPS[0])
    once = windowed_gradient(model, rules.RTRL(model.blocks), x, y, 2, 24)
    whole = summed_gradient(model, rules.BPTT(model.blocks), x, y, 24)
    for name, wanted in whole.items():
        torch.testing.assert_close(once[name], wanted, rtol=1e-9, atol=1e-9)


def test_a_groups_trace_is_of_its_channels_alone() -> None:
    one, two = (random_model("mamba2", headdim=2, ngroups=groups) for groups in (1, 2))
    sizes = [nbytes({k: v for k, v in rules.RTRL(m.blocks).init(1)[0].items() if ".B" in k}) for m in (one, two)]
    assert sizes[0] == sizes[1]  # twice the parameters, each reaching half the channels


def test_one_group_is_what_it_was() -> None:
    names = list(random_model("mamba2").blocks[0].influences)
    assert names == ["A_log", "dt_bias", "in_proj.dt", "in_proj.x", "in_proj.B", "conv1d.x", "conv1d.B"]
    with pytest.raises(ValueError, match=r"^ngroups 2 does not divide the 3 heads: choose a divisor of them, or 1$"):
        Mamba2(D_MODEL, headdim=4, ngroups=2)


class _Loss:
    """The next label, as a mean."""

    def loss(self, out: torch.Tensor, chunk: biomamba.Chunk) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(out.flatten(0, 1), chunk.y.flatten())

    def meters(self) -> dict[str, Any]:
        return {}
