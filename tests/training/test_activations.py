"""Bytes saved by autograd are counted, not guessed."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hbdist.training.activations import ActivationBudget, Activations, free_bytes, saved_bytes


def test_saved_bytes_are_those_backward_needs() -> None:
    layer = nn.Linear(8, 16, bias=False)
    inputs = torch.randn(10, 8)
    # A linear layer keeps its input (the weight is a parameter), tanh its output.
    assert saved_bytes(layer, lambda: layer(inputs).tanh()) == 4 * (10 * 8 + 10 * 16)


def test_memory_that_two_operations_share_counts_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    inputs = torch.randn(10, 8)
    assert saved_bytes(layer, lambda: layer(inputs) + layer(inputs)) == 4 * 10 * 8


def test_activations_grow_with_the_tokens_until_they_no_longer_fit() -> None:
    layer, inputs = nn.Linear(8, 16, bias=False), torch.randn(10, 8)
    budget = ActivationBudget.measure(layer, lambda: layer(inputs).tanh(), tokens=10, device=torch.device("cpu"))
    assert budget.bytes_per_token == 4 * (8 + 16)
    assert budget.fits(1)
    assert not budget.fits(budget.available // 96 + 1)


@pytest.mark.parametrize(
    ("free", "parameters", "available"), [(1000, 100, 350), (1001, 0, 500), (300, 100, 0), (0, 9, 0)]
)
def test_half_of_what_gradients_and_moments_leave_is_for_activations(
    free: int, parameters: int, available: int
) -> None:
    budget = ActivationBudget.of(2.0, free=free, parameters=parameters)
    assert (budget.bytes_per_token, budget.available) == (2.0, available)
    assert budget.fits(available // 2)
    assert not budget.fits(available // 2 + 1)


def test_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    alone = free_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.1)


def test_there_is_free_memory() -> None:
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 50


class Attention(nn.Module):
    """Layer with dropout, so that attention saves its scores and memory grows with the square of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, texts: int, tokens: int) -> Tensor:
        return self.layer(torch.zeros(texts, tokens, 16)).sum()


@given(st.integers(1, 9), st.integers(2, 40))
def test_the_bytes_of_a_chunk_follow_from_three_others(texts: int, tokens: int) -> None:
    model = Attention()
    measured = Activations.measure(model, model, length=24)
    assert measured.per_pair > 0
    assert measured.bytes_for(texts, tokens) == pytest.approx(
        saved_bytes(model, lambda: model(texts, tokens)), rel=0.03
    )


def test_counting_keeps_nothing_alive() -> None:
    inputs, outputs = torch.randn(4, requires_grad=True), []

    def forward() -> Tensor:
        outputs.append(weakref.ref(made := inputs.exp()))  # exp saves its own output
        return made

    assert saved_bytes(nn.Linear(1, 1), forward) == 4 * 4
    assert outputs[0]() is None
