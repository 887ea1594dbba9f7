"""DeepSpeed's JSON: its allowed contents, and explicit values instead of DeepSpeed's own defaults."""

import json
from pathlib import Path
from typing import Any

import pytest
from launching import ROOT

from hbdist.distributed.zero import OWNED, Zero
from hbdist.errors import ConfigError

SHIPPED = sorted((ROOT / "launch/deepspeed").glob("*.json"))


def written(folder: Path, values: Any) -> Path:
    path = folder / "deepspeed.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_set_their_stage_and_nothing_the_config_owns(path: Path) -> None:
    zero = Zero.load(path)
    assert path.stem.startswith(f"zero{zero.stage}")
    assert (zero.offload_optimizer, zero.offload_parameters) == (
        "offload" in path.stem,
        "offload" in path.stem and zero.stage == 3,
    )
    assert not zero.values.keys() & OWNED.keys()


def test_every_stage_ships() -> None:
    assert {Zero.load(path).stage for path in SHIPPED} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"train_micro_batch_size_per_gpu": 8}, ["train_micro_batch_size_per_gpu = 8", "batch.size"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps = 4", "loss.chunk_tokens"]),
        ({"gradient_clipping": 1.0}, ["gradient_clipping = 1.0", "optimizer.max_grad_norm"]),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}, ["optimizer", "[optimizer]"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler", "optimizer.schedule"]),
        ({"bf16": {"enabled": True}}, ["bf16", "engine.precision"]),
        ({"fp16": {"enabled": True}}, ["fp16", "engine.precision", "skips updates"]),
        ({"zero_optimization": {"stage": 4}}, ["stage = 4", "expected 0, 1, 2 or 3"]),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, ["stage 2", "to 3"]),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, ["'nvme'", "none or cpu"]),
        ([1], ["contains a list; expected an object"]),
        ("{", ["is not JSON"]),
    ],
)
def test_a_file_that_sets_what_the_config_owns_is_refused(tmp_path: Path, values: Any, sentences: list[str]) -> None:
    path = written(tmp_path, values)
    with pytest.raises(ConfigError) as error:
        Zero.load(path)
    for sentence in [str(path), *sentences]:
        assert sentence in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"zero9\.json does not exist.*launch/deepspeed/zero2\.json"):
        Zero.load(tmp_path / "zero9.json")


def test_values_left_open_or_switched_off_are_accepted(tmp_path: Path) -> None:
    # As in the examples of other trainers.
    values = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "fp16": {"enabled": False, "loss_scale": 0},
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 7},
    }
    zero = Zero.load(written(tmp_path, values))
    assert zero.values == {"zero_optimization": {"stage": 3, "sub_group_size": 7}}


def test_clipping_and_accumulation_are_written_out() -> None:
    settings = Zero.load(SHIPPED[0]).deepspeed_config(max_grad_norm=0.0)
    assert settings["gradient_clipping"] == 0.0  # left out, it would be 1.0
    assert settings["gradient_accumulation_steps"] == 1
    assert settings["zero_force_ds_cpu_optimizer"] is False  # left out, an AdamW would be compiled


def test_only_stages_that_reduce_in_every_backward_need_equal_numbers_of_passes() -> None:
    assert {zero.stage: zero.every_backward_reduces for zero in map(Zero.load, SHIPPED)} == {
        0: False,
        1: False,
        2: True,
        3: True,
    }


def test_accelerate_configs_set_no_batch_size_or_precision_and_name_shipped_files() -> None:
    for path in sorted((ROOT / "launch/accelerate").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        for word in ("batch_size", "accumulation", "clipping", "lr:", "bf16", "fp16"):
            assert not any(word in line for line in lines), f"{path.name}: {word}"
        for line in lines:
            if "deepspeed_config_file:" in line:
                assert (ROOT / line.split(":", 1)[1].strip()).is_file(), f"{path.name}: {line}"
