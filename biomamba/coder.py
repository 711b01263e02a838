"""Arithmetic coding: a sequence of symbols as one number, of as many bits as their probabilities ask for.

    low, high  ->  the part of [low, high] that belongs to the symbol  ->  leading bits that both share are written

Witten, Neal and Cleary 1987, Arithmetic coding for data compression, with whole numbers of 32 bits. A symbol is given
by where its share of `TOTAL` begins and ends; the decoder must be given the same shares.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BITS, TOTAL = 32, 1 << 24
TOP, HALF, QUARTER = (1 << BITS) - 1, 1 << (BITS - 1), 1 << (BITS - 2)


def shares(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where the shares of symbols of probabilities p (..., n) begin, and TOTAL at the end (..., n + 1).

    Every symbol has a share of 1 at least, so any can be written.
    """
    n = p.shape[-1]
    whole = 1 + np.floor(p / p.sum(-1, keepdims=True) * (TOTAL - 2 * n)).astype(np.int64)
    ends = np.cumsum(whole, -1)
    ends[..., -1] = TOTAL  # what rounding left over is the last symbol's
    return np.concatenate([np.zeros_like(ends[..., :1]), ends], -1)


class Encoder:
    """Writes symbols."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self.low, self.high, self.waiting, self.bits = 0, TOP, 0, bytearray()

    def write(self, begin: int, end: int) -> None:
        """Write the symbol whose share is from begin to before end."""
        span = self.high - self.low + 1
        self.low, self.high = self.low + span * begin // TOTAL, self.low + span * end // TOTAL - 1
        while True:
            if self.high < HALF:
                self._put(0)
            elif self.low >= HALF:
                self._put(1)
                self.low, self.high = self.low - HALF, self.high - HALF
            elif self.low >= QUARTER and self.high < 3 * QUARTER:
                self.waiting += 1  # the next bit decides: it is followed by this many of the other kind
                self.low, self.high = self.low - QUARTER, self.high - QUARTER
            else:
                return
            self.low, self.high = 2 * self.low, 2 * self.high + 1

    def finish(self) -> bytes:
        """Return all that was written."""
        self.waiting += 1
        self._put(self.low >= QUARTER)
        return np.packbits(np.frombuffer(bytes(self.bits), np.uint8)).tobytes()

    def _put(self, bit: int) -> None:
        self.bits.append(bit)
        self.bits += bytes([1 - bit]) * self.waiting
        self.waiting = 0


class Decoder:
    """Reads what an encoder wrote; beyond its end come zeros."""

    def __init__(self, code: bytes) -> None:
        """Take what was written."""
        self.bits = iter(np.unpackbits(np.frombuffer(code, np.uint8)).tolist())
        self.low, self.high, self.value = 0, TOP, 0
        for _ in range(BITS):
            self.value = 2 * self.value + next(self.bits, 0)

    def read(self, begins: Sequence[int] | NDArray[np.int64]) -> int:
        """Return the symbol, whose shares begin there (n + 1,)."""
        span = self.high - self.low + 1
        place = ((self.value - self.low + 1) * TOTAL - 1) // span
        symbol = int(np.searchsorted(begins, place, side="right")) - 1
        begin, end = int(begins[symbol]), int(begins[symbol + 1])
        self.low, self.high = self.low + span * begin // TOTAL, self.low + span * end // TOTAL - 1
        while True:
            if self.high < HALF:
                less = 0
            elif self.low >= HALF:
                less = HALF
            elif self.low >= QUARTER and self.high < 3 * QUARTER:
                less = QUARTER
            else:
                return symbol
            self.low, self.high, self.value = self.low - less, self.high - less, self.value - less
            self.low, self.high, self.value = 2 * self.low, 2 * self.high + 1, 2 * self.value + next(self.bits, 0)
