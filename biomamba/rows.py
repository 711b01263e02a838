"""Rows in a user's units: what goes into a model one step at a time, and what its outputs mean.

    dict, array or tensor -> encode -> x (1, t, d_in)        out (d_out,) -> decode -> a class or values

An input that is missing, NaN, infinite or not in the dict repeats its last value; before the first, it is 0, which is
the mean where inputs are scaled. A feature that is not among the inputs is ignored. Where inputs have no names, the
first dicts name them in the order of their keys. A class gets the next output when it is first learned.
"""

import copy
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .metrics import (
    Accuracy,
    Confusion,
    CrossEntropy,
    SquaredError,
    labelled_cross_entropy,
    labelled_squared_error,
)
from .model import Model
from .scaler import StandardScaler
from .stream import Chunk, Meter, RowFormat, Spec, Task

Kind = Literal["class", "value"]
Numbers = NDArray[np.float64]


class Prediction(NamedTuple):
    """What a learner says of one step."""

    id: Hashable  # the ticket that an answer is given with
    value: Any  # a class, a float, of several values a tuple, or a dict where they have names; None: no class yet
    probabilities: dict[Hashable, float]  # of the classes known so far; empty for values
    out: Tensor  # (d_out,) what the model gave


class Rows:
    """How one stream's rows are read, and its answers.

    inputs: how many, or their names. classes: how many there can be, or their names; None for values. outputs: how many
    values, or their names. vocab: rows are tokens below it. scale: inputs and values by `StandardScaler`.
    """

    def __init__(
        self,
        inputs: int | Sequence[str] = 1,
        classes: int | Sequence[Hashable] | None = None,
        outputs: int | Sequence[str] = 1,
        vocab: int | None = None,
        scale: bool = True,
    ) -> None:
        """Take what rows hold. Raises ValueError for names that are there twice and for fewer than two classes."""
        self.kind: Kind = "value" if classes is None else "class"
        self.vocab = vocab
        self.d_in, self.inputs = _named("inputs", inputs)
        self.d_out, self.outputs = _named("outputs", outputs)
        self.classes: list[Hashable] = []
        if classes is not None:
            self.d_out, self.classes = _named("classes", classes)
            if self.d_out < 2:
                raise ValueError(f"classes: got {self.d_out}, expected 2 or more: give how many there can be, or names")
        self.scaler = StandardScaler(self.d_in, scale and vocab is None)
        self.targets = StandardScaler(self.d_out, scale and classes is None)

    @classmethod
    def of(cls, task: Task, model: Model) -> "Rows":
        """Return the rows of a task whose streams bring inputs ready for the model: nothing is scaled."""
        spec = model.spec
        return cls(spec.d_in or 1, _classes(task, spec.d_out), spec.d_out, spec.vocab, scale=False)

    @classmethod
    def of_format(cls, given: RowFormat) -> "Rows":
        """Return the rows that a task's data has."""
        rows = cls(given.inputs, given.classes, given.outputs, None, given.scaled)
        rows._load(given.state)
        return rows

    @property
    def spec(self) -> Spec:
        """What a model of them takes and gives."""
        return Spec(self.d_out, self.vocab, None if self.vocab else self.d_in)

    def encode(self, row: Any, keep: bool = True) -> Tensor:
        """Return a row as x (1, 1, d_in), float64, or as a token (1, 1); an array (t, d_in) or t tokens as t steps.

        keep: take it in, its names and into the means; else nothing changes.
        Raises ValueError and TypeError for what is no row, before anything changes.
        """
        if self.vocab is not None:
            return self._tokens(row)
        values, names = self._values(row)
        scaler = self.scaler if keep else copy.copy(self.scaler)
        if keep:
            self.inputs = names
        return torch.from_numpy(np.stack([scaler.take(own) for own in values]))[None]

    def target(self, answer: Any) -> Tensor:
        """Return an answer as y: a class (1, 1), or values (1, 1, d_out), taken in.

        Raises ValueError and TypeError for what is none, and for a class more than there can be, before anything
        changes.
        """
        if self.kind == "class":
            return torch.tensor([[self._class(answer)]])
        return torch.from_numpy(self.targets.take(self._answer(answer))).view(1, 1, -1)

    def decode(self, out: Tensor) -> tuple[Any, dict[Hashable, float]]:
        """Return the class and the probabilities of those known, or the values, of out (d_out,)."""
        if self.kind == "value":
            values = self.targets.unscaled(out.double().cpu().numpy()).tolist()
            if len(values) == 1:
                return values[0], {}
            return (dict(zip(self.outputs, values, strict=True)) if self.outputs else tuple(values)), {}
        if not self.classes:
            return None, {}
        shares = torch.softmax(out[: len(self.classes)].double(), -1).tolist()
        probabilities = dict(zip(self.classes, shares, strict=True))
        return max(probabilities, key=probabilities.__getitem__), probabilities

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors, and what JSON can hold. Raises TypeError for classes that it cannot."""
        parts = {"scaler": self.scaler.state_dict(), "targets": self.targets.state_dict()}
        tensors = {f"{part}.{name}": own for part, state in parts.items() for name, own in state.items()}
        return tensors, {
            "inputs": self.inputs or self.d_in,
            "classes": None if self.kind == "value" else [_plain(name) for name in self.classes],
            "outputs": self.outputs or self.d_out,
            "vocab": self.vocab,
            "scale": self.scaler.scale or self.targets.scale,
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "Rows":
        """Return the rows that `state_dict` was taken of. Raises ValueError where the two do not fit."""
        size = tensors["targets.last"].shape[0]
        inputs = facts["inputs"] if isinstance(facts["inputs"], int) else len(facts["inputs"])
        if tensors["scaler.last"].shape != (inputs,):  # before memory is asked for
            raise ValueError(f"rows: {inputs} inputs beside a scaler of {len(tensors['scaler.last'])}: save it anew")
        rows = cls(
            facts["inputs"],
            None if facts["classes"] is None else size,
            facts["outputs"],
            facts["vocab"],
            facts["scale"],
        )
        rows.classes = [*{_hashable(name): None for name in facts["classes"] or ()}]
        rows._load(tensors)
        return rows

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the scalers their state back."""
        for part in ("scaler", "targets"):
            scaler: StandardScaler = getattr(self, part)
            scaler.load_state_dict({name: tensors[f"{part}.{name}"] for name in scaler.state_dict()})

    def _tokens(self, row: Any) -> Tensor:
        """Return tokens (1, t)."""
        tokens = _array("x", row)
        if tokens.dtype.kind not in "iu" or tokens.ndim > 1 or not tokens.size:
            raise TypeError(f"x: got {_shown(row)}, expected a token or several, whole numbers: give one such as 0")
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= (self.vocab or 0):
            raise ValueError(f"x: got tokens from {least} to {most}, expected 0 to {(self.vocab or 0) - 1}")
        return torch.from_numpy(tokens.astype(np.int64).reshape(1, -1))

    def _values(self, row: Any) -> tuple[Numbers, list[str]]:
        """Return rows (t, d), NaN where a value is missing, and the names of the inputs after them."""
        if not isinstance(row, Mapping):
            values = _array("x", row, np.float64)
            one = values.size == self.d_in and values.ndim < 2
            if not one and (values.ndim != 2 or values.shape[1] != self.d_in or not values.size):
                told = f"expected {self.d_in} numbers, or (steps, {self.d_in}): give one array of these, or a dict"
                raise ValueError(f"x: got {values.shape}, {told}")
            return values.reshape(-1, self.d_in), self.inputs
        names = list(self.inputs)
        for name in row:
            if len(names) < self.d_in and name not in names:
                names.append(name)
        values = np.full((1, self.d_in), math.nan)
        values[0, : len(names)] = [_number(f"x[{name!r}]", row.get(name)) for name in names]
        return values, names

    def _class(self, answer: Any) -> int:
        """Return the output of a class, which gets the next one where it is new."""
        name = _item(answer)
        if not isinstance(name, Hashable) or name is None or name != name:
            raise TypeError(f"y: got {_shown(answer)}, expected a class, such as a name or a number")
        if name not in self.classes:
            if len(self.classes) == self.d_out:
                known = ", ".join(map(str, self.classes[:10])) + (", ..." if self.d_out > 10 else "")
                raise ValueError(f"y: got {_shown(name)}, expected one of the {self.d_out} classes {known}")
            self.classes.append(name)
        return self.classes.index(name)

    def _answer(self, answer: Any) -> Numbers:
        """Return values (d_out,)."""
        if isinstance(answer, Mapping):
            names = self.outputs or list(answer)
            if len(answer) != self.d_out or set(names) != set(answer):
                wanted = ", ".join(map(str, self.outputs)) or f"{self.d_out} values"
                raise ValueError(f"y: got {_shown(answer)}, expected {wanted}")
            self.outputs, answer = names, [answer[name] for name in names]
        values: Numbers = _array("y", answer, np.float64).reshape(-1)
        if len(values) != self.d_out or not np.isfinite(values).all():
            raise ValueError(f"y: got {_shown(answer)}, expected {self.d_out} finite numbers")
        return values


