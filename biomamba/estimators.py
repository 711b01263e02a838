"""Learners in a line, for rows of one's own: a model, RTRL and Adam in usual sizes.

learner = biomamba.classifier(inputs=8, classes=5)         learner = biomamba.regressor(inputs=["rain", "wind"])
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch.optim import Adam, Optimizer

from .learner import Learner
from .model import Model
from .rows import Rows, Supervised
from .rules import RULES
from .saved import OPTIONS
from .stream import Spec

SIZES: dict[str, Any] = {"d_model": 32, "d_state": 8, "headdim": 4}  # as in configs/arrays.yaml


def classifier(inputs: int | Sequence[str], classes: int | Sequence[Hashable] = 2, **options: Any) -> Learner:
    """Return a learner of classes, with weights drawn anew.

    inputs: how many, or their names. classes: how many there can be, named as they come, or their names.
    options: as for `regressor`.

    >>> learner = classifier(inputs=["left", "right"], classes=3)
    >>> ticket = learner.predict({"left": 0.5, "right": -1.0}).id
    >>> bool(learner.learn(ticket, "asleep"))
    True
    >>> learner.predict({"left": 0.4, "right": -1.1}).value
    'asleep'
    """
    return _made(Rows(inputs, classes, scale=options.pop("scale", True)), **options)


def regressor(inputs: int | Sequence[str], outputs: int | Sequence[str] = 1, **options: Any) -> Learner:
    """Return a learner of values, with weights drawn anew.

    inputs, outputs: how many, or their names.
    options: scale (true) by mean and deviation of what came so far; rule ("rtrl") and rule_options; optimizer (Adam)
    and lr (3e-3); seed (0) of the weights; window, clip, compile, threads, horizon and max_drift as for `Learner`;
    all others, such as d_model, block, n_layers and timescales, as for `Model`.
    Raises ValueError and TypeError as `Rows`, `Model`, the rule and `Learner` do.

    >>> learner = regressor(inputs=2)
    >>> for step in range(20):
    ...     learner.learn_one([step % 2, 1.0], 10.0 + step % 2)
    >>> 9.0 < learner.predict_one([0, 1.0]) < 12.0
    True
    """
    return _made(Rows(inputs, None, outputs, scale=options.pop("scale", True)), **options)


def _made(
    rows: Rows,
    rule: str = "rtrl",
    rule_options: dict[str, Any] | None = None,
    optimizer: type[Optimizer] = Adam,
    lr: float = 3e-3,
    seed: int = 0,
    **options: Any,
) -> Learner:
    """Return the learner of some rows."""
    if rule not in RULES:
        raise ValueError(f"rule: got {rule!r}, expected one of {', '.join(RULES)}")
    own = {name: options.pop(name) for name in OPTIONS if name in options}
    spec = Spec(d_in=rows.d_in, d_out=rows.d_out)
    sizes = SIZES if options.get("block", "mamba2") == "mamba2" else {"d_model": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(**spec._asdict(), **(sizes | options))
    learning = RULES[rule](model.blocks, **(rule_options or {}))  # type: ignore[arg-type]
    taught = optimizer(model.parameters(), lr=lr)  # type: ignore[call-arg]
    return Learner(Supervised(spec, rows.kind), model, learning, taught, rows=rows, **own)
