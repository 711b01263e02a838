"""The runs of one person of EEGMMI, from EDF+ files or simulated.

    R01 eyes open    R02 eyes closed    R04 R08 R12 the left (T1) or the right (T2) fist imagined, at rest (T0) between

The header of a file is checked against the file's real size before anything is read, so that a lying one can neither
be believed nor make anybody reserve memory. EDF: Kemp et al. 1992; EDF+: Kemp and Olivan 2003; the recordings:
Schalk et al. 2004 and Goldberger et al. 2000 (PhysioNet eegmmidb 1.0.0).
Shapes: n samples, c channels.
"""

import math
import re
import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.files import locate, package

RATE = 160  # samples per second
HOST = "physionet.org"
URL = f"https://{HOST}/files/eegmmidb/1.0.0"
RUNS = (1, 2, 4, 8, 12)
LARGEST = 8 * 2**20  # bytes; the longest run of EEGMMI has 2.6 MB, and numbers take four times as much room
PREFIXES = {"": 1e6, "k": 1e9, "kilo": 1e9, "m": 1e3, "milli": 1e3, "u": 1.0, "micro": 1.0, "n": 1e-3, "nano": 1e-3}
MU = (
    "\u00e2\u00b5",
    "\u00ee\u00bc",
    "\u00b5",
    "\u03bc",
)  # micro, in UTF-8 read as Latin-1, and by itself; small letters
SIGNALS, SECONDS = 256, 3600  # more of either is no run of EEGMMI
MONTAGE = (
    *("FC5", "FC3", "FC1", "FCZ", "FC2", "FC4", "FC6", "C5", "C3", "C1", "CZ", "C2", "C4", "C6"),
    *("CP5", "CP3", "CP1", "CPZ", "CP2", "CP4", "CP6", "FP1", "FPZ", "FP2", "AF7", "AF3", "AFZ", "AF4", "AF8"),
    *("F7", "F5", "F3", "F1", "FZ", "F2", "F4", "F6", "F8", "FT7", "FT8", "T7", "T8", "T9", "T10", "TP7", "TP8"),
    *("P7", "P5", "P3", "P1", "PZ", "P2", "P4", "P6", "P8", "PO7", "PO3", "POZ", "PO4", "PO8", "O1", "OZ", "O2", "IZ"),
)  # the 64 electrodes in the order of the files


class Event(NamedTuple):
    """What happened from one sample to before another, such as T1."""

    start: int
    end: int
    text: str


class Run(NamedTuple):
    """One recording without a break."""

    signal: NDArray[np.float64]  # (n, c) microvolts
    channels: Sequence[str]  # their names, in capitals
    events: Sequence[Event]
    useless: Mapping[str, str] = {}


def find(path: str | None, subject: str) -> Path | None:
    """Return the folder with the runs of a person, fetched where need be; None where they must be simulated.

    Raises FileNotFoundError where a folder that was named does not hold them.
    """

    def fetch(folder: Path) -> None:
        for number in RUNS:
            name = f"{subject}R{number:02d}.edf"
            part = folder / f"{name}.part"
            with urllib.request.urlopen(f"{URL}/{subject}/{name}", timeout=60) as answer, part.open("wb") as file:  # noqa: S310 - https
                shutil.copyfileobj(answer, file)
            part.replace(folder / name)

    folder = locate("eegmmi", path, f"**/{subject}R*.edf", HOST, fetch)
    return folder and next(folder.glob(f"**/{subject}R*.edf")).parent


def read(file: Path) -> Run:
    """Return a run. Raises FileNotFoundError, ImportError without edfio, and ValueError for what is no such run."""
    check(file)
    edfio = package("edfio", "eeg", f"reading {file.name}")
    try:
        edf = edfio.read_edf(file, header_encoding="latin-1")  # of microvolts the first letter is often no ASCII
        signals = [s for s in edf.signals if s.label != "EDF Annotations"]
        found = {s.sampling_frequency for s in signals}
        useless = {name: why for name, s in zip(_names(signals), signals, strict=True) if (why := _useless(s))}
        columns = [_microvolts(s, name in useless) for name, s in zip(_names(signals), signals, strict=True)]
        data = np.stack(columns, axis=1) if found == {RATE} else np.empty((0, 0))
        notes = [(a.onset, a.duration or 0.0, a.text) for a in edf.annotations]
    except Exception as error:  # whatever a parser makes of a broken file
        raise ValueError(
            f"{file} is no EDF+ file that edfio reads ({_line(error)}): fetch it anew from {URL}"
        ) from error
    if found != {RATE}:
        raise ValueError(f"{file} has signals at {_rates(found)}, expected {RATE} Hz throughout: give a run of EEGMMI")
    events = [Event(round(onset * RATE), round((onset + length) * RATE), text) for onset, length, text in notes]
    return Run(data, _names(signals), events, useless)


