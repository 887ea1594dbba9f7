"""Build shards from a recipe, as `hbdist build` does: python shards/build.py shards/recipes/demo.toml [--out OUT]."""

import sys

from hbdist.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
