"""The dense layers that some models have behind their pooling, as LaBSE does: read from and written to their folders.

B texts · D and E dimensions, before and behind a layer
"""

import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hbdist.errors import ConfigError, DataError
from hbdist.models.pretrained import find, read_json, saved_modules

ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "Identity": nn.Identity}
VECTOR = "sentence_embedding"
"""What sentence-transformers calls a text's vector."""


class Dense(nn.Module):
    """activation(W x + b): a Dense module of sentence-transformers.

    Args:
        dimensions: D and E.
        activation: one of ACTIVATIONS.
    """

    def __init__(self, dimensions: tuple[int, int], *, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(*dimensions, bias=bias)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, vector_BD: Tensor) -> Tensor:
        """[B, E]."""
        activated_BE: Tensor = self.activation(self.linear(vector_BD))
        return activated_BE

    @property
    def config(self) -> dict[str, Any]:
        """What sentence-transformers writes of it."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{type(self.activation).__module__}.{type(self.activation).__name__}",
        }

    @classmethod
    def load(cls, name: str, path: str) -> "Dense":
        """The dense layer in this part of a model's folder.

        Raises:
            ConfigError: it does something that is not known here.
            DataError: its files are missing or damaged.
        """
        config = read_json(name, f"{path}/config.json")
        if config is None:
            raise _damaged(name, path, "it has no config.json")
        activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").split(".")[-1]
        for key, found, known in (
            ("activation_function", activation, tuple(ACTIVATIONS)),
            ("module_input_name", config.get("module_input_name", VECTOR), (VECTOR,)),
            ("module_output_name", config.get("module_output_name") or VECTOR, (VECTOR,)),
            ("use_residual", config.get("use_residual", False), (False,)),
        ):
            if found not in known:
                raise ConfigError(
                    f"{name} has a dense layer ({path}) with {key} = {found!r}, which is not known here. Expected"
                    f" {' or '.join(map(str, known))}: use another model."
                )
        try:
            layer = cls(
                (config["in_features"], config["out_features"]), bias=config.get("bias", True), activation=activation
            )
            layer.load_state_dict(_weights(name, path))
        except (OSError, EOFError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise _damaged(name, path, " ".join(str(error).split()).rstrip(".")) from None
        return layer


class Head(nn.Sequential):
    """The dense layers of a model, which follow its pooling. Most models have none, and theirs changes nothing."""

    @property
    def layers(self) -> list[Dense]:
        return [layer for layer in self if isinstance(layer, Dense)]

    @classmethod
    def load(cls, name: str, width: int) -> "Head":
        """That of the model of this name or folder.

        Args:
            width: D of the pooled vectors.

        Raises:
            ConfigError: the model has a part that is not known here.
            DataError: the files of a layer are missing or damaged, or it does not fit to what is before it.
        """
        layers: list[Dense] = []
        for path in (path for kind, path in saved_modules(name) if kind == "Dense"):
            layers.append(Dense.load(name, path))
            if layers[-1].linear.in_features != width:
                raise _damaged(name, path, f"it takes {layers[-1].linear.in_features} dimensions and is given {width}")
            width = layers[-1].linear.out_features
        return cls(*layers)


def _weights(name: str, path: str) -> Mapping[str, Tensor]:
    read_pickle = partial(torch.load, map_location="cpu", weights_only=True)
    for file, read in (("model.safetensors", load_file), ("pytorch_model.bin", read_pickle)):
        found = find(name, f"{path}/{file}")
        if found:
            return dict(read(found))
    raise OSError("it has neither model.safetensors nor pytorch_model.bin")


def _damaged(name: str, path: str, found: str) -> DataError:
    return DataError(f"{name}: its dense layer {path} cannot be loaded: {found}. Copy or download the model again.")
