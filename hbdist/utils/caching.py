"""Where on this machine lies what can be made again: remote shards, vectors of corpora, unpacked models, a folder each."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$HBDIST_CACHE, else $XDG_CACHE_HOME/hbdist, else ~/.cache/hbdist."""
    if own := os.environ.get("HBDIST_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "hbdist"
