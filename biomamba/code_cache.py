"""Machine code kept from process to process, in the user's cache folder: XDG_CACHE_HOME/biomamba, by default ~/.cache.

    home/KIND/VERSION/FILE      KIND: kernels or graphs; VERSION: of the sources, the compiler and the processor

What no process has used for a month is removed, a file or a version. Where nothing can be written, nothing is kept.
"""

import functools
import hashlib
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from .durable import replacing

MONTH = 30 * 24 * 3600  # seconds


def home(kind: str) -> Path:
    """Return where code of a kind is kept, of every version."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "biomamba", kind)


def folder(kind: str, version: str) -> Path:
    """Return the folder of a version, marked as used; what is old beside and in it is removed, once in a process."""
    own = home(kind) / version
    _tidy(own)
    return own


@functools.cache
def _tidy(own: Path) -> None:
    """Mark a folder as used, and remove what is old beside and in it."""
    now = time.time()
    try:
        own.mkdir(parents=True, exist_ok=True)
        use(own)
        for other in (*own.parent.iterdir(), *own.iterdir()):
            if now - other.stat().st_mtime > MONTH:
                shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)
    except OSError:  # no home that can be written, or another process removed it
        pass


def use(path: Path) -> None:
    """Mark a file or a folder as used; nothing where that is not possible."""
    with suppress(OSError):
        os.utime(path)


def version(sources: list[Path], *facts: object) -> str:
    """Return the name of a version: a digest of sources and facts."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + repr(facts).encode()).hexdigest()[:16]


def keep(file: Path, code: bytes) -> None:
    """Write the file, so that no reader sees half of it; nothing where it cannot be written."""
    with suppress(OSError), replacing(file) as beside:  # where not, the next process compiles again
        beside.write_bytes(code)
