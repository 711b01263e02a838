"""From rows to steps, by what lies in the past alone: clean, scale, set targets, cut into chunks.

    scaled_t = (x_t - mean_(i <= t) x_i) / std_(i <= t) x_i        over the finite rows; 0 while std is 0

where i begins up to WARM rows before the stream, if the table has any there, so that a part of it, or split test, is
scaled from its first step on as what came before it.

Shapes: n rows or steps (time), d input columns, k targets, b streams.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from biomamba.stream import Chunk

from .table import Numbers

HUGE = 1e18  # beyond it a number counts as not finite: its square would not be in float32
WARM = 4096  # rows before a stream that its mean and deviation begin with


class Rows(NamedTuple):
    """Rows of one stream, inputs cleaned and scaled."""

    x: Numbers  # (n, d)
    label: Numbers  # (n,) NaN where there is none
    unit: Numbers  # (n, d) what 1 of a scaled input is in the table
    mean: Numbers  # (n, d) of each input over the rows before; NaN where there is none
    deviation: Numbers  # (n, d) likewise
    row: NDArray[Any]  # (n,) number in the table
    skipped: NDArray[Any]  # (n,) 0, or the number from 1 of the first input that is no good
    mask: NDArray[Any]  # (n,) bool, as is the following
    reset: NDArray[Any]


class Steps(NamedTuple):
    """Steps of one stream, as in Chunk without b."""

    x: Numbers  # (n, d)
    y: Numbers  # (n, k) targets, NaN where unknown
    unit: Numbers  # (n, k) what 1 of a scaled target is in the table
    mean: Numbers  # (n, k) what a target of 0 is in the table, by what was known before it
    deviation: Numbers  # (n, k) and what 1 more is
    mask: NDArray[Any]  # (n,) bool, as is the following
    reset: NDArray[Any]
    skipped: NDArray[Any]  # (n,) as in Rows
    row: NDArray[Any]  # (n,) number in the table


class OnlineStandardScaler:
    """Cleans and scales the columns of one stream as they come; the same in blocks of any size, bit for bit."""

    def __init__(self, columns: int, scale: bool) -> None:
        """Start with nothing seen."""
        self.scale, self.count, self.shift = scale, 0, np.zeros(columns)
        self.sums, self.last = np.zeros((2, columns)), np.zeros(columns)
        self.unit = np.ones((0, columns))  # (n, c) of the rows taken last, what 1 is before it is scaled
        self.now = np.zeros((2, columns))  # mean, less the shift, and deviation up to here
        self.mean, self.deviation = np.zeros((2, 0, columns))  # before each row of the last block

    def take(self, values: Numbers) -> tuple[Numbers, NDArray[Any]]:
        """Return the rows (n, c) and which were good (n,): a row with a number that is not finite repeats the last."""
        good: NDArray[Any] = np.all(np.abs(values) < HUGE, axis=1)
        values = np.where(good[:, None], values, 0.0)
        self.unit = np.ones_like(values)
        self.mean, self.deviation = np.zeros(values.shape), np.ones(values.shape)
        if self.scale:
            values = self._scaled(values, good)
        before = np.maximum.accumulate(np.where(good, np.arange(1, len(good) + 1), 0))
        values = np.concatenate([self.last[None], values])[before]
        if len(values):
            self.last = values[-1]
        return values, good

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all that was taken in, float64, a count for each column."""
        count = np.full(self.shift.shape, float(self.count))
        parts = {"count": count, "shift": self.shift, "sums": self.sums, "last": self.last}
        return {name: torch.from_numpy(part.copy()) for name, part in parts.items()}

    def _scaled(self, values: Numbers, good: NDArray[Any]) -> Numbers:
        """Return the rows, each less the mean up to it and divided by the deviation up to it."""
        if not self.count and good.any():
            self.shift = values[good][0]  # sums of what is near 0 keep their digits
        values = np.where(good[:, None], values - self.shift, 0.0)
        seen = self.count + np.cumsum(good)[:, None]
        count, unseen = np.maximum(seen, 1), seen - good[:, None] == 0
        # accumulate adds one after the other, so that where blocks begin changes no bit
        sums, squares = (
            np.add.accumulate(np.concatenate([before[None], part]))[1:]
            for before, part in zip(self.sums, (values, values**2), strict=True)
        )
        if len(values):
            self.count, self.sums = self.count + int(good.sum()), np.stack([sums[-1], squares[-1]])
        deviation = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 0))
        self.unit = deviation
        self.mean = np.where(unseen, np.nan, np.concatenate([self.now[:1], sums / count])[:-1] + self.shift)
        self.deviation = np.concatenate([self.now[1:], deviation])[:-1]
        if len(values):
            self.now = np.stack([sums[-1] / count[-1], deviation[-1]])
        return np.where(deviation > 0, (values - sums / count) / np.where(deviation > 0, deviation, 1), 0.0)


