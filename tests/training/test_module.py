"""Outputs of the trained module: the precision in which vectors are sent to other ranks, and τ."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hbdist.config.config import Config
from hbdist.training.module import TrainingModule


class Linear(nn.Module):
    """Linear map with unit vectors as output; autocast normalises in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        return nn.functional.normalize(self.layer(input_ids_BL.float()) * attention_mask_BL[:, :1], dim=-1)


def outputs(precision: str, **loss: Any) -> tuple[Tensor, Tensor | float]:
    values = {
        "steps": 1,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": 2},
        "engine": {"precision": precision},
        "loss": {"temperature": 0.07, **loss},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TrainingModule(Linear(), Config.check(values, source="test"))
    return module(torch.arange(6).reshape(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_vectors_are_sent_in_the_precision_of_the_config(precision: str, dtype: torch.dtype) -> None:
    vector_BD, _ = outputs(precision)
    assert vector_BD.dtype == dtype
    error = (vector_BD.double() - outputs("fp32")[0].double()).norm()
    assert (error > 1e-4) == (precision == "bf16"), "the forward pass was in another precision"


def test_the_temperature_is_a_number_or_a_float32_scalar_that_is_learned() -> None:
    assert outputs("bf16")[1] == 0.07
    _, tau = outputs("bf16", learn_temperature=True)
    assert isinstance(tau, Tensor)
    assert (tau.dtype, tau.shape, tau.requires_grad) == (torch.float32, torch.Size([]), True)
    assert float(tau.detach()) == pytest.approx(0.07)
