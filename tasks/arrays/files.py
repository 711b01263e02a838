"""Which file is which table. Nothing is unpickled, and no header is believed before the file's size is looked at.

.npy    mapped into memory, not read        .csv    a line at a time
.npz    unpacked into memory, so not large  -       lines of standard input
"""

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .table import Array, Table
from .text import Csv, Live

NAMES = ("x", "y", "mask", "reset")  # of the arrays in an .npz
UNPACKED = 1 << 26  # bytes of them
SAID = 200  # characters of an error of zipfile or numpy, which may quote the whole file


def read(path: str) -> Table:
    """Return the table in a file, or on standard input for -. Raises FileNotFoundError and ValueError."""
    if path == "-":
        return Live()
    file, kinds = Path(path).expanduser(), {".npy": _npy, ".npz": _npz, ".csv": Csv, ".tsv": Csv, ".txt": Csv}
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: expected a .npy, .npz or .csv file in task.path, or - for lines")
    if file.suffix.lower() not in kinds:
        raise ValueError(f"{file} ends in {file.suffix or 'nothing'!r}, expected .npy, .npz or .csv")
    return kinds[file.suffix.lower()](file)


def _npy(path: Path) -> Table:
    """Return the table in a .npy file, which is mapped into memory, not read."""
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, str(path))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Array(f"file {path.absolute().parent.name}/{path.name}", {"": array})


def _npz(path: Path) -> Table:
    """Return the table of arrays x, y, mask and reset in an .npz file, which is unpacked into memory."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = {info.filename.removesuffix(".npy"): info for info in packed.infolist()}
            size = sum(members[name].file_size for name in NAMES if name in members)
            if "x" not in members:
                raise ValueError("it has no array x; expected x and, where there are, y, mask and reset")
            if size > UNPACKED:
                raise ValueError(f"it unpacks to {size:,} bytes, expected at most {UNPACKED:,}: a .npy may be larger")
            arrays = {name: _unpacked(packed, members[name]) for name in NAMES if name in members}
    except Exception as error:  # a damaged zip file raises what it likes, from EOFError to RuntimeError
        raise ValueError(f"{path} is no .npz file of arrays: {str(error)[:SAID]}") from error
    roles = {name.replace("y", "label"): name for name in arrays if name != "x"}
    return Array(f"file {path.absolute().parent.name}/{path.name}", arrays, roles)


def _unpacked(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of a zip file; no more of it is unpacked than the file says that there is."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is packed in an unknown way, expected numpy.savez or savez_compressed")
    with packed.open(info) as member:
        data = io.BytesIO(member.read(info.file_size))
    _check_header(data, info.file_size, info.filename)
    data.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(data, allow_pickle=False)
    return array


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    """Raise ValueError where the header of an array does not fit the `size` bytes that there are."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
    except Exception as error:  # numpy raises what it likes on a damaged header
        raise ValueError(f"{what} does not begin as numpy.save writes numbers: {str(error)[:SAID]}") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"{what} holds {dtype}, expected numbers; nothing is unpickled")
    if min(shape, default=1) < 1 or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{what} is damaged or empty: its shape is {shape} of {dtype}, its size {size:,} bytes")
