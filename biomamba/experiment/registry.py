"""What a config chooses from by name: task.name, model.block, rule.name, optim.name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .. import plugins
from ..blocks import BLOCKS
from ..readout import RLS
from ..rules import RULES
from ..tasks import TASKS as OWN

Registry = Mapping[str, Callable[..., Any]]
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop, "rls": RLS}
TASKS = plugins.Registry("biomamba.tasks", OWN)
PLUGGABLE: dict[str, plugins.Registry[Any]] = {"task": TASKS, "model": BLOCKS, "rule": RULES}
REGISTRIES: dict[str, Registry] = {**PLUGGABLE, "optim": OPTIMIZERS}
