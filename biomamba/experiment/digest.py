"""A digest of the first samples of a stream, so that a run goes on with the data that it began with."""

import zlib
from collections.abc import Iterable
from typing import Any

import torch

from ..stream import Chunk

SAMPLES = 65_536  # steps of all streams that are looked at; a change behind them is not seen


class Digest:
    """CRC-32 of inputs, targets, masks and resets, whatever the length of chunks."""

    def __init__(self, steps: int = 0, values: tuple[int, ...] = ()) -> None:
        """Begin, or go on after `steps` steps."""
        self.steps, self.values = steps, list(values)

    def update(self, chunk: Chunk) -> None:
        """Take in a chunk, as far as it lies among the first samples."""
        limit = SAMPLES // len(chunk.x)
        take = min(chunk.x.shape[1], limit - self.steps)
        if take <= 0:
            return
        parts = (chunk.x, chunk.y, chunk.mask, chunk.reset)
        rows = [part[i, :take] for part in parts for i in range(len(part))]  # one after another, whatever the length
        self.values = self.values or [0] * len(rows)
        for i, row in enumerate(rows):
            flat = row.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self.values[i] = zlib.crc32(flat.numpy().data, self.values[i])
        self.steps += take

    def state_dict(self) -> dict[str, Any]:
        """Return what `load` needs."""
        return {"steps": self.steps, "values": self.values}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Digest":
        """Go on from a saved state. Raises TypeError for what is none."""
        steps, values = state["steps"], tuple(state["values"])
        if steps not in range(SAMPLES + 1) or not all(isinstance(value, int) for value in values):
            raise TypeError(f"digest: got {str(steps)[:20]} steps, expected at most {SAMPLES}, and whole numbers")
        return cls(int(steps), values)

    def fits(self, stream: Iterable[Chunk]) -> bool:
        """Say whether a stream begins with the same samples."""
        found = Digest()
        for chunk in stream:
            if found.steps >= self.steps:
                break
            found.update(chunk.between(0, min(chunk.x.shape[1], self.steps - found.steps)))
        return (found.steps, found.values) == (self.steps, self.values)
