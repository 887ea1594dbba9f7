"""Gradient norm, which is reported and used for clipping."""

import pytest
import torch
from torch import nn

from hbdist.distributed.strategies import clip_gradients, gradient_norm


def test_the_norm_of_a_large_gradient_is_exact_to_its_last_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    # Like an embedding's: many rows, most of them nearly zero.
    rows = torch.rand(60_000, 1, generator=generator) ** 8
    large, small = nn.Parameter(torch.zeros(60_000, 128)), nn.Parameter(torch.zeros(3))
    large.grad = torch.randn(60_000, 128, generator=generator) * rows
    small.grad = torch.ones(3)
    expected = float((large.grad.double().square().sum() + 3).sqrt())
    assert gradient_norm([large, small, nn.Parameter(torch.zeros(2))]) == pytest.approx(expected, rel=1e-9)


def test_gradients_above_the_limit_are_scaled_down_to_it_and_others_unchanged() -> None:
    model = nn.Linear(3, 2)
    for limit, expected in ((0.0, 10.0), (20.0, 10.0), (2.5, 2.5)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) * 10 / 8**0.5
        assert clip_gradients(model, limit) == pytest.approx(10, rel=1e-6)
        assert gradient_norm(model.parameters()) == pytest.approx(expected, rel=1e-6)
