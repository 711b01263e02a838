"""Ask pip-audit for known faults of the packages of this environment: python tests/audit.py PATH_OF_PIP_AUDIT.

pip-audit counts a package that it could not ask about as one without faults; here nothing asked is nothing audited.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def told(report: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and what to print for pip-audit's report: 1 for faults, 2 where nothing was asked."""
    packages = report["dependencies"]
    asked = [own for own in packages if "skip_reason" not in own]
    if not asked:
        return 2, f"audit: nothing was asked of {len(packages)} packages: no advisories can be reached from here"
    faults = [
        f"{own['name']} {own['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none yet'}"
        for own in asked
        for fault in own["vulns"]
    ]
    line = f"audit: {len(asked)} packages asked about, {len(packages) - len(asked)} not, {len(faults)} known faults"
    return int(bool(faults)), "\n".join([*faults, line])


def main(argv: Sequence[str]) -> int:
    """Run pip-audit on the packages of the Python that runs this."""
    library = next(path for path in sys.path if Path(path).name == "site-packages")
    words = [argv[0], "--path", library, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    ended = subprocess.run(words, capture_output=True, text=True)
    try:
        code, text = told(json.loads(ended.stdout))
    except ValueError:
        code, text = 2, f"audit: pip-audit could not be run to its end: {' '.join(ended.stderr.split())[-300:]}"
    print(text)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
