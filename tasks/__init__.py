"""The tasks by name: frozen dataclasses that make streams. Of the library they know `stream` and `metrics` alone."""

from collections.abc import Callable

from biomamba.stream import Task

from .delay import Delay
from .language import Language

TASKS: dict[str, Callable[..., Task]] = {"delay": Delay, "language": Language}
