"""biomamba: selective state-space models that learn a stream online, by real-time recurrent learning."""

from . import blocks, metrics, rules, state, stream
from .model import Model
from .online import Carry, Report, evaluate, online
from .state import BlockState, cut, forget
from .stream import Chunk, Spec, Task

__all__ = [
    "BlockState",
    "Carry",
    "Chunk",
    "Model",
    "Report",
    "Spec",
    "Task",
    "blocks",
    "cut",
    "evaluate",
    "forget",
    "metrics",
    "online",
    "rules",
    "state",
    "stream",
]
__version__ = "0.1.0"
