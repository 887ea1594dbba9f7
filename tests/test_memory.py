"""What autograd keeps is counted, not guessed; what parameters take is arithmetic."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hbdist.memory import ActivationBudget, Activations, States, free_bytes, saved_bytes, state_bytes


def test_saved_bytes_are_those_that_backward_needs() -> None:
    layer = nn.Linear(8, 16, bias=False)
    inputs = torch.randn(10, 8)
    # A linear layer keeps its input (the weight is a parameter), tanh its output.
    assert saved_bytes(layer, lambda: layer(inputs).tanh()) == 4 * (10 * 8 + 10 * 16)


def test_memory_that_two_operations_share_counts_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    inputs = torch.randn(10, 8)
    assert saved_bytes(layer, lambda: layer(inputs) + layer(inputs)) == 4 * 10 * 8


def test_activations_grow_with_the_tokens_and_stop_fitting() -> None:
    layer, inputs = nn.Linear(8, 16, bias=False), torch.randn(10, 8)
    budget = ActivationBudget.measure(layer, lambda: layer(inputs).tanh(), tokens=10, device=torch.device("cpu"))
    assert budget.bytes_per_token == 4 * (8 + 16)
    assert budget.fits(1)
    assert not budget.fits(budget.available // 96 + 1)


def test_there_is_free_memory() -> None:
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 50


class Attention(nn.Module):
    """Dropout makes attention keep its scores, so that what is kept grows with the square of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, texts: int, tokens: int) -> Tensor:
        return self.layer(torch.zeros(texts, tokens, 16)).sum()


@given(st.integers(1, 9), st.integers(2, 40))
def test_what_a_chunk_keeps_follows_from_three_others(texts: int, tokens: int) -> None:
    model = Attention()
    measured = Activations.measure(model, model, length=24)
    assert measured.per_pair > 0
    assert measured.of(texts, tokens) == pytest.approx(saved_bytes(model, lambda: model(texts, tokens)), rel=0.03)


def test_counting_keeps_nothing_alive() -> None:
    inputs, outputs = torch.randn(4, requires_grad=True), []

    def forward() -> Tensor:
        outputs.append(weakref.ref(made := inputs.exp()))  # exp saves its own output
        return made

    assert saved_bytes(nn.Linear(1, 1), forward) == 4 * 4
    assert outputs[0]() is None


PARAMETERS, RANKS, STAGES = st.integers(1, 10**10), st.integers(1, 512), st.integers(0, 3)


@given(PARAMETERS)
def test_a_rank_that_holds_all_takes_16_bytes_a_parameter(parameters: int) -> None:
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
def test_shares_of_all_ranks_hold_everything_once(parameters: int, ranks: int, stage: int) -> None:
    states = state_bytes(parameters, stage=stage, ranks=ranks)
    for part, whole, sharded_from in (
        (states.optimizer, 12 * parameters, 1),
        (states.gradients, 4 * parameters, 2),
        (states.parameters, 4 * parameters, 3),
    ):
        if stage >= sharded_from:
            assert whole <= ranks * part < whole + 12 * ranks
        else:
            assert part == whole


@given(PARAMETERS, RANKS, STAGES)
def test_offloading_takes_away_and_adds_nothing(parameters: int, ranks: int, stage: int) -> None:
    kept = state_bytes(parameters, stage=stage, ranks=ranks)
    offloaded = state_bytes(parameters, stage=stage, ranks=ranks, offload_optimizer=True)
    assert offloaded.optimizer == 0
    assert offloaded.parameters == kept.parameters
    assert offloaded.gradients == (0 if stage >= 2 else kept.gradients)
    all_away = state_bytes(parameters, stage=3, ranks=ranks, offload_optimizer=True, offload_parameters=True)
    assert total(all_away) == 0


def total(states: States) -> int:
    return states.parameters + states.gradients + states.optimizer
