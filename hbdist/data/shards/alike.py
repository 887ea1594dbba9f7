"""The same texts under several languages: a file that was not translated, or is under the wrong language.

Shape suffix: D digests of all parts of a data set.
"""

import hashlib
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

ALIKE_SHARE = 0.05
"""Share of texts that are the same in two languages above which a build and a check warn: 3 of the 66,400 cross-lingual
pairs of shards/recipes/demo.toml are such."""
ALIKE_WARNING = (
    "warning: so many texts that are the same in two languages are seldom translations. Check that each file is in its own"
    " language and was translated."
)
MOST_DIGESTS = 2**23
"""Most samples of a data set that are compared: 8 bytes each. Those of larger data sets are chosen by their digests."""
ALL = 2**64


class TextDigests:
    """Digests of the texts of samples of one part (a group, or a language) of a data set.

    Args:
        limit: digests below it are kept: ALL for all, 0 for none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept = array("Q")

    def add(self, query: str, document: str) -> None:
        """Add the two texts of a sample."""
        if self.limit:
            texts = f"{query}\0{document}".encode(errors="surrogatepass")
            digest = int.from_bytes(hashlib.blake2b(texts, digest_size=8).digest())
            if digest < self.limit:
                self.kept.append(digest)


def limit_of(samples: int, parts: int) -> int:
    """Return the limit of `TextDigests` for a data set with this many samples, in this many groups or languages."""
    return 0 if parts < 2 else min(ALL, ALL * MOST_DIGESTS // max(1, samples))


def alike_share(parts: Sequence[TextDigests]) -> float:
    """Return the share of a data set's samples whose two texts are those of a sample of another part, too."""
    kept = [np.unique(np.frombuffer(part.kept, np.uint64)) for part in parts if part.kept]
    if not kept:
        return 0.0
    _, times_D = np.unique(np.concatenate(kept), return_counts=True)
    return float(times_D[times_D > 1].sum() / times_D.sum())


def describe_alike(shares: Mapping[str, float]) -> list[str]:
    """Return the lines of a report on the shares of data sets; none if there are no such texts."""
    lines = [
        f"the same query and document under several languages: {share:.2%} of the rows of {dataset}"
        for dataset, share in shares.items()
        if share
    ]
    return lines + [ALIKE_WARNING] * any(share > ALIKE_SHARE for share in shares.values())
