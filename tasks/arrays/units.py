"""What a row of a table is in the user's units: the means and deviations of the rows that were read."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from .stream import OnlineStandardScaler
from .table import Numbers


class Units:
    """The scalers of one stream, fed with the blocks that the stream is made of.

    inputs: how many columns come first in a block. label: the column of the value to predict; None where there is none.
    classes: how many; 0 for values.
    """

    def __init__(self, inputs: int, label: int | None, classes: int, scale: bool) -> None:
        """Start with nothing read."""
        self.inputs, self.label = inputs, None if classes else label
        self.scaler = OnlineStandardScaler(inputs, scale)
        self.targets = OnlineStandardScaler(classes or 1, scale and not classes)

    def watch(self, blocks: Iterator[Numbers]) -> Iterator[Numbers]:
        """Yield the blocks, each after it was taken in."""
        for block in blocks:
            self.scaler.take(block[:, : self.inputs])
            if self.label is not None:
                self.targets.take(block[:, [self.label]])
            yield block

    def state(self, next_row: bool) -> dict[str, Tensor]:
        """Return the scalers of inputs and targets, which are the inputs again where the next row is predicted."""
        parts: Sequence[tuple[str, OnlineStandardScaler]]
        parts = ("scaler", self.scaler), ("targets", self.scaler if next_row else self.targets)
        return {f"{part}.{name}": own for part, of in parts for name, own in of.state_dict().items()}
