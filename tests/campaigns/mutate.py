"""Damage: of bytes, of numbers in text, of JSON, of safetensors with a checksum that fits what was changed."""

import gzip
import io
import json
import random as randoms
import struct
import zipfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biomamba import checkpoint

Random = randoms.Random
Mutator = Callable[[Path, Random], None]

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "1e18",
    "9" * 19,
    "9" * 400,
    "0x10",
    "1_0",
    "",
    "1,5",
    "-0",
)
WORDS = (
    "null",
    "none",
    "",
    "\0",
    "\ufeff",
    "\u2028",
    '"',
    "'",
    ",,,,",
    ";",
    "[" * 3000,
    "{" * 3000,
    "../../x",
    "%n%s",
    "a" * 5000,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    -(2**63),
    10**30,
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
)
VALUES += ("", "x", "a" * 3000, "../x", [], [[]], {}, {"x": {}}, [None], [1, "a"], "NaN", "1")
PAGES = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 12345\n",
    b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>\n",
    b"",
    b"\0" * 5000,
    b"PK\x03\x04" + b"\0" * 100,
    b"\x1f\x8b\x08\x00" + b"\xff" * 50,
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"\x93NUMPY\x01\x00\xff\xff",
    b"{" * 5000,
)


def files(folder: Path) -> list[Path]:
    """Return the files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def any_bytes(folder: Path, random: Random) -> None:
    """Damage the bytes of one file, its beginning more often than the rest."""
    path = random.choice(files(folder))
    path.write_bytes(changed(path.read_bytes(), random))


def changed(data: bytes, random: Random) -> bytes:
    """Return bytes with one to three accidents."""
    own = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        own = bytearray(random.choice(ACCIDENTS)(own, random))
    return bytes(own)


def _at(own: bytearray, random: Random) -> int:
    """Return a place, half of the time among the first 512 bytes."""
    end = len(own) if random.random() < 0.5 else min(len(own), 512)
    return random.randrange(end) if end else 0


def _flip(own: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if own:
            own[_at(own, random)] ^= 1 << random.randrange(8)
    return own


def _set(own: bytearray, random: Random) -> bytearray:
    at, size = _at(own, random), random.choice((1, 2, 4, 8))
    value = random.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
    own[at : at + size] = (value % 256**size).to_bytes(size, random.choice(("little", "big")))
    return own


def _cut(own: bytearray, random: Random) -> bytearray:
    return own[: _at(own, random)]


def _delete(own: bytearray, random: Random) -> bytearray:
    at = _at(own, random)
    del own[at : at + random.choice((1, 2, 8, 100, 5000))]
    return own


def _insert(own: bytearray, random: Random) -> bytearray:
    at = _at(own, random)
    own[at:at] = random.randbytes(random.choice((1, 2, 8, 100)))
    return own


def _double(own: bytearray, random: Random) -> bytearray:
    at, to, size = _at(own, random), _at(own, random), random.choice((1, 16, 256, 4096))
    own[to:to] = own[at : at + size]
    return own


def _zero(own: bytearray, random: Random) -> bytearray:
    at = _at(own, random)
    part = own[at : at + random.choice((4, 64, 1024))]
    own[at : at + len(part)] = bytes(len(part))
    return own


def _append(own: bytearray, random: Random) -> bytearray:
    return own + random.choice((b"\n", b"\0", b"\n\n\n", random.randbytes(300), bytes(own[:4096])))


def _replace(own: bytearray, random: Random) -> bytearray:
    return bytearray(random.choice(PAGES)) if random.random() < 0.3 else own


def _number(own: bytearray, random: Random) -> bytearray:
    """Put another number in the place of one written in digits."""
    starts = [i for i in range(len(own[:4096])) if chr(own[i]).isdigit() and not (i and chr(own[i - 1]).isdigit())]
    if not starts:
        return own
    at = random.choice(starts)
    end = at
    while end < len(own) and (chr(own[end]).isdigit() or own[end] in b".eE+-"):
        end += 1
    text = random.choice(NUMBERS).encode()
    own[at:end] = text.ljust(end - at)[: end - at] if random.random() < 0.5 else text  # of the same width, as in EDF
    return own


def _word(own: bytearray, random: Random) -> bytearray:
    at = _at(own, random)
    own[at : at + random.choice((0, 1, 5))] = random.choice(WORDS).encode()
    return own


def _line(own: bytearray, random: Random) -> bytearray:
    """Take a line away, double it, or move it."""
    lines = bytes(own).splitlines(keepends=True)
    if lines:
        at = random.randrange(len(lines))
        line = lines.pop(at)
        for _ in range(random.choice((0, 1, 2, 500))):
            lines.insert(random.randrange(len(lines) + 1), line)
    return bytearray(b"".join(lines))


ACCIDENTS: Sequence[Callable[[bytearray, Random], bytearray]] = (
    _flip, _flip, _set, _set, _cut, _delete, _insert, _double, _zero, _append, _replace, _number, _number, _word, _line
)  # fmt: skip


def value(own: Any, random: Random) -> Any:
    """Return plain values with one of them another, gone, or new, nothing shared between two places."""
    own = json.loads(json.dumps(own))
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(own))
        if not places:
            return deepcopy(random.choice(VALUES))
        holder, key = random.choice(places)
        done = random.random()
        if done < 0.25 and isinstance(holder, dict):
            del holder[key]
        elif done < 0.35 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif done < 0.45 and isinstance(holder, list):
            holder.insert(key, deepcopy(random.choice((holder[key], random.choice(VALUES)))))
        elif done < 0.5:
            return deepcopy(random.choice(VALUES))
        elif isinstance(holder[key], int | float) and done < 0.75:
            holder[key] = holder[key] * random.choice((-1, 2, 0.5, 1000, 10**6)) + random.choice((0, 1, -1))
        else:
            holder[key] = deepcopy(random.choice(VALUES))
    return own


def _places(own: Any) -> Any:
    """Yield every holder and key."""
    for key in list(own) if isinstance(own, dict) else range(len(own)) if isinstance(own, list) else ():
        yield own, key
        yield from _places(own[key])


def any_json(folder: Path, random: Random) -> None:
    """Damage the values of one JSON file, or one line of it, or the bytes of any file."""
    found = [path for path in files(folder) if path.suffix in (".json", ".jsonl")]
    if not found or random.random() < 0.2:
        return any_bytes(folder, random)
    path = random.choice(found)
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        at = random.randrange(len(lines))
        lines[at] = json.dumps(value(json.loads(lines[at]), random))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(value(json.loads(path.read_text()), random)))


def tensors(folder: Path, random: Random) -> None:
    """Damage facts or tensors of a file by `checkpoint.save`, its checksum made to fit; or the bytes of any file."""
    found = [path for path in files(folder) if path.suffix == ".safetensors"]
    if random.random() < 0.25:
        return any_bytes(folder, random)
    path = random.choice(found)
    held, facts = checkpoint.load(path)
    if facts is not None and random.random() < 0.6:
        facts = value(facts, random)
    else:
        held = _tensors(held, random)
    checkpoint.save(path, held, facts)


def _tensors(held: dict[str, torch.Tensor], random: Random) -> dict[str, torch.Tensor]:
    """Return tensors with one gone, renamed, of another shape, type or value."""
    name = random.choice(sorted(held))
    own = held.pop(name)
    changes: list[Callable[[], dict[str, torch.Tensor]]] = [
        dict,
        lambda: {f"{name}.0": own},
        lambda: {name: own.reshape(-1)},
        lambda: {name: own[..., :0]} if own.ndim else {name: own},
        lambda: {name: own.double()},
        lambda: {name: own.to(torch.uint8)},
        lambda: {name: torch.full(own.shape, float("nan"))},
        lambda: {name: own.new_zeros((*own.shape, 2))},
        lambda: {name: own.new_zeros(())},
        lambda: {
            name: own,
            random.choice((f"model.{name}", "loop.x", "rng", "x", f"optimizer.99.{name}", "optimizer.x")): own,
        },
    ]
    made = held | random.choice(changes)()
    return {name: tensor.clone() for name, tensor in made.items()}  # no two in one memory


def header(folder: Path, random: Random) -> None:
    """Damage the header of a safetensors file, its length made to fit; or any JSON; or any bytes."""
    found = [path for path in files(folder) if path.suffix == ".safetensors"]
    if random.random() < 0.5:
        return any_json(folder, random)
    path = random.choice(found)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(value(json.loads(data[8 : 8 + size]), random)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def packed(folder: Path, random: Random) -> None:
    """Damage what a gzip or zip file holds, and pack it again; or the bytes of any file."""
    path = random.choice(files(folder))
    if random.random() < 0.4 or path.suffix not in (".gz", ".npz"):
        return any_bytes(folder, random)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(changed(gzip.decompress(path.read_bytes()), random)))
        return
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = random.choice(sorted(members))
    members[name] = random.choice((changed, _array))(members[name], random)
    with zipfile.ZipFile(path, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for name, data in members.items():
            new.writestr(name, data)


def array(folder: Path, random: Random) -> None:
    """Put another array in the place of one, or damage the bytes of any file."""
    path = random.choice(files(folder))
    if path.suffix != ".npy" or random.random() < 0.5:
        return any_bytes(folder, random)
    path.write_bytes(_array(path.read_bytes(), random))


def _array(data: bytes, random: Random) -> bytes:
    """Return an array of another shape or type, as numpy writes it."""
    own = np.load(io.BytesIO(data), allow_pickle=False)
    if own.dtype.kind == "U":
        own = own.astype("S")
    made = random.choice([
        own.reshape(-1), own[None], own.T, own[:0], own.astype(np.complex128) if own.dtype.kind == "f" else own,
        np.zeros(()), np.full(own.shape, np.nan), np.full(own.shape, 1e300), own.astype("S8"), np.zeros((3, 20_000)),
        np.zeros(own.shape, np.int64) - 2**62, np.zeros(own.shape, bool), np.zeros(9, "M8[s]"), np.zeros(5, "V8"),
    ])  # fmt: skip
    file = io.BytesIO()
    np.save(file, made, allow_pickle=False)
    return file.getvalue()
