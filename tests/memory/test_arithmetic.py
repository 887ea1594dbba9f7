"""Arithmetic of memory: the formulas of the papers, and the sizes of real tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbdist.loss.tiles import Scores
from hbdist.memory.arithmetic import States, score_bytes, state_bytes

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
def test_score_bytes_equal_the_buffer_of_the_loss(queries: int, documents: int) -> None:
    query_BD, document_GD = torch.empty(queries, 1), torch.empty(documents, 1)
    scores = Scores(query_BD, (document_GD, document_GD[:0]), torch.ones(()), masks=None)
    assert scores.buffer_bC.nbytes == score_bytes(queries, documents)
