"""Blocks: state-space layers that can say how their parameters push on their state, and peers that cannot."""

from ..ops.influence import Drive
from ..plugins import Registry
from .base import Block, Tape
from .diagonal import Diagonal
from .echo_state import EchoState
from .gated_delta import GatedDelta
from .gru import GRU, LSTM
from .mamba import Mamba
from .mamba2 import Mamba2
from .mamba3 import Mamba3

BLOCKS = Registry[type[Block]](
    "biomamba.blocks",
    {
        "diagonal": Diagonal,
        "mamba": Mamba,
        "mamba2": Mamba2,
        "mamba3": Mamba3,
        "gru": GRU,
        "lstm": LSTM,
        "gated_delta": GatedDelta,
        "echo_state": EchoState,
    },
    Block,
)

__all__ = [
    "BLOCKS",
    "GRU",
    "LSTM",
    "Block",
    "Diagonal",
    "Drive",
    "EchoState",
    "GatedDelta",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "Tape",
]
