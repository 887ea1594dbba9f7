"""Exact search of a corpus larger than memory: ten million vectors on disk, and a comparison with FAISS on fewer of them.

    python benchmarks/search.py [--quick] [--out FOLDER]

The vectors are random, of 384 dimensions, float16, in parts as `hbdist evaluate` stores them. They take 7.7 GB in the
folder for temporary files (TMPDIR) and are deleted at the end. FAISS gets the same parts in turn: a flat index is filled
with a part, searched, and emptied; the first candidates of all parts are merged.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import RunError, arguments, interleave, launch, peak_bytes, quartiles, ratio, say, write
from peers import version_of

from hbdist.evaluation.search.embeddings import Parts, part_rows
from hbdist.evaluation.search.partitioned import PositionCounter, ScoreTiles, Segment, count_positions

DIMENSIONS, QUERIES, TOP = 384, 1_000, 100
MILLIONS = 10
BESIDE_FAISS = 300_000
"""Number of vectors in the interleaved turns."""
FREE_FACTOR = 1.1
"""Bytes that must be free on disk in addition to the vectors."""


def parts_of(folder: str, total: int) -> Parts:
    return Parts(total, part_rows(total), "float16", folder=Path(folder), dimensions=DIMENSIONS)


def unit_vectors(rows: int, seed: int) -> np.ndarray:
    vector_ND = np.random.default_rng(seed).standard_normal((rows, DIMENSIONS), dtype=np.float32)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def fill(folder: str, total: int) -> None:
    """Write the synthetic vectors."""
    parts = parts_of(folder, total)
    for number in parts.numbers:
        parts.write(number, unit_vectors(len(parts.span(number)), 1 + number))


def search_ours(query_QD: np.ndarray, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and scores of the first candidates, as an evaluation computes them."""
    tiles = ScoreTiles(
        query_QD,
        lambda: (Segment(parts.span(number).start, 0, parts.read(number)) for number in parts.numbers),
        queries_of={0: np.arange(len(query_QD))},
    )
    none_QR = np.empty((len(query_QD), 0), dtype=np.int64)
    counter = PositionCounter(none_QR, none_QR, none_QR, top=TOP)
    count_positions(tiles, counter)
    return counter.top_NK, counter.top_score_NK


def search_faiss(query_QD: np.ndarray, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Return the same from FAISS, part by part."""
    import faiss

    index = faiss.IndexFlatIP(DIMENSIONS)
    place_QK = np.empty((len(query_QD), 0), dtype=np.int64)
    score_QK = np.empty((len(query_QD), 0), dtype=np.float32)
    for number in parts.numbers:
        index.reset()
        index.add(parts.read(number).astype(np.float32))
        score_QN, place_QN = index.search(query_QD, TOP)
        score_QN = np.concatenate([score_QK, score_QN], axis=1)
        place_QN = np.concatenate([place_QK, place_QN + parts.span(number).start], axis=1)
        best_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, :TOP]
        place_QK, score_QK = (np.take_along_axis(one, best_QK, axis=1) for one in (place_QN, score_QN))
    return place_QK, score_QK


def beside(folder: str, total: int, queries: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds of both, turn by turn, and their agreement, in a separate process."""
    fill(folder, total)
    query_QD, parts = unit_vectors(queries, 0), parts_of(folder, total)
    (place_QK, score_QK), (place_faiss_QK, score_faiss_QK) = (
        search(query_QD, parts) for search in (search_ours, search_faiss)
    )
    cases = {
        "hbdist": lambda: search_ours(query_QD, parts),
        "FAISS": lambda: search_faiss(query_QD, parts),
    }
    return {
        "seconds": interleave(cases, repetitions=repetitions, warmups=1),
        "same_places": float((place_QK == place_faiss_QK).mean()),
        "score_error": float(np.abs(score_QK - score_faiss_QK).max()),
    }


def whole(folder: str, total: int, queries: int) -> dict[str, Any]:
    """Return the seconds and the peak memory of one search of all vectors, in a separate process."""
    started = time.perf_counter()
    search_ours(unit_vectors(queries, 0), parts_of(folder, total))
    return {"seconds": time.perf_counter() - started, "bytes": peak_bytes()}


def measure(*, quick: bool) -> dict[str, Any]:
    total, fewer, queries = (200_000, 20_000, 100) if quick else (MILLIONS * 1_000_000, BESIDE_FAISS, QUERIES)
    result: dict[str, Any] = {
        "settings": {"vectors": total, "beside": fewer, "queries": queries, "top": TOP, "dimensions": DIMENSIONS},
        "versions": {"faiss-cpu": version_of("faiss-cpu")},
    }
    size = total * DIMENSIONS * 2
    with tempfile.TemporaryDirectory() as folder:
        say(f"{fewer:,} vectors beside FAISS")
        turns = {"folder": f"{folder}/fewer", "total": fewer, "queries": queries, "repetitions": 2 if quick else 5}
        result["beside"] = _or_reason(beside, **turns)
        if shutil.disk_usage(folder).free < FREE_FACTOR * size:
            result["whole"] = {
                "reason": f"{folder} has no room for {size / 1e9:.1f} GB; set TMPDIR to a folder that has"
            }
            return result
        say(f"{total:,} vectors: writing {size / 1e9:.1f} GB")
        fill(f"{folder}/all", total)
        say("searching them")
        result["whole"] = _or_reason(whole, folder=f"{folder}/all", total=total, queries=queries)
    return result


def _or_reason(function: Any, **settings: Any) -> dict[str, Any]:
    try:
        return launch(function, timeout=3_600, **settings)[0]
    except RunError as error:
        return {"reason": str(error)}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: both side by side, then the search of all vectors."""
    settings, both, all_of_them = result["settings"], result["beside"], result["whole"]
    lines = ["| | vectors | seconds | scores per second | peak, GB | ÷ FAISS |", "|---" * 6 + "|"]

    def rate(vectors: int, seconds: float) -> str:
        return f"{vectors * settings['queries'] / seconds / 1e6:,.0f} million"

    if "reason" in both:
        lines.append(f"| beside FAISS | {settings['beside']:,} | not run: {both['reason']} | | | |")
    else:
        taken = {name: quartiles(seconds)["median"] for name, seconds in both["seconds"].items()}
        one = ratio(both["seconds"]["hbdist"], both["seconds"]["FAISS"])
        shown = {"hbdist": f"{one['median']:.2f} ({one['low']:.2f}–{one['high']:.2f})", "FAISS": "1"}
        for name, seconds in taken.items():
            cells = f"{settings['beside']:,} | {seconds:.2f} | {rate(settings['beside'], seconds)} | | {shown[name]}"
            lines.append(f"| {name} | {cells} |")
    if "reason" in all_of_them:
        lines.append(f"| hbdist, all | {settings['vectors']:,} | not run: {all_of_them['reason']} | | | |")
    else:
        seconds = all_of_them["seconds"]
        cells = f"{seconds:,.0f} * | {rate(settings['vectors'], seconds)} | {all_of_them['bytes'] / 1e9:.2f} | "
        lines.append(f"| hbdist, all | {settings['vectors']:,} | {cells} |")
    if "reason" not in both:
        agreed = f"{both['same_places']:.4%} of the positions are the same, scores to within {both['score_error']:.0e}"
        lines += ["", f"{settings['queries']:,} queries, the first {settings['top']}; {agreed}."]
    return "\n".join(lines)


if __name__ == "__main__":
    given = arguments((__doc__ or "").splitlines()[0])
    result = measure(quick=given.quick)
    write(given.out, "search", result)
    print(table(result))
