"""The learner as estimators of river: pip install "biomamba[river]".

    predict_one(x)  ->  what the model would say at the next step; nothing changes
    learn_one(x, y) ->  the step is read, and its answer learned

The model remembers: what it says of a row depends on the rows it learned from before it, in their order. Names and
number of the features are those of the first row that is learned from; what is missing later repeats its last value,
what is new is ignored. Nothing is known before that row: no class, and a value of 0.
"""

from collections.abc import Hashable
from typing import Any, cast

from river import base

from ..estimators import classifier, regressor
from ..learner import Learner

SKIPPED: dict[str, str] = {}  # checks of river's that a recurrent model cannot pass, each with the reason


class _Face:
    """What the three have in common: options, and a learner that is made when the first row comes."""

    learner: Learner | None = None
    options: dict[str, Any]

    def _unit_test_skips(self) -> set[str]:
        return set(SKIPPED)

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Read a row and learn its answer."""
        if self.learner is None:
            self.learner = self._made(sorted(x, key=str) or ["none"], y)
        self.learner.learn_one(x, y)

    def _made(self, inputs: list[Any], y: Any) -> Learner:
        raise NotImplementedError


class MambaClassifier(_Face, base.Classifier):
    """A stream of classes.

    classes: how many there can be, at most; they are named as they come. lr: learning rate of Adam. seed: of the
    weights. options: as for `biomamba.classifier`, such as rule, d_model, n_layers, timescales.

    >>> from river import datasets, evaluate, metrics, preprocessing
    >>> model = preprocessing.StandardScaler() | MambaClassifier(d_model=16, d_state=4)
    >>> score = evaluate.progressive_val_score(datasets.Phishing().take(300), model, metrics.Accuracy())
    >>> score.get() > 0.6
    True
    """

    def __init__(self, classes: int = 16, lr: float = 3e-3, seed: int | None = 0, **options: Any) -> None:
        """Take the options; nothing is drawn before the first row."""
        self.classes, self.lr, self.seed, self.options = classes, lr, seed, options

    @property
    def _multiclass(self) -> bool:
        return True

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Hashable, float]:  # type: ignore[override]
        """Return the probabilities of the classes known so far; empty before the first row."""
        return {} if self.learner is None else self.learner.predict_proba_one(x)

    def predict_one(self, x: dict[Any, Any], **_: Any) -> Any:
        """Return the likeliest class; None before the first row."""
        return None if self.learner is None else self.learner.predict_one(x)

    def _made(self, inputs: list[Any], y: Any) -> Learner:
        return classifier(inputs, self.classes, lr=self.lr, seed=self.seed or 0, scale=False, **self.options)


class MambaRegressor(_Face, base.Regressor):
    """A stream of values, predicted in their own units; lr, seed and options as for `MambaClassifier`."""

    def __init__(self, lr: float = 3e-3, seed: int | None = 0, **options: Any) -> None:
        """Take the options; nothing is drawn before the first row."""
        self.lr, self.seed, self.options = lr, seed, options

    def predict_one(self, x: dict[Any, Any]) -> float:
        """Return the value; 0 before the first row."""
        return 0.0 if self.learner is None else cast(float, self.learner.predict_one(x))

    def _made(self, inputs: list[Any], y: Any) -> Learner:
        return regressor(inputs, lr=self.lr, seed=self.seed or 0, **self.options)


class MambaMultiTargetRegressor(_Face, base.MultiTargetRegressor):  # type: ignore[misc]  # of learn_one, whose y is of any kind
    """A stream of several values, by name; lr, seed and options as for `MambaClassifier`."""

    def __init__(self, lr: float = 3e-3, seed: int | None = 0, **options: Any) -> None:
        """Take the options; nothing is drawn before the first row."""
        self.lr, self.seed, self.options = lr, seed, options

    def predict_one(self, x: dict[Any, Any]) -> dict[Hashable, float]:
        """Return the values by name; empty before the first row."""
        return {} if self.learner is None else cast(dict[Hashable, float], self.learner.predict_one(x))

    def _made(self, inputs: list[Any], y: Any) -> Learner:
        return regressor(inputs, list(y), lr=self.lr, seed=self.seed or 0, **self.options)
