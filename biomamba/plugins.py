"""What is found by name: what the library has, and what installed packages add by entry points.

    [project.entry-points."biomamba.rules"]        # or biomamba.tasks, biomamba.blocks; in their pyproject.toml
    theirs = "their_package:TheirRule"

Nothing of a package is imported before its name is asked for.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Tasks, blocks or rules by name."""

    def __init__(self, group: str, own: Mapping[str, T], base: type | None = None) -> None:
        """Take the library's own; those of packages are found in the entry-point group.

        base: class that each must inherit from.
        """
        self.group, self.own, self.base = group, own, base
        self.loaded: dict[str, T] = {}

    @cached_property
    def added(self) -> dict[str, list[EntryPoint]]:
        """The entry points of installed packages by name, not loaded."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        return found

    def __getitem__(self, name: str) -> T:
        """Return what a name stands for; of a package, this imports it.

        Raises ValueError where the name stands for two things or for no task, block or rule, ImportError where the
        package does not import, and KeyError where there is no such name.
        """
        entries = self.added.get(name, [])
        if len(entries) + (name in self.own) > 1:
            claims = [*(["biomamba itself"] if name in self.own else []), *map(_package, entries)]
            raise ValueError(
                f"{self.group}: {name} is what {' and '.join(claims)} call their own: uninstall one, or rename it there"
            )
        if name in self.own or not entries:
            return self.own[name]
        if name not in self.loaded:
            self.loaded[name] = self._load(entries[0])
        return self.loaded[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names, the library's own first; nothing is imported."""
        yield from self.own
        yield from (name for name in self.added if name not in self.own)

    def __contains__(self, name: object) -> bool:
        """Say whether there is such a name; nothing is imported."""
        return name in self.own or name in self.added

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(list(iter(self)))

    def _load(self, entry: EntryPoint) -> T:
        """Return what an entry point stands for."""
        about = f"{self.group}: {entry.name} of {_package(entry)}"
        try:
            found: T = entry.load()
        except Exception as error:  # whatever a package does when it is imported
            raise ImportError(f"{about} does not import ({type(error).__name__}: {error}): mend it there") from error
        fits = callable(found) if self.base is None else isinstance(found, type) and issubclass(found, self.base)
        if not fits:
            expected = (
                "a function or a class" if self.base is None else f"a class that inherits from {self.base.__name__}"
            )
            raise ValueError(f"{about} is {entry.value}, expected {expected}: mend it there")
        return found


def _package(entry: EntryPoint) -> str:
    """Return the package an entry point is of, in words."""
    return f"package {entry.dist.name}" if entry.dist else f"module {entry.module}"
