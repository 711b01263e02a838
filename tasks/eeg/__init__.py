"""Eyes open or closed, and imagined movements, from the electroencephalogram."""

from .task import Eeg

__all__ = ["Eeg"]
