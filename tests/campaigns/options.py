"""What every campaign is asked for on its command line."""

import argparse
import tempfile
from pathlib import Path

KEEP = Path(tempfile.gettempdir()) / "biomamba-campaigns"  # of inputs that failed


def parser(doc: str | None, seconds: float = 60) -> argparse.ArgumentParser:
    """Return a parser of --seconds, --seed and --keep; doc: what --help says."""
    own = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--seconds", type=float, default=seconds)
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--keep", type=Path, default=KEEP, help="folder for the inputs that failed")
    return own
