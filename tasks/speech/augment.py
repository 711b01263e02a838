"""Speech made more varied than it was recorded: speed, noise, and bands and times that are lost (Park et al. 2019)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPEED, NOISE = 0.15, 0.01  # at strength 1: speed changes by up to 15 %, noise of up to 1 % of full scale
BANDS, TIME = 8, 0.15  # at strength 1: up to 8 bands in a row, twice, and 15 % of the frames in a row are lost


@dataclass(frozen=True)
class Augmentation:
    """One way to change a recording, drawn once."""

    seed: tuple[int, ...] | int = 0
    speed: float = 1.0
    strength: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator, strength: float) -> "Augmentation":
        """Return a change of that strength; at 0 none, and nothing is drawn."""
        if not strength:
            return IDENTITY
        return cls(int(rng.integers(2**31)), 1 + SPEED * strength * float(rng.uniform(-1, 1)), strength)

    def samples(self, count: int) -> int:
        """Return how many samples become of that many."""
        return max(1, round(count / self.speed))

    def wave(self, wave: Tensor) -> Tensor:
        """Return a wave (m,) at another speed, with white noise."""
        if not self.strength:
            return wave
        size = self.samples(len(wave))
        faster = torch.nn.functional.interpolate(wave[None, None], size, mode="linear", align_corners=False)[0, 0]
        rng = np.random.default_rng((self.seed, 0))
        noise = torch.from_numpy(rng.standard_normal(size)).float()
        return faster + NOISE * self.strength * float(rng.random()) ** 2 * noise

    def bands(self, features: Tensor) -> Tensor:
        """Return features (f, bands) of which some bands and frames are 0, the mean."""
        if not self.strength:
            return features
        rng, features = np.random.default_rng((self.seed, 1)), features.clone()
        for _ in range(2):
            width = int(rng.integers(0, int(BANDS * self.strength) + 1))
            first = int(rng.integers(0, features.shape[1] - width + 1))
            features[:, first : first + width] = 0
        width = int(rng.integers(0, int(TIME * self.strength * len(features)) + 1))
        first = int(rng.integers(0, len(features) - width + 1))
        features[first : first + width] = 0
        return features


IDENTITY = Augmentation()
