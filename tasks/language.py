"""Text as bytes: predict the next one.

A batch of b streams over N bytes is b contiguous parts side by side, n = (N - 1) // b steps each:

    x_i = data[i n : i n + n]        y_i = data[i n + 1 : i n + n + 1]

The text is files, a corpus under BIOMAMBA_DATA, a Hugging Face dataset, or, with nothing asked for, the
documentation that every Python carries.
"""

import contextlib
import gzip
import math
import os
import platform
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomamba.metrics import CrossEntropy, bits, labelled_cross_entropy
from biomamba.stream import Answers, Benchmark, Chunk, Meter, Spec, Split

from . import byte_counter
from .common.files import check_split
from .tokens import BitsPerByte, Tokenizer, Tokens, text_of

BYTES = 256
CORPORA = ("tinyshakespeare", "warpeace", "wikitext2")
PIECE = 256  # chunks that are made at once
WHITE = b"\xef\xbb\xbf \t\r\n"  # what may stand before a value of JSON, the mark of UTF-8 included
DATASET_BYTES = 10_000_000  # read of a dataset where max_bytes does not say: some have no end


@dataclass(frozen=True)
class Language(Benchmark):
    """Next-byte prediction on one text, named by at most one of `path`, `paths`, `corpus` and `dataset`.

    path: text files, or folders, of which every *.txt is read in sorted order, those in subfolders too.
    paths: another word for path.
    corpus: tinyshakespeare, warpeace or wikitext2, a folder in the one the environment variable BIOMAMBA_DATA names.
    dataset: a Hugging Face dataset, by name or local folder; `column` of its split "train", rows joined by newlines.
    tokenizer: folder with a tokenizer.json; the model reads its tokens, and scores stay bits per byte of the text.
    max_bytes: read no more than this; without it files are read whole and of a dataset the first 10,000,000 bytes.

    The text is read when first needed, and once. Construction raises ValueError for arguments that no text can
    satisfy; reading raises FileNotFoundError, ValueError or ImportError, naming what to give instead.
    """

    path: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    corpus: str | None = None
    dataset: str | None = None
    column: str = "text"
    tokenizer: str | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse arguments that no text can satisfy."""
        given = [name for name in ("path", "paths", "corpus", "dataset") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, expected at most one: leave the others out")
        if self.corpus and self.corpus not in CORPORA:
            raise ValueError(f"corpus is {self.corpus!r}, expected one of {', '.join(CORPORA)}; or give path")
        if self.max_bytes is not None and self.max_bytes < 2:
            raise ValueError(f"max_bytes is {self.max_bytes}, expected at least 2: a byte and the one that follows it")

    @property
    def spec(self) -> Spec:
        """Return 256 bytes in, 256 out, or the tokenizer's tokens."""
        size = self._tokenizer.size if self._tokenizer else BYTES
        return Spec(vocab=size, d_out=size)

    @property
    def splits(self) -> dict[str, str]:
        """Return the parts of the text."""
        return {"train": "the first 90 %", "valid": "the last 10 %", "all": "the whole text"}

    @property
    def held_out(self) -> Split:
        """Return valid."""
        return "valid"

    @property
    def source(self) -> str:
        """Name the text and how many bytes of it are in use; this reads it."""
        name, data = self._text
        read = f", {len(self._tokens('all').ids):,} tokens" if self._tokenizer else ""
        return f"{name}, {len(data):,} bytes{read}"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return how many time steps each stream has. Raises ValueError where there is not even one."""
        steps = (len(self._tokens(split).ids) - 1) // batch
        if steps < 1:
            what = "tokens" if self._tokenizer else "bytes"
            raise ValueError(
                f"{self.source}: split {split} is too short, expected at least {batch + 1} {what} for {batch} streams: "
                "lower batch or give more text"
            )
        return steps

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split once, from time step `start` on; `seed` changes nothing, as the text is in order.

        Raises ValueError at once, not at the first chunk, where the streams are shorter than one chunk.
        """
        steps = self.steps(split, batch=batch)
        if steps < length:
            raise ValueError(
                f"{self.source}: split {split} gives {batch} streams of {steps} steps, expected at least one chunk "
                f"of {length}: lower length or batch, or give more text"
            )
        total, read = steps * batch, self._tokens(split)
        x, y = (torch.from_numpy(read.ids[at : total + at].copy()).view(batch, steps) for at in (0, 1))
        sizes = None if read.sizes is None else torch.from_numpy(read.sizes[1 : total + 1].copy()).view(batch, steps)
        return _chunks(x, y, sizes, length, start)

    @property
    def reduction(self) -> str | None:
        """The loss is the mean over the labelled steps."""
        return "mean"

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the mean cross entropy (nats) of `out` (b, t, d_out) over the labelled steps; 0 without any."""
        return labelled_cross_entropy(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters of all steps."""
        nats = CrossEntropy()
        return {"bits_per_byte": BitsPerByte() if self._tokenizer else bits(nats), "loss": nats}

    def answers(self, out: Tensor, chunk: Chunk) -> Answers:
        """Return the next byte's probabilities, each named by its character of Latin-1; or those of the tokens."""
        names = self._tokenizer.names if self._tokenizer else bytes(range(BYTES)).decode("latin-1")
        return Answers(chunk.mask, out.softmax(-1), True, names)

    def encode(self, text: str) -> list[int]:
        """Return a text as the model reads it."""
        return self._tokenizer.encode(text).ids.tolist() if self._tokenizer else list(text.encode())

    def check_vocabulary(self, learned: Path | None) -> None:
        """Raise ValueError where weights were learned with another tokenizer.json (None: not known, or bytes)."""
        if self._tokenizer is not None and learned is not None and learned.exists():
            Tokenizer(learned).check_same(self._tokenizer)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return what the model said as text, with a mark where it is none."""
        return self._tokenizer.decode(tokens) if self._tokenizer else bytes(tokens).decode(errors="replace")

    def baseline(
        self, split: str, *, batch: int, seed: int, steps: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Return the order-5 byte counter's bits per byte and loss (nats), in one pass in the order of the text.

        It predicts as many bytes as the streams do in `steps` steps (all, without it), the first byte being given.
        Over the whole split they are the same bytes; over fewer, the streams' lie in b places and the counter's in one.
        """
        available = self.steps(split, batch=batch)
        total = batch * (available if steps is None else min(steps, available))
        sizes = self._tokens(split).sizes
        total = total if sizes is None else int(sizes[1 : total + 1].sum())
        scores = byte_counter.bits(self.data(split)[: total + 1])[1:]
        score = {"all": float(scores.mean()), "last_tenth": float(scores[len(scores) * 9 // 10 :].mean())}
        if self._tokenizer:  # whose loss is of tokens
            return {"order5_counter": {"bits_per_byte": score}}
        loss = {part: value * math.log(2) for part, value in score.items()}
        return {"order5_counter": {"bits_per_byte": score, "loss": loss}}

    def _tokens(self, split: str) -> Tokens:
        """Return a split as the model reads it."""
        data = self.data(split)
        if self._tokenizer is None:
            return Tokens(np.frombuffer(data, dtype=np.uint8), None)
        if split not in self._encoded:
            self._encoded[split] = self._tokenizer.encode(text_of(data, self._text[0]))
        return self._encoded[split]

    @cached_property
    def _encoded(self) -> dict[str, Tokens]:
        """Hold, by split, what the tokenizer made of it."""
        return {}

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer; None where bytes are read."""
        return None if self.tokenizer is None else Tokenizer(Path(self.tokenizer))

    def data(self, split: str) -> bytes:
        """Return the bytes of a split: the first 90 %, the rest, or all of them."""
        data = self._text[1]
        cut = len(data) * 9 // 10
        parts = {"train": slice(0, cut), "valid": slice(cut, None), "all": slice(None)}
        check_split(split, self.splits)
        return data[parts[split]]

    @cached_property
    def _text(self) -> tuple[str, bytes]:
        """Return the name of the text and its bytes."""
        if self.dataset:
            return f"dataset {self.dataset}", _read_dataset(self.dataset, self.column, self.max_bytes or DATASET_BYTES)
        if self.corpus:
            return _read_files(_files(_corpus_folder(self.corpus)), self.max_bytes)
        if given := self.path or self.paths:
            return _read_files([file for path in given for file in _files(Path(path))], self.max_bytes)
        return f"documentation of Python {platform.python_version()}", _documentation()[: self.max_bytes]


def _chunks(x: Tensor, y: Tensor, sizes: Tensor | None, length: int, start: int) -> Iterator[Chunk]:
    """Yield the steps of x and y (b, n) from `start` on; they grow to int64 only here, to keep the text small.

    sizes (b, n): bytes of each y, which go into `info`; None where each is one.
    """
    every = torch.ones(len(x), length, dtype=torch.bool)
    first, none = every.clone(), torch.zeros_like(every)
    first[:, 1:] = False
    fields = [x, y] if sizes is None else [x, y, sizes]
    for begin in range(start, x.shape[1], PIECE * length):  # one conversion for many chunks
        grown = (part[:, begin : begin + PIECE * length].long().split(length, 1) for part in fields)
        for i, (tokens, targets, *rest) in enumerate(zip(*grown, strict=True)):
            mask, reset = every, none if begin + i else first
            if tokens.shape[1] < length:
                mask, reset = mask[:, : tokens.shape[1]], reset[:, : tokens.shape[1]]
            yield Chunk(tokens, targets, mask, reset, {"bytes": rest[0]} if rest else {})


def _documentation() -> bytes:
    """Return the text of Python's own help topics, about 466 kB, for a text that needs no file and no network."""
    from pydoc_data.topics import topics  # here, as it is half a megabyte that other texts do not need

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _corpus_folder(corpus: str) -> Path:
    """Return the folder of a corpus. Raises FileNotFoundError where BIOMAMBA_DATA does not lead to it."""
    root = os.environ.get("BIOMAMBA_DATA")
    if not root:
        raise FileNotFoundError(
            f"corpus {corpus} needs the environment variable BIOMAMBA_DATA, which is not set: "
            f"export BIOMAMBA_DATA=<the folder that holds {corpus}/>"
        )
    if not (Path(root) / corpus).is_dir():
        raise FileNotFoundError(
            f"BIOMAMBA_DATA is {root}, expected a folder {corpus} in it: "
            f"export BIOMAMBA_DATA=<the folder that holds {corpus}/>"
        )
    return Path(root) / corpus


def _files(path: Path) -> list[Path]:
    """Return the file, or all *.txt of the folder. Raises FileNotFoundError or ValueError where there is no text."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise FileNotFoundError(f"folder {path} holds no *.txt, expected at least one: give the files by name")
        return files
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder {path}: expected a text file or a folder of *.txt in path")
    if path.stat().st_size == 0:
        raise ValueError(f"file {path} is empty, expected text: leave it out of path or give another")
    return [path]


def _read_files(files: list[Path], max_bytes: int | None) -> tuple[str, bytes]:
    """Return a name for the files and their bytes end to end, up to `max_bytes`; files beyond it are not opened."""
    data, used = bytearray(), 0
    for file in files:
        left = -1 if max_bytes is None else max_bytes - len(data)
        if left == 0:
            break
        with file.open("rb") as opened:
            data += opened.read(left)
        used += 1
    first = files[0].absolute()
    more = f" and {used - 1} more" if used > 1 else ""
    return f"file {first.parent.name}/{first.name}{more}", bytes(data)


def _read_dataset(name: str, column: str, max_bytes: int) -> bytes:
    """Return the first `max_bytes` bytes of a dataset's rows, streamed, so that no more than that is fetched.

    Raises ImportError without the `datasets` package and ValueError where `column` is no text or the dataset cannot be
    read.
    """
    rows, size = [], 0
    for row in _rows(name):
        if not isinstance(row.get(column), str):
            raise ValueError(f"dataset {name} has no text in column {column!r}, expected one of: {', '.join(row)}")
        rows.append(row[column].encode(errors="replace"))
        size += len(rows[-1]) + 1
        if size > max_bytes:
            break
    return b"\n".join(rows)[:max_bytes]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset's split "train", streamed. Raises what `_read_dataset` does."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError('dataset needs the package datasets: pip install "biomamba[lm]"') from error
    for file in sorted(Path(name).rglob("*.json*")) if Path(name).is_dir() else ():
        _check_lines(file)
    try:
        yield from load_dataset(name, split="train", streaming=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow and datasets raise what they like on a damaged file
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"dataset {name} cannot be read ({told}): restore it, or give another") from error


def _check_lines(file: Path) -> None:
    """Raise ValueError for a line of JSON that is null: where it is the first, pyarrow ends the whole process."""
    with contextlib.suppress(OSError, EOFError, zlib.error):  # damaged otherwise: who reads it says so
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            found = next((i for i, line in enumerate(lines, 1) if line.lstrip(WHITE).startswith(b"null")), None)
        if found:
            raise ValueError(f"{file}, line {found}: got null, expected an object of columns: take the line out")
