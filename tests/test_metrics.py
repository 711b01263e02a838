"""The meters: equal to scikit-learn's scores, whatever the chunks, and saved and loaded exactly."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from biomamba.metrics import Accuracy, Confusion, CrossEntropy, Derived, bits
from biomamba.stream import Chunk

SIZE = 5


def decided(out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    return out.argmax(-1)[chunk.mask], chunk.y[chunk.mask]


def confusion() -> Confusion:
    return Confusion([str(c) for c in range(SIZE)], decided)


def chunk_of(seed: int, true: tuple[int, ...], said: tuple[int, ...], steps: int = 60) -> tuple[Tensor, Chunk]:
    """Return random predictions out of `said` for random labels out of `true`, two thirds of them labelled."""
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.choice(true, size=(2, steps)))
    out = torch.nn.functional.one_hot(torch.from_numpy(rng.choice(said, size=(2, steps))), SIZE).double()
    mask = torch.from_numpy(rng.random((2, steps)) < 2 / 3)
    return out, Chunk(torch.zeros(2, steps), y, mask, torch.zeros(2, steps, dtype=torch.bool))


CASES = {
    "all": (tuple(range(SIZE)), tuple(range(SIZE))),
    "one never said": (tuple(range(SIZE)), (0, 1, 2, 3)),
    "one not there": ((0, 2, 3, 4), tuple(range(SIZE))),
    "one neither": ((0, 1, 2), (0, 1, 3)),
    "one true class": ((2,), (1, 2)),
}


@pytest.mark.parametrize("true, said", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(true: tuple[int, ...], said: tuple[int, ...], seed: int) -> None:
    out, chunk = chunk_of(seed, true, said)
    meter = confusion()
    for steps in (slice(0, 1), slice(1, 20), slice(20, 20), slice(20, None)):  # in pieces, one of them empty
        meter.update(out[:, steps], chunk.between(steps.start, steps.stop))
    guess, label = (part.numpy() for part in decided(out, chunk))
    kwargs = {"labels": range(SIZE), "average": None, "zero_division": np.nan}
    assert (meter.matrix.numpy() == sk.confusion_matrix(label, guess, labels=range(SIZE))).all()
    assert meter.get() == pytest.approx(sk.accuracy_score(label, guess))
    each = [meter.sensitivity(c) for c in range(SIZE)]
    assert each == pytest.approx(sk.recall_score(label, guess, **kwargs), nan_ok=True)
    each = [meter.predictivity(c) for c in range(SIZE)]
    assert each == pytest.approx(sk.precision_score(label, guess, **kwargs), nan_ok=True)
    each = [meter.f1(c) for c in range(SIZE)]
    assert each == pytest.approx(sk.f1_score(label, guess, **kwargs), nan_ok=True)
    zero = {"labels": range(SIZE), "average": "macro", "zero_division": 0}
    assert meter.macro_f1() == pytest.approx(sk.f1_score(label, guess, **zero))
    assert meter.macro_f1([1, 3]) == pytest.approx(sk.f1_score(label, guess, **{**zero, "labels": [1, 3]}))
    with warnings.catch_warnings():  # scikit-learn warns of classes that were said and not there
        warnings.simplefilter("ignore")
        assert meter.balanced_accuracy() == pytest.approx(sk.balanced_accuracy_score(label, guess))
    assert meter.kappa() == pytest.approx(sk.cohen_kappa_score(label, guess))
    assert meter.get() != pytest.approx(meter.balanced_accuracy()) or len(true) == 1  # control: they are not all one


def test_nothing_decided_is_nan_and_agreement_by_chance_alone_has_no_kappa() -> None:
    meter = confusion()
    assert all(math.isnan(score) for score in (meter.get(), meter.kappa(), meter.f1(0)))
    assert math.isnan(meter.balanced_accuracy()) and math.isnan(meter.macro_f1())
    meter.update(*chunk_of(0, (2,), (2,)))
    assert math.isnan(meter.kappa())
    assert (meter.get(), meter.balanced_accuracy(), meter.f1(2)) == (1, 1, 1)


METERS = {"confusion": confusion, "accuracy": Accuracy, "loss": CrossEntropy}


@pytest.mark.parametrize("make", METERS.values(), ids=METERS)
def test_a_meter_goes_on_from_json_exactly(make: type) -> None:
    first, second = chunk_of(1, (0, 1, 2), (0, 1, 3)), chunk_of(2, (0, 4), (0, 4))
    whole, part, fresh = make(), make(), make()
    whole.update(*first)
    part.update(*first)
    fresh.load_state_dict(json.loads(json.dumps(part.state_dict())))
    assert fresh.state_dict() == part.state_dict()
    for meter in (whole, fresh, part):
        meter.update(*second)
    assert whole.get() == fresh.get()  # to the bit
    lost = make()
    lost.update(*second)
    assert lost.get() != whole.get()  # control: what was before the save counts


def test_derived_follows_the_other_meter_and_saves_nothing() -> None:
    meter = confusion()
    kappa = Derived(meter.kappa)
    out, chunk = chunk_of(3, (0, 1, 2), (0, 1, 2))
    kappa.update(out, chunk)
    assert math.isnan(kappa.get())  # control: by itself it counts nothing
    meter.update(out, chunk)
    assert kappa.get() == meter.kappa() != meter.get()
    assert kappa.state_dict() == {}
    kappa.load_state_dict({})
    assert kappa.get() == meter.kappa()
    nats = CrossEntropy()
    nats.update(out, chunk)
    assert bits(nats).get() == pytest.approx(nats.get() / math.log(2))
