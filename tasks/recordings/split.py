"""Which recordings are learned from and which are held out: by file, by person or by time, said in plain words."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from .source import Found, Source, listed

By = Literal["auto", "file", "person", "time"]


class Part(NamedTuple):
    """The samples from `first` to before `last` of a recording."""

    source: Source
    first: int
    last: int


class Parts(NamedTuple):
    """The parts of a split, and the split in words."""

    train: Sequence[Part]
    test: Sequence[Part]
    train_words: str
    test_words: str


def divide(found: Found, by: By, share: float, named: Sequence[str]) -> Parts:
    """Return what is learned from and what is held out. Raises ValueError where nothing would be left of either.

    named: files or persons that are held out; none: about a share of them.
    """
    sources = found.sources
    if by == "auto" and not named and any(own.split for own in sources):
        return _by_name(sources, [own.split == "test" for own in sources], "split {}, as the data set gives it")
    if by == "auto":
        by = "time" if len({own.file for own in sources}) == 1 else "file"
    if by == "time":
        return _by_time(sources, share)
    keys = [own.person if by == "person" else own.file for own in sources]
    if named:
        held = {key for key in keys if any(_is(key, name) for name in named)}
        if lost := [name for name in named if not any(_is(key, name) for key in keys)]:
            raise ValueError(f"test: there is no {by} {lost[0]!r}, expected some of {listed(dict.fromkeys(keys))}")
    else:
        held = _held(sources, keys, share, at_the_end=found.kind == "windows" and by == "file")
    parts = _by_name(sources, [key in held for key in keys], "")
    word = "window" if found.kind == "windows" and by == "file" else by
    apart = {held_out: [k for k in dict.fromkeys(keys) if (k in held) == held_out] for held_out in (False, True)}
    return parts._replace(
        train_words=f"{len(apart[False])} of {len({*keys})} {word}s: {listed(apart[False])}",
        test_words=f"{len(held)} other {word}{'s' * (len(held) > 1)}: {listed(apart[True])}",
    )


def with_persons(sources: Sequence[Source], pattern: str | None) -> list[Source]:
    """Return the sources with the person that a regular expression finds in the name of each file.

    Raises ValueError for one that cannot be, and for a file in which it finds nothing.
    """
    if pattern is None:
        return list(sources)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"person: got {pattern!r}, expected a regular expression such as '(S[0-9]+)': {error}"
        ) from error
    own = list[Source]()
    for source in sources:
        if (match := expression.search(source.file)) is None:
            raise ValueError(f"person: {pattern!r} finds nothing in {source.file!r}, expected the person's name")
        own.append(source._replace(person=match[1] if match.groups() else match[0]))
    return own


def _is(key: str, name: str) -> bool:
    """Return whether a file or person is meant by a name, with or without its folder and suffix."""
    return name in (key, key.rpartition("/")[2], key.rpartition("/")[2].rpartition(".")[0])


def _held(sources: Sequence[Source], keys: Sequence[str], share: float, at_the_end: bool) -> set[str]:
    """Return the files or persons that are held out: every k-th, or the last, of each class where files have one."""
    kinds = dict[str, set[str]]()
    for key, source in zip(keys, sources, strict=True):
        kinds.setdefault(key, set()).update(label.text for label in source.labels)
    single = all(len(texts) == 1 for texts in kinds.values())
    classes = dict[str, list[str]]()
    for key, texts in kinds.items():
        classes.setdefault(next(iter(texts)) if single else "", []).append(key)
    every, held = max(2, round(1 / share)), set[str]()
    for own in classes.values():
        held |= {*own[len(own) - round(share * len(own)) :]} if at_the_end else {*own[every - 1 :: every]}
    if not held and len(kinds) > 1:
        held = {list(kinds)[-1]}
    if not held:
        raise ValueError(f"hold_out: there is but one, {keys[0]}, expected two or more: give --task.hold_out time")
    return held


def _by_name(sources: Sequence[Source], is_held: Sequence[bool], words: str) -> Parts:
    """Return whole recordings. Raises ValueError where all or none are held out."""
    parts = {
        held: [Part(own, 0, own.samples) for own, h in zip(sources, is_held, strict=True) if h == held]
        for held in (False, True)
    }
    if not parts[False] or not parts[True]:
        raise ValueError(f"test: {len(parts[True])} of {len(sources)} recordings are held out, expected some, not all")
    return Parts(parts[False], parts[True], words.format("train"), words.format("test"))


def _by_time(sources: Sequence[Source], share: float) -> Parts:
    """Return the beginnings and the ends of all recordings."""
    cuts = [own.samples - round(share * own.samples) for own in sources]
    both = list(zip(sources, cuts, strict=True))
    first, last = f"the first {1 - share:.0%}", f"the last {share:.0%}"
    return Parts(
        [Part(own, 0, cut) for own, cut in both],
        [Part(own, cut, own.samples) for own, cut in both],
        f"{first} of each recording's time",
        f"{last} of each recording's time",
    )
