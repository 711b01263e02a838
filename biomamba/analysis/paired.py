"""Two settings told apart seed by seed: both learned the same streams, so what counts is each seed's difference.

d_s = score_s(setting) - score_s(reference)        mean of d, and its interval by the bootstrap (Efron 1987, BCa)
"""

import statistics
from collections.abc import Sequence
from typing import Any

FEWEST = 3  # seeds, below which nothing is said of their spread
LEVEL = 0.95  # of the interval


def paired(own: Sequence[float], reference: Sequence[float], better: int) -> dict[str, Any]:
    """Return {"mean", "low", "high", "gains"} of the differences, seed by seed in the same order.

    better: 1 where more is better, -1 where less is; gains: of how many seeds the setting is the better. low and high
    are None for fewer than FEWEST seeds. Raises ImportError, with what to install, where scipy is missing.
    """
    differences = [a - b for a, b in zip(own, reference, strict=True)]
    low, high = interval(differences) if len(differences) >= FEWEST else (None, None)
    gains = sum(difference * better > 0 for difference in differences)
    return {"mean": statistics.fmean(differences), "low": low, "high": high, "gains": gains}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrap's interval of the mean; the same values give the same one. Raises ImportError."""
    if min(values) == max(values):
        return values[0], values[0]  # nothing to draw from
    try:
        import numpy as np
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ImportError('intervals need scipy: pip install "biomamba[compare]"') from error
    drawn = bootstrap((np.array(values),), np.mean, confidence_level=LEVEL, method="BCa", rng=np.random.default_rng(0))
    found = drawn.confidence_interval
    return float(found.low), float(found.high)
