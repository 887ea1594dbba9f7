"""The number of parameters that a model's files name is that of the model they make."""

from pathlib import Path

import torch
from launching import ROOT
from safetensors.torch import save_file

from hbdist.config.sections import ModelSection
from hbdist.models.encoder import Encoder
from hbdist.models.parameter_count import count_parameters


def test_a_model_in_four_bits_has_the_parameters_of_the_model_it_makes() -> None:
    name = str(ROOT / "models/me5-small-demo")
    made = sum(parameter.numel() for parameter in Encoder.load(ModelSection(name=name)).parameters())
    assert count_parameters(name) == made


def test_a_model_in_full_precision_counts_all_its_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"x.scale": torch.zeros(7)}, tmp_path / "model-00002-of-00002.safetensors")
    assert count_parameters(str(tmp_path)) == 24


def test_what_is_not_at_hand_is_not_known(tmp_path: Path) -> None:
    assert count_parameters("nobody/has-this") is None
    assert count_parameters("./no/such/model") is None
    assert count_parameters(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"damaged, and longer than eight bytes")
    assert count_parameters(str(tmp_path)) is None
