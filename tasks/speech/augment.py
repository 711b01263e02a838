"""Speech made more varied than it was recorded, so that a few recordings are not learned by heart.

wave      speed (Ko et al. 2015), begins earlier or later, louder or softer, noise of any colour
features  formants moved along the mel bands (Jaitly and Hinton 2013), bands and times lost (Park et al. 2019)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# at strength 1
SPEED = 0.15  # of the recorded speed, faster or slower
SHIFT = 0.10  # seconds of silence before it, or of it that are lost
GAIN = 6.0  # decibels, louder or softer
NOISE = 0.01  # of full scale at most, as a standard deviation
WARP = 0.10  # of a band's place on the mel scale, up or down
BANDS, TIME = 8, 0.15  # up to 8 bands in a row, twice, and 15 % of the frames in a row


@dataclass(frozen=True)
class Augmentation:
    """One way to change a recording, drawn once."""

    seed: tuple[int, ...] | int = 0
    speed: float = 1.0
    shift: float = 0.0  # seconds
    strength: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator, strength: float) -> "Augmentation":
        """Return a change of that strength; at 0 none, and nothing is drawn."""
        if not strength:
            return IDENTITY
        seed, (speed, shift) = int(rng.integers(2**31)), rng.uniform(-1, 1, 2)
        return cls(seed, 1 + SPEED * strength * float(speed), SHIFT * strength * float(shift), strength)

    def samples(self, count: int, rate: int) -> int:
        """Return how many samples become of that many."""
        return max(1, round(count / self.speed) + round(self.shift * rate))

    def wave(self, wave: Tensor, rate: int) -> Tensor:
        """Return a wave (m,) at another speed, shifted and scaled, with noise."""
        if not self.strength:
            return wave
        size = self.samples(len(wave), rate)
        length = max(1, round(len(wave) / self.speed))
        faster = torch.nn.functional.interpolate(wave[None, None], length, mode="linear", align_corners=False)[0, 0]
        rng = np.random.default_rng((self.seed, 0))
        gain = 10 ** (GAIN * self.strength * rng.uniform(-1, 1) / 20)
        moved = torch.nn.functional.pad(faster, (size - length, 0))
        return gain * moved + NOISE * self.strength * float(rng.random()) ** 2 * coloured(size, rng)

    def bands(self, features: Tensor) -> Tensor:
        """Return features (f, bands) with other formants, of which some bands and frames are 0, the mean."""
        if not self.strength:
            return features
        rng = np.random.default_rng((self.seed, 1))
        features = warped(features, 1 + WARP * self.strength * float(rng.uniform(-1, 1)))
        for _ in range(2):
            width = int(rng.integers(0, int(BANDS * self.strength) + 1))
            first = int(rng.integers(0, features.shape[1] - width + 1))
            features[:, first : first + width] = 0
        width = int(rng.integers(0, int(TIME * self.strength * len(features)) + 1))
        first = int(rng.integers(0, len(features) - width + 1))
        features[first : first + width] = 0
        return features


IDENTITY = Augmentation()


def coloured(count: int, rng: np.random.Generator) -> Tensor:
    """Return noise (m,) of standard deviation 1 whose power falls as 1 / f^a, a from 0 (white) to 2 (brown)."""
    size = 1 << max(1, count - 1).bit_length()  # a power of two: other sizes of the transform may take long
    spectrum = torch.from_numpy(rng.standard_normal((size // 2 + 1, 2), dtype=np.float32))
    spectrum *= torch.arange(1, len(spectrum) + 1).pow(-rng.uniform(0, 1))[:, None]
    noise: Tensor = torch.fft.irfft(torch.view_as_complex(spectrum), size)
    return noise[:count] / noise.std(correction=0).clamp(min=1e-6)


def warped(features: Tensor, factor: float) -> Tensor:
    """Return features (f, bands) read at `factor` times each band's place, linearly between bands."""
    last = features.shape[1] - 1
    place = (torch.arange(last + 1) * factor).clamp(max=last)
    below = place.long().clamp(max=last - 1)
    part = place - below
    return features[:, below] * (1 - part) + features[:, below + 1] * part
