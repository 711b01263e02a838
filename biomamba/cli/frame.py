"""A comparison from Python: `biomamba.compare(...)` is the command of that name, and returns its runs as a frame."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .compare import compare as command

if TYPE_CHECKING:
    from pandas import DataFrame

Words = str | Sequence[Any]


def compare(
    config: str | Sequence[str] = "language",
    rules: Words = ("rtrl", "bptt"),
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    values: Mapping[str, Any] | None = None,
    **options: Any,
) -> "DataFrame":
    """Learn the same streams by several rules, and return a row for each run and score, baselines too.

    config: names or files, a later one over those before. vary, tune: the values to try of any key, such as
    {"optim.lr": [1e-3, 3e-3]}. values: others of the config, such as {"run.dir": "runs/mine", "stream.steps": 4000}.
    options: those of the command, such as seeds=5, lengths=[1, 64], jobs=2, costs=False, fidelity=0.

    Columns are those of runs.csv; frame.attrs holds `folder`, and `verdict`, a line for each kind of stream. Blocks
    until all runs have ended, each a process of its own; interrupted, the same call with {"run.dir": folder,
    "run.resume": True} goes on. Raises ImportError where pandas is missing, ValueError and OSError as the command.

    >>> compare("delay", ["rtrl", "bptt"], seeds=2, values={"stream.steps": 400})  # doctest: +SKIP
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError('compare: it returns a frame of pandas: pip install "biomamba[compare]"') from error
    argv = [word for name in ([config] if isinstance(config, str) else config) for word in ("--config", name)]
    argv.append(f"--rules={_joined(rules)}")
    argv += [f"--{name}={_joined(value)}" for name, value in options.items()]
    for name, tried in {"vary": vary, "tune": tune}.items():
        argv += [f"--{name}={key}={_joined(own)}" for key, own in (tried or {}).items()]
    argv += [f"--{key}={_word(value)}" for key, value in (values or {}).items()]
    folder, said = command(argv)
    frame = pd.read_csv(folder / "runs.csv", dtype={"setting": str, "rule": str}, float_precision="round_trip")
    frame.attrs = {"folder": str(folder), "verdict": said}
    return frame


def _joined(value: Any) -> str:
    """Return values as the command takes them: separated by commas."""
    return ",".join(map(_word, value)) if isinstance(value, Sequence) and not isinstance(value, str) else _word(value)


def _word(value: Any) -> str:
    """Return one value as the command takes it: null, true, a list in brackets, text as it is."""
    return value if isinstance(value, str) else json.dumps(value)
