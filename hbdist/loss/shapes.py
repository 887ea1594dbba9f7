"""Sizes of the loss's tensors, without torch."""

IDENTITIES = 4
"""Numbers by which a document is known: item, passage and text of the document, text of the query."""


INTEGER = 8
"""Bytes of one of them, or of a document's block: int64."""


TILE_SCORES, TILE_QUERIES = 2**23, 512
"""Scores in memory at once (32 MB in float32), but never fewer queries than the second: short products are slow."""


def tile_height(documents: int) -> int:
    """Most queries of a tile that has so many documents."""
    return max(TILE_SCORES // documents, TILE_QUERIES)
