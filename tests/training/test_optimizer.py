"""Learning rate as a function of the step, and weight decay of the parameters."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbdist.config.sections import ModelSection, OptimizerSection
from hbdist.models.encoder import Encoder
from hbdist.training.optimizer import learning_rate, make_optimizer

schedules = st.sampled_from(["constant", "linear", "cosine"])


def rates(steps: int, **settings: Any) -> list[float]:
    section = OptimizerSection(lr=2.0, **settings)
    return [learning_rate(step, section, steps=steps) for step in range(steps)]


@given(steps=st.integers(1, 200), warmup=st.integers(0, 250), schedule=schedules)
def test_rates_are_positive_and_at_most_lr(steps: int, warmup: int, schedule: str) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(steps, warmup_steps=warmup, schedule=schedule))


@given(steps=st.integers(2, 200), schedule=schedules, data=st.data())
def test_warm_up_rises_linearly_to_lr(steps: int, schedule: str, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(1, steps - 1))
    made = rates(steps, warmup_steps=warmup, schedule=schedule)
    assert made[:warmup] == pytest.approx([2.0 * (step + 1) / warmup for step in range(warmup)])
    assert made[warmup] == 2.0


@given(steps=st.integers(1, 200), schedule=schedules, data=st.data())
def test_after_warm_up_the_rate_never_rises(steps: int, schedule: str, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    after = rates(steps, warmup_steps=warmup, schedule=schedule)[warmup:]
    assert after == sorted(after, reverse=True)


def test_a_constant_rate_stays() -> None:
    assert rates(9, warmup_steps=2, schedule="constant") == [1.0] + 8 * [2.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_rate_would_be_zero_one_step_after_the_last(schedule: Any) -> None:
    # A rate of zero at the last update would make it useless.
    section = OptimizerSection(lr=2.0, warmup_steps=3, schedule=schedule)
    assert learning_rate(20, section, steps=20) == pytest.approx(0, abs=1e-12)
    assert learning_rate(19, section, steps=20) > 0


def test_a_linear_rate_falls_linearly() -> None:
    assert rates(6, warmup_steps=2, schedule="linear") == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5])


def test_a_cosine_rate_is_half_in_the_middle() -> None:
    made = rates(10, warmup_steps=2, schedule="cosine")
    assert made[6] == pytest.approx(1.0)
    assert made[4] == pytest.approx(2.0 * (1 + 2**-0.5) / 2)


def test_biases_and_norms_do_not_decay_and_every_parameter_is_in_one_group(tiny_model: Path) -> None:
    encoder = Encoder.load(ModelSection(name=str(tiny_model)))
    groups = make_optimizer(encoder, OptimizerSection(weight_decay=0.25)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(encoder.parameters()))
    for name, parameter in encoder.named_parameters():
        without = name.endswith(".bias") or "LayerNorm" in name
        assert decay[id(parameter)] == (0.0 if without else 0.25), name


def test_frozen_parameters_are_left_out(tiny_model: Path) -> None:
    encoder = Encoder.load(ModelSection(name=str(tiny_model)))
    encoder.requires_grad_(False)
    trained = next(encoder.parameters()).requires_grad_(True)
    groups = make_optimizer(encoder, OptimizerSection()).param_groups
    assert [parameter for group in groups for parameter in group["params"]] == [trained]
