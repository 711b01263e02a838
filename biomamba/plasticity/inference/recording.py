"""Two spike trains as what the likelihood needs: a row for every bin where a spike is remembered, one for all others.

    w(t) = 1 + P(t) gamma        tau_f dP/dt = -P, and P jumps by the bases of each pair, after its second spike

Sizes: n rows, s history bases, c coupling bases, k bases of the modification function, e bins that end a pair.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...ops.backend import call, resolve
from ...ops.scan import scan
from .bases import OFFSET, Array, Bases
from .slow import Index, slow_steps, slow_terms

FEW = 0.02  # of the spikes inside the duration: fewer, and the times are in another unit


def seconds(times: Any) -> Array:
    """Return spike times in seconds, sorted: an array is taken as it is, a Neo SpikeTrain counted from its t_start.

    Raises ValueError for times that are not finite, and for a train of 0 and 1.
    """
    if hasattr(times, "rescale"):
        start = times.t_start.rescale("s").magnitude if hasattr(times, "t_start") else 0.0
        times = times.rescale("s").magnitude - start
    times = np.asarray(times).reshape(-1)
    if times.dtype == bool or (len(times) > 2 and np.isin(times, (0, 1)).all()):
        raise ValueError("spikes: got a train of 0 and 1, expected times in seconds: np.flatnonzero(train) * step")
    if not np.isfinite(times := times.astype(float)).all():
        raise ValueError(f"spikes: got {np.sum(~np.isfinite(times))} times that are not finite, expected seconds")
    return np.sort(times)


def length(pre: Any, post: Any, duration: float | None) -> float:
    """Return the duration of a recording (s): as given, or to the earlier t_stop of Neo SpikeTrains.

    Raises ValueError where it is not given and a train does not know it.
    """
    if duration is not None:
        return duration
    if not all(hasattr(train, "t_stop") for train in (pre, post)):
        raise ValueError("duration: got none, expected seconds (only Neo SpikeTrains know when they stop)")
    return min(
        float(train.t_stop.rescale("s").magnitude - train.t_start.rescale("s").magnitude) for train in (pre, post)
    )


def inside(pre: Any, post: Any, duration: float) -> tuple[Array, Array]:
    """Return the spike times in seconds, sorted, of two trains before the duration.

    Raises ValueError for spikes before 0, where nearly all spikes come after the duration, and as `seconds`.
    """
    trains = seconds(pre), seconds(post)
    if min(train.min(initial=0) for train in trains) < 0:
        raise ValueError("a spike comes before 0 s: give times from the start of the recording")
    for train in trains:
        if len(train) and (share := np.mean(train < duration)) < FEW:
            raise ValueError(
                f"{1 - share:.1%} of the spikes come after the duration of {duration:g} s: expected seconds, got "
                "milliseconds?"
            )
    pre, post = (train[train < duration] for train in trains)
    return pre, post


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
        return row, np.exp(np.log(self.decay) * np.where(row > 0, since, 0))


@dataclass(frozen=True)
class Recording:
    """The rows. exposure: seconds that a row stands for. row and decay: what `Pairs.at` says of each.

    design: 1, the history and the coupling; every column lies in one piece. history holds the columns of the slow rate
    terms too, after the bases. Bins without a spike in sight share rows of bin -1, the first ones: one row, or with
    slow terms one for each of their steps.
    """

    y: Array  # (n,) post spikes
    exposure: Array  # (n,)
    bins: Index  # (n,) rising
    design: Array  # (n, 1 + s + c)
    row: Index  # (n,)
    decay: Array  # (n,)
    levels: Array  # (1 + e, k)
    log_decay: float  # of P, per bin
    c: int  # columns of the coupling

    @property
    def history(self) -> Array:
        """Return the columns (n, s) of the history and the slow rate terms."""
        return self.design[:, 1 : -self.c]

    @property
    def coupling(self) -> Array:
        """Return the columns (n, c) of the coupling."""
        return self.design[:, -self.c :]


def record(pre: Any, post: Any, duration: float, bases: Bases, start: float = 0.0) -> tuple[Recording, Pairs]:
    """Return the rows of the bins from `start` to `duration` (s), and the pairs; spikes before `start` are context.

    Raises ValueError where there is nothing between start and duration, and as `inside`.
    """
    n, first = round(duration / bases.bin), round(start / bases.bin)
    if not 0 <= first < n:
        raise ValueError(f"start {start} s, duration {duration} s: expected 0 <= start < duration")
    pre, post = inside(pre, post, duration)
    pairs = pair(pre, post, bases)
    pre_bins, post_bins = (np.minimum((train / bases.bin).astype(np.int64), n - 1) for train in (pre, post))
    history, coupling = bases.history_table(), bases.coupling_table()
    remembered = _reach(post_bins, len(history), n) | _reach(pre_bins, len(coupling), n)
    remembered[:first] = False
    counts, places = np.bincount(post_bins, minlength=n), np.flatnonzero(remembered)
    step = slow_steps(n, bases)  # (n,)
    idle = np.flatnonzero(~remembered[first:]) + first
    exposed = np.bincount(step[idle])
    exposed = np.append(exposed, np.zeros(max(0, step[first] + 1 - len(exposed)), dtype=exposed.dtype))
    idle_steps = np.flatnonzero(exposed)
    if not exposed[step[first]]:  # there is a row, though of 0 s, where all bins are remembered
        idle_steps = np.sort(np.append(idle_steps, step[first]))
    quiet = len(idle_steps)
    bins = np.append(np.full(quiet, -1), places)
    fast = history.shape[1]
    s, c = fast + 2 * len(bases.slow), coupling.shape[1]
    columns = np.zeros((1 + s + c, len(bins)))  # design.T
    columns[0] = 1
    steps = np.append(idle_steps, step[places])
    for term, column in zip(slow_terms([post_bins, pre_bins], n, bases).T, columns[1 + fast : 1 + s], strict=True):
        term.take(steps, out=column)
    add_filtered(post_bins, history, places, n, columns[1 : 1 + fast], quiet)
    add_filtered(pre_bins, coupling, places, n, columns[1 + s :], quiet)
    row, decay = pairs.at(bins)
    return Recording(
        y=np.append(np.bincount(step[idle], counts[idle], len(exposed))[idle_steps], counts[places]),
        exposure=bases.bin * np.append(exposed[idle_steps].astype(float), np.ones(len(places))),
        bins=bins,
        design=columns.T,
        row=row,
        decay=decay,
        levels=pairs.levels,
        log_decay=float(np.log(pairs.decay)),
        c=c,
    ), pairs


def pair(pre: Array, post: Array, bases: Bases, backend: str = "auto") -> Pairs:
    """Return all pairs at most window_span apart, low-passed by tau_f."""
    bins, jumps = (_ends_by_kernel if resolve(backend) == "llvm" else _ends)(pre, post, bases)
    decay = float(np.exp(-bases.bin / bases.tau_f))
    levels = np.zeros((len(bins) + 1, 2 * bases.window))
    if len(bins):
        between = torch.as_tensor(decay ** np.diff(bins, prepend=bins[0]))
        b = torch.as_tensor(jumps)[None, :, None]
        levels[1:] = scan(between.view(1, -1, 1, 1), b, b.new_zeros(1, 1, b.shape[-1]))[0, :, 0].numpy()
    return Pairs(bins, levels, decay)


def _ends(pre: Array, post: Array, bases: Bases) -> tuple[Index, Array]:
    """Return the bins (e,) where pairs end, and the bases (e, k) summed over the pairs that end there."""
    low = np.searchsorted(post, pre - bases.window_span)
    count = np.searchsorted(post, pre + bases.window_span, side="right") - low
    i = np.repeat(np.arange(len(pre)), count)
    j = np.arange(len(i)) + np.repeat(low - (count.cumsum() - count), count)
    ends = (np.maximum(pre[i], post[j]) / bases.bin).astype(np.int64)
    order = np.argsort(ends, kind="stable")
    bins, begin = np.unique(ends[order], return_index=True)
    jumps = bases.modification((pre[i] - post[j])[order])
    return bins, np.add.reduceat(jumps, begin) if len(bins) else jumps


def _ends_by_kernel(pre: Array, post: Array, bases: Bases) -> tuple[Index, Array]:
    """Return what `_ends` does. Each spike pairs with the other neuron's before it; at one time pre comes first."""
    train, span = np.concatenate([pre, post]), bases.window_span
    low = np.append(np.searchsorted(post, pre - span) + len(pre), np.searchsorted(pre, post - span))
    high = np.append(np.searchsorted(post, pre) + len(pre), np.searchsorted(pre, post, side="right"))
    own = np.argsort(train, kind="stable")
    own = own[low[own] < high[own]]
    ends = (train[own] / bases.bin).astype(np.int64)
    begin = np.flatnonzero(np.diff(ends, prepend=-1))
    jumps = np.empty((len(begin), 2 * bases.window))
    if len(begin):
        places, facts = np.column_stack([own, low[own], high[own]]), np.array([span, OFFSET, len(pre)])
        given = train, np.append(begin, len(own)), places, facts, jumps
        call("point_process.jumps_of_pairs", *map(torch.as_tensor, given))
    return ends[begin], jumps


