"""The learner as estimators of scikit-learn: pip install "biomamba[sklearn]".

    fit(X, y)          a new learner reads the rows in their order, `passes` times
    partial_fit(X, y)  the learner goes on with more rows
    predict(X)         what it would say if these rows came next; nothing changes

Rows are steps of one stream, so what is said of a row depends on the rows before it. With `independent` every row is a
sequence of its own, as in a table without time; then the state carries nothing, and other models are cheaper.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..estimators import classifier, regressor
from ..inputs import checked
from ..learner import Learner
from ..stream import Chunk

ORDER = "what is said of a row depends on the rows before it: give independent=True for a table without time"
EXPECTED_FAILURES = {  # checks of scikit-learn's that a recurrent model cannot pass, each with the reason
    "check_methods_sample_order_invariance": ORDER,
    "check_methods_subset_invariance": ORDER,
}


class _Face(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both have in common."""

    learner_: Learner

    def __init__(
        self,
        d_model: int = 32,
        d_state: int = 8,
        n_layers: int = 1,
        rule: str = "rtrl",
        lr: float = 3e-3,
        length: int = 8,
        passes: int = 1,
        independent: bool = False,
        random_state: Any = 0,
    ) -> None:
        """Take sizes, rule, Adam's rate, rows for each update, readings in `fit` and the seed of the weights."""
        self.d_model, self.d_state, self.n_layers = d_model, d_state, n_layers
        self.rule, self.lr, self.length, self.passes = rule, lr, length, passes
        self.independent, self.random_state = independent, random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Read the rows in their order, `passes` times, with a new learner."""
        X, y = self._checked(X, y, first=True)
        self.learner_ = self._made(X, y)
        for _ in range(self.passes):
            self._learn(X, y)
        return self

    def _checked(self, X: Any, y: Any, first: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        raise NotImplementedError

    def _made(self, X: NDArray[Any], y: NDArray[Any]) -> Learner:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """Return the options of the learner."""
        seed = int(check_random_state(self.random_state).randint(1 << 30))
        sizes = {"d_model": self.d_model, "d_state": self.d_state, "n_layers": self.n_layers}
        return {**sizes, "rule": self.rule, "lr": self.lr, "seed": seed, "threads": 1}

    def _learn(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        """Learn rows, `length` of them at each update."""
        rows = self.learner_.rows
        x = torch.cat([rows.encode(row) for row in X], 1)
        targets = torch.cat([rows.target(answer) for answer in y], 1)
        for at in range(0, len(X), self.length):
            self.learner_.update(self._chunk(x[:, at : at + self.length], targets[:, at : at + self.length]))

    def _chunk(self, x: Tensor, y: Tensor) -> Chunk:
        """Return rows x (1, t, d) and their answers as the learner takes them."""
        every = torch.ones(x.shape[:2], dtype=torch.bool)
        resets = every if self.independent else torch.zeros_like(every)
        return next(checked([Chunk(x, y, every, resets)], self.learner_.model))

    def _said(self, X: Any) -> list[tuple[Any, dict[Any, float]]]:
        """Return what the learner would say of rows: classes or values, and the probabilities."""
        check_is_fitted(self, "learner_")
        X = validate_data(self, X, reset=False)
        rows = self.learner_.rows
        x = torch.cat([rows.encode(row, keep=False) for row in X], 1)
        out = self.learner_.peek(self._chunk(x, torch.zeros_like(x[..., 0])))
        return [rows.decode(own) for own in out[0]]


class MambaClassifier(ClassifierMixin, _Face):  # type: ignore[misc]
    """Classes of the steps of a stream, learned in their order."""

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Go on with more rows. classes: all there will be, at the first call; those in y where it is not given."""
        first = not hasattr(self, "learner_")
        if first and classes is not None:
            self.classes_ = np.unique(classes)
        X, y = self._checked(X, y, first, known=not first or classes is not None)
        if first:
            self.learner_ = self._made(X, y)
        self._learn(X, y)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row."""
        best = self.predict_proba(X).argmax(1)
        classes: NDArray[Any] = self.classes_
        likeliest: NDArray[Any] = np.take(classes, best)
        return likeliest

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probabilities (n, classes)."""
        said = [[shares[name] for name in range(len(self.classes_))] for _, shares in self._said(X)]
        found: NDArray[np.float64] = np.array(said) / np.sum(said, 1, keepdims=True)
        return found

    def _checked(self, X: Any, y: Any, first: bool, known: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        X, y = validate_data(self, X, y, reset=first)
        check_classification_targets(y)
        if not known:
            self.classes_ = unique_labels(y)
        strange = np.setdiff1d(y, self.classes_)
        if len(strange):
            raise ValueError(f"y: got the classes {strange[:5].tolist()}, expected {self.classes_[:10].tolist()}")
        return X, np.searchsorted(self.classes_, y)

    def _made(self, X: NDArray[Any], y: NDArray[Any]) -> Learner:
        names = range(max(2, len(self.classes_)))
        return classifier(X.shape[1], list(names), **self._options())


class MambaRegressor(RegressorMixin, _Face):  # type: ignore[misc]
    """Values of the steps of a stream, learned in their order, predicted in their own units."""

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Go on with more rows."""
        first = not hasattr(self, "learner_")
        X, y = self._checked(X, y, first)
        if first:
            self.learner_ = self._made(X, y)
        self._learn(X, y)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the value of each row."""
        return np.array([value for value, _ in self._said(X)])

    def _checked(self, X: Any, y: Any, first: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        X, y = validate_data(self, X, y, reset=first, y_numeric=True)
        return X, y

    def _made(self, X: NDArray[Any], y: NDArray[Any]) -> Learner:
        return regressor(X.shape[1], **self._options())
