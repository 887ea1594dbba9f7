"""A launcher cannot silently override the config."""

from pathlib import Path

import pytest
from jobs import overrides
from launching import ROOT, train

from hbdist.config.sections import EngineSection
from hbdist.distributed.launcher import check_launcher, find_zero, overrule, refuse_cpu
from hbdist.errors import ConfigError


@pytest.mark.parametrize(
    ("environment", "sentences"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ["mixed_precision: bf16", "engine.precision = 'fp32'"]),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, ["mixed_precision: fp16", "engine.precision = 'fp32'"]),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, ["gradient_accumulation_steps: 4", "batch.size"]),
        ({"ACCELERATE_USE_FSDP": "true"}, ["FSDP"]),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, ["Megatron-LM"]),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, ["dynamo_backend: INDUCTOR", "not compiled"]),
        ({"ACCELERATE_USE_SAGEMAKER": "true"}, ["SageMaker"]),
        ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, ["gradient_clipping: 0.5", "optimizer.max_grad_norm = 1"]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ["4 tasks", "WORLD_SIZE is not set"]),
    ],
)
def test_a_contradicting_launcher_is_refused(environment: dict[str, str], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_launcher(EngineSection(), environment, max_grad_norm=1.0)
    for sentence in sentences:
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        {"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "4"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"},
        {"ACCELERATE_GRADIENT_CLIPPING": "1.0"},
        {"ACCELERATE_GRADIENT_CLIPPING": "none"},
    ],
)
def test_an_agreeing_launcher_is_accepted(environment: dict[str, str]) -> None:
    assert check_launcher(EngineSection(), environment, max_grad_norm=1.0) is None


def test_precision_may_be_set_twice_if_equal() -> None:
    assert check_launcher(EngineSection(precision="bf16"), {"ACCELERATE_MIXED_PRECISION": "bf16"}) is None


ZERO2, ZERO3 = "launch/deepspeed/zero2.json", "launch/deepspeed/zero3.json"


def by_launcher(path: str) -> dict[str, str]:
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": path}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_deepspeed_is_requested_by_the_config_or_the_launcher() -> None:
    assert find_zero(EngineSection(), {}) is None
    for zero in (
        find_zero(EngineSection(deepspeed=ZERO2), {}),
        find_zero(EngineSection(), by_launcher(ZERO2)),
        find_zero(EngineSection(deepspeed=ZERO2), by_launcher(ZERO2)),
        find_zero(EngineSection(deepspeed=ZERO2), {"ACCELERATE_USE_DEEPSPEED": "true"}),
    ):
        assert zero is not None
        assert zero.stage == 2


def test_a_launcher_with_another_deepspeed_file_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        find_zero(EngineSection(deepspeed=ZERO2), by_launcher(ZERO3))
    assert f"deepspeed_config_file: {ZERO3}" in str(error.value)
    assert f"engine.deepspeed = '{ZERO2}'" in str(error.value)


def test_a_launcher_that_asks_for_deepspeed_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no file.*launch/accelerate/zero2\.yaml"):
        find_zero(EngineSection(), {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_a_launcher_with_another_stage_is_refused() -> None:
    by_stage = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    with pytest.raises(ConfigError, match=r"zero_stage: 3, the config engine\.deepspeed = .*zero2\.json.*stage 2"):
        find_zero(EngineSection(deepspeed=ZERO2), by_stage)
    zero = find_zero(EngineSection(deepspeed=ZERO3), by_stage)
    assert zero is not None
    assert zero.stage == 3


def test_a_launcher_that_asks_for_the_cpu_is_refused_where_there_are_gpus() -> None:
    with pytest.raises(ConfigError, match=r"use_cpu: true, the config engine\.device = 'auto'.*engine\.device=cpu"):
        refuse_cpu({"ACCELERATE_USE_CPU": "True"})
    refuse_cpu({"ACCELERATE_USE_CPU": "False"})
    refuse_cpu({})


def test_what_a_launcher_tells_accelerate_is_overruled() -> None:
    told = {
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_DYNAMO_MODE": "x",
        "FSDP_VERSION": "2",
        "ACCELERATE_LOG_LEVEL": "INFO",
    }
    environment = told | {"RANK": "0", "HF_HOME": "/hf"}
    overrule(environment)
    assert environment == {"RANK": "0", "HF_HOME": "/hf", "ACCELERATE_LOG_LEVEL": "INFO"}


@pytest.mark.slow
def test_zero_stays_zero_where_accelerate_is_told_to_use_the_cpu(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    keys = [
        *overrides(tiny_model, tiny_shards),
        "steps=2",
        f"run.folder={tmp_path / 'run'}",
        f"engine.deepspeed={ZERO2}",
    ]
    told = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
    done = train(1, "launch/train/demo.toml", *keys, **told)
    assert done.returncode == 0, done.stderr
    assert "DeepSpeed ZeRO-2" in done.stdout
