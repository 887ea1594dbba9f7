"""Settings of the search: storage of the candidates' embeddings, and the index, if any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hbdist.evaluation.search.faiss_index import Approximate
from hbdist.utils.files import cache_folder

Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class SearchSettings:
    """Settings of how the embeddings of large pools are stored and searched."""

    folder: Path | None = None
    """Folder of the stored embeddings. If it is given, those of small pools are stored too; by default only those of
    large pools are, in `default_folder()`."""
    precision: Precision = "float32"
    """Type of the stored numbers. float16 halves disk use and reading; scores change in the fourth digit."""
    keep: bool = True
    """Keep the embeddings after the evaluation instead of deleting them."""
    index: Approximate | None = None
    """Index for approximate search; None: exact search."""

    def record(self) -> dict[str, Any]:
        """Return the entry of scores.json: {"exact": true, "vectors": "float32"}, or the settings of the index."""
        return (self.index.record() if self.index else {"exact": True}) | {"vectors": self.precision}


def default_folder() -> Path:
    """Return the folder `vectors` in the cache of this machine."""
    return cache_folder() / "vectors"