class Supervised(Task):
    """The loss of labelled rows, for a learner that has no data of its own: rows come by `Learner.predict`."""

    def __init__(self, spec: Spec, kind: Kind) -> None:
        """Take what the model must take and give, and whether it gives a class or values."""
        self._spec, self.kind = spec, kind

    @property
    def spec(self) -> Spec:
        """Return what the model must take and give."""
        return self._spec

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Raise ValueError: there is no data."""
        raise ValueError(f"split: got {split!r} of a learner without data of its own: give rows to learner.predict")

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the mean over the labelled steps, of the cross entropy (nats) or the squared error; 0 without one."""
        summed = labelled_cross_entropy if self.kind == "class" else labelled_squared_error
        return summed(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self) -> dict[str, Meter]:
        """Return the loss."""
        return {"loss": CrossEntropy() if self.kind == "class" else SquaredError()}


def _classes(task: Task, d_out: int) -> list[Hashable] | None:
    """Return the names of a task's classes, numbers where they have none; None where it has values."""
    meters = task.meters().values()
    for meter in meters:
        if isinstance(meter, Confusion) and len(meter.classes) == d_out:
            return list(meter.classes)
    return list(range(d_out)) if any(isinstance(meter, Accuracy | CrossEntropy) for meter in meters) else None


