"""Heart beats by class, from the electrocardiogram."""

from .task import Ecg

__all__ = ["Ecg"]
