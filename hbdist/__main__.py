"""Module form of the command: `python -m hbdist` does the same as `hbdist`."""

import sys

from hbdist.cli import main

sys.exit(main())
