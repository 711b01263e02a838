"""What was said, letter by letter: spelling, voice activity, and the error rates of what was understood.

    CER = (substitutions + deletions + insertions) / letters of the transcription        WER: the same of words

Both by jiwer. Latency is counted from sound to symbol: from the first step with voice to the first symbol, and from the
last one to the last symbol. Voice: log power, mean over the bands, above the middle between its 10 % and 90 % quantiles
in the utterance (that looks ahead, but only the score does). Shapes: b rows, t steps, k symbols, 0 the blank.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from biomamba.stream import Chunk

from ..common.files import package
from .simulated import LETTERS

SYMBOLS = len(LETTERS) + 1
FIRST, AGAIN = 1, 2  # of info "pass"; 0 where a pass is filled up
BEGINS, ENDS = 1, 2  # bits of info "voice_activity": the first and the last step with voice


def spelled(text: str) -> list[int]:
    """Return the symbols of a transcription, 1 to 28. Raises ValueError for a letter that is not A-Z, space or '."""
    if not set(text) <= set(LETTERS):
        raise ValueError(f"transcription {text[:60]!r} holds more than the letters A-Z, space and ': write it so")
    return [LETTERS.index(letter) + 1 for letter in text]


def voice_activity(features: Tensor, stack: int, count: int) -> Tensor:
    """Return (count,) the bits of the steps of log-mel features (f, 40), before they are normalised."""
    power = features.mean(1)
    middle = (torch.quantile(power, 0.1) + torch.quantile(power, 0.9)) / 2
    steps = (torch.nonzero(power >= middle)[:, 0] // stack).clamp(max=count - 1)
    bits = torch.zeros(count, dtype=torch.int64)
    bits[steps[0]] += BEGINS
    bits[steps[-1]] += ENDS
    return bits


class Transcripts:
    """Decodes greedily, step by step, what is heard for the first time. Its own score is the character error rate."""

    def __init__(self, texts: Sequence[str], stack: int) -> None:
        """Take the transcription of every utterance, by number, and the frames in a step."""
        self.texts, self.stack = texts, stack
        self.rows: dict[int, dict[str, Any]] = {}  # by row: the utterance that is being heard
        self.errors, self.letters, self.word_errors, self.words = 0, 0, 0, 0
        self.first: Counter[int] = Counter()  # how often a latency of so many steps came
        self.last: Counter[int] = Counter()

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Read a chunk; an utterance counts when its end is heard, if its beginning was heard too."""
        names = ("utterance", "pass", "last", "voice_activity")
        told = [out.argmax(-1), chunk.reset, *(chunk.info[name] for name in names)]
        for row, own in enumerate(zip(*(tensor.tolist() for tensor in told), strict=True)):
            for symbol, reset, number, which, last, loudness in zip(*own, strict=True):
                if reset:
                    self.rows.pop(row, None)
                    if which == FIRST:
                        self.rows[row] = {"predicted": [], "before": 0, "step": 0, "at": [], "voice_activity": [0, 0]}
                if which == FIRST and row in self.rows:
                    self._step(self.rows[row], symbol, loudness)
                    if last:
                        self._count(self.rows.pop(row), self.texts[number])

    def get(self) -> float:
        """Return the character error rate so far; nan where no utterance has ended."""
        return self.errors / self.letters if self.letters else float("nan")

    def wer(self) -> float:
        """Return the word error rate so far; nan where no utterance has ended."""
        return self.word_errors / self.words if self.words else float("nan")

    def latency(self, which: str) -> float:
        """Return the median frames from first (last) step with voice to first (last) symbol; nan without any."""
        counts: Counter[int] = getattr(self, which)
        every = sorted(counts.elements())
        return float(every[len(every) // 2] * self.stack) if every else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the utterances that are being heard."""
        counts = {name: getattr(self, name) for name in ("errors", "letters", "word_errors", "words")}
        return {
            **counts,
            "rows": sorted(self.rows.items()),
            "first": sorted(self.first.items()),
            "last": sorted(self.last.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts."""
        for name in ("errors", "letters", "word_errors", "words"):
            setattr(self, name, state[name])
        self.rows = {number: dict(row) for number, row in state["rows"]}
        self.first, self.last = (Counter(dict(map(tuple, state[name]))) for name in ("first", "last"))

    @staticmethod
    def _step(row: dict[str, Any], symbol: int, loudness: int) -> None:
        """Hear one step of an utterance."""
        if symbol not in (row["before"], 0):
            row["predicted"].append(symbol)
            row["at"] = [*row["at"][:1], row["step"]]
        if loudness & BEGINS:
            row["voice_activity"][0] = row["step"]
        if loudness & ENDS:
            row["voice_activity"][1] = row["step"]
        row["before"], row["step"] = symbol, row["step"] + 1

    def _count(self, row: dict[str, Any], text: str) -> None:
        """Score an utterance; of an empty transcription whatever is understood is an insertion."""
        jiwer = package("jiwer", "speech", "scoring what was understood")
        predicted = "".join(LETTERS[symbol - 1] for symbol in row["predicted"])
        letters, words = jiwer.process_characters(text, predicted), jiwer.process_words(text, predicted)
        self.errors += letters.substitutions + letters.deletions + letters.insertions
        self.word_errors += words.substitutions + words.deletions + words.insertions
        self.letters, self.words = self.letters + len(text), self.words + len(text.split())
        if row["at"] and text:
            self.first[row["at"][0] - row["voice_activity"][0]] += 1
            self.last[row["at"][-1] - row["voice_activity"][1]] += 1
