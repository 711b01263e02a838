"""The files of a checkpoint, looked at before they are believed: config.json, and the headers of *.safetensors.

    8 bytes: size of the header, little end first  |  header: JSON of {name: dtype, shape, data_offsets}  |  data

Nothing is unpickled, nothing is downloaded, and no memory is asked for that the files do not fill.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of the numbers that weights are kept in
HEADER = 100_000_000  # bytes that a header may have, as in safetensors itself


class Entry(NamedTuple):
    """Where a tensor lies."""

    path: Path
    name: str  # in that file
    shape: tuple[int, ...]


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json, infinities in whatever spelling as floats. Raises FileNotFoundError and ValueError."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no config.json in {folder}: give a local folder with it and *.safetensors (nothing is downloaded)"
        )
    spelled = "__float__"  # as newer versions of transformers write what JSON lacks
    read = _json(path, lambda found: float(found[spelled]) if set(found) == {spelled} else found)
    if not isinstance(read, dict):
        raise ValueError(f"{path}: got a {type(read).__name__}, expected an object of settings")
    return read


def entries(folder: Path) -> dict[str, Entry]:
    """Return every tensor of the folder's safetensors by name, none of them read. Raises as `files` and `header` do."""
    found: dict[str, Entry] = {}
    for path in files(folder):
        for name, shape in header(path).items():
            if name in found:
                raise ValueError(
                    f"{path}: {name} is in an earlier file too: keep one set of *.safetensors in the folder"
                )
            found[name] = Entry(path, name, shape)
    return found


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's tensors by name. Raises ValueError where its header does not fit its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begins = file.read(8)
        if begins == b"version ":  # of a text
            raise ValueError(
                f"{path}: got a Git LFS pointer of {size} bytes, expected weights: git lfs pull in its folder"
            )
        length = int.from_bytes(begins, "little")
        if len(begins) < 8 or length > min(size - 8, HEADER):
            raise _damaged(path, f"it has {size:,} bytes, its header asks for {length:,}")
        try:
            told = json.loads(file.read(length))
            if not isinstance(told, dict):
                raise ValueError(f"a {type(told).__name__}")
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"its header is no JSON object: {str(error)[:80]}") from error
    told.pop("__metadata__", None)
    return {name: _shape(path, name, entry, size - 8 - length) for name, entry in told.items()}


def _shape(path: Path, name: str, entry: Any, room: int) -> tuple[int, ...]:
    """Return the shape of a tensor whose header entry fits its file."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not all(type(number) is int and 0 <= number <= 2**62 for number in numbers) or not isinstance(kind, str):
            raise TypeError
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the header says of {name} {str(entry)[:80]}") from error
    if kind not in BYTES:
        raise ValueError(f"{path}: {name} is of {kind}, expected one of {', '.join(BYTES)}: convert the weights to F32")
    if not begin <= end <= room or end - begin != math.prod(shape) * BYTES[kind]:
        raise _damaged(
            path, f"{name} of {kind} and {tuple(shape)} is said to lie from {begin} to {end} of {room} bytes"
        )
    return tuple(shape)


def files(folder: Path) -> list[Path]:
    """Return the files to read: model.safetensors, else those of the index, else all *.safetensors.

    Raises FileNotFoundError where there is none, ValueError for pickle and for an index that is none.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted({str(name) for name in _json(index)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index}: got no weight_map of files by tensor, expected one: copy it again") from error
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise FileNotFoundError(f"{index} names {name}, which is not in {folder}: copy every part there")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path for ending in ("*.bin", "*.pt", "*.pth") for path in folder.glob(ending))
    if not pickled:
        raise FileNotFoundError(f"no *.safetensors in {folder}: copy the weights beside config.json")
    raise ValueError(
        f"{folder}: got {', '.join(path.name for path in pickled)}, which is pickle and is not read; expected "
        '*.safetensors. To convert, in that folder: python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load('{pickled[0].name}', map_location='cpu', weights_only=True); "
        "save_file({k: v.contiguous().clone() for k, v in w.items()}, 'model.safetensors')\""
    )


def _json(path: Path, hook: Any = None) -> Any:
    """Return what a JSON file holds. Raises ValueError, one line that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({str(error)[:80]}): copy it again from where it came") from error


def _damaged(path: Path, why: str) -> ValueError:
    """Return the error for a file that is not whole."""
    return ValueError(f"{path} is damaged or cut short ({why}): copy it again from where it came")
