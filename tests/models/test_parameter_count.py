"""Counting a model's parameters from its files, compared with the loaded model."""

from pathlib import Path

import torch
from launching import ROOT
from safetensors.torch import save_file

from hbdist.config.sections import ModelSection
from hbdist.models.encoder import Encoder
from hbdist.models.parameter_count import count_parameters


def test_a_packed_model_has_the_parameters_of_the_unpacked_one() -> None:
    name = str(ROOT / "models/me5-small-demo")
    loaded = sum(parameter.numel() for parameter in Encoder.load(ModelSection(name=name)).parameters())
    assert count_parameters(name) == loaded


def test_all_files_of_a_model_are_counted(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"x.scale": torch.zeros(7)}, tmp_path / "model-00002-of-00002.safetensors")
    assert count_parameters(str(tmp_path)) == 24


def test_missing_and_damaged_models_have_no_count(tmp_path: Path) -> None:
    assert count_parameters("nobody/has-this") is None
    assert count_parameters("./no/such/model") is None
    assert count_parameters(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"damaged, and longer than eight bytes")
    assert count_parameters(str(tmp_path)) is None
