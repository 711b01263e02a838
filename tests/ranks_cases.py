"""What test_ranks has several processes do: torchrun ranks_cases.py ... (no test by itself).

cases FOLDER name ...         these of CASES; what each rank holds goes to FOLDER/<rank>.safetensors
train STEP HARM words ...     the command line; the last rank is told to stop, or killed, behind time step STEP
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import biomamba
from biomamba.ranks import Ranks
from biomamba.rules import RULES
from biomamba.state import leaves
from biomamba.stream import Chunk
from biomamba.tasks.delay import Delay

BATCH = 5  # rows of 2 ranks: 2 and 3
TOKENS: dict[str, Any] = {"vocab": 21, "d_out": 8, "d_model": 8, "d_state": 4, "headdim": 4}
FEW = ("steps", "mamba", "window and n-grams", "spikes", "mean", "not finite")  # the others in the slow tests alone
CASES: dict[str, dict[str, Any]] = {
    "steps": {"model": TOKENS},
    "window and n-grams": {"model": TOKENS | {"ngrams": [1, 2], "ngram_logits": [1, 3]}, "length": 2, "window": 5},
    "spikes": {"model": TOKENS | {"n_layers": 2, "threshold": 0.3, "spike_rate": 0.5}, "length": 3},
    "mean": {"model": TOKENS, "task": "mean", "length": 2},
    "not finite": {"model": {"d_in": 3, "d_out": 8, "d_model": 8, "d_state": 4, "headdim": 4}, "length": 2},
    "mamba": {"model": {"vocab": 21, "d_out": 8, "d_model": 8, "d_state": 4, "block": "mamba"}, "length": 2},
    "drift": {"model": TOKENS, "max_drift": 0.01},
    **{rule: {"model": TOKENS, "rule": rule, "length": 2} for rule in RULES if rule not in ("rtrl", "uoro")},
    "half": {"model": TOKENS, "rule": "rtrl_stdp", "options": {"a_post": 0.5}, "length": 2},
}


class Mean(Delay):
    """Store-recall whose loss is the mean over the recalls of a chunk, wherever they are."""

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return it."""
        return super().loss(out, chunk) * len(out) / chunk.mask.sum().clamp(min=1)


class Mixed(Delay):
    """Store-recall whose loss of one stream depends on what is said of others."""

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return it."""
        return super().loss(out, chunk) ** 2


def stream(case: dict[str, Any]) -> Iterator[Chunk]:
    """Yield chunks, some that begin anew, some without a label; of values one that is not finite in the last row."""
    torch.manual_seed(1)
    chunks = Delay(delay=4).stream("all", batch=BATCH, length=case.get("length", 1), seed=0)
    for number, chunk in zip(range(24), chunks, strict=False):
        reset = torch.rand(chunk.mask.shape) < 0.1 if number % 5 == 0 else chunk.reset
        x = chunk.x
        if "d_in" in case["model"]:
            x = torch.randn(*chunk.x.shape, 3)
            if number in (10, 13):
                x[-1, -1, 0] = torch.nan
        yield chunk._replace(x=x, reset=reset)


def learned(name: str, ranks: Ranks | None) -> tuple[dict[str, Tensor], list[float]]:
    """Return all that a learner holds after a case's stream, and its counts, losses and scores."""
    case = CASES[name]
    torch.manual_seed(0)
    model = biomamba.Model(**case["model"])
    task = Mean(delay=4) if case.get("task") == "mean" else Delay(delay=4)
    if "d_in" in case["model"]:
        task = Task()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rule = RULES[case.get("rule", "rtrl")](model.blocks, **case.get("options", {}))
    own = biomamba.Learner(
        task, model, rule, optimizer, case.get("window"), max_drift=case.get("max_drift"), ranks=ranks
    )
    said = []
    for report in biomamba.online(stream(case), own):
        said += [
            report.loss,
            report.out.sum(),
            report.spikes,
            torch.tensor(0.0) if report.norm is None else report.norm,
        ]
    state = own.gathered()
    assert state is not None
    counts = [state.steps, state.updates, state.skipped, *(meter.get() for meter in state.meters.values())]
    held = {f"weight.{key}": tensor.clone() for key, tensor in model.state_dict().items()}
    held |= {f"past.{key}": tensor for key, tensor in leaves([state.model_state, state.trace])}
    held |= {"said": torch.stack(said).nan_to_num(), "x": state.x}
    return {key: tensor.detach().contiguous() for key, tensor in held.items()}, [float(count) for count in counts]


class Task(Delay):
    """Store-recall, as a model of values is asked for it."""

    @property
    def spec(self) -> biomamba.Spec:
        """Return values in."""
        return biomamba.Spec(8, d_in=3)


def cases(folder: Path, names: Iterable[str]) -> None:
    """Write what each rank holds after every case; control: nothing is reduced."""
    torch.set_default_dtype(torch.float64)
    ranks = Ranks.join("cpu")
    assert ranks is not None
    found = {}
    for name in names:
        held, counts = learned(name, ranks)
        found |= {f"{name}/{key}": tensor for key, tensor in held.items()}
        found[f"{name}/counts"] = torch.tensor(counts)
    Ranks.reduce = lambda self, gradients, rows, batch: (list(gradients), list(rows))  # type: ignore[method-assign]
    found |= {f"control/{key}": tensor for key, tensor in learned("steps", ranks)[0].items()}
    (folder / "refused.txt").write_text("".join(refused(ranks))) if ranks.rank == 0 else None
    save_file(found, folder / f"{ranks.rank}.safetensors")


def refused(ranks: Ranks) -> Iterator[str]:
    """Yield a line for each thing that ranks do not do; no collective is called."""
    model = biomamba.Model(**TOKENS)
    optimizer, rule = torch.optim.Adam(model.parameters()), RULES["rtrl"](model.blocks)
    own = {"task": Delay(delay=4), "model": model, "rule": rule, "optimizer": optimizer, "ranks": ranks}
    out, mask = torch.randn(BATCH, 1, 8), torch.ones(BATCH, 1, dtype=torch.bool)
    chunk = Chunk(mask.long(), mask.long(), mask, ~mask)
    ranks.checked = False
    for refuse in (
        lambda: ranks.rows(ranks.size - 1),
        lambda: biomamba.Learner(**own, compile=True),
        lambda: biomamba.Learner(**own | {"rule": RULES["uoro"](model.blocks)}),
        lambda: ranks.check_loss(Mixed(delay=4), out, chunk),
        lambda: biomamba.Learner(**own).snapshot(),
    ):
        try:
            refuse()
        except ValueError as error:
            yield f"{error}\n"


def train(step: int, harm: str, words: list[str]) -> int:
    """Run the command line; the last rank comes to harm behind a step."""
    from biomamba.cli.main import main
    from biomamba.experiment import build

    before, last = build.online, int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1

    def stopping(*given: Any) -> Iterator[biomamba.Report]:
        for report in before(*given):
            if last and report.state.steps - report.chunk.x.shape[1] < step <= report.state.steps:
                if harm == "error":
                    raise ValueError("no more of this")
                os.kill(os.getpid(), signal.SIGKILL if harm == "kill" else signal.SIGTERM)
            yield report

    if step:
        build.online = stopping
    try:
        return main(["train", *words])
    finally:
        build.online = before


if __name__ == "__main__":
    if sys.argv[1] == "cases":
        cases(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(train(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
