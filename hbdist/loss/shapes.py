"""Sizes of the loss's tensors, without importing torch."""

IDENTITIES = 4
"""Number of identities of a document: its item, passage and text, and the text of its query."""
INT64_BYTES = 8
"""Bytes of one identity, or of one block number."""
TILE_SCORES, TILE_QUERIES = 2**23, 512
"""Number of scores in memory at once (32 MB in float32), and minimum number of queries per tile: short products are slow."""


def tile_height(documents: int) -> int:
    """Return the maximum number of queries in a tile with this many documents."""
    return max(TILE_SCORES // documents, TILE_QUERIES)
