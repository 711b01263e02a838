"""Many trees of one form, stacked in pages of a fixed size; pages that were not used for long wait on the disk.

A page is a tree whose tensors have a further first axis: its slots. Work on a whole page needs no copying, its size
does not depend on how many trees there are, and it may be small enough for the processor's cache.
"""

import tempfile
from pathlib import Path

from . import checkpoint
from .state import Tree, flat, leaves, nbytes, tree_map


class Pages:
    """Stacked trees, each in a slot of a page."""

    def __init__(self, blank: Tree, size: int, limit: int | None = None, folder: str | Path | None = None) -> None:
        """Begin with no page.

        blank: what a slot holds that nobody took. size: slots of a page. limit: bytes of all pages in memory, above
        which those not used for the longest time go to the disk, but for one. folder: where to (default: a temporary
        one).
        """
        self.blank, self.size, self.folder = blank, size, folder
        self._most = None if limit is None else max(1, limit // (size * nbytes(blank)))
        self._held: dict[int, Tree] = {}  # in memory, the one used last at the end
        self._free: list[tuple[int, int]] = []
        self._number = 0
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def take(self) -> tuple[int, int]:
        """Return the page and slot of a tree to come; a new page where all are taken."""
        if not self._free:
            page = tree_map(lambda tensor: tensor.unsqueeze(0).repeat(self.size, *[1] * tensor.ndim), self.blank)
            self._hold(self._number, page)
            self._free = [(self._number, slot) for slot in reversed(range(self.size))]
            self._number += 1
        return self._free.pop()

    def free(self, number: int, slot: int) -> None:
        """Give a slot back."""
        self.write(number, slot, self.blank)
        self._free.append((number, slot))
        if sum(other == number for other, _ in self._free) == self.size:
            self._free = [place for place in self._free if place[0] != number]
            self._held.pop(number, None)

    def page(self, number: int) -> Tree:
        """Return a page, from the disk where it is there; who writes into it changes what it holds."""
        if number in self._held:
            self._held[number] = self._held.pop(number)
            return self._held[number]
        tensors, _ = checkpoint.load(self._file(number))
        self._file(number).unlink()
        found = iter(tensors[name] for name, _ in leaves(self.blank))
        page = tree_map(lambda blank: next(found).to(blank.device), self.blank)
        self._hold(number, page)
        return page

    def read(self, number: int, slot: int) -> Tree:
        """Return the tree in a slot, in memory of its own."""
        return tree_map(lambda tensor: tensor[slot].clone(), self.page(number))

    def write(self, number: int, slot: int, tree: Tree) -> None:
        """Put a tree of the blank one's form into a slot."""
        for stacked, tensor in zip(flat(self.page(number)), flat(tree), strict=True):
            stacked[slot] = tensor.detach()

    @property
    def nbytes(self) -> int:
        """The bytes of the pages in memory."""
        return len(self._held) * self.size * nbytes(self.blank)

    def _hold(self, number: int, page: Tree) -> None:
        """Take a page into memory, and put others on the disk where there are too many."""
        while self._most is not None and len(self._held) >= self._most:
            oldest = next(iter(self._held))
            checkpoint.save(self._file(oldest), dict(leaves(self._held.pop(oldest))))
        self._held[number] = page

    def _file(self, number: int) -> Path:
        """Return where a page lies on the disk."""
        if self.folder is None:
            self._own = tempfile.TemporaryDirectory(prefix="biomamba-")
            self.folder = self._own.name
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        return Path(self.folder) / f"page-{number}.safetensors"
