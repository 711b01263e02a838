"""`python -m biomamba` = `biomamba`."""

import sys

from .cli.main import main

sys.exit(main())
