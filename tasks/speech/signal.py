"""Recorded speech from sound files (through soundfile), checked before a sample is read, and its causal features.

    power spectrum of 25 ms every 10 ms  ->  40 mel bands  ->  log  ->  running normalisation

Frame i is known once sample i * hop + win has been heard: it looks at nothing later. Shapes: f frames of 40 bands.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.files import package

BANDS = 40
RATE = {"fsdd": 8000, "speech_commands": 16000, "an4": 16000}  # Hz
WIN, HOP = 0.025, 0.010  # seconds
LONGEST = 120  # seconds of one file: what is longer is no utterance
FLOOR = 1e-6  # of a band's power; 16 bit silence lies below it
PRIOR = 20.0  # frames that the running normalisation has seen, as it were, before the first
USUAL, SPREAD = -5.0, 4.0  # mean and standard deviation of log power in those


def samples(file: Path, rate: int) -> int:
    """Return how many samples a sound file holds, from its header alone.

    Raises ValueError where it is not mono, not of `rate` Hz, empty, over two minutes long or no sound file.
    """
    soundfile = package("soundfile", "speech", "reading speech")
    try:
        info = soundfile.info(str(file))
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{file}: no sound file that can be read ({error}): mend it or take it away") from error
    if info.channels != 1:
        raise ValueError(f"{file}: has {info.channels} channels, expected 1: mix it down to mono")
    if info.samplerate != rate:
        raise ValueError(f"{file}: is of {info.samplerate} Hz, expected {rate} Hz: resample it")
    if not 0 < info.frames <= LONGEST * rate:
        raise ValueError(f"{file}: claims {info.frames} samples, expected 1 to {LONGEST * rate}: mend or cut it")
    return int(info.frames)


def read(file: Path, begin: int, count: int) -> Tensor:
    """Return `count` samples from sample `begin` on, -1 to 1. Raises ValueError where they are fewer."""
    soundfile = package("soundfile", "speech", "reading speech")
    try:
        wave, _ = soundfile.read(str(file), frames=count, start=begin, dtype="float32")
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{file}: breaks off ({error}): mend it or take it away") from error
    if wave.shape != (count,) or not bool(np.isfinite(wave).all()):
        raise ValueError(f"{file}: does not hold the {count} finite samples from {begin} on: mend it or take it away")
    return torch.from_numpy(wave)


def frames(count: int, rate: int) -> int:
    """Return how many frames that many samples give; at least 1, as what is shorter than a frame is filled up."""
    return 1 + max(0, count - round(WIN * rate)) // round(HOP * rate)


def steps(count: int, rate: int, stack: int, align: int = 1) -> int:
    """Return how many whole steps of `stack` frames that many samples give, at least 1, up to a multiple of `align`."""
    return -(-max(1, frames(count, rate) // stack) // align) * align


def stacked(features: Tensor, stack: int) -> Tensor:
    """Return (f, 40) features, `stack` frames in a row as one step; what is left at the end is dropped."""
    missing = max(0, stack - len(features))
    features = torch.nn.functional.pad(features, (0, 0, 0, missing))
    return features[: len(features) // stack * stack].reshape(-1, stack * features.shape[1])


def log_mel(wave: Tensor, rate: int) -> Tensor:
    """Return the log power (natural, floored) in 40 mel bands of every frame of a wave (m,), (f, 40)."""
    win, hop = round(WIN * rate), round(HOP * rate)
    size = 1 << (2 * win - 1).bit_length()  # fine enough that even the lowest band has a frequency in it
    # torch.stft centres a window that is shorter than the transform: this one is as long, and ends in zeros: causal
    window = torch.cat([torch.hann_window(win), torch.zeros(size - win)])
    wave = torch.nn.functional.pad(wave, (0, max(0, win - len(wave)) + size - win))
    spectrum = torch.stft(wave, size, hop, window=window, center=False, return_complex=True)
    return torch.log(spectrum.abs().square().T @ mel_bands(rate, size) + FLOOR)


def normalised(features: Tensor) -> Tensor:
    """Return (f, 40) features less their mean so far over their standard deviation so far, band by band.

    Mean and deviation are those of the frames up to and with the present one, and of `PRIOR` usual frames before.
    """
    count = PRIOR + torch.arange(1, len(features) + 1, dtype=torch.float64)[:, None]
    exact = features.double()
    mean = (PRIOR * USUAL + exact.cumsum(0)) / count
    square = (PRIOR * (USUAL**2 + SPREAD**2) + exact.square().cumsum(0)) / count
    return ((exact - mean) / (square - mean.square()).clamp(min=1e-4).sqrt()).float()


@cache
def mel_bands(rate: int, size: int) -> Tensor:
    """Return the triangles (size // 2 + 1, 40) that sum a power spectrum into mel bands from 20 Hz to rate / 2.

    mel(f) = 2595 log10(1 + f / 700), as in HTK.
    """
    edges = _hertz(np.linspace(_mel(20.0), _mel(rate / 2), BANDS + 2))
    hertz = np.linspace(0, rate / 2, size // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()


def _mel(hertz: float) -> float:
    """Return mels."""
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return hertz."""
    return np.asarray(700 * (10 ** (mel / 2595) - 1))
