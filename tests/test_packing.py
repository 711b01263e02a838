"""The laws of recordings on rows: each is played once, in order, whatever the chunk, and none is read too early."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomamba.stream import Chunk
from biomamba.tasks.common.packing import Segment, assign_rows, iterate, steps
from sizes import joined, same

NONE = torch.full((1,), -1)
PADDING = Segment(torch.full((1, 2), -1.0), NONE, torch.zeros(1, dtype=torch.bool), {"name": NONE})


@dataclass
class Counted:
    """A recording whose step i is 1000 name + i; it holds `holds` steps and says how far it has been read."""

    name: int
    steps: int
    holds: int
    piece: int = 5
    read_to: int = field(default=0, init=False)

    def read(self) -> Iterator[Segment]:
        for first in range(0, self.holds, self.piece):
            at = torch.arange(first, min(first + self.piece, self.holds))
            self.read_to = max(self.read_to, first + len(at))
            x, info = (1000 * self.name + at).float()[:, None].expand(-1, 2), {"name": torch.full_like(at, self.name)}
            yield Segment(x, at, torch.ones(len(at), dtype=torch.bool), info)


def recordings(*sizes: int) -> list[Counted]:
    return [Counted(name, size, size) for name, size in enumerate(sizes, start=1)]


def after(chunk: Chunk, start: int) -> Chunk:
    return chunk.between(start)


def test_each_goes_to_the_row_that_ends_first() -> None:
    rows = assign_rows(recordings(5, 2, 2, 4, 1), 2)
    assert [[recording.name for recording in row] for row in rows] == [[1, 5], [2, 3, 4]]
    assert steps(rows) == 8
    assert [len(row) for row in assign_rows(recordings(3), 3)] == [1, 0, 0]


sizes = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 4), st.integers(1, 9))
def test_every_recording_is_played_once_in_order_and_the_rest_is_blank(
    lengths: list[int], batch: int, length: int
) -> None:
    rows = assign_rows(recordings(*lengths), batch)
    if steps(rows) == 0:
        assert list(iterate(rows, PADDING, length)) == []
        return
    chunk = joined(iterate(rows, PADDING, length))
    for row, x, y, mask, reset, name in zip(rows, *chunk[:4], chunk.info["name"], strict=True):
        whole = [1000 * recording.name + at for recording in row for at in range(recording.steps)]
        blank = [-1] * (steps(rows) - len(whole))
        assert x[:, 0].tolist() == whole + blank
        assert y.tolist() == [at % 1000 for at in whole] + blank
        assert name.tolist() == [at // 1000 for at in whole] + blank
        assert mask.tolist() == [True] * len(whole) + [False] * len(blank)
        firsts = {1000 * recording.name for recording in row if recording.steps}
        assert [at for at, begins in zip(whole, reset, strict=False) if begins] == sorted(firsts)
        assert reset[len(whole) :].tolist() == [True, *[False] * len(blank)][: len(blank)]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 4), st.integers(1, 50), st.data())
def test_chunks_end_to_end_depend_neither_on_length_nor_on_start(
    lengths: list[int], batch: int, length: int, data: st.DataObject
) -> None:
    rows = assign_rows(recordings(*lengths), batch)
    total = steps(rows)
    if total < 2:
        return
    whole = next(iterate(rows, PADDING, total))
    start = data.draw(st.integers(0, total - 1))
    part = joined(iterate(rows, PADDING, length, start))
    assert same(part, after(whole, start))
    assert not same(part, after(whole, start + 1))  # control: one step off is noticed
    assert list(iterate(rows, PADDING, length, total)) == []


def test_the_last_chunk_is_shorter() -> None:
    assert [c.x.shape for c in iterate(assign_rows(recordings(7), 1), PADDING, 3)] == [(1, 3, 2), (1, 3, 2), (1, 1, 2)]


def test_a_short_recording_is_filled_up_and_a_long_one_cut() -> None:
    short, long, other = Counted(1, 6, 4), Counted(2, 3, 50), Counted(3, 2, 2)
    chunk = joined(iterate([[short, long, other]], PADDING, 4))
    assert chunk.x[0, :, 0].tolist() == [1000, 1001, 1002, 1003, -1, -1, 2000, 2001, 2002, 3000, 3001]
    assert chunk.mask[0].tolist() == [True] * 4 + [False] * 2 + [True] * 5
    assert chunk.reset[0].nonzero().flatten().tolist() == [0, 6, 9]
    assert long.read_to == 5  # its first piece, though it holds ten


def test_empty_pieces_are_nothing() -> None:
    class Halting(Counted):
        def read(self) -> Iterator[Segment]:
            for piece in super().read():
                yield Segment(piece.x[:0], piece.y[:0], piece.mask[:0], {"name": piece.info["name"][:0]})
                yield piece

    rows, halting = ([[kind(1, 12, 12), kind(2, 3, 3)]] for kind in (Counted, Halting))
    assert same(joined(iterate(halting, PADDING, 4)), joined(iterate(rows, PADDING, 4)))


@pytest.mark.parametrize("length", [1, 4, 7])
def test_nothing_is_read_before_the_start_or_after_what_was_asked(length: int) -> None:
    own = recordings(20, 20, 20, 20)
    stream = iterate([own], PADDING, length, start=23)  # in the second
    assert [recording.read_to for recording in own] == [0, 0, 0, 0]  # nor before the first chunk is asked for
    next(stream)
    reached = -(-(3 + length) // 5) * 5  # whole pieces of five
    assert [recording.read_to for recording in own] == [0, reached, 0, 0]
    while own[2].read_to == 0:  # control: it does go on
        next(stream)
    assert [recording.read_to for recording in own] == [0, 20, 5, 0]


def test_more_rows_than_recordings_are_blank_from_their_first_step() -> None:
    chunk = joined(iterate(assign_rows(recordings(3, 2), 4), PADDING, 2))
    assert chunk.x.shape == (4, 3, 2)
    assert (chunk.x[2:] == -1).all() and not chunk.mask[2:].any()
    assert chunk.reset.tolist() == [[True, False, False], [True, False, True], *[[True, False, False]] * 2]
