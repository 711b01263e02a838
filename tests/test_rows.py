"""Rows in a user's units: what is missing, unknown or new, by the rules that `rows` states."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from biomamba.rows import Rows
from biomamba.scaler import StandardScaler


def test_inputs_are_scaled_by_their_own_past_and_back() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 0] + [5, -1e6, 7]
    scaler = StandardScaler(3)
    for t, row in enumerate(values):
        scaled = scaler.take(row)
        deviation = values[: t + 1].std(0)
        wanted = np.divide(row - values[: t + 1].mean(0), deviation, out=np.zeros(3), where=deviation > 1e-9)
        assert np.allclose(scaled, wanted, atol=1e-6)
        assert np.allclose(scaler.unscaled(scaled)[:2], row[:2])
    assert abs(float(scaler.scaled(values[3])[0])) > 1e-3  # control


def test_a_missing_value_repeats_the_last_and_before_the_first_is_the_mean() -> None:
    rows = Rows(["a", "b"])
    assert rows.encode({"a": 1.0}).tolist() == [[[0.0, 0.0]]]
    rows.encode({"a": 3.0, "b": 10.0})
    seen = rows.encode({"a": 5.0, "b": 20.0})
    for missing in (None, math.nan, math.inf, -math.inf):
        again = rows.encode({"a": missing, "b": missing, "colour": "red"})
        assert torch.equal(again, seen)
    assert rows.scaler.count.tolist() == [3, 2]
    before = rows.scaler.state_dict()
    rows.encode([100.0, 100.0], keep=False)
    assert all(torch.equal(own, before[name]) for name, own in rows.scaler.state_dict().items())


def test_names_come_from_the_first_rows_and_later_ones_are_ignored() -> None:
    rows = Rows(3, scale=False)
    assert rows.encode({"b": 1, "a": 2}).tolist() == [[[1, 2, 0]]]
    assert rows.encode({"c": 3, "d": 4, "a": 5}).tolist() == [[[1, 5, 3]]]
    assert rows.inputs == ["b", "a", "c"]
    for other in (np.array([1.0, 2, 3]), torch.tensor([[1, 2, 3]]), [1, 2, 3], (1, 2, None)):
        assert rows.encode(other).shape == (1, 1, 3)
    assert rows.encode(np.ones((4, 3), np.float32)).shape == (1, 4, 3)


def test_classes_of_any_kind_grow_up_to_their_number() -> None:
    rows = Rows(1, classes=3)
    assert rows.decode(torch.zeros(3)) == (None, {})
    names = [("left", 1), np.int64(7), True]
    assert [int(rows.target(name)) for name in names] == [0, 1, 2]
    assert int(rows.target(7)) == int(rows.target(torch.tensor(7))) == 1
    with pytest.raises(ValueError, match="got 'other', expected one of the 3 classes"):
        rows.target("other")
    value, probabilities = rows.decode(torch.tensor([0.0, 2.0, 1.0]))
    assert value == 7 and sum(probabilities.values()) == pytest.approx(1) and probabilities[("left", 1)] < 0.1


def test_values_come_back_in_their_units() -> None:
    rows = Rows(1, outputs=["rain", "wind"])
    for t in range(10):
        rows.target({"wind": 100.0 + t, "rain": t * 1e-3})
    value, none = rows.decode(torch.zeros(2))
    assert value == pytest.approx({"rain": 4.5e-3, "wind": 104.5}) and none == {}
    with pytest.raises(ValueError, match="expected rain, wind"):
        rows.target({"wind": 1.0})


@pytest.mark.parametrize(
    "given, said",
    [
        ({"inputs": 0}, "inputs: got 0"),
        ({"inputs": ["a", "a"]}, "expected different names"),
        ({"classes": 1}, "classes: got 1, expected 2 or more"),
        ({"classes": "ab"}, "classes: got 'ab'"),
    ],
)
def test_rows_that_make_no_sense_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rows(**given)
