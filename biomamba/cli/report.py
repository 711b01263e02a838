"""`biomamba report`: one page of comparisons and runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..report import page


def run(argv: Sequence[str]) -> int:
    """Make one page of comparisons and runs."""
    parser = argparse.ArgumentParser(prog="biomamba report", description=run.__doc__, exit_on_error=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_DIR", help="of compare, fidelity or train")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    try:
        asked, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(f"report: {error}: biomamba report RUN_DIR... -o report.html") from error
    if unknown or not asked.folders:
        raise ValueError(f"report: got {' '.join(unknown) or 'no folder'}, expected RUN_DIR... -o report.html")
    page.write(asked.output, asked.folders)
    print(asked.output)
    return 0
