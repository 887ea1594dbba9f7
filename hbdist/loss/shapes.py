"""Sizes of the loss's tensors, without importing torch."""

IDENTITIES = 4
"""Number of identities of a document: its item, passage and text, and the text of its query."""
INT64_BYTES = 8
"""Bytes of one identity, or of one block number."""
TILE_SCORES, TILE_QUERIES = 2**23, 512
"""Number of scores in memory at once (32 MB in float32), and minimum number of queries per tile: short products are slow."""
CACHED_SCORES = 2**20
"""Number of scores of one element-wise pass on a CPU: 4 MB in float32, which stays in cache from one operation to the next."""
GPU_SCORES, GPU_PIECES = 2**21, 16
"""Least number of scores of one element-wise pass on a GPU, and most passes over a tile: a pass copies its scores, and starting
one takes microseconds."""


def tile_height(documents: int) -> int:
    """Return the maximum number of queries in a tile with this many documents."""
    return max(TILE_SCORES // documents, TILE_QUERIES)


def piece_height(queries: int, documents: int, *, on_cpu: bool) -> int:
    """Return the number of queries of one element-wise pass over a tile with this many queries and documents."""
    if on_cpu:
        return max(CACHED_SCORES // max(documents, 1), 1)
    return max(GPU_SCORES // max(documents, 1), -(-queries // GPU_PIECES), 1)


def vector_bytes(texts: int, documents: int, dimensions: int, *, ranks: int) -> int:
    """Return the bytes of vectors: 3tD numbers for t texts by chunk, in order, and their gradients, and 4GD for G documents.

    The 4GD are the documents received, sent back and their gradients.
    """
    return 4 * dimensions * (3 * texts + (4 if ranks > 1 else 2) * documents)


def score_bytes(queries: int, documents: int, *, margin: bool, on_cpu: bool) -> int:
    """Return the bytes of the scores that one rank has at once: a tile of its queries and all documents, and copies of a piece.

    A piece is copied once; with a margin once more, and its mask has a byte for each score.
    """
    tile = min(queries, tile_height(documents))
    piece = min(tile, piece_height(tile, documents, on_cpu=on_cpu))
    return documents * (4 * (tile + piece * (1 + margin)) + piece * margin)
