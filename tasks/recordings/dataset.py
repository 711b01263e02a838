"""A Hugging Face data set as `save_to_disk` leaves it: a column of sound or of sequences, and one of labels.

Nothing is downloaded and no code of a data set is run: it is read from its folder, sound through soundfile.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.cells import class_name
from ..common.files import package
from .sound import from_bytes
from .source import Found, Label, Samples, Source, Wanted, choose, listed

LABELS, PEOPLE = (
    ("label", "labels", "class", "intent", "target"),
    ("speaker_id", "speaker", "person", "subject", "client_id"),
)
MARKS = ("dataset_info.json", "dataset_dict.json", "state.json")  # of a folder that holds one


def by_dataset(folder: Path, wanted: Wanted) -> Found:
    """Return a recording for each row; its split is the data set's own where it has train and test."""
    datasets = package("datasets", "lm", "reading a data set of Hugging Face")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow and datasets raise what they like on a damaged folder
        raise ValueError(f"{folder}: is no data set ({' '.join(str(error).split())[:120]})") from error
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    used = {name: part for name, part in parts.items() if name in ("", "train", "test")} or parts
    told = [f"{folder.name}: split {name} left out, {len(parts[name]):,} rows" for name in parts if name not in used]
    both = used.keys() == {"train", "test"}
    sources = list[Source]()
    for name, part in used.items():
        sources += _rows(f"{folder.name}{name and f', {name}'}", part, wanted, name if both else None, datasets)
    left = sum(not own.labels[0].text for own in sources)
    told += [f"{folder.name}: {left:,} rows left out: they have no label"] if left else []
    is_sound = bool(sources) and sources[0].channels == ["sound"]
    return Found([own for own in sources if own.labels[0].text], told, "sounds" if is_sound else "windows")


def _rows(where: str, part: Any, wanted: Wanted, split: str | None, datasets: Any) -> list[Source]:
    """Return the recordings of one split. Raises ValueError where no column fits."""
    features, names = part.features, [*wanted.columns, *[""] * (3 - len(wanted.columns))]
    audio = [name for name, kind in features.items() if isinstance(kind, datasets.Audio)]
    lists = [name for name, kind in features.items() if isinstance(kind, datasets.List | datasets.LargeList)]
    try:
        part.data.table.validate(full=True)  # else damaged offsets are followed wherever they lead
    except Exception as error:
        raise ValueError(f"{where}: is damaged ({' '.join(str(error).split())[:120]}): save it anew") from error
    column = names[0] or next(iter([*audio, *lists]), "")
    label = names[1] or next((name for name in LABELS if name in features), "")
    person = names[2] or next((name for name in PEOPLE if name in features), "")
    for name, what in ((column, "of sound or sequences"), (label, "of labels")):
        if name not in features:
            raise ValueError(f"{where}: no column {name or what}, expected one of {listed(features)}: --task.columns")
    if column in audio:
        part = part.cast_column(column, datasets.Audio(decode=False))
    texts, people = _texts(part, label), _texts(part, person) if person in features else []
    rows = list[Source]()
    for i in range(len(part)):
        name = f"{where}, row {i}"
        who = f"{person} {people[i]}" if people else name
        open_one = _sound if column in audio else _sequence
        rows.append(open_one(part, i, column, name, who, texts[i], wanted)._replace(split=split))
    return rows


def _sound(part: Any, i: int, column: str, name: str, who: str, label: str, wanted: Wanted) -> Source:
    """Return the sound of a row, whose bytes are read again when they are asked for."""
    source = from_bytes(name, who, _bytes(part, i, column, name), label)

    def read(first: int, last: int) -> Samples:
        return from_bytes(name, who, _bytes(part, i, column, name), label).read(first, last)

    return source._replace(read=read)


def _cell(part: Any, i: int, column: str, name: str) -> Any:
    """Return a cell of a row. Raises ValueError where its file is damaged."""
    try:
        return part[i][column]
    except Exception as error:  # as above
        raise ValueError(f"{name}: cannot be read ({' '.join(str(error).split())[:120]})") from error


def _bytes(part: Any, i: int, column: str, name: str) -> io.BytesIO:
    """Return the sound file of a row. Raises ValueError where it is not in the data set itself."""
    held = _cell(part, i, column, name)
    if not held or held.get("bytes") is None:
        raise ValueError(f"{name}: its sound is not in the data set, expected bytes: save it with embedded files")
    return io.BytesIO(held["bytes"])


def _sequence(part: Any, i: int, column: str, name: str, who: str, label: str, wanted: Wanted) -> Source:
    """Return the sequence of a row: numbers (t,), or lists of them (t, c)."""

    def whole() -> Samples:
        try:
            values = np.asarray(_cell(part, i, column, name), dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {column} holds no sequence of numbers: {error}") from error
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or not len(values):
            raise ValueError(f"{name}: {column} has the shape {values.shape}, expected (time,) or (time, channels)")
        return values

    shape = whole().shape
    names = [str(channel) for channel in range(shape[1])]
    chosen = choose(names, wanted.channels, name)

    def read(first: int, last: int) -> Samples:
        return whole()[first:last][:, chosen]

    return Source(
        name, name, who, 1.0, shape[0], [names[c] for c in chosen], [Label(0.0, float(shape[0]), label)], read
    )


def _texts(part: Any, column: str) -> Sequence[str]:
    """Return a column as text, by the names of its classes where it has any."""
    try:
        kind, cells = part.features[column], list(part[column])
    except Exception as error:  # as above
        raise ValueError(f"column {column}: cannot be read ({' '.join(str(error).split())[:120]})") from error
    if hasattr(kind, "int2str"):
        return ["" if cell is None or cell < 0 else kind.int2str(cell) for cell in cells]
    return ["" if cell is None else class_name(str(cell)) for cell in cells]
