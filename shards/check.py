"""Check built shards: `python shards/check.py shards/built/demo`, the same as `hbdist check`."""

import sys

from hbdist.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
