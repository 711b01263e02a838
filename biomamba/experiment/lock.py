"""One process a folder: who writes into it holds its lock, which the system lets go when the process ends."""

import fcntl
import os
import platform
import sys
import time
from pathlib import Path

LOCK = ".lock"  # a file in the folder, which names the holder
PATIENCE = 10.0  # seconds: a process that was told to stop saves first


class Lock:
    """The lock of a folder, held until `release` or the end of the process."""

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        """Take the lock, waiting for one who is about to end. Raises ValueError where another process keeps it."""
        self.file = (folder / LOCK).open("a+", encoding="utf-8")
        until, said = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (folder / LOCK).exists() and os.path.samestat(os.fstat(self.file.fileno()), (folder / LOCK).stat()):
                    break
                self.file.close()  # who held it took the file away: a lock on that keeps nobody out
                self.file = (folder / LOCK).open("a+", encoding="utf-8")
            except BlockingIOError:
                self.file.seek(0)
                holder = self.file.read(100).strip() or "another process"
                if time.monotonic() >= until:
                    self.file.close()
                    raise ValueError(
                        f"run.dir: {folder} is in use by {holder}: wait for it or stop it, or give another folder"
                    ) from None
                if not said:
                    print(f"waiting for {holder}, which uses {folder} ...", file=sys.stderr, flush=True)
                said = True
                time.sleep(0.1)
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"process {os.getpid()} on {platform.node()}\n")
        self.file.flush()

    def release(self) -> None:
        """Let the folder go."""
        self.file.close()

    def __enter__(self) -> "Lock":
        """Return the lock, held."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let the folder go."""
        self.release()
