"""What autograd keeps is counted, not guessed."""

import torch
from torch import nn

from hbdist.memory import ActivationBudget, free_bytes, saved_bytes


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
