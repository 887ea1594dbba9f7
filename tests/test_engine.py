"""A launcher cannot change a run behind its config's back."""

import pytest

from hbdist.engine import check_launcher
from hbdist.errors import ConfigError
from hbdist.sections import EngineSection


@pytest.mark.parametrize(
    ("environment", "sentences"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ["mixed_precision: bf16", "engine.precision = 'fp32'"]),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, ["mixed_precision: fp16", "engine.precision = 'fp32'"]),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, ["gradient_accumulation_steps: 4", "batch.size"]),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, ["DeepSpeed", "launch/accelerate/gpu.yaml"]),
        ({"ACCELERATE_USE_FSDP": "true"}, ["FSDP"]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ["4 tasks", "WORLD_SIZE is not set"]),
    ],
)
def test_a_contradicting_launcher_is_refused(environment: dict[str, str], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_launcher(EngineSection(), environment)
    for sentence in sentences:
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        {"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "4"},
    ],
)
def test_an_agreeing_launcher_is_not(environment: dict[str, str]) -> None:
    assert check_launcher(EngineSection(), environment) is None


def test_precision_may_be_said_twice_if_it_is_the_same() -> None:
    assert check_launcher(EngineSection(precision="bf16"), {"ACCELERATE_MIXED_PRECISION": "bf16"}) is None
