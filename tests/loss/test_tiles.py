"""Scores in tiles: which queries and documents each product has, and what is kept from one tile to the next."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hbdist.loss import shapes, tiles
from hbdist.loss.infonce import info_nce
from hbdist.loss.masks import MASKED_LOGIT, Candidates, Masks
from hbdist.loss.tiles import Scores, row_blocks, split_range

PAIRS, HARD, TAU = 6, 3, 0.5


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def scores(rows: int = PAIRS, **settings: object) -> Scores:
    """Return the scores of some queries against six documents and three hard negatives, none of which clash."""
    positive, negative = vectors(PAIRS), vectors(HARD)
    number = torch.arange(1, PAIRS + 1)
    known = Candidates(positive, number[:, None], number, negative, 100 + number[:HARD, None], number[:HARD])
    masks = Masks(torch.arange(rows), known, block_scope=False)
    return Scores(
        vectors(PAIRS)[:rows], (positive, negative), torch.tensor(TAU, dtype=torch.float64), masks, **settings
    )


def expected_tile(rows: slice) -> Tensor:
    logits = vectors(PAIRS) @ torch.cat([vectors(PAIRS), vectors(HARD)]).T / TAU
    own = torch.arange(PAIRS)
    logits[own, own] = MASKED_LOGIT
    return logits[rows]


@pytest.mark.parametrize(
    ("length", "size", "bounds"),
    [
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, [(0, 4), (4, 8)]),
        (3, 4, [(0, 3)]),
        (0, 4, []),
        (2, 1, [(0, 1), (1, 2)]),
    ],
)
def test_a_range_is_split_into_slices_that_cover_it(length: int, size: int, bounds: list[tuple[int, int]]) -> None:
    assert [(one.start, one.stop) for one in split_range(length, size)] == bounds


def test_a_pass_on_a_cpu_has_as_many_rows_as_stay_in_cache_and_on_a_gpu_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "CACHED_SCORES", 10)
    assert row_blocks(torch.empty(7, 3)) == split_range(7, 3)
    assert row_blocks(torch.empty(7, 10)) == split_range(7, 1)
    assert row_blocks(torch.empty(7, 11)) == split_range(7, 1)
    assert row_blocks(torch.empty(7, 1)) == [slice(0, 7)]
    assert row_blocks(torch.empty(17, 0)) == split_range(17, 10)
    assert row_blocks(torch.empty(7, 3, device="meta")) == [slice(0, 7)]
    assert row_blocks(torch.empty(1, 3, device="meta")) == [slice(0, 1)]
    assert row_blocks(torch.empty(0, 3, device="meta")) == []


def test_a_tile_has_the_scores_that_fit_but_not_too_few_queries() -> None:
    assert shapes.tile_height(1) == shapes.TILE_SCORES
    assert shapes.tile_height(shapes.TILE_SCORES // shapes.TILE_QUERIES) == shapes.TILE_QUERIES
    assert shapes.tile_height(shapes.TILE_SCORES // 1000) == 1000
    assert shapes.tile_height(10**9) == shapes.TILE_QUERIES


def test_documents_are_multiplied_in_blocks_of_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PRODUCT_DOCUMENTS", 4)
    assert list(scores().document_blocks()) == [
        (slice(0, 4), 0, slice(0, 4)),
        (slice(4, 6), 0, slice(4, 6)),
        (slice(6, 9), 1, slice(0, 3)),
    ]


@pytest.mark.parametrize("block", [2, 4096])
@pytest.mark.parametrize("height", [1, 4, 100])
def test_each_tile_has_the_logits_of_its_queries(height: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_height", lambda documents: height)
    monkeypatch.setattr(tiles, "PRODUCT_DOCUMENTS", block)
    made = scores()
    assert made.tiles == split_range(PAIRS, height)
    assert made.buffer_bC.shape == (min(height, PAIRS), PAIRS + HARD)
    for rows in made.tiles:
        torch.testing.assert_close(made.tile(rows), expected_tile(rows))


def test_a_tile_is_computed_once_until_its_buffer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_height", lambda documents: 4)
    made = scores()
    assert made.buffered_rows is None
    first, last = made.tiles
    made.tile(first).fill_(7)
    assert made.buffered_rows == first
    assert (made.tile(first) == 7).all()
    torch.testing.assert_close(made.tile(last), expected_tile(last))
    torch.testing.assert_close(made.tile(first), expected_tile(first))
    made.tile(first).fill_(7)
    again = scores(reuse=(made.buffer_bC, made.buffered_rows))
    assert (again.tile(first) == 7).all()
    again.buffered_rows = None
    torch.testing.assert_close(again.tile(first), expected_tile(first))


def test_the_span_is_that_of_the_longest_vectors_in_opposite_directions() -> None:
    made = scores()
    lengths = [part.norm(dim=1).max() for part in (vectors(PAIRS), torch.cat([vectors(PAIRS), vectors(HARD)]))]
    assert made.max_span() == pytest.approx(float(2 * lengths[0] * lengths[1] / TAU))
    made.parts = (made.parts[0], 100 * made.parts[1])
    assert made.max_span() == pytest.approx(float(200 * lengths[0] * vectors(HARD).norm(dim=1).max() / TAU))
    made.parts = (made.parts[0], made.parts[1][:0])
    assert made.max_span() == pytest.approx(float(2 * lengths[0] * vectors(PAIRS).norm(dim=1).max() / TAU))
    assert scores(rows=0).max_span() == 0.0


def test_queries_without_documents_of_their_own_block_lose_nothing() -> None:
    query = normalize(vectors(2), dim=1)
    number = torch.tensor([1, 2])
    known = Candidates(query, number[:, None], number, query[:0], number[:0, None], number[:0])
    parts = info_nce(query, torch.arange(2), known, temperature=0.1, block_scope=True)
    assert float(parts.loss) == 0
    assert (int(parts.correct), int(parts.candidates), int(parts.masked), int(parts.suspected)) == (2, 2, 0, 0)
