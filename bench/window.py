"""The STDP window of rtrl_stdp: what one pair of spikes does to a synapse, by the time between them.

    python -m bench.window [--picture docs/window.png]

A spiking `Diagonal` block of one channel with a constant decay a and a post factor of 1. The input spikes once, the
neuron once; the learning signal is held at 1 on every step and the neuron's spike enters as psi: it lets the signal
through to the causal half, and stands with the post in the other. The change of the input weight is then a^dt where the
input came dt steps before the post spike, and a_post lam^|dt| where it came after. Both decays are fitted to what the
rule did, and the figure shows it.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from bench.grid import heading, table
from biomamba.blocks import Diagonal
from biomamba.rules import RTRLSTDP
from biomamba.rules.base import Signal, Span
from biomamba.state import copy, cut

A, A_POST, LAM, REACH = 0.93, -0.5, 0.9, 50
THRESHOLD, FAR = 1.0, 1e12  # potentials where psi is 1, and all but 0


def synapse(decay: float) -> Diagonal:
    """Return a block of one spiking channel with one input, whose state is h_t = decay h_{t-1} + u_t."""
    block = Diagonal(1, d_state=1, expand=1)
    block.threshold = THRESHOLD
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(1.0)
        block.dt_bias.fill_(math.log(math.e - 1))  # delta 1: with B 1, the post factor is 1
        block.A_log.fill_(math.log(-math.log(decay)))
    return block


def change(dt: int, decay: float = A, a_post: float = A_POST, lam: float = LAM) -> float:
    """Return the weight's change by the rule, one step at a time, for a post spike dt steps after the pre spike."""
    block = synapse(decay)
    rule = RTRLSTDP([block], a_post=a_post, lam=lam)
    pre_at, post_at = max(0, -dt), max(0, dt)
    state, trace = block.init_state(1), rule.init(1)
    total = 0.0
    for t in range(max(pre_at, post_at) + REACH):
        x = torch.full((1, 1, 1), float(t == pre_at))
        _, after, tape = block.chunk(x, cut(state))
        psi = float(t == post_at)
        tape = tape._replace(pre_activation=torch.full_like(tape.pre_activation, THRESHOLD if psi else FAR))
        signal = Signal(torch.full_like(tape.h0, psi * decay), torch.full_like(tape.h, psi), torch.ones_like(tape.h))
        with torch.no_grad():
            gradient, trace[0] = rule.gradient_and_advance(
                block, tape, signal, trace[0], Span(1, 1, torch.tensor(True))
            )
        total += psi * float(x) + float(gradient["in_proj.u"].detach())  # the step's own part, autograd's, and the past
        state = copy(after)
    return total


def fitted(dts: list[int], changes: list[float]) -> float:
    """Return the decay per step of changes that fall off with |dt|, by least squares on their logarithms."""
    x = torch.tensor([abs(dt) for dt in dts], dtype=torch.float64)
    y = torch.tensor(changes, dtype=torch.float64).abs().log()
    slope: Tensor = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return math.exp(float(slope))


def main() -> None:
    """Drive the pairs, fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("docs/window.png"))
    picture = parser.parse_args().picture
    torch.set_default_dtype(torch.float64)
    before, after = list(range(1, REACH + 1)), list(range(-REACH, 0))
    changes = {dt: change(dt) for dt in [*after, 0, *before]}
    fits = fitted(before, [changes[dt] for dt in before]), fitted(after, [changes[dt] for dt in after])
    print(heading("python -m bench.window"))
    rows = [["pre before post", f"{A}", f"{fits[0]:.6f}"], ["post before pre", f"{LAM}", f"{fits[1]:.6f}"]]
    print(table(["half", "decay per step set", "decay per step recovered"], rows))
    draw(picture, changes)


def draw(picture: Path, changes: dict[int, float]) -> None:
    """Draw the changes beside the formula."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.axvline(0, color="gray", linewidth=0.8)
    for label, dts, law in (
        (f"a^dt, a = {A}", range(1, REACH + 1), lambda dt: A**dt),
        (f"a_post lam^|dt|, a_post = {A_POST}, lam = {LAM}", range(-REACH, 0), lambda dt: A_POST * LAM**-dt),
    ):
        axes.plot(dts, [law(dt) for dt in dts], linewidth=1, label=label)
    axes.plot(list(changes), list(changes.values()), ".", color="black", markersize=4, label="what the rule did")
    axes.set(xlabel="post spike minus pre spike, steps", ylabel="change of the weight")
    axes.legend(fontsize="small")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
