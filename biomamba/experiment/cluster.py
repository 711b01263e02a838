"""Commands as jobs of a cluster's scheduler, by submitit: Slurm where there is one, else processes of this machine.

The command's folder must be one that all machines see, and Python and biomamba the same on all.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import jobs

DAY = 24 * 60  # minutes: what a job may take where nothing else is asked for


class Cluster:
    """Where jobs go."""

    def __init__(self, folder: Path, threads: int, options: Mapping[str, Any]) -> None:
        """Take the folder for what submitit keeps, threads of a job, and further options as submitit names them.

        Raises ImportError without submitit, ValueError for options that it does not have.
        """
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                'launcher submitit needs the package submitit: pip install "biomamba[submitit]"'
            ) from error
        self.executor = submitit.AutoExecutor(folder=folder)
        usual = {"name": "biomamba", "timeout_min": DAY, "cpus_per_task": threads}
        try:
            self.executor.update_parameters(**usual | dict(options))
        except (NameError, TypeError, ValueError) as error:  # NameError: its word for an option it does not know
            raise ValueError(f"launcher_options: {str(error).splitlines()[0]}") from error

    def launch(self, command: Sequence[str], words: Path) -> "ClusterJob":
        """Submit a command, what it says going to a file."""
        words.unlink(missing_ok=True)
        return ClusterJob(self.executor.submit(run, list(command), str(words)), words)


class ClusterJob:
    """A command that was submitted."""

    def __init__(self, job: Any, words: Path) -> None:
        """Take submitit's job."""
        self.job, self.words = job, words

    def poll(self) -> int | None:
        """Return its exit code; None while it waits or runs. Where the job itself failed, its file says why."""
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return int(self.job.result())
        with self.words.open("a", encoding="utf-8") as file:
            file.write(f"job {self.job.job_id}: {' '.join(str(error).split())[-500:]}\n")
        return 1

    def terminate(self) -> None:
        """Cancel it."""
        self.job.cancel(check=False)

    def wait(self) -> int:
        """Return its exit code, once it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.1)
        return code


def run(command: Sequence[str], words: str) -> int:
    """Run a command to its end, wherever the scheduler put us; it stops, once it has saved, where we are stopped."""
    return jobs.start(command, Path(words)).wait()  # it sees by itself that we are gone: see jobs.stop_with_parent
