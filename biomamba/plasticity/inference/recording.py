"""Two spike trains as what the likelihood needs: a row for every bin where a spike is remembered, one for all others.

    w(t) = 1 + P(t) gamma        tau_f dP/dt = -P, and P jumps by the bases of each pair, after its second spike

Sizes: n rows, s history bases, c coupling bases, k bases of the modification function, e bins that end a pair.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...ops.scan import scan
from .bases import Array, Bases

Index = NDArray[np.int64]


def seconds(times: Any) -> Array:
    """Return spike times in seconds, sorted: an array is taken as it is, a Neo SpikeTrain counted from its t_start."""
    if hasattr(times, "rescale"):
        start = times.t_start.rescale("s").magnitude if hasattr(times, "t_start") else 0.0
        times = times.rescale("s").magnitude - start
    return np.sort(np.asarray(times, dtype=float).reshape(-1))


@dataclass(frozen=True)
class Pairs:
    """The pairs of a recording, low-passed: bins (e,) where some ended, and P right after each (1 + e, k), first 0."""

    bins: Index
    levels: Array
    decay: float  # per bin

    def at(self, bins: Index) -> tuple[Index, Array]:
        """Return i (n,) and a (n,) such that P in the bins (n,) is a levels[i]: a bin's own pairs do not count yet."""
        row = np.searchsorted(self.bins, bins)
        since = bins - self.bins[np.maximum(row - 1, 0)] if len(self.bins) else np.zeros_like(bins)
        return row, self.decay ** np.where(row > 0, since, 0)


@dataclass(frozen=True)
class Recording:
    """The rows. exposure: seconds that a row stands for. row and decay: what `Pairs.at` says of each."""

    y: Array  # (n,) post spikes
    exposure: Array  # (n,)
    bins: Index  # (n,) rising; the first row, -1, is all bins without a spike in sight
    history: Array  # (n, s)
    coupling: Array  # (n, c)
    row: Index  # (n,)
    decay: Array  # (n,)
    levels: Array  # (1 + e, k)


def record(pre: Any, post: Any, duration: float, bases: Bases, start: float = 0.0) -> tuple[Recording, Pairs]:
    """Return the rows of the bins from `start` to `duration` (s), and the pairs; spikes before `start` are context.

    Raises ValueError for spikes before 0 and where there is nothing between start and duration.
    """
    pre, post, n, first = seconds(pre), seconds(post), round(duration / bases.bin), round(start / bases.bin)
    if not 0 <= first < n:
        raise ValueError(f"start {start} s, duration {duration} s: expected 0 <= start < duration")
    if min(pre.min(initial=0), post.min(initial=0)) < 0:
        raise ValueError("a spike comes before 0 s: give times from the start of the recording")
    pre, post = (train[train < duration] for train in (pre, post))
    pairs = pair(pre, post, bases)
    pre_bins, post_bins = (np.minimum((train / bases.bin).astype(np.int64), n - 1) for train in (pre, post))
    history, coupling = bases.history_table(), bases.coupling_table()
    remembered = _reach(post_bins, len(history), n) | _reach(pre_bins, len(coupling), n)
    remembered[:first] = False
    bins = np.append(-1, np.flatnonzero(remembered))
    index = np.zeros(n, dtype=np.int64)
    index[bins[1:]] = np.arange(1, len(bins))
    counts, idle = np.bincount(post_bins[post_bins >= first], minlength=n), n - first - len(bins) + 1
    row, decay = pairs.at(bins)
    return Recording(
        y=np.append(counts.sum() - counts[bins[1:]].sum(), counts[bins[1:]]).astype(float),
        exposure=bases.bin * np.append(idle, np.ones(len(bins) - 1)),
        bins=bins,
        history=_filtered(post_bins, history, index, len(bins)),
        coupling=_filtered(pre_bins, coupling, index, len(bins)),
        row=row,
        decay=decay,
        levels=pairs.levels,
    ), pairs


def pair(pre: Array, post: Array, bases: Bases) -> Pairs:
    """Return all pairs at most window_span apart, low-passed by tau_f."""
    low = np.searchsorted(post, pre - bases.window_span)
    count = np.searchsorted(post, pre + bases.window_span, side="right") - low
    i = np.repeat(np.arange(len(pre)), count)
    j = np.arange(len(i)) + np.repeat(low - (count.cumsum() - count), count)
    ends = (np.maximum(pre[i], post[j]) / bases.bin).astype(np.int64)
    order = np.argsort(ends, kind="stable")
    bins, begin = np.unique(ends[order], return_index=True)
    jumps = np.add.reduceat(bases.modification((pre[i] - post[j])[order]), begin) if len(bins) else np.zeros((0, 1))
    decay = float(np.exp(-bases.bin / bases.tau_f))
    levels = np.zeros((len(bins) + 1, 2 * bases.window))
    if len(bins):
        between = torch.as_tensor(decay ** np.diff(bins, prepend=bins[0]))
        b = torch.as_tensor(jumps)[None, :, None]
        levels[1:] = scan(between.view(1, -1, 1, 1), b, b.new_zeros(1, 1, b.shape[-1]))[0, :, 0].numpy()
    return Pairs(bins, levels, decay)


def _reach(spikes: Index, lags: int, n: int) -> NDArray[np.bool_]:
    """Say of each of n bins whether a spike lies 1 to `lags` bins before."""
    edges = np.bincount(spikes + 1, minlength=n + lags + 2) - np.bincount(spikes + lags + 1, minlength=n + lags + 2)
    reached: NDArray[np.bool_] = edges.cumsum()[:n] > 0
    return reached


def _filtered(spikes: Index, table: Array, index: Index, rows: int) -> Array:
    """Return the sum of table[lag - 1] over all spikes, lag bins before; row index[bin] of bin, none where 0."""
    out = np.zeros((rows, table.shape[1]))
    bins, counts = np.unique(spikes, return_counts=True)
    for lag, values in enumerate(table, start=1):
        inside = bins + lag < len(index)
        at = index[bins[inside] + lag]
        out[at[at > 0]] += counts[inside][at > 0, None] * values
    return out
