"""Simulated speech, where none is to be had: every sound is a pair of formants over a voice's pitch, with some noise.

    digit d  = three sounds of its own;   letter or space = one sound of its own

Not a voice that anyone would know, but what a recogniser needs is there: sounds that follow one another, at a pitch
and a speed that change from speaker to speaker.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ '"
FIRST, SECOND = (300, 450, 600, 750), (900, 1200, 1500, 1900, 2300, 2700, 3100)  # Hz: 28 pairs of formants
SOUND = 0.12  # seconds of one sound, on the average
NOISE = 0.01


@dataclass(frozen=True)
class Simulated:
    """Something said by speaker `speaker`, take `take`."""

    text: str
    speaker: str
    take: int

    def samples(self, rate: int) -> int:
        """Return how many samples it has."""
        return sum(self._lengths(rate))

    def wave(self, rate: int) -> Tensor:
        """Return the samples, -1 to 1; the same for the same speaker and take."""
        rng = np.random.default_rng(self._seed(2))
        pitch = 90 + 130 * np.random.default_rng(self._seed(0)).random()
        sounds = []
        for sound, length in zip(self._sounds(), self._lengths(rate), strict=True):
            seconds = np.arange(length) / rate
            harmonics = pitch * np.arange(1, int(rate / 2 / pitch))
            formants = np.array([FIRST[sound % 4], SECOND[sound // 4]])
            loud = np.exp(-(((harmonics[:, None] - formants) / 120) ** 2)).sum(1)
            voice = (loud[:, None] * np.sin(2 * np.pi * harmonics[:, None] * seconds)).sum(0)
            sounds.append(0.1 * np.hanning(length) * voice + NOISE * rng.standard_normal(length))
        return torch.from_numpy(np.clip(np.concatenate(sounds), -1, 1)).float()

    def _sounds(self) -> list[int]:
        """Return which of the 28 sounds it is made of."""
        if self.text.isdecimal():
            return [(5 * int(d) + 7 * k + int(d) * k) % 28 for d in self.text for k in range(3)]
        return [LETTERS.index(letter) for letter in self.text]

    def _lengths(self, rate: int) -> list[int]:
        """Return the samples of each sound."""
        rng = np.random.default_rng(self._seed(1))
        speed = 0.8 + 0.4 * np.random.default_rng(self._seed(0)).random()
        return [round(rate * SOUND * speed * rng.uniform(0.8, 1.2)) for _ in self._sounds()]

    def _seed(self, what: int) -> list[int]:
        """Return a seed of the speaker (what 0), or of the speaker, the take and the words."""
        speaker = list(self.speaker.encode())
        return [what, *speaker] if what == 0 else [what, self.take, *speaker, *self.text.encode()]


def digits(split: str, speaker: str | None) -> list[Simulated]:
    """Return 6 speakers' 10 takes of each digit: take 0 and 1 test, the rest train; with a speaker, theirs are test."""
    every = [Simulated(str(d), f"voice{s}", take) for d in range(10) for s in range(6) for take in range(10)]
    tests = [one.speaker == speaker if speaker else one.take < 2 for one in every]
    return [one for one, test in zip(every, tests, strict=True) if split == "all" or test == (split == "test")]


def spellings(split: str) -> list[Simulated]:
    """Return 300 utterances of 3 to 8 random letters by 10 speakers, of whom 2 are test."""
    rng = np.random.default_rng(0)
    every = [
        Simulated("".join(rng.choice(list(LETTERS[:26]), rng.integers(3, 9))), f"voice{i % 10}", i) for i in range(300)
    ]
    return [one for one in every if split == "all" or (one.speaker in ("voice8", "voice9")) == (split == "test")]
