"""`biomamba decompress`: the file back."""

from collections.abc import Sequence

from ..durable import replacing
from ..experiment.compress import decompress
from .compress import files

USAGE = "biomamba decompress FILE.bm -o FILE"


def run(argv: Sequence[str]) -> int:
    """Write the file that `compress` was given, on the machine where it was made."""
    source, target, rest = files(argv, USAGE)
    if rest:
        raise ValueError(f"decompress: got {' '.join(rest)}, expected {USAGE}")
    try:
        data = decompress(source.read_bytes())
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{source}: {error}") from error
    with replacing(target) as beside:
        beside.write_bytes(data)
    print(f"{target}: {len(data):,} bytes")
    return 0
