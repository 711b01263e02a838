"""All campaigns, one after the other: python -m tests.campaigns --seconds 240 --seed 0 [--campaigns kills,faults]."""

import sys
from collections.abc import Sequence

from . import faults, fuzz, kills, options, soak

CAMPAIGNS = {"fuzz": fuzz, "kills": kills, "faults": faults, "soak": soak}


def main(argv: Sequence[str]) -> int:
    """Give each campaign its share of the time; return 1 where one of them failed."""
    parser = options.parser(__doc__, seconds=240)
    parser.add_argument("--campaigns", default=",".join(CAMPAIGNS))
    asked = parser.parse_args(argv)
    names = asked.campaigns.split(",")
    words = ["--seconds", str(asked.seconds / len(names)), "--seed", str(asked.seed), "--keep", str(asked.keep)]
    codes = {}
    for name in names:
        print(f"-- {name}", flush=True)
        codes[name] = CAMPAIGNS[name].main(words)
    return max(codes.values())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
