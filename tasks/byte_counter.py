"""Predict each byte from counts of what followed the bytes before it: the baseline of byte-level language models.

One online pass, predict then update, with Witten-Bell interpolation from the empty context up to `order` bytes:

    p_k(c) = (count(ctx_k, c) + T(ctx_k) p_(k-1)(c)) / (count(ctx_k) + T(ctx_k)),   p_(-1)(c) = 1 / 256

where ctx_k is the last k bytes, count(ctx_k) how often it has been followed by anything and T(ctx_k) by how many
different bytes (Witten and Bell 1991, method C, interpolated as in Chen and Goodman 1999, section 2.4).
"""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm


def bits(data: bytes, order: int = 5) -> NDArray[np.float64]:
    """Return -log2 p (bits) of every byte of `data`, each predicted before it is counted, as an array (len(data),)."""
    followers: dict[bytes, dict[int, int]] = {}  # contexts of all lengths: they differ as keys by their length alone
    totals: dict[bytes, int] = {}
    probabilities = np.empty(len(data))
    for i, c in enumerate(tqdm(data, desc="byte counter", unit="B", unit_scale=True, leave=False, disable=None)):
        p = 1 / 256
        for k in range(min(order, i) + 1):
            context = data[i - k : i]
            counts = followers.get(context)
            if counts is None:  # nothing to say yet: p of the shorter context stands
                followers[context], totals[context] = {c: 1}, 1
                continue
            count, total, distinct = counts.get(c, 0), totals[context], len(counts)
            p = (count + distinct * p) / (total + distinct)
            counts[c], totals[context] = count + 1, total + 1
        probabilities[i] = p
    return -np.log2(probabilities)
