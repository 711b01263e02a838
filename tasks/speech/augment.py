"""Speech made more varied than it was recorded, so that a few recordings are not learned by heart.

    speed      up to 15 % faster or slower, and with it the pitch (Ko et al. 2015)
    shift      up to 0.1 s of silence before it, or of its beginning lost
    gain       up to 6 dB louder or softer
    noise      white, up to 1 % of full scale;   coloured   the same of any colour from white to brown
    formants   moved by up to 10 % along the mel bands (Jaitly and Hinton 2013)
    masks      twice up to 8 bands in a row, and up to 15 % of the frames in a row, are lost (Park et al. 2019)

All of it at strength 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPEED, SHIFT, GAIN, NOISE, FORMANTS = 0.15, 0.1, 6.0, 0.01, 0.1
BANDS, TIME = 8, 0.15
USUAL = ("speed", "noise", "masks")
KINDS = ("speed", "shift", "gain", "noise", "coloured", "formants", "masks")


def check(kinds: Sequence[str]) -> None:
    """Raise ValueError for a kind of variation that there is not."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"vary: got {kind!r}, expected one of {', '.join(KINDS)}, or some of them")


@dataclass(frozen=True)
class Augmentation:
    """One way to change a recording, drawn once."""

    seed: tuple[int, ...] | int = 0
    speed: float = 1.0
    shift: float = 0.0  # seconds
    strength: float = 0.0
    kinds: tuple[str, ...] = USUAL

    @classmethod
    def drawn(cls, rng: np.random.Generator, strength: float, kinds: tuple[str, ...] = USUAL) -> "Augmentation":
        """Return a change of that strength; at 0 none, and nothing is drawn."""
        if not strength:
            return IDENTITY
        seed, speed = int(rng.integers(2**31)), float(rng.uniform(-1, 1)) * ("speed" in kinds)
        shift = float(np.random.default_rng((seed, 2)).uniform(-1, 1)) * ("shift" in kinds)
        return cls(seed, 1 + SPEED * strength * speed, SHIFT * strength * shift, strength, kinds)

    def samples(self, count: int, rate: int) -> int:
        """Return how many samples become of that many."""
        return max(1, round(count / self.speed) + round(self.shift * rate))

    def wave(self, wave: Tensor, rate: int) -> Tensor:
        """Return a wave (m,) at another speed, shifted, scaled, with noise."""
        if not self.strength:
            return wave
        size, length = self.samples(len(wave), rate), max(1, round(len(wave) / self.speed))
        wave = torch.nn.functional.interpolate(wave[None, None], length, mode="linear", align_corners=False)[0, 0]
        wave = torch.nn.functional.pad(wave, (size - length, 0))
        if "gain" in self.kinds:
            wave = wave * 10 ** (GAIN * self.strength * float(self._rng(3).uniform(-1, 1)) / 20)
        if "noise" in self.kinds:
            rng = self._rng(0)
            noise = torch.from_numpy(rng.standard_normal(size)).float()
            wave = wave + NOISE * self.strength * float(rng.random()) ** 2 * noise
        if "coloured" in self.kinds:
            rng = self._rng(4)
            wave = wave + NOISE * self.strength * float(rng.random()) ** 2 * coloured(size, rng)
        return wave

    def bands(self, features: Tensor) -> Tensor:
        """Return features (f, bands) with other formants, of which some bands and frames are 0, the mean."""
        if "formants" in self.kinds and self.strength:
            features = moved(features, 1 + FORMANTS * self.strength * float(self._rng(5).uniform(-1, 1)))
        if "masks" not in self.kinds or not self.strength:
            return features
        rng, features = self._rng(1), features.clone()
        for _ in range(2):
            width = int(rng.integers(0, int(BANDS * self.strength) + 1))
            first = int(rng.integers(0, features.shape[1] - width + 1))
            features[:, first : first + width] = 0
        width = int(rng.integers(0, int(TIME * self.strength * len(features)) + 1))
        first = int(rng.integers(0, len(features) - width + 1))
        features[first : first + width] = 0
        return features

    def _rng(self, what: int) -> np.random.Generator:
        """Return a generator of its own for each kind, so that none changes what another draws."""
        return np.random.default_rng((self.seed, what))


IDENTITY = Augmentation()


def coloured(count: int, rng: np.random.Generator) -> Tensor:
    """Return noise (m,) of standard deviation 1 whose power falls as 1 / f^a, a from 0 (white) to 2 (brown)."""
    size = 1 << max(1, count - 1).bit_length()  # a power of two: other sizes of the transform may take long
    spectrum = torch.from_numpy(rng.standard_normal((size // 2 + 1, 2), dtype=np.float32))
    spectrum *= torch.arange(1, len(spectrum) + 1).pow(-rng.uniform(0, 1))[:, None]
    noise: Tensor = torch.fft.irfft(torch.view_as_complex(spectrum), size)
    return noise[:count] / noise.std(correction=0).clamp(min=1e-6)


def moved(features: Tensor, factor: float) -> Tensor:
    """Return features (f, bands) read at `factor` times each band's place, linearly between bands."""
    last = features.shape[1] - 1
    place = (torch.arange(last + 1) * factor).clamp(max=last)
    below = place.long().clamp(max=last - 1)
    part = place - below
    return features[:, below] * (1 - part) + features[:, below + 1] * part