def _names(signals: Sequence[Any]) -> list[str]:
    """Return the names of signals, in capitals."""
    return [s.label.strip(". ").upper() for s in signals]


def microvolts(unit: str) -> float | None:
    """Return how many microvolts the physical dimension of an EDF header is; None where it is no voltage.

    >>> [microvolts(unit) for unit in ("uV", "mV", "\\u00b5V", "Volt", "nV", "degC", "")]
    [1.0, 1000.0, 1.0, 1000000.0, 0.001, None, None]
    """
    text = unit.strip().lower()
    for mu in MU:
        text = text.replace(mu, "u")
    found = re.fullmatch(r"(|u|micro|m|milli|n|nano|k|kilo)\s*v(?:olts?)?", text)
    return PREFIXES[found[1]] if found else None


def _useless(signal: Any) -> str:
    """Return why the header of a signal makes no microvolts of it; nothing where it does."""
    for what in ("physical", "digital"):
        least, most = getattr(signal, f"{what}_min"), getattr(signal, f"{what}_max")
        if least == most:
            return f"its header gives {least:g} as {what} minimum and maximum"
    if microvolts(signal.physical_dimension) is None:
        return f"its header gives {signal.physical_dimension!r} as its unit, expected uV, mV, nV or V"
    return ""


def _microvolts(signal: Any, useless: bool) -> NDArray[np.float64]:
    """Return a signal (n,) in microvolts; 0 throughout where its header makes none of it."""
    if useless:
        return np.zeros(len(signal.digital))
    return np.asarray(signal.data, dtype=np.float64) * (microvolts(signal.physical_dimension) or 1.0)


def check(file: Path) -> None:
    """Raise ValueError or FileNotFoundError where a file is not as long as its EDF header asks for, or too long."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}, expected a run of EEGMMI: fetch it from {URL}, or give task.path")
    size = file.stat().st_size
    if not 512 <= size <= LARGEST:
        raise ValueError(f"{file} has {size:,} bytes, expected 512 to {LARGEST:,} for a run of EEGMMI: give another")
    with file.open("rb") as opened:
        head = opened.read(256)
        signals = _number(file, head[252:256], "number of signals", 1, SIGNALS)
        records = _number(file, head[236:244], "number of data records", 1, SECONDS * RATE)
        _number(file, head[244:252], "duration of a record", 1e-3, SECONDS)
        _number(file, head[184:192], "bytes of the header", 256 * (signals + 1), 256 * (signals + 1))
        counts = opened.read(256 * int(signals))[216 * int(signals) : 224 * int(signals)]
    samples = [
        _number(file, counts[8 * i : 8 * i + 8], f"samples per record of signal {i + 1}", 1, SECONDS * RATE)
        for i in range(int(signals))
    ]
    asked = 256 * (signals + 1) + 2 * records * sum(samples)
    if asked != size:
        raise ValueError(
            f"{file} has {size:,} bytes, but its header asks for {asked:,.0f} ({records:.0f} records): it is cut short "
            f"or its header is wrong; fetch it anew from {URL}"
        )


def _number(file: Path, field: bytes, what: str, least: float, most: float) -> float:
    """Return a number of the header. Raises ValueError where it is none, out of bounds, or not whole in most fields."""
    text = field.decode("ascii", "replace").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = least != int(least) or value == value // 1
    if not (least <= value <= most and whole):
        bounds = f"{least:g}" if least == most else f"{least:g} to {most:g}"
        raise ValueError(f"{file}: its header gives {text!r} as {what}, expected {bounds}: fetch it anew from {URL}")
    return value


def _rates(found: set[float]) -> str:
    """Return sampling rates in words."""
    return ", ".join(f"{rate:g}" for rate in sorted(found)) + " Hz" if found else "no rate at all"


def _line(error: Exception) -> str:
    """Return an error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
