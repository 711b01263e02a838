"""Learn a stream online, and see what the traces are for: `python examples/quickstart.py`.

Store-recall: a symbol comes, noise follows, and 3 to 6 steps later the symbol is asked for. Every update sees one step
only. With traces (RTRL) credit reaches back to the symbol; without (BPTT at this length) it does not.
The block has no convolution (`d_conv` 1), so nothing but its state remembers.
"""

import torch

import biomamba
from biomamba.tasks.delay import Delay


def learn(rule: type[biomamba.rules.LearningRule], steps: int = 2000, seed: int = 0) -> float:
    """Return the share of right recalls in the last third of a stream, each scored before it was learned from."""
    torch.manual_seed(seed)
    task = Delay(delay=6)
    sizes = {"d_model": 32, "d_state": 8, "headdim": 1, "d_conv": 1, "dt_min": 0.02, "A_max": 2}
    model = biomamba.Model(vocab=task.spec.vocab, d_out=task.spec.d_out, block="mamba2", **sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    learner = biomamba.Learner(task, model, rule(model.blocks), optimizer)
    right = recalls = 0
    for report in biomamba.online(task.stream("all", batch=8, length=1, seed=seed), learner):
        if report.state.steps > steps * 2 // 3:
            right += int((report.out.argmax(-1) == report.chunk.y)[report.chunk.mask].sum())
            recalls += int(report.chunk.mask.sum())
        if report.state.steps == steps:
            return right / recalls
    raise AssertionError("the stream never ends")


if __name__ == "__main__":
    for rule in (biomamba.rules.RTRL, biomamba.rules.BPTT):
        print(f"{rule.__name__:>4}: {learn(rule):.2f} of the recalls are right (chance: 0.12)")
