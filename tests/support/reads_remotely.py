"""Script that reads all rows of a remote folder in random order: `python reads_remotely.py URL SEED GB TIMES`.

Prints a line when it begins, and then one digest of all rows each time.
"""

import hashlib
import sys

import numpy as np

from hbdist.data.shards.manifest import FILE, Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.remote import locate


def digest(pairs: list[Pair]) -> str:
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def all_of(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups and the rows of all pairs."""
    counts = [group.rows for group in manifest.groups]
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def main(url: str, seed: int, cache_gb: float, times: int) -> None:
    root = locate(url)
    manifest = Manifest.parse((root / FILE).read_bytes(), root)
    groups, rows = all_of(manifest)
    random = np.random.default_rng(seed)
    print("begins", flush=True)
    for _ in range(times):
        reader = ShardReader(manifest, open_shards=2, cache_gb=cache_gb)
        pairs: dict[int, Pair] = {}
        for part in np.array_split(random.permutation(len(rows)), 10):
            pairs |= zip(part.tolist(), reader.read(groups[part], rows[part]), strict=True)
        print(digest([pairs[number] for number in range(len(rows))]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
