"""`python -m hbdist`: the same as the command `hbdist`."""

import sys

from hbdist.cli import main

sys.exit(main())
