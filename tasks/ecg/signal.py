"""From the samples of a record to the steps of a stream: the quality gate, the filters, every k-th sample.

    samples -> windows of a second -> those that pass the gate -> high-pass, anti-alias -> samples k-1, 2k-1, ...

A window that fails is cut out before the filters, so that neither they nor the model see it: both hold their state.
Every step depends on the samples up to its own alone.

Shapes: s samples of a block (whole windows but for the last block of a record), c leads, t = s // k steps.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.files import package
from .files import RATE

WINDOW = RATE  # samples that pass the gate or fail it together: 1 s
FLAT = 0.005  # mV, one unit of MIT-BIH's converter: a lead whose standard deviation is below it is not connected
LARGEST = 10.0  # mV, the whole range of that converter
HIGH_PASS = 0.5  # Hz, below it lies the breath, not the heart
ANTI_ALIAS = 0.8  # of the half of the new rate
LEVEL_SECONDS = 10.0  # over which the running size of a lead is averaged
SIZE = 0.1  # root mean square of a lead that was scaled: QRS complexes are then about 0.4
USUAL = 0.3  # mV, the root mean square of a lead of which nothing has been heard
GAIN = 0.25  # standard deviation of the logarithm of a lead's gain where gains are augment
TURN = math.pi / 2  # how far two leads are turned into one another there
DROPPED = 0.3  # how often the second lead is left out there


def usable(block: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each sample (s,) whether its window is finite, in range and not flat in every lead (s, c)."""
    kept = np.empty(len(block), dtype=bool)
    for at in range(0, len(block), WINDOW):
        window = block[at : at + WINDOW]
        fine = bool(np.isfinite(window).all()) and bool((np.abs(window) <= LARGEST).all())
        kept[at : at + WINDOW] = fine and bool((window.std(0) >= FLAT).all())
    return kept


class Filters:
    """The high-pass and, where steps are left out, the filter against aliases; their state goes from block to block.

    Butterworth, second and fourth order. They begin as if the first sample had been there for ever.
    """

    def __init__(self, every: int) -> None:
        """Take which samples become steps: every k-th."""
        self.every, self.state = every, None
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        sections = [self.signal.butter(2, HIGH_PASS, "highpass", fs=RATE, output="sos")]
        if every > 1:
            sections.append(self.signal.butter(4, ANTI_ALIAS * RATE / every / 2, fs=RATE, output="sos"))
        self.sections = np.concatenate(sections)

    def __call__(self, block: NDArray[np.float64]) -> Tensor:
        """Return the steps (t, c) of the next samples (s, c), mV, float32."""
        if not len(block):
            return torch.zeros(0, block.shape[1])
        if self.state is None:
            self.state = self.signal.sosfilt_zi(self.sections)[:, :, None] * block[0]
        filtered, self.state = self.signal.sosfilt(self.sections, block, axis=0, zi=self.state)
        return torch.from_numpy(filtered[self.every - 1 :: self.every].astype(np.float32))


class RunningNorm:
    """Divides each lead by its running root mean square, so that people with large and small signals look alike."""

    def __init__(self, every: int) -> None:
        """Take which samples are steps: every k-th."""
        self.signal = package("scipy.signal", "ecg", "filtering ECG")
        self.new = every / RATE / LEVEL_SECONDS
        self.state: NDArray[np.float64] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the next steps (t, c), of size SIZE or so."""
        if self.state is None:
            self.state = np.full((1, x.shape[1]), (1 - self.new) * USUAL**2)
        power = x.double().numpy() ** 2
        mean, self.state = self.signal.lfilter([self.new], [1, self.new - 1], power, axis=0, zi=self.state)
        return x * torch.from_numpy((SIZE / np.sqrt(mean)).astype(np.float32))


def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a block of steps (t, c) as electrodes elsewhere might have heard it: leads turned and of other gains.

    At times all leads but the first are left out.
    """
    gains = np.exp(GAIN * rng.normal(size=x.shape[1]))
    angle = rng.uniform(-TURN, TURN)
    gains *= rng.choice([1, -1])
    if x.shape[1] == 2:
        cos, sin = math.cos(angle), math.sin(angle)
        x = x @ torch.tensor([[cos, sin], [-sin, cos]], dtype=x.dtype)
        gains[1] *= rng.random() >= DROPPED
    return x * torch.from_numpy(gains.astype(np.float32))