def _named(option: str, given: int | Sequence[Any]) -> tuple[int, list[Any]]:
    """Return a number of things, and their names where they have some."""
    if isinstance(given, int):
        if given < 1:
            raise ValueError(f"{option}: got {given}, expected 1 or more, or names")
        return given, []
    names = list(given)
    if isinstance(given, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"{option}: got {_shown(given)}, expected different names, or how many there are")
    return len(names), names


def _array(what: str, given: Any, dtype: type[np.float64] | None = None) -> NDArray[Any]:
    """Return an array, a tensor, a list or a number as an array."""
    try:
        return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{what}: got {_shown(given)}, expected numbers: give an array or a dict") from error


def _number(what: str, given: Any) -> float:
    """Return one number; NaN for None."""
    if given is None:
        return math.nan
    try:
        return float(given)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{what}: got {_shown(given)}, expected a number, or None where it is missing") from error


def _item(given: Any) -> Any:
    """Return the number in a tensor or an array of one; anything else as it is."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    return given.item() if isinstance(given, np.ndarray | np.generic) and given.size == 1 else given


def _shown(given: Any) -> str:
    """Return what was given in at most forty characters."""
    text = repr(given)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(name: Hashable) -> Any:
    """Return a class as JSON can hold it."""
    if isinstance(name, tuple):
        return [_plain(part) for part in name]
    if isinstance(name, str | int | float | None):
        return name
    raise TypeError(f"classes: {_shown(name)} cannot be saved, expected text, numbers or tuples of them")


def _hashable(name: Any) -> Hashable:
    """Return a class as it was before `_plain`."""
    return tuple(_hashable(part) for part in name) if isinstance(name, list) else name
