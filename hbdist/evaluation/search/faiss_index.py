"""Approximate search by FAISS, for when exact search takes too long: only if asked for, and recorded in the scores.

Exact search needs no index, see `hbdist.evaluation.search.partitioned`: it gives the ranks of all relevant candidates,
where an index gives the first candidates alone.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hbdist.errors import ConfigError

DEPTH = 1_000
"""Candidates that an index is asked for, in each language; what is not among them counts as standing last."""

DEFAULTS = {
    "ivf": {"lists": 4_096, "probes": 64},
    "hnsw": {"links": 32, "construction": 200, "search": 1_000},
}
"""IVF: clusters, and how many of them are searched. HNSW: links a candidate, and how many candidates are kept in view when it
is built and when it is searched."""

VECTORS_A_LIST = 39
"""The least that FAISS wants to find one cluster's centre."""


@dataclass(frozen=True)
class Approximate:
    """Which index, and its settings."""

    kind: str
    settings: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Approximate":
        """From "hnsw", or "ivf:lists=1024,probes=32".

        Raises:
            ConfigError: there is no such index or setting, or FAISS is not installed.
        """
        kind, _, given = text.partition(":")
        if kind not in DEFAULTS:
            raise ConfigError(
                f"--index {text}: {kind!r} is not known. Give {' or '.join(DEFAULTS)}; without --index search is exact."
            )
        settings = dict(DEFAULTS[kind])
        for one in filter(None, given.split(",")):
            name, _, value = one.partition("=")
            if name not in settings or not value.isdigit() or not int(value):
                raise ConfigError(
                    f"--index {text}: {one!r} is not understood. {kind} has {', '.join(settings)}, each a whole number"
                    f" from 1, as in {kind}:{','.join(f'{key}={number}' for key, number in settings.items())}."
                )
            settings[name] = int(value)
        _faiss()
        return cls(kind, settings)

    def record(self) -> dict[str, Any]:
        """What scores.json says of it."""
        return {"exact": False, "index": self.kind, **self.settings, "depth": DEPTH}

    def search(self, query_QD: np.ndarray, candidate_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likely first candidates of each query: places int64 [Q, DEPTH], −1 for none, and scores float32.

        Args:
            query_QD, candidate_CD: float32; an index holds all candidates in memory.
        """
        faiss = _faiss()
        dimensions = candidate_CD.shape[1]
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dimensions, self.settings["links"], faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = self.settings["construction"]
            index.hnsw.efSearch = self.settings["search"]
        else:
            lists = max(1, min(self.settings["lists"], len(candidate_CD) // VECTORS_A_LIST))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = self.settings["probes"]
            index.train(candidate_CD)
        index.add(candidate_CD)
        score_QK, place_QK = index.search(np.ascontiguousarray(query_QD), min(DEPTH, len(candidate_CD)))
        return place_QK, score_QK


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "--index needs FAISS, which is not installed: pip install faiss-cpu. Without --index search is exact."
        ) from None
    return faiss
