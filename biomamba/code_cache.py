"""Machine code kept from process to process, in the user's cache folder: XDG_CACHE_HOME/biomamba, by default ~/.cache.

    home/KIND/VERSION/FILE      KIND: kernels or graphs; VERSION: of the sources, the compiler and the processor

A version that no process has used for a month is removed. Where nothing can be written, nothing is kept.
"""

import hashlib
import os
import shutil
import time
from pathlib import Path

from .durable import replacing

MONTH = 30 * 24 * 3600  # seconds


def home(kind: str) -> Path:
    """Return where code of a kind is kept, of every version."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "biomamba", kind)


def folder(kind: str, version: str) -> Path:
    """Return the folder of a version, marked as used, after a look at those of others."""
    own, now = home(kind) / version, time.time()
    try:
        own.mkdir(parents=True, exist_ok=True)
        os.utime(own)
        for other in own.parent.iterdir():
            if other != own and now - other.stat().st_mtime > MONTH:
                shutil.rmtree(other, ignore_errors=True)
    except OSError:  # no home that can be written
        pass
    return own


def version(sources: list[Path], *facts: object) -> str:
    """Return the name of a version: a digest of sources and facts."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + repr(facts).encode()).hexdigest()[:16]


def keep(file: Path, code: bytes) -> None:
    """Write the file, so that no reader sees half of it; nothing where it cannot be written."""
    try:
        with replacing(file) as beside:
            beside.write_bytes(code)
    except OSError:
        pass  # the next process compiles again
