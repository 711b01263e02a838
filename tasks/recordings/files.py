"""Which kind of recordings a folder or a file holds; one kind at a time.

*.edf, *.bdf     by their annotations         *.csv, *.tsv     sound files by a table: file, start, end, label
*.hea            WFDB records, by theirs      *.npz, x.npy     windows (n, time, channels)
CLASS/*.wav      sound files by folder        state.json       a data set of Hugging Face
"""

from collections.abc import Callable
from pathlib import Path

from . import dataset, sound, windows
from .edf import open_edf
from .source import Found, Source, Wanted, listed
from .wfdb import open_record

MOST = 100_000  # files
TABLES = (".csv", ".tsv", ".txt")
Open = Callable[[Path, str, Wanted, list[str]], Source]
RECORDS: dict[str, Open] = {".edf": open_edf, ".bdf": open_edf, ".hea": open_record}
KINDS = "EDF, BDF, WFDB (.hea), WAV or FLAC in a folder a class, a .csv of file, start, end, label, .npz, x.npy, or a "
KINDS += "data set saved to disk"


def find(path: str, wanted: Wanted) -> Found:
    """Return the recordings in a file or folder. Raises FileNotFoundError and ValueError, naming the file."""
    given = Path(path).expanduser()
    if given.is_file():
        suffix = given.suffix.lower()
        if suffix in RECORDS:
            return _records([given], given.parent, wanted)
        if suffix in TABLES:
            return sound.by_table(given, given.parent)
        if suffix == ".npz":
            return windows.by_npz(given, wanted)
        raise ValueError(f"task.path: {given} ends in {suffix or 'nothing'!r}, expected {KINDS}")
    if not given.is_dir():
        raise FileNotFoundError(f"task.path: no file or folder {given}, expected {KINDS}")
    if any((given / mark).is_file() for mark in dataset.MARKS):
        return dataset.by_dataset(given, wanted)
    if (given / "x.npy").is_file():
        return windows.by_npy(given, wanted)
    found = {suffix: sorted(given.rglob(f"*{suffix}"))[:MOST] for suffix in RECORDS}
    kinds = [suffix for suffix, files in found.items() if files]
    if kinds:
        return _records(sorted(file for suffix in kinds for file in found[suffix]), given, wanted)
    tables = [file for file in sorted(given.iterdir()) if file.suffix.lower() in TABLES[:2]]
    if len(tables) == 1 and sound.sounds(given):
        return sound.by_table(tables[0], given)
    if sound.sounds(given):
        return sound.by_folder(given)
    packed = sorted(given.glob("*.npz"))
    if len(packed) == 1:
        return windows.by_npz(packed[0], wanted)
    held = listed(sorted({own.suffix or own.name for own in given.iterdir()})) or "nothing"
    raise ValueError(f"task.path: folder {given} holds {held}, expected {KINDS}")


def _records(files: list[Path], folder: Path, wanted: Wanted) -> Found:
    """Return the recordings of EDF, BDF or WFDB files."""
    told = list[str]()
    sources = [RECORDS[f.suffix.lower()](f, str(f.relative_to(folder)), wanted, told) for f in files]
    return Found(sources, told)
