"""Where the data lies: the folder that was named, else one under BIOMAMBA_DATA, else one fetched, else none.

Packages that only one kind of file needs are imported where they are used, through `package`.
"""

import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CACHE = Path("~/.cache/biomamba")  # what was fetched, one folder per data set
PATIENCE = 5.0  # seconds for a host to answer


def check_split(split: str, splits: Iterable[str]) -> None:
    """Raise ValueError for a split that there is not."""
    if split not in splits:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(splits)}")


def locate(name: str, path: str | None, holds: str, host: str, fetch: Callable[[Path], None]) -> Path | None:
    """Return the folder of a data set, or None where it is not to be had and has to be simulated.

    name: of the folder under BIOMAMBA_DATA and of the one it is fetched to. path: a folder that was named.
    holds: pattern of a file that the folder must hold. fetch: downloads from `host` into the folder it is given.
    Raises FileNotFoundError where a folder that was named is not there or holds no such file.
    """
    if path is not None:
        return _holding(Path(path).expanduser(), holds, "task.path")
    root = os.environ.get("BIOMAMBA_DATA")
    if root and (Path(root) / name).is_dir():
        return _holding(Path(root) / name, holds, "BIOMAMBA_DATA")
    cached = CACHE.expanduser() / name
    if (cached / ".whole").exists():
        return _holding(cached, holds, "the cache")
    if not _answers(host):
        return None
    cached.mkdir(parents=True, exist_ok=True)
    print(f"fetching {name} from {host} to {cached} ...", file=sys.stderr, flush=True)
    fetch(cached)
    (cached / ".whole").touch()
    return _holding(cached, holds, "the cache")


def package(name: str, extra: str, reason: str) -> Any:
    """Return a module. Raises ImportError with the line that installs it."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # torchaudio beside a torch it was not built for: all three
        raise ImportError(
            f"{reason} needs the package {name.partition('.')[0]}, which does not import here "
            f'({type(error).__name__}): pip install "biomamba[{extra}]"'
        ) from error


def _holding(folder: Path, holds: str, what: str) -> Path:
    """Return the folder. Raises FileNotFoundError where it holds no file of the pattern."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: no folder {folder}, expected one that holds {holds}")
    if next(folder.glob(holds), None) is None:
        raise FileNotFoundError(f"{what}: folder {folder} holds no {holds}: give the folder of the data itself")
    return folder


def _answers(host: str) -> bool:
    """Return whether a host can be reached."""
    try:
        socket.create_connection((host, 443), PATIENCE).close()
    except OSError:
        return False
    return True
