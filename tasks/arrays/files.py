"""Which file is which table. Nothing is unpickled, and no header is believed before the file's size is looked at.

.npy    mapped into memory, not read        .csv, .csv.gz   a line at a time
.npz    unpacked into memory, so not large  .parquet        a group of rows at a time
                                            -               lines of standard input
"""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .parquet import Parquet
from .table import Array, Options, Table
from .text import Csv, Live

NAMES = ("x", "y", "mask", "reset")  # of the arrays in an .npz
UNPACKED = 1 << 26  # bytes of them
SAID = 200  # characters of an error of zipfile or numpy, which may quote the whole file
WIDE = 100  # columns of a file of lines; with more of them than rows it is taken for (channels, time)
LINES = (".csv", ".tsv", ".txt")
KNOWN = ".npy, .npz or .csv (or .csv.gz, .parquet)"


def read(path: str, options: Options = Options()) -> Table:  # noqa: B008 - a tuple
    """Return the table in a file, or on standard input for -. Raises FileNotFoundError and ValueError."""
    if path == "-":
        return Live(options)
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: expected a .npy, .npz or .csv file in task.path, or - for lines")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    last = suffixes[-2] if suffixes[-1:] == [".gz"] and suffixes[:-1] else (suffixes or [""])[-1]
    if last in LINES:
        return _lines(file, options)
    kinds = {".npy": _npy, ".npz": _npz, ".parquet": Parquet, ".pq": Parquet}
    if last not in kinds or suffixes[-1] == ".gz":
        raise ValueError(f"{file} ends in {file.suffix or 'nothing'!r}, expected {KNOWN}")
    return kinds[last](file, options)


def _lines(path: Path, options: Options) -> Table:
    """Return the table in a file of lines."""
    table = Csv(path, options)
    if options.time_axis == 1:
        raise ValueError(f"{table.name}: --task.time_axis 1 reads arrays alone: save it with numpy.save, or turn it")
    if options.time_axis is None and len(table.columns) > max(WIDE, table.count()):
        raise ValueError(
            f"{table.name}: {table.count():,} rows of {len(table.columns):,} columns, expected a line for each time "
            "step: it looks like (channels, time): turn it, or give --task.time_axis 0"
        )
    return table


def _npy(path: Path, options: Options) -> Table:
    """Return the table in a .npy file."""
    return Array(f"file {path.absolute().parent.name}/{path.name}", {"": load_npy(path)}, None, options)


def _npz(path: Path, options: Options) -> Table:
    """Return the table of arrays x, y, mask and reset in an .npz file."""
    arrays = load_npz(path, NAMES, words=("y",))
    roles = {name.replace("y", "label"): name for name in arrays if name != "x"}
    return Array(f"file {path.absolute().parent.name}/{path.name}", arrays, roles, options)


def load_npy(path: Path, words: bool = False) -> NDArray[Any]:
    """Return an array, mapped into memory, not read; of numbers, or of words too. Raises ValueError."""
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, str(path), "biufUS" if words else "biuf")
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def load_npz(path: Path, names: Sequence[str], words: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return those arrays of `names` that an .npz file has, of which x is one, unpacked into memory.

    words: the names of those that may hold words. Raises ValueError.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            members = {info.filename.removesuffix(".npy"): info for info in packed.infolist()}
            size = sum(members[name].file_size for name in names if name in members)
            if "x" not in members:
                raise ValueError("it has no array x; expected x and, where there are, y, mask and reset")
            if size > UNPACKED:
                raise ValueError(f"it unpacks to {size:,} bytes, expected at most {UNPACKED:,}: a .npy may be larger")
            return {name: _unpacked(packed, members[name], name in words) for name in names if name in members}
    except Exception as error:  # a damaged zip file raises what it likes, from EOFError to RuntimeError
        raise ValueError(f"{path} is no .npz file of arrays: {str(error)[:SAID]}") from error


def _unpacked(packed: zipfile.ZipFile, info: zipfile.ZipInfo, words: bool) -> NDArray[Any]:
    """Return an array of a zip file; no more of it is unpacked than the file says that there is."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is packed in an unknown way, expected numpy.savez or savez_compressed")
    with packed.open(info) as member:
        data = io.BytesIO(member.read(info.file_size))
    _check_header(data, info.file_size, info.filename, "biufUS" if words else "biuf")
    data.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(data, allow_pickle=False)
    return array


def _check_header(file: IO[bytes], size: int, what: str, kinds: str) -> None:
    """Raise ValueError where the header of an array does not fit the `size` bytes that there are."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
    except Exception as error:  # numpy raises what it likes on a damaged header
        raise ValueError(f"{what} does not begin as numpy.save writes numbers: {str(error)[:SAID]}") from error
    if dtype.kind not in kinds:
        raise ValueError(f"{what} holds {dtype}, expected numbers; nothing is unpickled")
    if min(shape, default=1) < 1 or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{what} is damaged or empty: its shape is {shape} of {dtype}, its size {size:,} bytes")
