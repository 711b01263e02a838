"""A user's own signals: a .npy, .npz or .csv file, or lines on standard input as they come.

    class   y_t is the class of step t        value   y_t is its value        none   y_t = x_(t+1)

A batch of b streams over n rows is b contiguous parts side by side, n // b steps each ((n - 1) // b for none). What
a step shows the model depends on the rows up to it alone, and never on a label.

Shapes: b streams side by side, t steps, d inputs, k targets; y is (b, t) classes, -1 where unknown, or (b, t, k)
values, NaN where unknown. info has the `row` of the table, and whether it was `skipped`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from biomamba.metrics import (
    Confusion,
    CrossEntropy,
    Derived,
    SquaredError,
    labelled_cross_entropy,
    labelled_squared_error,
)
from biomamba.stream import Answers, Benchmark, Chunk, Meter, RowFormat, Spec, Split

from ..common.baselines import score
from ..common.files import check_split, package
from .cells import class_name
from .drift import Errors
from .files import read
from .scores import R2, AbsoluteError, Average, InUnits, Last, SkippedRows
from .select import left_out
from .simulated import CHANGE, simulated
from .stream import WARM, Steps, clean, following, labelled, side_by_side, stream_from
from .table import Numbers, Options, Table
from .text import Live, Text
from .units import Units

SAID = 300  # letters of a list in an error
TARGETS = 4  # whose errors are told in their own units too
PARTS = {"train": "the first 90 %", "test": "the last 10 %", "all": "every row"}


class Columns(NamedTuple):
    """The columns of a table by their number."""

    inputs: list[int]
    roles: dict[str, int]  # label, mask and reset, where there are any
    unused: dict[int, str]  # that might have been inputs, each with the reason why it is none


@dataclass(frozen=True)
class Arrays(Benchmark):
    """A user's own signals, one row a time step; columns are named as in the first line, or numbered from 0.

    path: a .npy, .npz (arrays x, y, mask, reset), .csv, .csv.gz or .parquet file; -: lines on standard input; null: a
        small simulated one.
    kind: class: a class for each step; value: a value for each; none: no label, predict the next row's inputs.
    inputs: the columns the model sees; none given: all that hold numbers and are no clock, label, mask or reset.
    ignore: columns that are not seen where no inputs are given.
    label: the column to predict; null: y of an .npz, else the last column. An empty cell is no label.
    mask: a column that is 0 where nothing shall be learned or scored; null: mask of an .npz, else none.
    reset: a column that is 1 where a new sequence begins; null: reset of an .npz, else none.
    classes: names in the label's column, or how many where they count from 0; none given: those in the file.
    header: whether the first line names the columns; null: as it looks.
    missing: cells that mean a missing value, such as -999, beside the usual marks.
    time_axis: the axis of time of an array; null: the first, and more columns than rows are refused.
    scale: inputs and values less their mean and divided by their deviation, both over the rows up to there.
    change_at: the row, from 0, where the stream is known to change, to score before and after it.
    detect: find changes from the errors (pip install "biomamba[drift]").
    rate: rows a second, for the real-time factor of evaluate.
    horizon: how many rows back a label may be decided, where that is known: see model.timescales.

    A row with an input that is missing, NaN or infinite is skipped: the model sees the last good row in its place,
    nothing is learned from it, and it is counted. The file is looked at when first needed. Construction raises
    ValueError for arguments that no table can satisfy; reading raises FileNotFoundError and ValueError.
    """

    path: str | None = None
    kind: Literal["class", "value", "none"] = "class"
    inputs: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    label: str | None = None
    mask: str | None = None
    reset: str | None = None
    classes: tuple[str, ...] = ()
    header: bool | None = None
    missing: tuple[str, ...] = ()
    time_axis: Literal[0, 1] | None = None
    scale: bool = True
    change_at: int | None = None
    detect: bool = False
    rate: float | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        """Refuse arguments that no table can satisfy."""
        if self.path == "-" and self.kind == "class" and not self.classes:
            raise ValueError("classes: on standard input they must be known beforehand: --task.classes NAME NAME ...")
        if len(set(self.classes)) < len(self.classes) or (len(self.classes) == 1 and (self._size or 0) < 2):
            raise ValueError(
                f"classes: got {' '.join(self.classes)}, expected two names or more, or how many there are"
            )
        if self.change_at is not None and self.change_at < 1:
            raise ValueError(f"change_at is {self.change_at}, expected a row after the first, which is row 0")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate is {self.rate}, expected rows a second, above 0")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, expected rows, 1 or more")
        if self.detect:
            package("river.drift", "drift", "task.detect")

    @property
    def spec(self) -> Spec:
        """Return the inputs, and the classes, the value or the inputs again; this reads the table's first row."""
        d_in = len(self._columns.inputs)
        if self.kind == "class":
            return Spec(d_in=d_in, d_out=len(self._names))
        return Spec(d_in=d_in, d_out=1 if self.kind == "value" else d_in)

    @property
    def splits(self) -> dict[str, str]:
        """Return the parts of the table; standard input has one."""
        return {"all": "the lines as they come"} if self.path == "-" else PARTS

    @property
    def held_out(self) -> Split:
        """Return test."""
        return "test"

    @property
    def step_seconds(self) -> float | None:
        """Return how long a row lasts, seconds, where `rate` says so."""
        return None if self.rate is None else 1 / self.rate

    def read_once(self) -> None:
        """Keep nothing of standard input."""
        if isinstance(self._table, Live):
            self._table.kept = 0

    @property
    def replayable(self) -> bool:
        """Say that files are, and lines on standard input are not."""
        return self.path != "-"

    @property
    def source(self) -> str:
        """Name the table and what is done with it."""
        table, rows, roles = self._table, self._table.count(), self._columns.roles
        inputs = _listed([table.columns[column] for column in self._columns.inputs])
        what = "the next" if self.kind == "none" else f"{self.kind} {table.columns[roles['label']]} from"
        size = "live" if rows is None else f"{rows:,} rows"
        header = " without a header" if isinstance(table, Text) and not table.named else ""
        unused = _listed([f"{table.columns[column]} ({why})" for column, why in self._columns.unused.items()])
        return f"{table.name}, {size}{header}: {what} {inputs}{unused and f'; left out: {unused}'}"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int | None:
        """Return how many steps each stream has; None on standard input. Raises ValueError where there is not one."""
        check_split(split, self.splits)
        first, last = self._bounds(split)
        if last is None:
            if batch > 1:
                raise ValueError(f"stream.batch: got {batch}, expected 1, as standard input is one stream")
            return None
        steps = (last - first - (self.kind == "none")) // batch
        if steps < 1:
            raise ValueError(
                f"{self._table.name}: split {split} has {last - first} rows, expected at least a step for each of "
                f"{batch} streams: lower stream.batch or give more rows"
            )
        return steps

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split once, from time step `start` on; `seed` changes nothing, as the rows are in order.

        From standard input a chunk comes as soon as its rows are there, and the stream ends with it.
        """
        steps, first = self.steps(split, batch=batch), self._bounds(split)[0]
        if steps is None:
            parts = [self._part(0, None)]
        else:
            begins = range(first, first + batch * steps, steps)
            parts = [self._part(begin, begin + steps + (self.kind == "none")) for begin in begins]
        return side_by_side(parts, length, start, self.kind == "class")

    def left_out(self, meters: Mapping[str, Meter]) -> list[str]:
        """Return lines on the columns, rows, lines and labels that were not used."""
        told = list[str]()
        if self._columns.unused:
            names = (f"{self._table.columns[column]} ({why})" for column, why in self._columns.unused.items())
            told.append(f"columns left out: {', '.join(names)}")
        skipped = meters["skipped_rows"]
        if isinstance(skipped, SkippedRows) and skipped.counts:
            told.append(f"{skipped.get():,.0f} rows skipped, missing or not finite: {skipped.told()}")
        if isinstance(skipped, SkippedRows) and skipped.unlabelled and self.kind != "none":
            marks = dict(self._table.dropped) if isinstance(self._table, Text) else {}
            named = f" ({_listed([f'{mark} {count:,} times' for mark, count in marks.items()])})" if marks else ""
            told.append(f"{skipped.unlabelled:,} rows not learned from: without a label{named}, or masked")
        if isinstance(self._table, Live) and self._table.bad:
            unknown = f", {self._table.unknown:,} of them for a label" if self._table.unknown else ""
            told.append(f"{self._table.bad:,} lines could not be read{unknown}; the first: {self._table.first_bad}")
        return told

    @property
    def reduction(self) -> str | None:
        """Of classes the loss is the mean over the labelled steps."""
        return "mean" if self.kind == "class" else None

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the mean over the labelled steps, of the cross entropy (nats) or the squared error; 0 without one."""
        summed = labelled_cross_entropy if self.kind == "class" else labelled_squared_error
        return summed(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters of the labelled steps, of the skipped rows, and of a change where there may be one."""
        if self.kind == "class":
            counts = Confusion(self._names, _decisions)
            scores: dict[str, Meter] = {
                "accuracy": counts,
                "balanced_accuracy": Derived(counts.balanced_accuracy),
                "macro_f1": Derived(counts.macro_f1),
                "loss": CrossEntropy(),
            }
        else:
            scores = {"mse": SquaredError(), "mae": AbsoluteError(), "r2": R2()}
            in_units = self._in_units()
            scores = in_units | scores if self.kind == "value" else scores | in_units  # of one target, the first score
        names = [self._table.columns[column] for column in self._columns.inputs]
        return scores | {"skipped_rows": SkippedRows(names)} | self._drift()

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the probabilities of the classes, or the values in the table's units, at every row."""
        every, held = torch.ones_like(chunk.mask), chunk.info["skipped"] > 0
        if self.kind == "class":
            return Answers(every, out.softmax(-1), True, self._names, held)
        columns = [self._columns.roles["label"]] if self.kind == "value" else self._columns.inputs
        values = out * chunk.info["deviation"] + chunk.info["mean"]
        return Answers(every, values, False, [self._table.columns[column] for column in columns], held)

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the scores of the last target and of the mean (the majority of classes), both over the past only."""
        size = len(self._names) if self.kind == "class" else None
        names = ("majority", "last_label") if self.kind == "class" else ("running_mean", "persistence")
        predictors = dict(zip(names, (Average(size).predict, Last(size).predict), strict=True))
        there = self.steps(split, batch=batch)
        total = min(count for count in (there, steps) if count is not None)
        scores = score(predictors, self.stream(split, batch=batch, length=256, seed=seed), self.meters, total)
        scores.get("last_label", {}).pop("loss", None)  # it is as sure of what is wrong as of what is right
        return scores

    @cached_property
    def _table(self) -> Table:
        """Return the table."""
        marks = frozenset(mark.strip().lower() for mark in self.missing)
        return simulated() if self.path is None else read(self.path, Options(self.header, marks, self.time_axis))

    @cached_property
    def _columns(self) -> Columns:
        """Return the columns in use. Raises ValueError for one that is not there or holds no number."""
        table, roles, unused = self._table, self._table.roles, left_out(self._table)
        last = next((c for c in reversed(range(len(table.columns))) if c not in unused), len(table.columns) - 1)
        usual = {"label": table.columns[last]} if roles is None else roles
        names = {role: getattr(self, role) or usual.get(role) for role in ("label", "mask", "reset")}
        if self.kind == "none":
            names["label"] = self.label
        elif names["label"] is None:
            raise ValueError(f"{table.name} has no array y, which kind {self.kind} needs: give --task.kind none")
        found = {role: self._find(role, name) for role, name in names.items() if name is not None}
        others = {*found.values(), *(self._find("label", name) for name in (roles or {}).values())}
        ignored = {self._find("ignore", name) for name in self.ignore} - others
        inputs = [self._find("inputs", name) for name in self.inputs]
        for column in inputs:
            if unused.get(column, "").startswith("no number"):
                raise ValueError(f"inputs: {table.name}, column {table.columns[column]} has {unused[column]}")
        if inputs:
            unused = {}
        else:
            unused = {c: why for c, why in (unused | dict.fromkeys(ignored, "ignored")).items() if c not in others}
            inputs = [column for column in range(len(table.columns)) if column not in others | unused.keys()]
        if not inputs or len({*inputs, *found.values()}) < len(inputs) + len(found):
            without = "".join(f"; {table.columns[c]} is left out ({why})" for c, why in unused.items())
            raise ValueError(
                f"{table.name}: the inputs are {', '.join(self.inputs) or 'no column'}, expected at least one, none "
                f"twice, and neither label, mask nor reset: name them in task.inputs{without[:SAID]}"
            )
        return Columns(inputs, found, unused)

    @cached_property
    def _names(self) -> list[str]:
        """Return the names of the classes. Raises ValueError where there are not two of them."""
        if self._size:
            return [str(number) for number in range(self._size)]
        names = self.classes or self._table.classes(self._columns.roles["label"])
        if len(names) < 2:
            raise ValueError(
                f"{self._table.name}: the label has the classes {', '.join(names) or 'none'}, expected two or more: "
                "name its column in task.label, or all classes in task.classes"
            )
        return list(self.classes) or sorted(
            names, key=lambda name: (not _whole(name), int(name) if _whole(name) else 0, name)
        )

    @cached_property
    def _codes(self) -> dict[str, int]:
        """Return the number of each class by its name, as given and in the one form that numbers have."""
        codes = {name: number for number, name in enumerate(self._names)}
        return {class_name(name): number for name, number in codes.items()} | codes

    @property
    def _size(self) -> int | None:
        """Return how many classes there are where `classes` is their number."""
        return int(self.classes[0]) if len(self.classes) == 1 and self.classes[0].isdecimal() else None

    def row_format(self, split: str, *, batch: int, steps: int) -> RowFormat:
        """Return the columns, and means and deviations after so many steps of the last stream; live, by now."""
        rows, (inputs, roles) = self.steps(split, batch=batch), self._columns[:2]
        units, names = self._live, [self._table.columns[column] for column in inputs]
        if rows is not None:
            units, begin = self._units(), self._bounds(split)[0] + (batch - 1) * rows
            for _ in units.watch(self._blocks(begin, begin + steps + (self.kind == "none"))):
                pass
        outputs = names if self.kind == "none" else [self._table.columns[roles["label"]]]
        classes = list(self._names) if self.kind == "class" else None
        return RowFormat(names, classes, outputs, self.scale, units.state(next_row=self.kind == "none"))

    @cached_property
    def _live(self) -> Units:
        """Return the units of standard input, whose lines are gone once they were read."""
        return self._units()

    def _units(self) -> Units:
        """Return units of rows, none of which was read."""
        inputs, roles = self._columns[:2]
        label = len(inputs) + list(roles).index("label") if self.kind == "value" else None
        return Units(len(inputs), label, len(self._names) if self.kind == "class" else 0, self.scale)

    def _blocks(self, first: int, last: int | None) -> Iterator[Numbers]:
        """Yield what a stream of the rows from `first` to before `last` is made of, from up to WARM rows before."""
        inputs, roles = self._columns[:2]
        codes = {roles["label"]: self._codes} if self.kind == "class" else {}
        return self._table.rows([*inputs, *roles.values()], codes, max(0, first - WARM), last)

    def _bounds(self, split: str) -> tuple[int, int | None]:
        """Return the first row of a split, and the one after its last; None on standard input."""
        rows = self._table.count()
        if rows is None:
            return 0, None
        cut = rows * 9 // 10
        return {"train": (0, cut), "test": (cut, rows), "all": (0, rows)}[split]

    def _part(self, first: int, last: int | None) -> Iterator[Steps]:
        """Yield the steps of one stream: the rows from `first` to before `last`."""
        inputs, roles, _ = self._columns
        is_class = self.kind == "class"
        blocks, begin = self._blocks(first, last), max(0, first - WARM)
        blocks = blocks if self._table.count() is not None else self._live.watch(blocks)
        rows = clean(blocks, len(inputs), list(roles), self.scale, begin)
        return stream_from(
            following(rows) if self.kind == "none" else labelled(rows, self.scale and not is_class), first
        )

    def _in_units(self) -> dict[str, Meter]:
        """Return the errors in the units of the table, of each target where they are few; none where unscaled."""
        inputs, roles, _ = self._columns
        targets = [roles["label"]] if self.kind == "value" else inputs
        if not self.scale or len(targets) > TARGETS:
            return {}
        names = [(i, self._table.columns[column]) for i, column in enumerate(targets)]
        scores = (("mae", False), ("rmse", True))
        return {f"{score}[{name}]": InUnits(i, squared) for i, name in names for score, squared in scores}

    def _drift(self) -> dict[str, Meter]:
        """Return the meters of a change: none where none is marked or asked for."""
        marked = CHANGE if self.path is None and self.change_at is None else self.change_at
        if marked is None and not self.detect:
            return {}
        error = _wrong if self.kind == "class" else AbsoluteError().values
        errors = Errors(error, marked, accuracy=self.kind == "class")
        meters: dict[str, Meter] = {
            "score_before": errors,
            "score_after": Derived(errors.after),
            "recovery_steps": Derived(errors.recovery),
        }
        return meters | ({"drifts": Derived(errors.count)} if self.detect else {})

    def _find(self, option: str, name: str) -> int:
        """Return the number of a column. Raises ValueError where there is none of that name."""
        columns = self._table.columns
        if name in columns:
            return list(columns).index(name)
        try:
            return range(len(columns))[int(name)]
        except (ValueError, IndexError):
            known = ", ".join([*columns[:10], *(["..."] if len(columns) > 10 else [])])
            raise ValueError(f"{option}: {self._table.name} has no column {name!r}, expected one of {known}") from None


def _listed(names: Sequence[str]) -> str:
    """Return names in a line, the middle of many left out."""
    return ", ".join(names if len(names) <= 5 else [*names[:2], "...", names[-1]])


def _decisions(out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return the classes said and the true ones, of the labelled steps."""
    return out[chunk.mask].argmax(-1), chunk.y[chunk.mask]


def _wrong(out: Tensor, y: Tensor) -> Tensor:
    """Return 1 where the class said is not the true one, 0 where it is."""
    return out.argmax(-1) != y


def _whole(name: str) -> bool:
    """Return whether a class is named by a whole number."""
    return name.removeprefix("-").isdecimal()
