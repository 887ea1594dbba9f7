"""Arithmetic of memory: the formulas of the papers, and the sizes of real tensors."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from hbdist.loss import shapes, tiles
from hbdist.loss.contrastive import score_globally
from hbdist.loss.masks import Candidates
from hbdist.loss.shapes import score_bytes, vector_bytes
from hbdist.loss.tiles import Scores
from hbdist.memory.arithmetic import States, state_bytes

PARAMETERS, RANKS, STAGES = st.integers(1, 10**10), st.integers(1, 512), st.integers(0, 3)


@given(PARAMETERS)
def test_a_rank_with_full_copies_takes_16_bytes_per_parameter(parameters: int) -> None:
    for ranks in (1, 8):
        states = state_bytes(parameters, stage=0, ranks=ranks)
        assert (states.parameters, states.gradients, states.optimizer) == (
            4 * parameters,
            4 * parameters,
            8 * parameters,
        )


def test_the_formulas_of_the_paper_for_64_ranks() -> None:
    # Ψ = 7.5 billion, N = 64: 4Ψ + 4Ψ + 12Ψ/N, 4Ψ + 16Ψ/N, 20Ψ/N.
    totals = [total(state_bytes(7_500_000_000, stage=stage, ranks=64)) / 1e9 for stage in range(4)]
    assert totals == pytest.approx([120, 61.40625, 31.875, 2.34375])


@given(PARAMETERS, RANKS, st.integers(1, 3))
def test_the_shards_of_all_ranks_contain_everything_once(parameters: int, ranks: int, stage: int) -> None:
    states = state_bytes(parameters, stage=stage, ranks=ranks)
    for part, full, sharded_from in (
        (states.optimizer, 12 * parameters, 1),
        (states.gradients, 4 * parameters, 2),
        (states.parameters, 4 * parameters, 3),
    ):
        if stage >= sharded_from:
            assert full <= ranks * part < full + 12 * ranks
        else:
            assert part == full


@given(PARAMETERS, RANKS, STAGES)
def test_offloading_only_removes_bytes(parameters: int, ranks: int, stage: int) -> None:
    kept = state_bytes(parameters, stage=stage, ranks=ranks)
    offloaded = state_bytes(parameters, stage=stage, ranks=ranks, offload_optimizer=True)
    assert offloaded.optimizer == 0
    assert offloaded.parameters == kept.parameters
    assert offloaded.gradients == (0 if stage >= 2 else kept.gradients)
    all_away = state_bytes(parameters, stage=3, ranks=ranks, offload_optimizer=True, offload_parameters=True)
    assert total(all_away) == 0


def total(states: States) -> int:
    return states.parameters + states.gradients + states.optimizer


@given(st.integers(1, 3000), st.integers(1, 30_000))
def test_the_scores_of_the_loss_are_its_buffer_and_a_piece(queries: int, documents: int) -> None:
    query_BD, document_GD = torch.empty(queries, 1), torch.empty(documents, 1)
    scores = Scores(query_BD, (document_GD, document_GD[:0]), torch.ones(()), masks=None)
    tile = len(scores.buffer_bC)
    for on_cpu in (True, False):
        piece = min(tile, shapes.piece_height(tile, documents, on_cpu=on_cpu))
        predicted = score_bytes(queries, documents, margin=False, on_cpu=on_cpu)
        assert predicted == scores.buffer_bC.nbytes + 4 * piece * documents


@pytest.mark.parametrize(
    "settings",
    [{}, {"symmetric": True}, {"margin": 0.1}, {"symmetric": True, "margin": 0.1}, {"block_scope": True}],
    ids=str,
)
def test_the_predicted_peak_of_the_loss_on_a_gpu_is_that_which_is_allocated(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces are those of a GPU; the allocations are counted on this CPU."""
    of_gpu = partial(shapes.piece_height, on_cpu=False)
    monkeypatch.setattr(tiles, "piece_height", lambda rows, columns, on_cpu: of_gpu(rows, columns))
    pairs, dimensions = 2048, 64
    identity_BI = torch.arange(1, 1 + 4 * pairs).reshape(pairs, 4)
    block_B = torch.arange(pairs) // 8

    def leaves() -> list[torch.Tensor]:
        # One at a time: normalising must not be the peak.
        return [normalize(torch.randn(64, dimensions), dim=1).requires_grad_() for _ in range(pairs // 64)]

    def score(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> torch.Tensor:
        query_BD, document_BD = (torch.cat(chunks)[torch.randperm(pairs)] for chunks in (queries, documents))
        none = document_BD[:0], identity_BI[:0], block_B[:0]
        own = Candidates(document_BD, identity_BI, block_B, *none)
        return score_globally(query_BD, own, hard_negatives=0, temperature=0.05, **settings)[1]

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        score(leaves(), leaves()).backward()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    allocated = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    vectors = vector_bytes(2 * pairs, pairs, dimensions, ranks=1)
    predicted = vectors + score_bytes(pairs, pairs, margin="margin" in settings, on_cpu=False)
    assert predicted == pytest.approx(int(allocated.max()), rel=0.1)
