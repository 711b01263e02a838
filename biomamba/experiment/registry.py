"""What a config chooses from by name: task.name, model.block, rule.name, optim.name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ..blocks import BLOCKS
from ..rules import RULES
from ..tasks import TASKS

Registry = Mapping[str, Callable[..., Any]]
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}
REGISTRIES: dict[str, Registry] = {"task": TASKS, "model": BLOCKS, "rule": RULES, "optim": OPTIMIZERS}
