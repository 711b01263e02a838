"""Store and recall: remember a symbol through noise, for a time that is not known beforehand.

    token   0-3 noise    8-15 store symbol 0-7    20 recall: say the symbol stored last
    cycle   0 to 9 noise steps, the store, the recall delay // 2 to delay steps later, all uniform; then the next cycle

Only the recall is labelled, so a rule that cannot carry credit back over `delay` steps stays at chance.

Shapes: b streams side by side, t steps of time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.metrics import Accuracy, CrossEntropy, labelled_cross_entropy
from biomamba.stream import Benchmark, Chunk, Meter, Spec, Split

from .common.files import check_split

NOISE, SYMBOLS, GAPS = 4, 8, 10  # how many noise tokens, symbols and lengths of the noise before a store there are
STORE, RECALL = 8, 20
CYCLES = 512  # drawn at once, so that drawing costs little per step; another number makes other streams
BLOCK = 4096  # steps handed from numpy to torch at once; the streams do not depend on it


@dataclass(frozen=True)
class Delay(Benchmark):
    """The store-recall stream with `delay` the longest wait, steps. Raises ValueError where it is below 2."""

    delay: int = 20

    def __post_init__(self) -> None:
        """Refuse a delay without a shortest wait."""
        if self.delay < 2:
            raise ValueError(f"delay is {self.delay}, expected at least 2 steps: the shortest wait is half of it")

    @property
    def spec(self) -> Spec:
        """Return 21 tokens in, 8 symbols out."""
        return Spec(vocab=RECALL + 1, d_out=SYMBOLS)

    @property
    def splits(self) -> dict[str, str]:
        """Return the splits, all simulated, which differ in their seed."""
        return dict.fromkeys(("train", "valid", "all"), "drawn apart")

    @property
    def held_out(self) -> Split:
        """Return valid."""
        return "valid"

    @property
    def horizon(self) -> int:
        """Return the longest wait."""
        return self.delay

    @property
    def source(self) -> str:
        """Say that the data is simulated."""
        return f"simulated: store-recall, delay {self.delay}"

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield chunks without end from time step `start` on; the splits differ in their seed alone.

        Stream i depends on (seed, split, i) only, not on `batch`. Raises ValueError for an unknown split.
        """
        check_split(split, self.splits)
        which = list(self.splits).index(split)
        seeds = [np.random.SeedSequence((seed, which, i)) for i in range(batch)]
        return self._chunks([np.random.default_rng(s) for s in seeds], length, start)

    @property
    def reduction(self) -> str | None:
        """The loss is the sum over the recalls, divided by the number of streams."""
        return "batchmean"

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the cross entropy (nats) of `out` (b, t, 8), summed over the recalls and divided by b.

        Not the mean over the recalls: how many a chunk holds would then change the weight of each.
        """
        return labelled_cross_entropy(out, chunk) / len(out)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters of the recalls."""
        return {"accuracy": Accuracy(), "loss": CrossEntropy()}

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return chance: one of eight symbols, and the loss (nats) of giving each the same probability."""
        scores = {"accuracy": 1 / SYMBOLS, "loss": math.log(SYMBOLS)}
        return {"chance": {name: {"all": score, "last_tenth": score} for name, score in scores.items()}}

    def _chunks(self, generators: list[np.random.Generator], length: int, start: int) -> Iterator[Chunk]:
        """Cut the streams side by side into chunks; a block holds whole chunks only."""
        size = length * max(1, BLOCK // length)
        streams = [self._blocks(generator, start, size) for generator in generators]
        first = start == 0
        for block in zip(*streams, strict=True):
            x, y = torch.from_numpy(np.stack(block, axis=1))
            mask, reset = x == RECALL, torch.zeros_like(x, dtype=torch.bool)
            reset[:, 0], first = first, False
            yield from map(Chunk, *(steps.split(length, dim=1) for steps in (x, y, mask, reset)))

    def _blocks(self, generator: np.random.Generator, start: int, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield one stream from step `start` on as arrays (2, size) of tokens and targets."""
        while (steps := self._cycles(generator)).shape[1] <= start:
            start -= steps.shape[1]
        steps = steps[:, start:]
        while True:
            while steps.shape[1] < size:
                steps = np.concatenate([steps, self._cycles(generator)], axis=1)
            yield steps[:, :size]
            steps = steps[:, size:]

    def _cycles(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw the next whole cycles of one stream as an array (2, t): tokens, and targets with 0 off the recalls."""
        symbol = generator.integers(SYMBOLS, size=CYCLES)
        gap = generator.integers(GAPS, size=CYCLES)
        wait = generator.integers(self.delay // 2, self.delay + 1, size=CYCLES)
        recall = np.cumsum(gap + 1 + wait) - 1
        x = generator.integers(NOISE, size=recall[-1] + 1)
        x[recall - wait], x[recall] = STORE + symbol, RECALL
        y = np.zeros_like(x)
        y[recall] = symbol
        return np.stack([x, y])
