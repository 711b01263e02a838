"""Files that are whole at every moment: written aside, and put in place when all of it is on the disk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEVICES, MEMORY = Path("/dev"), Path("/dev/shm")  # noqa: S108 - a file system, of files as any other
ASIDE = ".biomamba-"  # folders of our own, in which a file is written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write; what was written then takes the place of `path`, the old file or the new at any moment.

    It is written in a folder of its own, so that no file beside it is touched and no link is followed. Where writing
    fails nothing has changed. A device or a pipe, such as /dev/stdout, is written into as it is.
    """
    parents = path.absolute().parents
    if (path.exists() and not path.is_file()) or (DEVICES in parents and MEMORY not in parents):
        yield path
        return
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path.parent))
    try:
        beside = aside / path.name
        beside.touch()
        mode = beside.stat().st_mode  # the usual permissions, which not every library gives
        yield beside
        beside.chmod(mode)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove what was being written when a process was killed; to be called where nobody else writes."""
    for left in folder.glob(f"{ASIDE}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _sync(folder: Path) -> None:
    """See that a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
