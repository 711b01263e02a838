"""A task of one's own: what the loop asks of it is a spec, a stream, a loss and meters. `python examples/your_task.py`.

A switch with two buttons, pressed now and then; say at every step which button was pressed last.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

import biomamba
from biomamba.metrics import Accuracy, labelled_cross_entropy


class Switch:
    """Tokens: 0 nothing, 1 and 2 the buttons; the target is the button pressed last, less 1."""

    spec = biomamba.Spec(vocab=3, d_out=2)
    source = "simulated: a switch"

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[biomamba.Chunk]:
        """Yield chunks without end from step `start` on, the same steps for every `length`."""
        draw, last = torch.Generator().manual_seed(seed), torch.zeros(batch, dtype=torch.int64)
        kept: list[tuple[Tensor, Tensor]] = []
        for step in itertools.count():
            pressed = torch.rand(batch, generator=draw) < 0.1
            x = torch.where(pressed, torch.randint(1, 3, (batch,), generator=draw), 0)
            last = torch.where(pressed, x, last)
            kept += [(x, last)] if step >= start else []
            if len(kept) == length:
                tokens, button = (torch.stack(column, dim=1) for column in zip(*kept, strict=True))
                known, kept = button > 0, []  # no step before the first button has an answer
                yield biomamba.Chunk(tokens, (button - 1).clamp(min=0), known, torch.zeros_like(known))

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        """Return the cross entropy (nats) of `out` (b, t, 2), divided by the number of steps."""
        return labelled_cross_entropy(out, chunk) / chunk.x.numel()

    def meters(self) -> dict[str, Accuracy]:
        """Return fresh meters."""
        return {"accuracy": Accuracy()}


def main(steps: int = 2000, rate: float = 3e-3) -> float:
    """Learn the switch, and return the accuracy over the whole stream."""
    torch.manual_seed(0)
    task = Switch()
    model = biomamba.Model(vocab=3, d_out=2, d_model=16, d_state=4, headdim=4)
    rule, optimizer = biomamba.rules.RTRL(model.blocks), torch.optim.Adam(model.parameters(), lr=rate)
    learner = biomamba.Learner(task, model, rule, optimizer)
    for report in biomamba.online(task.stream("train", batch=8, length=4, seed=0), learner):
        if report.state.steps >= steps:
            return report.scores["accuracy"]
    raise AssertionError("the stream never ends")


if __name__ == "__main__":
    print(f"{main():.3f} of the steps are right")
