"""Blocks: selective state-space layers that can say how their parameters push on their state."""

from ..ops.influence import Drive
from .base import Block, Tape
from .diagonal import Diagonal
from .mamba import Mamba
from .mamba2 import Mamba2

BLOCKS: dict[str, type[Block]] = {"diagonal": Diagonal, "mamba": Mamba, "mamba2": Mamba2}

__all__ = ["BLOCKS", "Block", "Diagonal", "Drive", "Mamba", "Mamba2", "Tape"]
