"""A text as what a learner did not foresee of it: the prequential score, made a file that comes back.

    predict (b, 256)  ->  the byte that came, coded by its probability  ->  learn          as `online` does

The decoder predicts and learns in the same way, so it needs no weights. It works where arithmetic is the same to the
bit: on this machine, with these versions and this number of threads, which the file names.
"""

import json
import platform
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..coder import Decoder, Encoder, shares
from ..learner import Learner
from ..ops.backend import resolve
from ..stream import Chunk
from . import schedule
from .build import build_learner, task_of
from .config import FREE, Config, flatten, from_values, to_dict
from .files import CONFIGS
from .parse import parse

MAGIC = b"biomamba text 1\n"
LONGEST = 1 << 20  # bytes of a header
Shares = NDArray[np.int64]


def compress(data: bytes, config: Config) -> bytes:
    """Return the text compressed by the learner that the config names.

    Raises ValueError for one with a window or averaged weights, and for a schedule that does not fit the text.
    """
    encoder, symbols = Encoder(), _laid(data, config.stream.batch)

    def write(at: int, begins: Callable[[NDArray[Any]], Shares], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        new = symbols[:, at : at + known.shape[1]]
        for s, every in enumerate(np.moveaxis(begins(new), 1, 0)):
            for i in np.flatnonzero(known[:, s]):
                symbol = int(new[i, s])
                encoder.write(int(every[i, symbol]), int(every[i, symbol + 1]))
        return new

    _learn(config, len(data), write)
    facts = {"bytes": len(data), "crc": zlib.crc32(data), "config": _needed(config), "machine": machine(config)}
    header = zlib.compress(json.dumps(facts, separators=(",", ":")).encode(), 9)
    return MAGIC + len(header).to_bytes(4, "big") + header + encoder.finish()


def decompress(file: bytes) -> bytes:
    """Return the text. Raises ValueError for what is no such file, was made elsewhere, or comes back otherwise."""
    facts, code = opened(file)
    config = _restored(facts["config"])
    here = machine(config)
    for name, theirs in facts["machine"].items():
        if here.get(name) != theirs:
            raise ValueError(
                f"{name}: the file was made with {theirs}, here is {here.get(name)}: decompress where it was made"
            )
    decoder, parts = Decoder(code), list[NDArray[np.uint8]]()

    def read(at: int, begins: Callable[[NDArray[Any]], Shares], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        new = np.zeros(known.shape, np.uint8)
        for s in range(known.shape[1]):  # a byte is known only when those before it have been read
            every = begins(new)[:, s]
            for i in np.flatnonzero(known[:, s]):
                new[i, s] = decoder.read(every[i])
        parts.append(new)
        return new

    _learn(config, facts["bytes"], read)
    data = np.concatenate(parts, axis=1).tobytes()[: facts["bytes"]] if parts else b""
    if zlib.crc32(data) != facts["crc"]:
        raise ValueError("the text that came back has another checksum: the file is damaged, or this machine differs")
    return data


def opened(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what a file says of itself, and the code. Raises ValueError for what is no such file."""
    rest = file.removeprefix(MAGIC)
    size = int.from_bytes(rest[:4], "big")
    try:
        if rest == file or len(rest) < 4 + size:
            raise ValueError
        unpacked = zlib.decompressobj()
        facts = json.loads(unpacked.decompress(rest[4 : 4 + size], LONGEST))
        most = 70_000 * 8 * len(rest)  # the least that a byte costs is 1 / 70,000 of a bit
        if not 0 < facts["bytes"] < most or not isinstance(facts["config"], dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ValueError("is no text that biomamba compressed: give one that `biomamba compress` wrote") from error
    return facts, rest[4 + size :]


def machine(config: Config) -> dict[str, Any]:
    """Return what the bits of a prediction may depend on."""
    return {
        "biomamba": __version__,
        "torch": torch.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "backend": resolve(config.run.backend, torch.device(config.run.device).type),
        "threads": config.run.threads or torch.get_num_threads(),
    }


def _usual() -> dict[str, Any]:
    """Return the packaged configuration `language`, key by key."""
    return flatten(to_dict(parse(["--config", str(CONFIGS / "language.yaml")]).config))


def _needed(config: Config) -> dict[str, Any]:
    """Return what changes a prediction: where it is not as in `_usual`, and under "without" the keys it lacks."""
    usual, own = _usual(), flatten(to_dict(config))
    left_out = FREE - {"run.threads"}
    changed = {key: own[key] for key in own if key not in left_out and (key not in usual or own[key] != usual[key])}
    lacking = [key for key in usual if key not in own]
    return changed | ({"without": lacking} if lacking else {})


def _restored(changed: dict[str, Any]) -> Config:
    """Return the config of which `_needed` gives that."""
    lacking = changed.pop("without", [])
    return from_values({key: value for key, value in (_usual() | changed).items() if key not in lacking})


def _laid(data: bytes, batch: int) -> NDArray[np.uint8]:
    """Return the text in `batch` streams of equal length, zeros at the end of the last ones."""
    steps = -(-len(data) // batch)
    symbols = np.zeros(batch * steps, np.uint8)
    symbols[: len(data)] = np.frombuffer(data, np.uint8)
    return symbols.reshape(batch, steps)


def _learn(config: Config, size: int, code: Callable[..., NDArray[np.uint8]]) -> None:
    """Predict, have the bytes of a chunk coded or read, and learn, from the first chunk to the last."""
    if config.rule.window is not None:
        raise ValueError(f"rule.window: got {config.rule.window}, expected null: windows are not compressed with")
    if config.optim.average is not None:
        raise ValueError(f"optim.average: got {config.optim.average:g}, expected null: the weights that learn predict")
    task = task_of(config)
    learner = build_learner(config, task)
    if (learner.model.encoder.weight.shape[0], task.spec.d_out) != (256, 256):
        raise ValueError(f"task.name: got {config.task.name}, expected a task of bytes: give language")
    batch, length = config.stream.batch, config.stream.length
    steps = -(-size // batch)
    schedule.check(config.optim, max(steps, 1))
    known = np.arange(batch * steps).reshape(batch, steps) < size
    before = np.zeros((batch, 1), np.int64)
    for at in tqdm(range(0, steps, length), disable=None, unit="chunks"):
        here = known[:, at : at + length]

        def begins(new: NDArray[Any], before: NDArray[np.int64] = before) -> Shares:
            return _shares(learner, torch.from_numpy(np.concatenate([before, new[:, :-1]], 1)))

        new = code(at, begins, here).astype(np.int64)
        x = torch.from_numpy(np.concatenate([before, new[:, :-1]], 1))
        mask = torch.from_numpy(here.copy())
        schedule.set_rates(learner.optimizer, schedule.rate(config.optim, at, steps, length))
        learner.update(Chunk(x, torch.from_numpy(new), mask, torch.zeros_like(mask)))
        before = new[:, -1:]


def _shares(learner: Learner, x: Tensor) -> Shares:
    """Return the shares of the next byte at every step (b, t, 257), predicted without learning."""
    none = torch.zeros(x.shape, dtype=torch.bool)
    return shares(torch.softmax(learner.peek(Chunk(x, x, none, none)).double(), -1).numpy())
