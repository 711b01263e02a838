"""ECG records in WFDB files: NAME.hea says what is there, NAME.dat holds the samples, NAME.atr the beats.

The header is checked here before wfdb may read anything: wfdb takes a rate of 0 Hz and allocates whatever number of
samples one line claims. The signal is read a block at a time, when the stream gets there.

Shapes: s samples of a block, c leads, m beats.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.wfdb import annotations, guarded

RATE = 360  # Hz, of every record of MIT-BIH
BLOCK = 20 * RATE  # samples read at once
SUMMED = 30 * BLOCK  # samples whose checksum is taken at once
CLASSES = ("N", "S", "V", "F", "Q")
SYMBOLS = {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}  # AAMI EC57; escapes e, j and n: de Chazal
KIND = {symbol: CLASSES.index(name) for name, symbols in SYMBOLS.items() for symbol in symbols}
UNUSED = {"!"}  # waves of ventricular flutter: QRS complexes to WFDB, of no class in EC57
LEAD = "MLII"
LEADS = 12  # signals of a record at most
LONGEST = 48 * 3600 * RATE  # samples of a record at most
HEADER_BYTES = 1 << 16  # at most
SAMPLE_BYTES = {"212": 1.5, "16": 2.0}  # by WFDB format
FIRST = re.compile(r"(\S+)\s+(\d{1,12})\s+([^\s/]+)\S*\s+(\d{1,18})(\s.*)?")
SIGNAL = re.compile(
    r"(\S+)\s+(\d+)\s+([^\s(/]+)(?:\((-?\d{1,9})\))?(?:/(\S+))?(?:\s+-?\d{1,9}){3}\s+(-?\d{1,9})\s+-?\d{1,9}\s+(.*)"
)


class Record(NamedTuple):
    """One record: the beats, and the signal when it is asked for."""

    name: str
    samples: int
    leads: int  # c
    beats: NDArray[np.int64]  # (m,) samples of the R peaks
    kinds: NDArray[np.int64]  # (m,) their classes
    unused: NDArray[np.int64]  # samples of what is annotated as a QRS complex and has no class: see UNUSED
    blocks: Callable[[], Iterator[NDArray[np.float64]]]  # the signal from its beginning, (s, c) mV, s = BLOCK


class Header(NamedTuple):
    """What a checked header says."""

    samples: int
    leads: list[str]
    sums: list[int]  # of the signals' samples, modulo 2**16


class Annotations(NamedTuple):
    """What the annotations of a record say."""

    beats: NDArray[np.int64]  # (m,) samples of the R peaks
    kinds: NDArray[np.int64]  # (m,) their classes
    unused: NDArray[np.int64]  # as in Record


def open_record(folder: Path, name: str, both: bool, missing: bool = False) -> Record:
    """Return a record of a folder, with its lead MLII first, and where `both` with the first of its other leads.

    missing: the other lead may be missing.

    Raises FileNotFoundError where one of the three files is not there and ValueError where they hold no such record,
    naming the file, what was found and what was expected.
    """
    header = read_header(folder, name)
    chosen = _leads(folder / f"{name}.hea", header.leads, both and not (missing and len(header.leads) == 1))
    told = read_beats(folder, name, header.samples)
    _check_sums(folder / name, header, chosen)
    return Record(name, header.samples, len(chosen), *told, lambda: _blocks(folder / name, header.samples, chosen))


def read_header(folder: Path, name: str) -> Header:
    """Return what NAME.hea says, checked against itself and against the size of NAME.dat. Raises as `open_record`."""
    file = folder / f"{name}.hea"
    text = _bytes(file, HEADER_BYTES).decode("ascii", errors="ignore")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    first = FIRST.fullmatch(lines[0]) if lines else None
    if first is None or "/" in first[1]:
        found = repr(lines[0][:60]) if lines else "nothing"
        raise ValueError(
            f"{file}: the first line is {found}, expected one segment: NAME SIGNALS RATE SAMPLES: fetch the file again"
        )
    signals, rate, samples = int(first[2]), _number(first[3]), int(first[4])
    if rate != RATE:
        raise ValueError(f"{file}: the sampling rate is {first[3]}, expected {RATE} Hz, as all of MIT-BIH has")
    if not 0 < signals <= LEADS or len(lines) != 1 + signals:
        raise ValueError(f"{file}: {signals} signals in {len(lines) - 1} lines, expected as many, 1 to {LEADS}")
    if not RATE <= samples <= LONGEST:
        raise ValueError(f"{file}: claims {samples} samples, expected {RATE} to {LONGEST}: fetch the file again")
    leads, formats, sums = zip(*(_signal(file, name, line) for line in lines[1:]), strict=True)
    _check_size(folder / f"{name}.dat", math.ceil(sum(SAMPLE_BYTES[f] for f in formats) * samples), file)
    return Header(samples, list(leads), list(sums))


def read_beats(folder: Path, name: str, samples: int) -> Annotations:
    """Return the beats that NAME.atr tells of. Raises as `open_record`."""
    file = folder / f"{name}.atr"
    told = annotations(file, samples / RATE)
    at = np.asarray(told.sample, dtype=np.int64)
    known, unused = ([i for i, symbol in enumerate(told.symbol) if symbol in of] for of in (KIND, UNUSED))
    beats, kinds = at[known], np.array([KIND[told.symbol[i]] for i in known], dtype=np.int64)
    if not len(beats):
        raise ValueError(f"{file} holds no beat, expected symbols such as N, A and V: fetch the file again")
    if beats[0] < 0 or beats[-1] >= samples or (np.diff(beats) < 0).any():
        raise ValueError(f"{file}: beats lie out of order or outside the {samples} samples: fetch the file again")
    return Annotations(beats, kinds, at[unused])


def _signal(file: Path, name: str, line: str) -> tuple[str, str, int]:
    """Return the lead, the format and the checksum of a signal's line. Raises ValueError where none can be trusted."""
    parts = SIGNAL.fullmatch(line)
    if parts is None or parts[2] not in SAMPLE_BYTES or parts[1] != f"{name}.dat":
        raise ValueError(
            f"{file}: a signal is given as {line[:60]!r}, expected {name}.dat, format {' or '.join(SAMPLE_BYTES)}, "
            "gain, and six fields more"
        )
    if not 1 <= _number(parts[3]) <= 1e5 or (parts[5] or "mV") != "mV":
        raise ValueError(f"{file}: a signal's gain is {line.split()[2][:40]!r}, expected 1 to 100000 units per mV")
    return parts[7].strip(), parts[2], int(parts[6]) % 2**16


