"""Spoken words told apart, and spelled utterances transcribed."""

from .task import Speech
from .task_ctc import SpeechCTC

__all__ = ["Speech", "SpeechCTC"]
