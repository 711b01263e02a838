"""A learner of which a part alone learns, and a trace is kept only of what does: the rest is as it was.

head    the head
bias    every vector (biases, norms, D, of Mamba-2 A_log), and the head       BitFit, Zaken et al. 2022
lora    low-rank additions to in_proj and out_proj, and the head              see `blocks.lowrank`
"""

from typing import Any, Literal, get_args

from torch.optim import Optimizer

from .model import Model
from .rules.base import LearningRule
from .rules.bptt import BPTT
from .rules.rtrl import RTRL

Train = Literal["head", "bias", "lora"]


def partial(
    model: Model, rule: LearningRule, optimizer: Optimizer, train: Train, rank: int
) -> tuple[Model, LearningRule, Optimizer]:
    """Return a model with the same weights of which a part learns, and what teaches it, the optimiser's averages anew.

    rank: of lora. Raises ValueError for another part, for a rule other than RTRL and BPTT, and for a block that takes
    no low-rank additions.
    """
    if train not in get_args(Train):
        raise ValueError(f"train: got {train!r}, expected one of {', '.join(get_args(Train))}, or None for all")
    if type(rule) not in (RTRL, BPTT):
        raise ValueError(f"train: got {train!r} with the rule {type(rule).__name__}, expected RTRL or BPTT")
    options = model.arguments | ({"lora": rank} if train == "lora" else {})
    own = Model(**options).to(model.head.weight)
    own.load_state_dict(model.state_dict(), strict=False)  # low-rank additions are new
    for name, parameter in own.named_parameters():
        vector = train == "bias" and parameter.ndim == 1
        addition = train == "lora" and name.endswith("_proj.B")
        parameter.requires_grad_(vector or addition or parameter is own.head.weight)
    return own, _rule(own, rule), _optimizer(own, model, optimizer)


def _rule(own: Model, rule: LearningRule) -> LearningRule:
    """Return the rule with traces of what learns; without any, no trace at all."""
    blocks: Any = own.blocks
    learning = dict.fromkeys(
        name for block in blocks for name, tensor in block.effective().items() if tensor.requires_grad
    )
    if not learning or not isinstance(rule, RTRL):
        return BPTT(blocks)
    return RTRL(blocks, "bfloat16" if rule.trace_dtype else None, [*learning])


def _optimizer(own: Model, model: Model, optimizer: Optimizer) -> Optimizer:
    """Return an optimiser with the same options, each parameter in the group of its name, new ones in the first."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    number = {names[id(p)]: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    groups: list[dict[str, Any]] = [{**group, "params": []} for group in optimizer.param_groups]
    for name, parameter in own.named_parameters():
        if parameter.requires_grad:
            groups[number.get(name, 0)]["params"].append(parameter)
    return type(optimizer)([group for group in groups if group["params"]])  # type: ignore[call-arg]