def _leads(file: Path, leads: list[str], both: bool) -> list[int]:
    """Return which signals to read. Raises ValueError where they are not there."""
    if LEAD not in leads or len(leads) < 1 + both:
        wanted = f"{LEAD} and another (or --task.leads MLII)" if both and LEAD in leads else LEAD
        raise ValueError(f"{file}: the leads are {', '.join(leads)}, expected {wanted}: leave the record out")
    first = leads.index(LEAD)
    return [first, *[i for i in range(len(leads)) if i != first][: int(both)]]


def _check_sums(path: Path, header: Header, chosen: list[int]) -> None:
    """Raise ValueError where the samples do not add up to what the header says: they were changed since."""
    found = np.zeros(len(chosen), dtype=np.int64)
    for at in range(0, header.samples, SUMMED):
        end = min(at + SUMMED, header.samples)

        def read(wfdb: Any, at: int = at, end: int = end) -> Any:
            return wfdb.rdrecord(str(path), sampfrom=at, sampto=end, channels=chosen, physical=False).d_signal

        found += guarded(path.with_suffix(".dat"), read).sum(0, dtype=np.int64)
    for i, own in zip(chosen, found % 2**16, strict=True):
        if own != header.sums[i]:
            raise ValueError(
                f"{path}.dat: the checksum of {header.leads[i]} is {own}, expected {header.sums[i]}, "
                f"as {path.name}.hea says: fetch the record again"
            )


def _blocks(path: Path, samples: int, chosen: list[int]) -> Iterator[NDArray[np.float64]]:
    """Yield the signal of a record, block by block. Raises ValueError where wfdb gives something else."""
    for at in range(0, samples, BLOCK):
        end = min(at + BLOCK, samples)

        def read(wfdb: Any, at: int = at, end: int = end) -> Any:
            return wfdb.rdrecord(str(path), sampfrom=at, sampto=end, channels=chosen).p_signal

        block = guarded(path.with_suffix(".dat"), read)
        if block.shape != (end - at, len(chosen)):
            raise ValueError(f"{path}.dat: samples {at} to {end} have the shape {block.shape}: fetch the file again")
        yield block


def _bytes(file: Path, most: int) -> bytes:
    """Return a small file's bytes. Raises FileNotFoundError, and ValueError where it is larger than `most`."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}, expected the .hea, .dat and .atr of each record in one folder")
    if file.stat().st_size > most:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, expected at most {most}: fetch the file again")
    return file.read_bytes()


def _check_size(file: Path, wanted: int, header: Path) -> None:
    """Raise FileNotFoundError or ValueError where the samples claimed do not make up the file."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}, which {header.name} tells of: fetch the record again")
    found = file.stat().st_size
    if not wanted <= found <= wanted + 4:  # a writer may fill up the last group of samples
        raise ValueError(f"{file} has {found} bytes, expected {wanted}, as {header.name} says: fetch the record again")


def _number(text: str) -> float:
    """Return a number; nan for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
