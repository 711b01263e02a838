"""WFDB records of any rate and their annotations, read by wfdb a stretch at a time.

wfdb allocates whatever a header claims, so that the header is compared with the sizes of the files first; the checksums
that it gives are compared with the samples. Formats 8, 16, 24, 32, 80, 212 and others of a fixed width.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..common.wfdb import annotations, guarded
from .source import Label, Samples, Source, Wanted, choose

WIDTH = {
    "8": 1.0,
    "16": 2.0,
    "24": 3.0,
    "32": 4.0,
    "61": 2.0,
    "80": 1.0,
    "160": 2.0,
    "212": 1.5,
    "310": 4 / 3,
    "311": 4 / 3,
}
BEATS = "NLRBAaJSVrFejnE/fQ?"  # the codes of PhysioNet that are beats
SIGNALS, LARGEST_HEADER = 256, 1 << 20  # the last: bytes
BLOCK = 1 << 16  # samples whose checksum is taken at once


def open_record(path: Path, name: str, wanted: Wanted, told: list[str]) -> Source:
    """Return the record of a .hea file, its labels the beats or other annotations of NAME.annotator.

    Raises FileNotFoundError, and ValueError for files that do not fit and a channel that there is not.
    """
    if not 0 < path.stat().st_size <= LARGEST_HEADER:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, expected 1 to {LARGEST_HEADER:,}")
    record = str(path.with_suffix(""))
    header = guarded(path, lambda wfdb: wfdb.rdheader(record))
    if getattr(header, "n_seg", None):
        raise ValueError(f"{path}: a record of several segments, expected one: give the segments themselves")
    rate, samples = float(header.fs or 0), int(header.sig_len or 0)
    if not 0 < (header.n_sig or 0) <= SIGNALS or not 0 < rate < 1e6 or samples < 1:
        raise ValueError(f"{path}: {header.n_sig} signals of {samples:,} samples at {rate:g} Hz, expected a recording")
    if not header.samps_per_frame or len(header.file_name) != header.n_sig:
        raise ValueError(f"{path}: tells of {header.n_sig} signals, and not what each is: fetch the record again")
    if {*header.samps_per_frame} != {1}:
        raise ValueError(f"{path}: signals with several samples a frame, expected one rate for all")
    _check_sizes(path, header, samples)
    names = [str(own or f"signal {i}") for i, own in enumerate(header.sig_name)]
    chosen = choose(names, wanted.channels, name)
    _check_sums(path, record, header, samples)

    def read(first: int, last: int) -> Samples:
        signal = guarded(
            path, lambda wfdb: wfdb.rdrecord(record, sampfrom=first, sampto=last, channels=chosen).p_signal
        )
        if signal.shape != (last - first, len(chosen)):
            raise ValueError(f"{path}: samples {first:,} to {last:,} have the shape {signal.shape}")
        return np.asarray(signal, dtype=np.float64)

    labels = _annotations(path, wanted.annotator, rate, samples)
    return Source(name, name, name, rate, samples, [names[i] for i in chosen], labels, read)


def _annotations(path: Path, annotator: str, rate: float, samples: int) -> list[Label]:
    """Return the annotations of a record as events: their symbols, or for rhythms and comments what is noted."""
    file = path.with_suffix(f".{annotator}")
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}, expected annotations beside {path.name}: give task.annotator")
    told = annotations(file, samples / rate)
    notes = told.aux_note or [""] * len(told.symbol)
    return [
        Label(sample / rate, sample / rate, note.strip("\0 ") if note and str(symbol) not in BEATS else str(symbol))
        for sample, symbol, note in zip(told.sample.tolist(), told.symbol, notes, strict=True)
    ]


def _check_sizes(path: Path, header: Any, samples: int) -> None:
    """Raise ValueError or FileNotFoundError where a file of samples is not as long as the header says."""
    files = dict[str, list[str]]()
    for file, kind in zip(header.file_name, header.fmt, strict=True):
        files.setdefault(str(file), []).append(str(kind))
    for file, kinds in files.items():
        if Path(file).name != file or file == "-":
            raise ValueError(f"{path}: names the file {file[:60]!r}, expected one beside it")
        if kinds[0] not in WIDTH or len({*kinds}) > 1:
            raise ValueError(f"{path}: format {', '.join(sorted({*kinds}))}, expected one of {', '.join(WIDTH)}")
        if not (own := path.with_name(file)).is_file():
            raise FileNotFoundError(f"no file {own}, which {path.name} names")
        offset = next(o or 0 for o, f in zip(header.byte_offset, header.file_name, strict=True) if f == file)
        wanted = offset + math.ceil(WIDTH[kinds[0]] * samples * len(kinds))
        if not wanted <= own.stat().st_size <= wanted + 4:  # a writer may fill up the last group of samples
            raise ValueError(f"{own} has {own.stat().st_size:,} bytes, expected {wanted:,}, as {path.name} says")


def _check_sums(path: Path, record: str, header: Any, samples: int) -> None:
    """Raise ValueError where the samples have not the checksums that the header gives, for those it gives."""
    sums = np.zeros(header.n_sig, dtype=np.int64)
    if not any(given is not None for given in header.checksum):
        return
    for at in range(0, samples, BLOCK):

        def read(wfdb: Any, at: int = at) -> Any:
            end = min(at + BLOCK, samples)
            return wfdb.rdrecord(record, sampfrom=at, sampto=end, physical=False, return_res=64).d_signal

        sums += guarded(path, read).sum(axis=0, dtype=np.int64)
    for name, own, given in zip(header.sig_name, sums.tolist(), header.checksum, strict=True):
        if given is not None and (own - given) % 65536:
            raise ValueError(
                f"{path}: the checksum of {name} is {own % 65536}, expected {given % 65536}: damaged samples"
            )