def labelled(rows: Iterator[Rows], scale: bool) -> Iterator[Steps]:
    """Yield the steps of a stream with labels, scaled too if asked for."""
    labels = OnlineStandardScaler(1, scale)
    for own in rows:
        target, known = labels.take(own.label[:, None])
        y = np.where(known[:, None], target, np.nan)
        mask = own.mask & known & (own.skipped == 0)
        units = labels.unit, labels.mean, labels.deviation
        yield Steps(own.x, y, *units, mask, own.reset, own.skipped, own.row)


def following(rows: Iterator[Rows]) -> Iterator[Steps]:
    """Yield the steps of a stream whose targets are the next row's inputs; each row waits for the next."""
    held: list[Rows] = []
    for new in rows:
        both = Rows(*map(np.concatenate, zip(*held, new, strict=True)))
        now, after = (Rows(*(field[part] for field in both)) for part in (slice(None, -1), slice(1, None)))
        held = [Rows(*(field[-1:] for field in both))]
        y = np.where(after.skipped[:, None] > 0, np.nan, after.x)
        mask = now.mask & (now.skipped == 0) & (after.skipped == 0) & ~after.reset
        units = after.unit, after.mean, after.deviation
        yield Steps(now.x, y, *units, mask, now.reset, now.skipped, now.row)


def clean(blocks: Iterable[Numbers], inputs: int, roles: Sequence[str], scale: bool, begin: int) -> Iterator[Rows]:
    """Yield the rows of a table from number `begin` on.

    blocks: (n, inputs + len(roles)), where roles says which of label, mask and reset follow the inputs.
    """
    running = OnlineStandardScaler(inputs, scale)
    for block in blocks:
        x, good = running.take(block[:, :inputs])
        given = {role: block[:, inputs + i] for i, role in enumerate(roles)}
        none, ones = np.full(len(block), np.nan), np.ones(len(block))
        row = np.arange(begin, begin + len(block))
        first_bad = np.argmin(np.abs(block[:, :inputs]) < HUGE, axis=1) + 1
        mask, reset = given.get("mask", ones) > 0, given.get("reset", none) > 0
        units = running.unit, running.mean, running.deviation
        yield Rows(x, given.get("label", none), *units, row, np.where(good, 0, first_bad), mask, reset)
        begin += len(block)


def stream_from(steps: Iterator[Steps], first: int) -> Iterator[Steps]:
    """Yield the steps of the rows from `first` on; a new sequence begins there."""
    for own in steps:
        yield Steps(*(field[own.row >= first] for field in own._replace(reset=own.reset | (own.row == first))))


def side_by_side(streams: Iterable[Iterator[Steps]], length: int, start: int, is_class: bool) -> Iterator[Chunk]:
    """Yield chunks of streams that are equally long, from step `start` on; the last may be shorter.

    is_class: y is (b, t) whole numbers, -1 where unknown, and there are no units.
    """
    for parts in zip(*(_cut(steps, length, start) for steps in streams), strict=True):
        x, y, unit, mean, deviation, mask, reset, skipped, row = (
            torch.from_numpy(np.stack(field)) for field in zip(*parts, strict=True)
        )
        y = y[..., 0].nan_to_num(-1).long() if is_class else y
        units = {} if is_class else {"unit": unit, "mean": mean, "deviation": deviation}
        yield Chunk(x.float(), y, mask, reset, {"row": row, "skipped": skipped, **units})


def _cut(steps: Iterator[Steps], length: int, start: int) -> Iterator[Steps]:
    """Yield the steps from `start` on, `length` at a time, as soon as they are there."""
    held: list[Steps] = []
    size = 0
    for new in steps:
        skip = min(start, len(new.mask))
        start -= skip
        held.append(Steps(*(field[skip:] for field in new)))
        size += len(new.mask) - skip
        if size < length:
            continue
        whole = Steps(*(np.concatenate(field) for field in zip(*held, strict=True)))
        for at in range(0, size - length + 1, length):
            yield Steps(*(field[at : at + length] for field in whole))
        held, size = [Steps(*(field[size - size % length :] for field in whole))], size % length
    if size:
        yield Steps(*(np.concatenate(field) for field in zip(*held, strict=True)))
