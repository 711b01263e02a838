"""What readers of WFDB records ask of the package wfdb: annotations that are not too many, and errors of one kind."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import package

SHORTEST, RATE, LONGEST = 4096, 256, 1 << 20  # bytes of annotations: of any record, of a second more, of all


def guarded(file: Path, read: Callable[[Any], Any]) -> Any:
    """Return what wfdb reads, its warnings unsaid. Raises ValueError that names the file, whatever it stumbled over."""
    wfdb = package("wfdb", "ecg", "reading WFDB records")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(wfdb)
    except Exception as error:  # on bytes that make no sense wfdb fails with many kinds
        raise ValueError(
            f"{file}: wfdb cannot read it ({type(error).__name__}: {' '.join(str(error).split())[:100]}): "
            "fetch the file again"
        ) from error


def annotations(file: Path, seconds: float) -> Any:
    """Return the annotations of a record so many seconds long, as `wfdb.rdann` gives them.

    It takes 3 us and 136 bytes for each two bytes of the file, so the file may be as large as the record makes likely:
    beats are of two to eight bytes. Raises FileNotFoundError, and ValueError for a file that is empty or larger.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"no file {file}, expected the .hea, .dat and {file.suffix} of each record in one folder"
        )
    size, most = file.stat().st_size, int(min(LONGEST, SHORTEST + RATE * seconds))
    if not 0 < size <= most:
        raise ValueError(f"{file} has {size:,} bytes, expected 1 to {most:,} of {seconds:.4g} s: fetch the file again")
    return guarded(file, lambda wfdb: wfdb.rdann(str(file.with_suffix("")), file.suffix[1:]))