def _reach(spikes: Index, lags: int, n: int) -> NDArray[np.bool_]:
    """Say of each of n bins whether a spike lies 1 to `lags` bins before."""
    edges = np.bincount(spikes + 1, minlength=n + lags + 2) - np.bincount(spikes + lags + 1, minlength=n + lags + 2)
    reached: NDArray[np.bool_] = edges.cumsum()[:n] > 0
    return reached


def add_filtered(
    spikes: Index, table: Array, places: Index, n: int, out: Array, first: int, backend: str = "auto"
) -> None:
    """Add table[lag - 1] (lags, c) of all spikes, lag bins before, to out (c, rows).

    The rows are, from `first` on, those of the bins `places`, rising: all bins after a spike, as far as the table
    reaches, lie side by side there, but for those before the first.
    """
    bins, counts = np.unique(spikes, return_counts=True)
    low, high = np.maximum(bins + 1, places[0] if len(places) else n), np.minimum(bins + 1 + len(table), n)
    seen = low < high
    bins, counts, low, high = (x[seen] for x in (bins, counts, low, high))
    at, lags, by_lag = first + np.searchsorted(places, low), low - bins - 1, np.ascontiguousarray(table.T)
    if resolve(backend) == "llvm":
        given = by_lag, counts.astype(float), np.column_stack([at, lags, high - low])
        call("point_process.add_filtered", *map(torch.as_tensor, (*given, out)))
        return
    for row, lag, width, number in zip(*(x.tolist() for x in (at, lags, high - low, counts)), strict=True):
        out[:, row : row + width] += number * by_lag[:, lag : lag + width]
