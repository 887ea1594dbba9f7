"""Check built shards, as `hbdist check` does: python shards/check.py shards/built/demo."""

import sys

from hbdist.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
