"""Scores of trivial predictors: one pass over a stream for all of them.

Shapes: b streams, t steps.
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from biomamba.stream import Chunk, Meter

Predict = Callable[[Chunk], Tensor]  # what a model would say of a chunk, (b, t, d_out), from the chunks before alone


def score(
    predictors: Mapping[str, Predict], chunks: Iterator[Chunk], meters: Callable[[], dict[str, Meter]], total: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by predictor and meter, the scores of the first `total` steps and of the last tenth of them."""
    at, end = 0, total - total // 10
    scored = {name: (meters(), meters()) for name in predictors}
    for chunk in chunks:
        for name, predict in predictors.items():
            out = predict(chunk)
            for own, first in zip(scored[name], (0, end), strict=True):
                start, stop = max(0, first - at), max(0, total - at)
                for meter in own.values():
                    meter.update(out[:, start:stop], chunk.between(start, stop))
        at += chunk.x.shape[1]
        if at >= total:
            break
    return {
        name: {score: {"all": meter.get(), "last_tenth": late[score].get()} for score, meter in whole.items()}
        for name, (whole, late) in scored.items()
    }
