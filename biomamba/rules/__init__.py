"""Learning rules: what each remembers of the past, one file each."""

from .base import LearningRule
from .bptt import BPTT
from .rtrl import RTRL
from .stdp import RTRLSTDP

RULES: dict[str, type[LearningRule]] = {"bptt": BPTT, "rtrl": RTRL, "rtrl_stdp": RTRLSTDP}

__all__ = ["BPTT", "RTRL", "RTRLSTDP", "RULES", "LearningRule"]
