"""Sound files by soundfile: a folder with a subfolder for each class, or a table of file, start, end and label."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..arrays.table import Options
from ..arrays.text import Csv
from ..common.files import package
from .source import Found, Label, Samples, Source

LARGEST = 1 << 31  # samples of a file
SUFFIXES = (".wav", ".flac", ".ogg", ".aiff", ".aif")
NAMES: dict[str, tuple[str, ...]]
NAMES = {"file": ("file", "path", "filename", "file_name"), "start": ("start", "begin", "onset", "start_time")}
NAMES |= {"end": ("end", "stop", "offset", "end_time"), "label": ("label", "class", "category", "text")}
NAMES |= {"person": ("person", "speaker", "subject", "group", "id")}


def sounds(folder: Path) -> list[Path]:
    """Return the sound files of a folder, in subfolders too, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def by_folder(folder: Path) -> Found:
    """Return a recording for each sound file in a subfolder, of whose name its label is."""
    sources, told = list[Source](), list[str]()
    for file in sounds(folder):
        parts = file.relative_to(folder).parts
        if len(parts) < 2:
            told.append(f"{file.name} left out: it lies in no subfolder, which would be its class")
            continue
        name = "/".join(parts)
        sources.append(_source(file, name, name, name, None, None, parts[0]))
    return Found(sources, told, kind="sounds")


def by_table(table: Path, folder: Path) -> Found:
    """Return a recording for each row of a table; start and end in seconds, the whole file where they are empty."""
    own, told = Csv(table, Options(header=True)), list[str]()
    columns = {role: _column(own.columns, names) for role, names in NAMES.items()}
    for role in ("file", "label"):
        if columns[role] is None:
            raise ValueError(f"{own.name}: no column {' or '.join(NAMES[role])}, expected file, start, end, label")
    rows = list[Source]()
    for number, cells in enumerate(own.texts(), start=2):
        row = {role: "" if i is None else cells[i].strip() for role, i in columns.items()}
        where = f"{table.name}, row {number}"
        if not row["label"]:
            told.append(f"{where} left out: it has no label")
            continue
        file = _inside(folder, row["file"], where)
        begin, end = (_seconds(row[role], f"{where}, {role}") for role in ("start", "end"))
        name = (
            row["file"] if begin is end is None else f"{row['file']} {row['start'] or 0} to {row['end'] or 'its end'} s"
        )
        rows.append(_source(file, name, row["file"], row["person"] or row["file"], begin, end, row["label"]))
    return Found(rows, told, kind="sounds")


def from_bytes(name: str, person: str, data: IO[bytes], label: str) -> Source:
    """Return a recording of a sound file in memory."""
    return _source(data, name, name, person, None, None, label)


def _source(
    sound: Path | IO[bytes], name: str, file: str, person: str, begin: float | None, end: float | None, label: str
) -> Source:
    """Return the stretch of a sound file from `begin` to `end` seconds. Raises ValueError."""
    info = _guarded(sound, name, "info")
    rate = float(info.samplerate)
    if not 0 < info.frames <= LARGEST or not len(_samples(sound, name, info.frames - 1, 1)):
        raise ValueError(f"{name}: its header tells of {info.frames:,} samples, which are not there: it is cut short")
    whole = info.frames / rate
    begin, end = begin or 0.0, whole if end is None else end
    first, last = (round(min(time * rate, info.frames + 1.0)) for time in (begin, end))  # a table's may be anything
    if not 0 <= first < last <= info.frames:
        raise ValueError(f"{name}: {begin:g} to {end:g} s of {whole:g} s, expected a stretch")

    def read(start: int, stop: int) -> Samples:
        wave = _samples(sound, name, first + start, stop - start)
        if len(wave) != stop - start:
            raise ValueError(f"{name}: breaks off after {first + start + len(wave):,} samples")
        return np.asarray(wave.mean(axis=1, keepdims=True))

    return Source(name, file, person, rate, last - first, ["sound"], [Label(0.0, (last - first) / rate, label)], read)


def _samples(sound: Path | IO[bytes], name: str, start: int, count: int) -> Samples:
    """Return samples (n, channels) from one on, fewer where the file ends. Raises ValueError."""
    if not isinstance(sound, Path):
        sound.seek(0)
    wave, _ = _guarded(sound, name, "read", start=start, frames=count, dtype="float64", always_2d=True)
    return np.asarray(wave)


def _guarded(file: Path | IO[bytes], name: str, what: str, **options: Any) -> Any:
    """Return what soundfile reads. Raises ValueError that names the file."""
    soundfile = package("soundfile", "speech", "reading sound")
    try:
        return getattr(soundfile, what)(str(file) if isinstance(file, Path) else file, **options)
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{name}: no sound file that can be read ({' '.join(str(error).split())[:120]})") from error


def _column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the number of the first column of one of these names."""
    return next((i for i, column in enumerate(columns) if column.strip().lower() in names), None)


def _seconds(cell: str, where: str) -> float | None:
    """Return a time; None for an empty cell. Raises ValueError."""
    try:
        found = float(cell or 0)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise ValueError(f"{where}: got {cell[:30]!r}, expected seconds from 0 on")
    return found if cell else None


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return the file of a name. Raises ValueError where it leads out of the folder, FileNotFoundError for none."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{where}: names {name[:80]!r}, expected a file inside {folder.name}")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{where}: no file {folder / name}")
    return folder / name
