"""The tasks by name: frozen dataclasses that make streams. Of the library they know `stream` and `metrics` alone."""

from collections.abc import Callable

from biomamba.stream import Benchmark

from .arrays import Arrays
from .delay import Delay
from .ecg import Ecg
from .eeg import Eeg
from .language import Language
from .recordings import Recordings
from .speech import Speech, SpeechCTC

TASKS: dict[str, Callable[..., Benchmark]] = {
    "arrays": Arrays,
    "delay": Delay,
    "ecg": Ecg,
    "eeg": Eeg,
    "language": Language,
    "recordings": Recordings,
    "speech": Speech,
    "speech_ctc": SpeechCTC,
}
