"""Which blocks the kernels of a whole update know, and what they take of each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .blocks import Mamba, Mamba2
from .blocks.conv import kernel
from .blocks.mamba2 import GroupedRMSNorm
from .ops.backend import resolve
from .rules import RTRL, RTRLSTDP, STLLR
from .rules.base import LearningRule

Tables = dict[type[LearningRule], list[Sequence[int]]]


class Kind(NamedTuple):
    """What kernels take of blocks of a kind."""

    kernels: str  # their module in ops.llvm, which names its functions alike
    weights: Callable[[Any], list[Tensor]]  # what a block learns, in the kernels' order
    # of each rule that keeps something, which of the traces of a layer are influences, and of kernels that know more
    # rules, which are of posts after S-TLLR, and which of a fixed decay
    tables: Callable[[Any], Tables]
    sizes: Callable[[Any], dict[str, int]]  # of a block, by the kernels' letters, beside those of model and state
    like: Callable[[Any], list[Tensor]]  # weights that have the same sizes

    def called(self, what: str) -> str:
        """Return the name of the kernel that does so: forward, learn, advance or scan."""
        return f"{self.kernels}.{self.kernels.removesuffix('_stack')}_{what}"


def kind_of(block: nn.Module) -> Kind | None:
    """Return the kind of a block; None where the kernels do not know it, or something in it that was put there."""
    found = KINDS.get(type(block))
    known = all(type(part) in (nn.Linear, nn.Conv1d, GroupedRMSNorm) for part in block.children())  # no low rank
    if found is None or not known or getattr(block, "ngroups", 1) != 1 or block.threshold is not None:
        return None
    return found if resolve(block.backend, "cpu") == "llvm" else None


def _of_mamba(block: Mamba) -> list[Tensor]:
    """Return what a Mamba block learns."""
    before = [block.in_proj.weight, block.conv1d.weight, kernel(block.conv1d)[1], block.x_proj.weight]
    return [*before, block.dt_proj.weight, block.dt_proj.bias, block.A_log, block.D, block.out_proj.weight]


def _of_mamba2(block: Mamba2) -> list[Tensor]:
    """Return what a Mamba-2 block learns."""
    before = [block.in_proj.weight, block.conv1d.weight, kernel(block.conv1d)[1], block.dt_bias, block.A_log]
    return [*before, block.D, block.norm.weight, block.out_proj.weight]


def _traces_of_mamba(block: Mamba) -> Tables:
    return {RTRL: [range(len(block.influences))]}


def _traces_of_mamba2(block: Mamba2) -> Tables:
    return {
        RTRL: [range(7), (), ()],
        RTRLSTDP: [range(7), range(7, 12), ()],
        STLLR: [(), range(3, 12, 2), (0, 1, 2, 4, 6, 8, 10)],
    }


def _sizes_of_mamba(block: Mamba) -> dict[str, int]:
    return {"r": block.rank}


def _sizes_of_mamba2(block: Mamba2) -> dict[str, int]:
    return {"g": len(block.A_log)}


def _like_mamba(block: Mamba) -> list[Tensor]:
    return [block.dt_proj.weight, kernel(block.conv1d)[0]]


def _like_mamba2(block: Mamba2) -> list[Tensor]:
    return [block.dt_bias, kernel(block.conv1d)[0]]


KINDS: dict[type, Kind] = {
    Mamba: Kind("mamba_stack", _of_mamba, _traces_of_mamba, _sizes_of_mamba, _like_mamba),
    Mamba2: Kind("mamba2_stack", _of_mamba2, _traces_of_mamba2, _sizes_of_mamba2, _like_mamba2),
}
