"""Blocks: selective state-space layers that can say how their parameters push on their state."""

from ..ops.influence import Drive
from ..plugins import Registry
from .base import Block, Tape
from .diagonal import Diagonal
from .mamba import Mamba
from .mamba2 import Mamba2
from .mamba3 import Mamba3

BLOCKS = Registry[type[Block]](
    "biomamba.blocks", {"diagonal": Diagonal, "mamba": Mamba, "mamba2": Mamba2, "mamba3": Mamba3}, Block
)

__all__ = ["BLOCKS", "Block", "Diagonal", "Drive", "Mamba", "Mamba2", "Mamba3", "Tape"]
