"""Build shards from a recipe: `python shards/build.py shards/recipes/demo.toml [--out OUT]`, the same as `hbdist build`."""

import sys

from hbdist.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
