"""Learning rules: what each remembers of the past, one file each."""

from ..plugins import Registry
from .base import LearningRule
from .bptt import BPTT
from .factored import Factored
from .rtrl import RTRL
from .stdp import RTRLSTDP
from .stllr import STLLR
from .uoro import UORO

RULES = Registry[type[LearningRule]](
    "biomamba.rules",
    {"bptt": BPTT, "rtrl": RTRL, "rtrl_stdp": RTRLSTDP, "factored": Factored, "stllr": STLLR, "uoro": UORO},
    LearningRule,
)

__all__ = ["BPTT", "RTRL", "RTRLSTDP", "RULES", "STLLR", "UORO", "Factored", "LearningRule"]
