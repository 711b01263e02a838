"""biomamba: selective state-space models that learn a stream online, by real-time recurrent learning.

A name is imported when it is first asked for: `import biomamba` loads no torch, so that `biomamba --help` answers at
once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import blocks, metrics, pure, rules, state, stream, testing
    from .cli.frame import compare
    from .deploy.export import export
    from .estimators import classifier, regressor
    from .experiment.build import make_task
    from .experiment.load import load
    from .fleet import Fleet, FleetReport
    from .learner import Learned, Learner
    from .loop import evaluate, online
    from .loop_state import LoopState
    from .model import Model
    from .pretrained import load_pretrained, save_official
    from .rows import Prediction
    from .state import BlockState, cut, forget
    from .stream import Benchmark, Chunk, Spec, StatefulStream, Task
    from .updater import Report

__all__ = [
    "Benchmark",
    "BlockState",
    "Chunk",
    "Fleet",
    "FleetReport",
    "Learned",
    "Learner",
    "LoopState",
    "Model",
    "Prediction",
    "Report",
    "Spec",
    "StatefulStream",
    "Task",
    "blocks",
    "classifier",
    "compare",
    "cut",
    "evaluate",
    "export",
    "forget",
    "load",
    "load_pretrained",
    "make_task",
    "metrics",
    "online",
    "pure",
    "regressor",
    "rules",
    "save_official",
    "state",
    "stream",
    "testing",
]
__version__ = "0.1.0"

_MODULES = {
    "Model": "model",
    **dict.fromkeys(("load_pretrained", "save_official"), "pretrained"),
    **dict.fromkeys(("classifier", "regressor"), "estimators"),
    "load": "experiment.load",
    **dict.fromkeys(("Learned", "Learner"), "learner"),
    "Prediction": "rows",
    **dict.fromkeys(("Fleet", "FleetReport"), "fleet"),
    "Report": "updater",
    "LoopState": "loop_state",
    **dict.fromkeys(("evaluate", "online"), "loop"),
    **dict.fromkeys(("BlockState", "cut", "forget"), "state"),
    **dict.fromkeys(("Benchmark", "Chunk", "Spec", "StatefulStream", "Task"), "stream"),
    "make_task": "experiment.build",
    "compare": "cli.frame",
    "export": "deploy.export",
}


def __getattr__(name: str) -> Any:
    """Import a name that is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES.get(name, name)}", __name__)
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    """Return the names, those not yet imported too."""
    return sorted({*globals(), *__all__})
