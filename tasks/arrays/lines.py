"""Lines of a file or of standard input, one at a time, no longer than they may be; blank ones and comments left out."""

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .cells import MISSING

LINE = 1 << 20  # bytes a line may have
LETTERS = 8  # of a line that says sep=; and no more
Line = tuple[int, str]  # its number from 1, and its text

Report = Callable[[ValueError], None]


def open_lines(path: Path) -> IO[bytes]:
    """Return an open file of lines, unpacked where its name ends in .gz."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def numbered(
    file: IO[bytes], name: str, before: int = 0, bad: Report | None = None, comments: list[str] | None = None
) -> Iterator[Line]:
    """Yield number and text of every line that is neither blank nor a comment; `before` lines lie before the first.

    bad: told of a line that cannot be read, for which an empty text is yielded; without it, it is raised (ValueError).
    comments: takes in the lines that begin with #.
    """
    for number in itertools.count(before + 1):
        raw = _line(file, name, number)
        if not raw:
            return
        try:
            line = _text(raw, f"{name}, line {number}")
        except ValueError as error:
            if bad is None:
                raise
            while raw and not raw.endswith(b"\n"):
                raw = _line(file, name, number)
            bad(error)
            yield number, ""
            continue
        if is_comment(line):
            if comments is not None:
                comments.append(line.lstrip().lstrip("#"))
        elif line.strip():
            yield number, line


def is_comment(line: str) -> bool:
    """Return whether a line begins with #, and not with a mark of a missing value such as #N/A, or is Excel's sep=;."""
    own = line.lstrip()
    if len(own) <= LETTERS and own.strip('"\r\n ').lower().startswith("sep="):
        return True
    return own.startswith("#") and not any(own.lower().startswith(mark) for mark in MISSING if mark.startswith("#"))


def _line(file: IO[bytes], name: str, number: int) -> bytes:
    """Return the next line, or the beginning of one that is too long. Raises ValueError for damaged gzip."""
    try:
        return file.readline(LINE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name}, line {number}: is damaged or no gzip file ({error})") from error


def _text(raw: bytes, where: str) -> str:
    """Return a line as text. Raises ValueError."""
    if len(raw) > LINE:
        raise ValueError(f"{where}: over {LINE:,} bytes, expected a row of numbers")
    try:
        return raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: no UTF-8 text ({error.reason}), expected numbers: save it as UTF-8") from error
