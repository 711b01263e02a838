"""The faces of the learner pass the checks of the libraries that they are for, but for those named with a reason."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import biomamba

SMALL: dict[str, Any] = {"d_model": 8, "d_state": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MambaClassifier", "MambaRegressor", "MambaMultiTargetRegressor"])
def test_rivers_checks_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = pytest.importorskip("river.checks", reason="river is not installed: pip install river")
    from biomamba.integrations import river as ours

    whole = checks._yield_datasets
    few = lambda *given, **more: (list(itertools.islice(rows, 40)) for rows in whole(*given, **more))  # noqa: E731
    monkeypatch.setattr(checks, "_yield_datasets", few)  # which reads 200 rows of each, for each of its checks
    model = getattr(ours, name)(headdim=1, **SMALL)
    every = list(checks.yield_checks(model))
    assert len(every) > 10
    for check in every:
        if check.__name__ not in ours.SKIPPED:
            check(model.clone())


def test_a_pipeline_of_rivers_learns_a_class_that_lies_in_the_past() -> None:
    pytest.importorskip("river", reason="river is not installed: pip install river")
    from river import evaluate, linear_model, metrics, preprocessing

    from biomamba.integrations.river import MambaClassifier

    drawn = np.random.default_rng(0).integers(0, 2, 500).tolist()
    rows = [({"signal": 10.0 + drawn[i], "noise": 3.0}, bool(drawn[max(0, i - 2)])) for i in range(500)]
    scores = []
    for own in (MambaClassifier(lr=1e-2), linear_model.LogisticRegression()):
        model = preprocessing.StandardScaler() | own
        metric = metrics.Rolling(metrics.Accuracy(), 150) if hasattr(metrics, "Rolling") else metrics.Accuracy()
        scores.append(evaluate.progressive_val_score(rows, model, metric).get())
    assert scores[0] > 0.7 and scores[0] > scores[1] + 0.15  # what has no memory is at chance


def test_predict_one_changes_nothing_and_learn_one_is_the_learners() -> None:
    pytest.importorskip("river", reason="river is not installed: pip install river")
    from biomamba.integrations.river import MambaMultiTargetRegressor, MambaRegressor

    own, learner = MambaRegressor(**SMALL, headdim=1), biomamba.regressor(["a", "b"], **SMALL, headdim=1)
    assert own.predict_one({"a": 1.0, "b": 2.0}) == 0.0
    for i in range(12):
        x = {"b": float(i % 2), "a": 1.0}  # features are sorted by name
        for _ in range(2):
            own.predict_one({"a": 9.0, "b": -9.0})
        own.learn_one(x, 5.0 + i)
        learner.learn_one(x, 5.0 + i)
    assert own.predict_one({"a": 1.0, "b": 0.0}) == learner.predict_one({"a": 1.0, "b": 0.0})
    both = MambaMultiTargetRegressor(**SMALL, headdim=1)
    both.learn_one({"a": 1.0}, {"up": 1.0, "down": -1.0})
    assert set(both.predict_one({"a": 1.0})) == {"up", "down"}


@pytest.mark.slow
@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("name", ["MambaClassifier", "MambaRegressor"])
def test_scikit_learns_checks_pass(name: str, independent: bool) -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    from biomamba.integrations import sklearn as ours

    expected = {} if independent else ours.EXPECTED_FAILURES
    estimator = getattr(ours, name)(passes=4, independent=independent, **SMALL)
    found = checks.check_estimator(estimator, expected_failed_checks=expected, on_skip=None, on_fail=None)
    assert not [one for one in found if one["status"] == "failed"]
    assert {one["check_name"] for one in found if one["status"] == "xfail"} == set(expected)


def test_rows_in_parts_are_rows_at_once() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from biomamba.integrations.sklearn import MambaClassifier, MambaRegressor

    drawn = np.random.default_rng(0)
    X = drawn.normal(size=(64, 3)) + 5
    y = np.where(np.roll(X[:, 0], 2) > 5, "high", "low")
    whole, parts = (MambaClassifier(**SMALL) for _ in range(2))
    whole.fit(X, y)
    for at in range(0, 64, 16):
        parts.partial_fit(X[at : at + 16], y[at : at + 16], classes=["low", "high"])
    np.testing.assert_array_equal(whole.predict_proba(X), parts.predict_proba(X))
    before = [weight.clone() for weight in whole.learner_.model.parameters()]
    np.testing.assert_array_equal(whole.predict(X), whole.predict(X))  # nothing has moved
    assert all(torch.equal(a, b) for a, b in zip(before, whole.learner_.model.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"^y: got the classes \['middle'\], expected \['high', 'low'\]$"):
        parts.partial_fit(X[:2], ["middle", "low"])
    values = MambaRegressor(**SMALL, passes=20, lr=1e-2).fit(X, 1000 + X[:, 0]).predict(X)
    assert np.abs(values - 1005).max() < 10  # in their own units
    assert np.corrcoef(values, X[:, 0])[0, 1] > 0.8


def test_the_hub_keeps_a_model(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install huggingface_hub")
    from biomamba.integrations.hub import HubModel

    options: dict[str, Any] = {"vocab": 9, "d_out": 9, "d_model": 8, "d_state": 4, "headdim": 4, "n_layers": 2}
    x = torch.randint(9, (2, 5))
    for more in ({}, {"tied": True}, {"ngrams": [2, 3], "ngram_logits": [2], "ngram_bits": 5}, {"ngroups": 2}):
        own = HubModel(**options, **more)
        if own.ngrams is not None:
            reading = own.read(x)
            assert reading is not None
            own.learn_rows(reading, torch.randn(2, 5, 8), torch.randn(2, 5, 9))
        folder = tmp_path / "-".join(["own", *more])
        own.save_pretrained(folder)
        assert json.loads((folder / "config.json").read_text()).items() >= {**options, **more}.items()
        back = HubModel.from_pretrained(folder)
        with torch.no_grad():
            assert torch.equal(back(x, back.init_state(2))[0], own(x, own.init_state(2))[0])
            assert isinstance(back, biomamba.Model)
