"""Approximate search by FAISS, for when exact search takes too long: used only on request, and recorded in the scores.

Exact search needs no index (see `hbdist.evaluation.search.partitioned`): it finds the positions of all relevant
candidates, whereas an index finds the first candidates only.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hbdist.errors import ConfigError

DEPTH = 1_000
"""Number of candidates requested from an index in each language; a relevant one that is not among them counts as last."""

DEFAULTS = {"ivf": {"lists": 4_096, "probes": 64}, "hnsw": {"links": 32, "construction": 200, "search": 1_000}}
"""Default settings. IVF: number of clusters, and of those that are searched. HNSW: links per candidate, and number of
candidates in view when the index is built and when it is searched."""

VECTORS_PER_LIST = 39
"""Smallest number of vectors from which FAISS will train the centre of a cluster."""


@dataclass(frozen=True)
class Approximate:
    """Kind of an index, and its settings."""

    kind: str
    settings: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Approximate":
        """Return the index described as "hnsw" or "ivf:lists=1024,probes=32".

        Raises:
            ConfigError: the index or a setting is unknown, or FAISS is not installed.
        """
        kind, _, options = text.partition(":")
        if kind not in DEFAULTS:
            raise ConfigError(
                f"--index {text}: {kind!r} is unknown. Use {' or '.join(DEFAULTS)}; without --index search is exact."
            )
        settings = dict(DEFAULTS[kind])
        for option in filter(None, options.split(",")):
            name, _, value = option.partition("=")
            if name not in settings or not value.isdecimal() or not int(value):
                raise ConfigError(
                    f"--index {text}: {option!r} is not a setting. {kind} has {', '.join(settings)}, each a whole number"
                    f" from 1, as in {kind}:{','.join(f'{key}={number}' for key, number in settings.items())}."
                )
            settings[name] = int(value)
        _import_faiss()
        return cls(kind, settings)

    def record(self) -> dict[str, Any]:
        """Return the entry of scores.json."""
        return {"exact": False, "index": self.kind, **self.settings, "depth": DEPTH}

    def search(self, query_QD: np.ndarray, candidate_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the likely first candidates of each query: int64 rows [Q, DEPTH], −1 for none, and float32 scores.

        Embeddings are float32; the index keeps all candidates in memory.
        """
        faiss = _import_faiss()
        dimensions = candidate_CD.shape[1]
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dimensions, self.settings["links"], faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = self.settings["construction"]
            index.hnsw.efSearch = self.settings["search"]
        else:
            lists = max(1, min(self.settings["lists"], len(candidate_CD) // VECTORS_PER_LIST))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = self.settings["probes"]
            index.train(candidate_CD)
        index.add(candidate_CD)
        score_QK, row_QK = index.search(np.ascontiguousarray(query_QD), min(DEPTH, len(candidate_CD)))
        return row_QK, score_QK


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "--index needs FAISS, which is not installed: pip install faiss-cpu. Without --index search is exact."
        ) from None
    return faiss
