"""The command line from a checkout: `python train.py ...` = `biomamba ...`; biomamba/cli/main.py is its manual."""

import sys

from biomamba.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
