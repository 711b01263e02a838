"""The run that a new one takes the place of: kept aside until the new one has saved itself.

begin: files -> folder/.replaced        first checkpoint: .replaced is removed        failed start: .replaced -> files
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

ASIDE = ".replaced"  # a folder in the run's


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Move a run's files aside."""
    aside = folder / ASIDE
    aside.mkdir(exist_ok=True)
    for name in names:
        if (folder / name).exists():
            (folder / name).replace(aside / name)


def put_back(folder: Path, names: Iterable[str]) -> None:
    """Move a run's files back where a new one left no checkpoint, over what it did leave; nothing where none are."""
    aside = folder / ASIDE
    if not _is_own(aside):
        return
    if not (folder / "checkpoint.safetensors").exists():
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if (aside / name).exists():
                (aside / name).replace(folder / name)
    remove(folder)


def remove(folder: Path) -> None:
    """Give up the run that was replaced."""
    if _is_own(folder / ASIDE):
        shutil.rmtree(folder / ASIDE)


def _is_own(aside: Path) -> bool:
    """Say whether there is such a folder, which is no link to a user's."""
    return aside.is_dir() and not aside.is_symlink()
