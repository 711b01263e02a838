"""Tokens of a text, by a tokenizer.json (Hugging Face's tokenizers), each with the bytes that it stands for.

    bits per byte = sum of the cross entropies of all tokens (bits) / bytes of all tokens

so that a score does not depend on how a text is cut. A token's bytes reach from the end of the one before it to its own
end. Only a tokenizer that gives a text back as it was is taken: what it loses would be predicted for nothing.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from biomamba.stream import Chunk

from .common.files import package

SPARSE = 10  # numbers that may be passed over for each that stands for a token
PIECE = 1 << 20  # characters that are cut into tokens at once


class Tokens(NamedTuple):
    """A text as a model reads it."""

    ids: NDArray[Any]  # (n,)
    sizes: NDArray[Any] | None  # (n,) bytes of each; None where each is one


class Tokenizer:
    """A tokenizer.json."""

    def __init__(self, folder: Path) -> None:
        """Read it. Raises ImportError without the package, FileNotFoundError and ValueError where it cannot be read."""
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        library = package("tokenizers", "tokenizers", "task.tokenizer")
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}: expected a folder with a tokenizer.json in task.tokenizer")
        try:
            text = path.read_text(encoding="utf-8")  # bytes that are none end the process in the library's own reader
            self.own: Any = library.Tokenizer.from_str(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises Exception itself, and where it panics none of these
            raise ValueError(f"{path} is no tokenizer ({str(error)[:80]}): copy it again from where it came") from error
        self.path = path
        self.size = 1 + max(self.own.get_vocab().values(), default=-1)  # ids may have gaps
        if not 0 < self.size <= SPARSE * (1 + self.own.get_vocab_size()):
            raise ValueError(
                f"{path}: {self.own.get_vocab_size():,} tokens with ids up to {self.size - 1:,}, expected 0, 1, 2: "
                "copy it again from where it came"
            )

    @cached_property
    def names(self) -> list[str]:
        """The tokens by number."""
        return [self.own.id_to_token(number) or str(number) for number in range(self.size)]

    def encode(self, text: str) -> Tokens:
        """Return a text's tokens. Raises ValueError where they do not give the text back."""
        ids, sizes = list[NDArray[Any]](), list[NDArray[Any]]()
        for at in range(0, len(text), PIECE):
            piece = text[at : at + PIECE]
            found = self.own.encode(piece, add_special_tokens=False)
            if self.decode(found.ids) != piece:
                raise ValueError(
                    f"{self.path}: its tokens do not give the text back as it was, so bits per byte would not be of "
                    "this text: give one without normalisation or unknown tokens, such as a byte-level one"
                )
            before = np.cumsum([0, *(len(character.encode()) for character in piece)])  # bytes before each character
            ends = np.maximum.accumulate([end for _, end in found.offsets] or [0])
            ends[-1] = len(piece)
            ids.append(np.array(found.ids, dtype=np.int32))
            sizes.append(np.diff(before[ends], prepend=0)[: len(found.ids)].astype(np.int32))
        none = np.zeros(0, dtype=np.int32)
        return Tokens(np.concatenate([none, *ids]), np.concatenate([none, *sizes]))

    def check_same(self, other: "Tokenizer") -> None:
        """Raise ValueError unless another tokenizer's tokens have the same numbers."""
        if self.own.get_vocab() != other.own.get_vocab():
            raise ValueError(f"{other.path} has other tokens than {self.path}, which the weights were learned with")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self.own.decode(list(ids), skip_special_tokens=False))


class BitsPerByte:
    """The cross entropy of all labelled tokens, bits, over the bytes that they stand for, `info["bytes"]`."""

    def __init__(self) -> None:
        """Start with nothing taken in."""
        self.nats, self.bytes = 0.0, 0

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the tokens of a chunk."""
        mask = chunk.mask
        self.nats += float(F.cross_entropy(out[mask].double(), chunk.y[mask], reduction="sum"))
        self.bytes += int(chunk.info["bytes"][mask].sum())

    def get(self) -> float:
        """Return the score so far; nan where there were no bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return both sums."""
        return {"nats": self.nats, "bytes": self.bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        self.nats, self.bytes = state["nats"], state["bytes"]


def text_of(data: bytes, name: str) -> str:
    """Return bytes as text, less a character cut at either end. Raises ValueError for what is no text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        cut = data[:3].lstrip(bytes(range(0x80, 0xC0))) + data[3:]  # of a character that began before
        text = cut.decode(errors="ignore")
        if len(cut) - len(text.encode()) > 3:
            raise ValueError(
                f"{name}: no UTF-8 text ({error.reason}), which task.tokenizer needs: leave it out"
            ) from error
        return text
