"""EDF and BDF files with their annotations, read by edfio a stretch at a time.

The header is checked against the size of the file before edfio reads it. Kemp et al. 1992; Kemp and Olivan 2003.
"""

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import package
from .source import Label, Samples, Source, Wanted, choose, listed

SIGNALS = 1024
LARGEST_BDF = 1 << 29  # bytes: edfio reads these whole
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")


def open_edf(path: Path, name: str, wanted: Wanted, told: list[str]) -> Source:
    """Return the recording in a file; adds lines to `told` on channels that are not used.

    Raises ValueError for a damaged file, a channel that there is not and channels of several rates.
    """
    is_bdf = path.suffix.lower() == ".bdf"
    _check(path, 3 if is_bdf else 2)
    edfio = package("edfio", "eeg", f"reading {path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_bdf:
                file = edfio.read_bdf(path, header_encoding="latin-1")
            else:
                file = edfio.read_edf(path, lazy_load_data=True, header_encoding="latin-1")
            signals = [signal for signal in file.signals if signal.label not in ANNOTATIONS]
            labels = [Label(a.onset, a.onset + (a.duration or 0.0), a.text.strip()) for a in file.annotations]
    except Exception as error:  # whatever a parser makes of a broken file
        raise ValueError(f"{path}: edfio cannot read it ({_line(error)})") from error
    useless = {i: why for i, signal in enumerate(signals) if (why := _useless(signal))}
    names = [signal.label.strip(". ") for signal in signals]
    chosen = choose(names, wanted.channels, name)
    for i in chosen if wanted.channels else ():
        if i in useless:
            raise ValueError(f"channels: {name}, channel {names[i]}: {useless[i]}: name others in task.channels")
    chosen = [i for i in chosen if i not in useless]
    rates = Counter(signals[i].sampling_frequency for i in chosen)
    if not rates:
        raise ValueError(f"{name} has no channel with a signal; {listed(useless.values(), 2) or 'it has none at all'}")
    rate = rates.most_common(1)[0][0]
    others = [i for i in chosen if signals[i].sampling_frequency != rate]
    if others and wanted.channels:
        raise ValueError(f"channels: {name} has {names[others[0]]} at another rate, expected one")
    chosen = [i for i in chosen if i not in others]
    told += [f"{name}, channel {names[i]} left out: {why}" for i, why in useless.items()]
    told += [f"{name}, channel {names[i]} left out: {signals[i].sampling_frequency:g} Hz, not {rate:g}" for i in others]
    used = [signals[i] for i in chosen]
    samples = round(file.num_data_records * used[0].samples_per_data_record)

    def read(first: int, last: int) -> Samples:
        try:
            return np.stack([_slice(signal, first, last, rate) for signal in used], axis=1)
        except Exception as error:
            raise ValueError(f"{path}: cannot be read from sample {first:,} on ({_line(error)})") from error

    return Source(name, name, name, float(rate), samples, [names[i] for i in chosen], labels, read)


def _slice(signal: Any, first: int, last: int, rate: float) -> Samples:
    """Return some samples (n,) of a signal, in its own unit."""
    part = np.asarray(signal.get_data_slice(first / rate, last / rate), dtype=np.float64)
    if len(part) != last - first:
        raise ValueError(f"{len(part)} samples instead of {last - first}")
    return part


def _useless(signal: Any) -> str:
    """Return why a signal holds nothing; nothing where it does."""
    for what in ("physical", "digital"):
        least, most = getattr(signal, f"{what}_min"), getattr(signal, f"{what}_max")
        if least == most:
            return f"its header gives {least:g} as {what} minimum and maximum"
    return ""


def _check(path: Path, width: int) -> None:
    """Raise ValueError where a file is not as long as its header says; width: bytes of a sample."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(256)
        signals = _number(path, head[252:256], "number of signals", 1, SIGNALS)
        header = _number(path, head[184:192], "bytes of the header", 256 * (signals + 1), 256 * (signals + 1))
        records = _number(path, head[236:244], "number of data records", 1, size)
        _number(path, head[244:252], "duration of a record", 0, 86400, whole=False)
        counts = file.read(256 * int(signals))[216 * int(signals) : 224 * int(signals)]
    one = sum(
        _number(path, counts[8 * i : 8 * i + 8], f"samples of signal {i + 1}", 1, size) for i in range(int(signals))
    )
    if header + records * one * width != size:
        raise ValueError(
            f"{path} has {size:,} bytes, but its header asks for {header + records * one * width:,.0f}: it is cut "
            "short or its header is wrong"
        )
    if width == 3 and size > LARGEST_BDF:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {LARGEST_BDF:,}: BDF is read whole")


def _number(path: Path, field: bytes, what: str, least: float, most: float, whole: bool = True) -> float:
    """Return a number of the header. Raises ValueError."""
    text = field.decode("latin-1").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most or (whole and value != value // 1):
        raise ValueError(f"{path}: its header gives {text!r} as {what}, expected {least:g} to {most:g}")
    return value


def _line(error: Exception) -> str:
    """Return an error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
