"""`biomamba compress`: a file as what a learner did not foresee of it."""

from collections.abc import Sequence
from pathlib import Path

from ..durable import replacing
from ..experiment.compress import compress
from ..experiment.parse import parse

USAGE = "biomamba compress FILE -o FILE.bm [--config language] [--section.key value ...]"


def run(argv: Sequence[str]) -> int:
    """Compress a file by a learner that reads it once."""
    source, target, rest = files(argv, USAGE)
    data = source.read_bytes()
    if not data:
        raise ValueError(f"compress: {source} is empty, expected a file that holds something")
    made = compress(data, parse(rest).config)
    with replacing(target) as beside:
        beside.write_bytes(made)
    print(f"{target}: {len(made):,} bytes of {len(data):,}, {8 * len(made) / len(data):.4f} bits per byte")
    return 0


def files(argv: Sequence[str], usage: str) -> tuple[Path, Path, list[str]]:
    """Return the file to read, the one to write, and the other words. Raises ValueError where one is missing."""
    if not argv or argv[0].startswith("-"):
        print(f"usage: {usage}")
        raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else 2)
    words = list(argv[1:])
    if "-o" not in words or words.index("-o") + 1 == len(words):
        raise ValueError(f"got no file to write, expected {usage}")
    at = words.index("-o")
    return Path(argv[0]), Path(words[at + 1]), words[:at] + words[at + 2 :]
